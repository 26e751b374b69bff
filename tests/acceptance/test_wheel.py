"""What a user gets: the wheel in a clean environment, used from another folder, without the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 60
STOP_SECONDS = 30
NO_NETWORK = re.compile(r"NewConnectionError|ConnectTimeout|ProxyError|NameResolutionError|Retrying \(")
LISTEN = {f"KLYRA_{name}__LISTEN": "127.0.0.1:0" for name in ("API", "OTLP__HTTP")}
EMIT = """
import sys
from klyra_audit import Actor, AuditEmitter, events

with AuditEmitter(sys.argv[1], api_key=sys.argv[2], organization_id="org_wheel") as audit:
    audit.emit(events.moderation_created(actor=Actor.user("usr_1"), moderation_id="mod_1", content_type="text"))
"""


# (environment, extras such as "[collector]" or "")
Install = Callable[[Path, str], None]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a folder that is not the checkout."""
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, stdin=subprocess.DEVNULL)


def answer(*command: str | Path, cwd: Path) -> str:
    """Return what a command that must succeed printed on stdout."""
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture
def install(distributions: Path, repository: Path, require_peer: Callable[[str, object], None]) -> Install:
    """A function that installs the wheel, with the extras named, into an environment."""
    (wheel,) = distributions.glob("*.whl")

    def into(environment: Path, extras: str) -> None:
        # Without pip of its own: ours installs into it, and a Debian Python needs no further package for that.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        done = run(
            *(sys.executable, "-m", "pip", "--python", environment / "bin/python", "install", "--no-compile"),
            *("--retries", "1", "--only-binary", ":all:", "-c", repository / "constraints.txt", f"{wheel}{extras}"),
            cwd=environment,
        )
        require_peer("a package registry", done.returncode == 0 or not NO_NETWORK.search(done.stderr))
        assert done.returncode == 0, done.stderr

    return into


@pytest.fixture
def environments(install: Install, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two environments: the collector's, and an auditor's with the base install alone. Deleted again: they are big."""
    with tempfile.TemporaryDirectory(prefix="klyra-wheel-", dir=tmp_path) as name:
        collector, auditor = Path(name, "collector"), Path(name, "auditor")
        install(collector, "")
        shutil.copytree(collector, auditor, symlinks=True, copy_function=os.link)
        install(collector, "[collector]")
        yield collector, auditor


@contextmanager
def demo(klyra: Path, data: Path) -> Iterator[dict[str, Any]]:
    """Run the demo without traffic; give what its run.json says; stop it with SIGTERM and expect exit 0."""
    log = data.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [klyra, "demo", "--no-traffic", "--data", data],
            cwd=data.parent,
            env=os.environ | LISTEN,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield ready(process, data / "run.json", log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def ready(process: subprocess.Popen[bytes], run_json: Path, log: Path) -> dict[str, Any]:
    """Wait until the server has written run.json, and return it."""
    deadline = time.monotonic() + START_SECONDS
    while not run_json.exists():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"not ready after {START_SECONDS} s: {log.read_text()}"
        time.sleep(0.05)
    return json.loads(run_json.read_text())


def test_the_wheel_serves_seals_and_verifies(environments: tuple[Path, Path], tmp_path: Path) -> None:
    """Installed from the wheel, the demo seals an event and exports a packet; the base install alone verifies both."""
    collector, auditor = (environment / "bin" for environment in environments)
    klyra, data = collector / "klyra-audit", tmp_path / "data"
    with demo(klyra, data) as running:
        answer(klyra, "org", "create", "org_wheel", "--plan", "startup", "--data", data, cwd=tmp_path)
        key = answer(klyra, "key", "create", "--org", "org_wheel", "--scope", "emit", "--data", data, cwd=tmp_path)
        assert re.fullmatch(r"klyra_sk_\w{12}_[\w-]{43}_\w{6}", key)
        answer(collector / "python", "-c", EMIT, running["otlp_http"], key, cwd=tmp_path)
        packet, policy = export_packet(klyra, data, running["api"])
    assert not (data / "run.json").exists()
    # Through its own interpreter, because a copied script still names the environment it was copied from.
    verify = (auditor / "python", auditor / "klyra-audit", "verify", data)
    answer(*verify, cwd=tmp_path)
    answer(*verify[:-1], packet, "--policy", policy, cwd=tmp_path)
    assert run(*verify[:-1], packet, cwd=tmp_path).returncode == 2
    alter_last_leaf(data)
    assert run(*verify, cwd=tmp_path).returncode == 1


def export_packet(klyra: Path, data: Path, api: str) -> tuple[Path, Path]:
    """Export a packet and fetch the policy; return the two files."""
    packet, policy = data.parent / "packet.zip", data.parent / "klyra.policy"
    key = answer(
        *(klyra, "key", "create", "--org", "org_wheel", "--scope", "read,export", "--data", data), cwd=data.parent
    )
    answer(*(klyra, "export", "--format", "packet", "--output", packet, "--key", key, "--data", data), cwd=data.parent)
    with urllib.request.urlopen(f"{api}/.well-known/klyra-audit/policy", timeout=30) as response:  # noqa: S310 - ours
        policy.write_bytes(response.read())
    return packet, policy


def alter_last_leaf(data: Path) -> None:
    """Flip one bit of the newest shard's last leaf."""
    leaves = max(data.glob("ledger/*/leaves"))
    raw = bytearray(leaves.read_bytes())
    raw[-1] ^= 1
    leaves.write_bytes(raw)
