"""What `tests/conftest.py` promises to every test, checked by running small suites under it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]

LEAVING = """
import os, subprocess, sys
import conftest

conftest.GRACE_SECONDS = 0.1
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]

def test_child():
    subprocess.Popen(SLEEP)

def test_orphan():
    subprocess.run([sys.executable, "-c", f"import subprocess; subprocess.Popen({SLEEP!r})"], check=True)

def test_tidy():
    subprocess.run([sys.executable, "-c", ""], check=True)
"""

WANTING = """
import os
import pytest

def test_present(require_peer):
    require_peer("shell", "/bin/sh")

@pytest.mark.parametrize("n", [1, 2])
def test_absent(require_peer, n):
    require_peer("gopher", None)

def test_otherwise():
    pytest.skip("it is Sunday")

def test_environment():
    assert [name for name in os.environ if name.startswith("KLYRA_")] == ["KLYRA_AUDIT_SPOOL"]
"""


def run_suite(folder: Path, text: str, **environment: str) -> str:
    """Run a test module under our conftest.py; return what pytest printed."""
    (folder / "test_inner.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-q", str(folder)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(TESTS)} | environment,
    )
    return done.stdout + done.stderr


def test_a_process_left_behind_fails_the_test_that_left_it(tmp_path: Path) -> None:
    """A running child, and an orphan of a finished one, are errors; a finished child is not."""
    output = run_suite(tmp_path, LEAVING)
    assert "3 passed, 2 errors" in output
    assert "ERROR test_inner.py::test_child - AssertionError: left running" in output
    assert "ERROR test_inner.py::test_orphan - AssertionError: left running" in output


def test_what_was_skipped_is_said_in_one_line(tmp_path: Path) -> None:
    """Missing peers are counted in one line by name, other reasons in another."""
    output = run_suite(tmp_path, WANTING, KLYRA_DATA="somewhere")
    assert "skipped for want of: gopher (2 tests)\n" in output
    assert "skipped otherwise: it is Sunday (1 test)\n" in output
    assert "2 passed, 3 skipped" in output


def test_where_peers_are_required_a_missing_one_fails(tmp_path: Path) -> None:
    """With KLYRA_REQUIRE_PEERS=1 nothing is skipped for want of a peer, and the message says what to do."""
    output = run_suite(tmp_path, WANTING, KLYRA_REQUIRE_PEERS="1")
    assert "gopher is required here (KLYRA_REQUIRE_PEERS=1); run `make peers`" in output
    assert "skipped for want of" not in output
    assert "2 failed, 2 passed, 1 skipped" in output
