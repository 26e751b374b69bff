"""Emitters that are killed, and collectors that are away: every event of which `emit` returned is sealed once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from klyra_audit import AuditEmitter
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from support import collector, forward
from support.collector import ACME
from support.sealing import read_all

TESTS = Path(__file__).parents[1]
LEAST_RATE = 500  # events a second that a slow machine delivers all the same


@dataclass
class Emitting:
    """A process that emits, and the file in which it says of which events `emit` has returned."""

    process: subprocess.Popen
    promised: Path

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()


def start(root: Path, name: str, url: str, key: str, *, threads: int, rate: float) -> Emitting:
    """Start a process that emits `rate` events a second."""
    promised = root / f"promised-{name}"
    command = [sys.executable, "-m", "support.emitting", url, key, ACME, str(root / "spool"), str(threads), str(rate)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in (str(TESTS), *sys.path) if path)}
    with promised.open("wb") as out:
        return Emitting(subprocess.Popen(command, stdout=out, env=environment), promised)


def promises(root: Path) -> list[str]:
    """Return the ids of all events of which `emit` has returned; a last line may be torn by the kill."""
    return [line for path in root.glob("promised-*") for line in path.read_text().split("\n")[:-1]]


def deliver_the_rest(root: Path, running: collector.Running) -> None:
    """Be the next emitter of that name, with nothing of its own to say."""
    with AuditEmitter(
        running.url, api_key=running.keys[ACME], organization_id=ACME, emitter_id="emitting", spool=root / "spool"
    ) as last:
        assert last.flush(60 + len(promises(root)) / LEAST_RATE)
        assert last.status().dropped == 0
    assert list((root / "spool").iterdir()) == []


def check(root: Path, data: Path) -> int:
    """Find every promised event sealed exactly once and in order of its boot, and the ledger intact without a gap."""
    sealed: Counter[str] = Counter()
    order: dict[int, list[int]] = defaultdict(list)
    for record in read_all(data):
        if record.leaf.kind == Kind.EVENT and record.leaf.emitter:
            sealed[sections.join(record.body.sections)["id"]] += 1
            order[record.leaf.emitter].append(record.leaf.emitter_seq)
    promised = promises(root)
    assert promised
    assert [record_id for record_id in promised if not sealed[record_id]] == []
    assert max(sealed.values()) == 1
    assert all(numbers == list(range(len(numbers))) for numbers in order.values())
    verified = subprocess.run(
        [sys.executable, "-m", "klyra_collector", "verify", str(data)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, "EMITTER_GAP" in verified.stdout) == (0, False), verified.stdout
    return len(promised)


WAYS = {"http": "otlp_http", "grpc": "otlp_grpc", "forward": "forward"}


def kill_rounds(root: Path, way: str, *, rounds: int, processes: int, threads: int, lifetime: float) -> None:
    """Kill every emitter again and again, with the collector running."""
    data = root / "data"
    running = forward.start(data, collector.make_keys(data))
    url = f"{way}://{running.addresses[WAYS[way]].removeprefix('http://')}"
    try:
        for number in range(rounds):
            emitting = [
                start(root, f"{number}-{place}", url, running.keys[ACME], threads=threads, rate=200)
                for place in range(processes)
            ]
            deadline = time.monotonic() + 30
            while not all(one.promised.stat().st_size for one in emitting) and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(lifetime)
            for one in emitting:
                one.kill()
        deliver_the_rest(root, running)
    finally:
        assert running.terminate() == 0
    check(root, data)


def outage(root: Path, *, seconds: float, rate: float) -> int:
    """Emit while the collector is away, have it come back, and return how many events were promised."""
    data = root / "data"
    running = collector.start(data, collector.make_keys(data))
    keys, url = running.keys, running.url
    emitting = start(root, "0", url, keys[ACME], threads=4, rate=rate)
    time.sleep(2)
    running.kill()
    time.sleep(seconds)
    running = collector.start(data, keys, OTLP__HTTP__LISTEN=url.removeprefix("http://"))
    try:
        time.sleep(1)
        emitting.process.terminate()
        assert emitting.process.wait(30) == 0
        deliver_the_rest(root, running)
    finally:
        assert running.terminate() == 0
    return check(root, data)


@pytest.mark.parametrize("way", WAYS)
def test_emitters_killed_again_and_again(tmp_path, way) -> None:
    """Three rounds of two processes with two threads each; the last to deliver need not take the same way."""
    kill_rounds(tmp_path, way, rounds=3, processes=2, threads=2, lifetime=0.5)


@pytest.mark.soak
@pytest.mark.parametrize("way", WAYS)
def test_emitters_killed_a_hundred_times(tmp_path, way) -> None:
    """A hundred rounds of eight processes with four threads each, a second between one kill and the next."""
    kill_rounds(tmp_path, way, rounds=100, processes=8, threads=4, lifetime=1.0)


def test_a_collector_that_is_away_for_seconds(tmp_path) -> None:
    """All that was emitted meanwhile is sealed when it is back."""
    assert outage(tmp_path, seconds=10, rate=500) > 3000


@pytest.mark.soak
def test_a_collector_that_is_away_for_ten_minutes(tmp_path) -> None:
    """Ten minutes under 2,000 events a second."""
    assert outage(tmp_path, seconds=600, rate=2000) > 600_000
