"""A disk that is too slow and 200 clients that push: bounded, retryable, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from klyra_collector.receive.forward.intake import PATIENCE_SECONDS
from support import collector, pushing
from support.collector import ACME
from support.pushing import Noted

if TYPE_CHECKING:
    from support.collector import Running

RECORDS = 10
MEBIBYTE = 1024 * 1024
WAITING_SECONDS = 2.0
SLACK_SECONDS = 10.0  # of a machine that does other things, too: a bound that is not kept grows far beyond it
CLIENTS = {"http": 140, "grpc_": 30, "forward_": 20, "small": 10}
RETRYABLE = {"429", "503", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "closed"}
LIMITS = {
    "INTAKE__MAX_WAITING_BYTES": str(MEBIBYTE),
    "INTAKE__MAX_INFLIGHT_BYTES": str(MEBIBYTE),
    "INTAKE__MAX_WAITING_SECONDS": str(WAITING_SECONDS),
}


@dataclass
class Overload:
    """What an overloaded collector did.

    Attributes:
        noted: by group of clients.
        kept_out: the groups that had got nothing acknowledged when the disk became well again.
        before_bytes, peak_bytes: resident memory before the load, and the most there ever was.
        running: the collector, stopped.
    """

    noted: dict[str, Noted]
    kept_out: list[str]
    before_bytes: int
    peak_bytes: int
    running: Running


def memory(process_id: int, name: str) -> int:
    """Return a figure of a process's memory in bytes: VmRSS now, VmHWM the most so far."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{name} is not known")


def overloaded(root: Path, slow: float, seconds: float) -> Overload:
    """Push with 200 clients while every sync takes `slow` seconds longer, then a while with a disk that is well."""
    file = root / "sync-seconds"
    keys = collector.make_keys(root)
    (root / "secret").write_text(keys[ACME])
    running = collector.start(
        root,
        keys,
        program=("support.slow_disk", str(file)),
        FORWARD__LISTEN="127.0.0.1:0",
        FORWARD__KEY=f"file:{root / 'secret'}",
        **LIMITS,
    )
    noted = {group: Noted() for group in CLIENTS}
    try:
        before = memory(running.process.pid, "VmRSS")
        file.write_text(str(slow))
        kept_out = asyncio.run(push(running, noted, file, seconds))
        peak = memory(running.process.pid, "VmHWM")
    finally:
        assert running.terminate() == 0
    return Overload(noted, kept_out, before, peak, running)


async def push(running: Running, noted: dict[str, Noted], file: Path, seconds: float) -> list[str]:
    """Push while the disk is slow, then while it is well; return the groups that got nothing done in the first part."""
    clients = pushing.clients(running, **CLIENTS)
    stop = asyncio.Event()
    load = asyncio.create_task(pushing.push(clients, noted, RECORDS, stop))
    await asyncio.sleep(seconds)
    kept_out = [group for group, so_far in noted.items() if not so_far.acknowledged]
    await asyncio.to_thread(file.unlink)
    await asyncio.sleep(1)
    stop.set()
    await load
    return kept_out


def sealed_ids(running: Running) -> Counter[str]:
    """Count how often each pushed record was sealed."""
    documents = [sections.join(item.body.sections) for item in running.sealed() if item.leaf.kind == Kind.EVENT]
    return Counter(ident for item in documents if (ident := item["metadata"].get("source_id")))


def judge(overload: Overload, slow: float) -> None:
    """Assert everything that is promised under overload.

    A request is answered after what waited before it and the commit it is part of, two syncs each; over Forward the
    collector itself waits for room before it closes the connection.
    """
    every = list(overload.noted.values())
    answers = sum((noted.answers for noted in every), Counter())
    refused = {said for said in answers if said not in {"200", "OK", "ack"}}
    assert refused <= RETRYABLE
    assert {"503", "UNAVAILABLE"} <= refused, "it was not overloaded"
    assert sum(noted.refused_without_delay for noted in every) == 0
    acknowledged = sum((noted.acknowledged for noted in every), Counter())
    assert set(acknowledged.values()) == {1}
    assert sealed_ids(overload.running) == acknowledged
    assert overload.kept_out == []
    assert overload.peak_bytes < overload.before_bytes + 128 * MEBIBYTE
    for group, noted in overload.noted.items():
        waited = PATIENCE_SECONDS if group == "forward_" else 0
        assert noted.longest_seconds < waited + WAITING_SECONDS + 4 * slow + SLACK_SECONDS


def test_a_slow_disk_and_many_clients(tmp_path) -> None:
    """Everybody is served or asked to come again, memory and waiting are bounded, and what was said to be kept is."""
    judge(overloaded(tmp_path, slow=0.5, seconds=6), slow=0.5)


@pytest.mark.soak
@pytest.mark.parametrize("slow", [0.2, 1.0, 4.0])
def test_a_slow_disk_and_many_clients_for_long(tmp_path, slow) -> None:
    """The same for minutes: nothing grows, and a disk slower than the patience of those who wait changes nothing."""
    judge(overloaded(tmp_path, slow, seconds=120), slow)
