"""What every test gets: a clean environment, its own folders, honest skips, and no process left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
GRACE_SECONDS = 5.0  # for a child that is already on its way out
WANT = "for want of "

# With this set (continuous integration sets it) a missing peer program is a failure, not a skip.
PEERS_ARE_REQUIRED = os.environ.get("KLYRA_REQUIRE_PEERS") == "1"

# Settings of the shell that started the tests must not reach the software under test or its processes.
for variable in [name for name in os.environ if name.startswith("KLYRA_")]:
    del os.environ[variable]

# The same examples on every run and machine; a slow machine is no reason to fail.
hypothesis.settings.register_profile("klyra", derandomize=True, deadline=None, max_examples=60, database=None)
hypothesis.settings.load_profile("klyra")

# An orphan of a killed child becomes our child, so that a test which leaves one is caught. Linux only.
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Fail a test that was skipped for want of a peer program where none may be missing, wherever it said so."""
    report = yield
    if PEERS_ARE_REQUIRED and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.startswith(WANT):
            report.outcome = "failed"
            report.longrepr = f"{reason.removeprefix(WANT)} is required here (KLYRA_REQUIRE_PEERS=1); run `make peers`"
    return report


@pytest.fixture
def data_directory(tmp_path: Path) -> Path:
    """A data directory that does not exist yet, as on a first start."""
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _own_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have emitters that are told of no spool use one of the test's own."""
    monkeypatch.setenv("KLYRA_AUDIT_SPOOL", str(tmp_path / "spool"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def require_peer() -> Callable[[str, object], None]:
    """A function (name, available) that skips, or fails where peers are required, without the peer program.

    The name says what is wanted, e.g. ``require_peer("chromium", shutil.which("chromium"))``.
    """

    def require(name: str, available: object) -> None:
        if not available:
            pytest.skip(WANT + name)

    return require


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of this checkout, built once without network."""
    folder = tmp_path_factory.mktemp("distributions")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(autouse=True)
def leaves_no_process() -> Iterator[None]:
    """Fail a test that ends while a process it started, or an orphan of one, still runs."""
    before = running_children()
    yield
    left = [process for process in running_children() - before if not is_helper(process)]
    _, alive = psutil.wait_procs(left, timeout=GRACE_SECONDS)
    names = [" ".join(command_of(process)) or f"process {process.pid}" for process in alive]
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=GRACE_SECONDS)
    assert not names, f"left running: {names}"


def running_children() -> set[psutil.Process]:
    """Return our live descendants; the kernel is asked first whether there is any child, which is quick."""
    if sys.platform == "linux":
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return set()
    return {process for process in psutil.Process().children(recursive=True) if is_live(process)}


def is_live(process: psutil.Process) -> bool:
    """Tell a running process from a finished one that nobody has waited for yet."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> list[str]:
    """Return the command line, empty once the process is gone."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def is_helper(process: psutil.Process) -> bool:
    """Recognise the interpreter's own helpers, which live as long as it does."""
    return any("multiprocessing.resource_tracker" in part for part in command_of(process))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was not tested, and for want of what."""
    reasons = Counter(skip_reason(report) for report in terminalreporter.stats.get("skipped", []))
    wanted = {reason.removeprefix(WANT): n for reason, n in reasons.items() if reason.startswith(WANT)}
    others = {reason: n for reason, n in reasons.items() if not reason.startswith(WANT)}
    for title, counts in (("skipped for want of: ", wanted), ("skipped otherwise: ", others)):
        if counts:
            listed = (f"{what} ({n} {'test' if n == 1 else 'tests'})" for what, n in sorted(counts.items()))
            terminalreporter.write_line(title + ", ".join(listed))


def skip_reason(report: pytest.TestReport) -> str:
    """Return the words given to `pytest.skip`."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return re.sub(r"^Skipped: ", "", text)
