"""The processes beside the collector's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from klyra_collector.demo.companions import SERVICE, TRAFFIC, example_traffic, moderation_service

PATIENCE_SECONDS = 30


def test_the_service_gets_its_settings_and_nothing_of_ours(monkeypatch, tmp_path) -> None:
    """Its environment names the collector, the key and the organization, and no other KLYRA_ variable."""
    monkeypatch.setenv("KLYRA_REGISTRY__URL", "sqlite:///elsewhere")
    program = moderation_service(
        listen="127.0.0.1:8090", endpoint="http://127.0.0.1:4318", emit_key="secret", spool=tmp_path
    )
    ours = {name: value for name, value in program.env.items() if name.startswith("KLYRA_")}
    assert program.name == SERVICE
    assert ours == {
        "KLYRA_AUDIT_ENDPOINT": "http://127.0.0.1:4318",
        "KLYRA_AUDIT_API_KEY": "secret",
        "KLYRA_AUDIT_ORGANIZATION_ID": "org_demo",
        "KLYRA_AUDIT_SPOOL": str(tmp_path),
    }
    assert not any("secret" in argument for argument in program.argv)


def test_the_traffic_gets_no_key(monkeypatch) -> None:
    """It knows the service alone, and gets keys there as anybody does."""
    monkeypatch.setenv("KLYRA_DATA", "elsewhere")
    program = example_traffic(service="http://127.0.0.1:8090")
    assert program.name == TRAFFIC
    assert not [name for name in program.env if name.startswith("KLYRA_")]


def test_a_search_path_of_ours_is_kept(monkeypatch) -> None:
    """What our Python finds, theirs finds, and the examples before it."""
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    first, *others = example_traffic(service="http://127.0.0.1:8090").env["PYTHONPATH"].split(os.pathsep)
    assert (Path(first) / "moderation_service" / "service.py").is_file()
    assert others == ["/somewhere"]


def test_they_start_as_they_are_told(tmp_path) -> None:
    """The service runs from its folder among the examples, guarded, and says what it needs when it is not told."""
    program = moderation_service(listen="127.0.0.1:0", endpoint="", emit_key="", spool=tmp_path)
    done = subprocess.run(program.argv, env=program.env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "Set KLYRA_AUDIT_ENDPOINT, KLYRA_AUDIT_API_KEY: the address, key and organization of the audit log.\n"
    )


def test_a_guarded_program_ends_with_its_supervisor() -> None:
    """When the supervisor is killed, a program that knows nothing of it is stopped."""
    supervisor = (
        "import os, subprocess, sys, time\n"
        "guard = [sys.executable, '-m', 'klyra_collector.demo.guarded', str(os.getpid()), 'http.server', '--bind']\n"
        "print(subprocess.Popen([*guard, '127.0.0.1', '0'], stdout=subprocess.DEVNULL).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", supervisor], stdout=subprocess.PIPE, text=True) as process:
        guarded = psutil.Process(int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while guarded.is_running() and guarded.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
