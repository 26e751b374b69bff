"""kill -9 of every process at random moments under load: nothing acknowledged is lost, the ledger verifies."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from klyra_audit import ids
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from support import collector, otlp
from support.collector import ACME
from support.sealing import read_all

if TYPE_CHECKING:
    from pathlib import Path

BATCH = 16
SENDERS = 3


class Load:
    """Clients that push batches to whatever address is current, and keep what was acknowledged."""

    def __init__(self, key: str) -> None:
        self.url: str | None = None
        self.acknowledged: dict[str, tuple[int, str]] = {}
        self._key = key
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._push) for _ in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop pushing."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _push(self) -> None:
        boot, sequence, body, events = str(ids.new_uuid7()), 0, b"", []
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/x-protobuf"}
        while not self._stop.is_set():
            if not body:
                events = [otlp.prepared() for _ in range(BATCH)]
                body = otlp.own_form(*events, first=sequence, boot=boot)
                sequence += BATCH
            try:
                answer = httpx.post(f"{self.url}/v1/audit", content=body, headers=headers, timeout=5)
            except (httpx.HTTPError, httpx.InvalidURL):
                time.sleep(0.02)  # nobody there: the same bytes go again
                continue
            if answer.status_code == 200:
                with self._lock:
                    for receipt in answer.json()["receipts"]:
                        self.acknowledged[receipt["record_id"]] = (receipt["index"], receipt["leaf"])
                body = b""
            else:
                assert answer.status_code == 503, answer.text


def serve(root: Path) -> subprocess.Popen:
    """Start all three processes on free ports."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KLYRA_")}
    environment |= {
        "KLYRA_API__LISTEN": "127.0.0.1:0",
        "KLYRA_OTLP__HTTP__LISTEN": "127.0.0.1:0",
        "KLYRA_OTLP__GRPC__LISTEN": "127.0.0.1:0",
    }
    with (root / "serve.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "klyra_collector", "serve", "--data", str(root)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=log,
            stdout=log,
        )


def await_addresses(root: Path, process: subprocess.Popen) -> dict:
    """Return run.json of this very supervisor."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            run = json.loads((root / "run.json").read_text())
            if run["pids"]["supervisor"] == process.pid:
                return run
        except (FileNotFoundError, json.JSONDecodeError):
            pass
        assert process.poll() is None, (root / "serve.log").read_text()
        time.sleep(0.02)
    raise AssertionError((root / "serve.log").read_text())


def kill_all(process: subprocess.Popen, run: dict) -> None:
    """Kill the supervisor and every child at once."""
    for pid in run["pids"].values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs([psutil.Process(pid) for pid in run["pids"].values() if psutil.pid_exists(pid)], 10)


def check(root: Path, acknowledged: dict[str, tuple[int, str]]) -> None:
    """Verify the ledger, and find everything acknowledged in it exactly once, where its receipt said."""
    verified = subprocess.run(
        [sys.executable, "-m", "klyra_collector", "verify", str(root), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    sealed: dict[str, int] = {}
    for record in read_all(root):
        if record.leaf.kind == Kind.EVENT:
            document = sections.join(record.body.sections)
            assert document["id"] not in sealed
            sealed[document["id"]] = record.index
    for record_id, (index, _) in acknowledged.items():
        assert sealed[record_id] == index


def kill_at_random_moments(root: Path, times: int, seed: int) -> None:
    """Run under load, kill all, start again, `times` times; then stop cleanly and compare."""
    dice = random.Random(seed)  # noqa: S311 - moments, not secrets
    keys = collector.make_keys(root)
    load = Load(keys[ACME])
    try:
        for _ in range(times):
            process = serve(root)
            run = await_addresses(root, process)
            load.url = run["otlp_http"]
            time.sleep(dice.uniform(0.05, 1.2))
            kill_all(process, run)
            check(root, dict(load.acknowledged))
        process = serve(root)
        run = await_addresses(root, process)
        load.url = run["otlp_http"]
        before = len(load.acknowledged)
        deadline = time.monotonic() + 20
        while len(load.acknowledged) <= before and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        load.stop()
    assert len(load.acknowledged) > before
    _await_store(root, run, keys, load.acknowledged)
    process.terminate()
    assert process.wait(30) == 0
    check(root, load.acknowledged)


def _await_store(root: Path, run: dict, keys: dict[str, str], acknowledged: dict) -> None:
    """Wait until the API shows an acknowledged event, so that the follower lived through it all too."""
    record_id = max(acknowledged, key=lambda item: acknowledged[item][0])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        headers = {"Authorization": f"Bearer {keys['reader']}"}
        if httpx.get(f"{run['api']}/v1/audit-logs/{record_id}", headers=headers).status_code == 200:
            return
        time.sleep(0.1)
    raise AssertionError(f"{record_id} does not appear: {(root / 'serve.log').read_text()[-2000:]}")


def test_kill_9_of_all_processes_under_load(tmp_path) -> None:
    """A few random moments; `make soak` takes hundreds."""
    kill_at_random_moments(tmp_path, 3, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_kill_9_of_all_processes_under_load_many_times(tmp_path, seed) -> None:
    """A hundred random moments in five ledgers."""
    kill_at_random_moments(tmp_path, 20, seed)


def test_children_die_with_their_supervisor(tmp_path) -> None:
    """A killed supervisor leaves no process behind, and the next start is not confused by its run.json."""
    collector.make_keys(tmp_path)
    process = serve(tmp_path)
    run = await_addresses(tmp_path, process)
    children = [psutil.Process(pid) for name, pid in run["pids"].items() if name != "supervisor"]
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=15)
    assert not alive
    process = serve(tmp_path)
    await_addresses(tmp_path, process)
    process.terminate()
    assert process.wait(30) == 0
    assert not (tmp_path / "run.json").exists()


def test_a_crashed_child_is_started_again_where_it_was(tmp_path) -> None:
    """The collector killed alone comes back on the same port with everything it acknowledged."""
    keys = collector.make_keys(tmp_path)
    process = serve(tmp_path)
    run = await_addresses(tmp_path, process)
    headers = {"Authorization": f"Bearer {keys[ACME]}", "Content-Type": "application/x-protobuf"}
    body = otlp.own_form(otlp.prepared(), boot=str(ids.new_uuid7()))
    first = httpx.post(f"{run['otlp_http']}/v1/audit", content=body, headers=headers).json()
    os.kill(run["pids"]["collector"], signal.SIGKILL)
    deadline = time.monotonic() + 30
    again = None
    while again is None and time.monotonic() < deadline:
        try:
            again = httpx.post(f"{run['otlp_http']}/v1/audit", content=body, headers=headers).json()
        except httpx.HTTPError:
            time.sleep(0.1)
    assert again["receipts"][0]["index"] == first["receipts"][0]["index"]
    process.terminate()
    assert process.wait(30) == 0


def test_a_taken_port_is_named_with_its_setting(tmp_path) -> None:
    """Serve fails at once, says which port and which setting, and leaves nothing running."""
    environment = {
        "PATH": os.environ["PATH"],
        "KLYRA_OTLP__HTTP__LISTEN": "127.0.0.1:0",
        "KLYRA_OTLP__GRPC__LISTEN": "127.0.0.1:0",
    }
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment["KLYRA_API__LISTEN"] = f"127.0.0.1:{taken.getsockname()[1]}"
        finished = subprocess.run(
            [sys.executable, "-m", "klyra_collector", "serve", "--data", str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert finished.returncode == 2
    assert environment["KLYRA_API__LISTEN"] in finished.stderr
    assert "api.listen" in finished.stderr
