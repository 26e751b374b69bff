"""`klyra-audit export --format packet` against a running serve, and `verify` of what comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from support.packets import change

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACME = "org_acme"


def klyra(*arguments: str | Path, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KLYRA_")}
    command = [sys.executable, "-m", "klyra_collector", *map(str, arguments)]
    return subprocess.run(
        command, env=environment | variables, input=stdin, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def served(tmp_path) -> Iterator[tuple[Path, str]]:
    """A running serve with an organization, as (data directory, key)."""
    root = tmp_path / "data"
    assert klyra("org", "create", ACME, "--plan", "business", "--data", root).returncode == 0
    made = klyra("key", "create", "--org", ACME, "--scope", "emit,read,export", "--data", root)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KLYRA_")}
    environment |= {
        "KLYRA_API__LISTEN": "127.0.0.1:0",
        "KLYRA_OTLP__HTTP__LISTEN": "127.0.0.1:0",
        "KLYRA_OTLP__GRPC__LISTEN": "127.0.0.1:0",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "klyra_collector", "serve", "--data", str(root)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not (root / "run.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield root, made.stdout.strip()
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_a_packet_is_exported_and_verified(served, tmp_path) -> None:
    """What was emitted a moment ago is in it; the published policy verifies it, and nothing that was changed."""
    root, key = served
    emitted = klyra(
        *("emit", "moderation.created", "--actor", "user:usr_1", "--resource", "moderation:mod_1"),
        *("--metadata", '{"content_type": "text"}', "--org", ACME, "--data", root),
        KLYRA_KEY=key,
    )
    assert emitted.returncode == 0, emitted.stderr
    path, policy = tmp_path / "june.zip", tmp_path / "klyra.policy"
    exported = klyra("export", "--format", "packet", "--output", path, "--data", root, KLYRA_KEY=key)
    assert (exported.returncode, exported.stdout.strip()) == (0, str(path)), exported.stderr
    assert not path.with_name("june.zip.part").exists()
    api = json.loads((root / "run.json").read_text())["api"]
    policy.write_bytes(httpx.get(f"{api}/.well-known/klyra-audit/policy").content)
    verified = klyra("verify", path, "--policy", policy, "--json")
    assert verified.returncode == 0, verified.stdout
    report = json.loads(verified.stdout)
    assert (report["verdict"], report["pinned"]) == ("OK", True)
    assert klyra("verify", path).returncode == 2
    change(path, "entries.ndjson", lambda raw: raw.replace(b"usr_1", b"usr_2"))
    assert klyra("verify", path, "--policy", policy).returncode == 1


def test_a_name_that_ends_with_zip_is_a_packet(served, tmp_path) -> None:
    """The format need not be given twice; the rendering can be chosen."""
    root, key = served
    path = tmp_path / "june.zip"
    exported = klyra("export", path, "--rendering", "json", "--data", root, KLYRA_KEY=key)
    assert exported.returncode == 0, exported.stderr
    assert klyra("export", "--data", root, KLYRA_KEY=key).returncode == 2
