"""kill -9 of the collector between a chunk's receipt and its acknowledgement: sent again, it is sealed once."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from klyra_audit.errors import RetryLater
from klyra_audit.transports.forward import ForwardClient
from support import forward
from support.forward import NANOSECONDS, Wire, entry
from support.restarting import Restarting

if TYPE_CHECKING:
    from pathlib import Path

    from support.collector import Running

ENTRIES = 8
LEAST_CHUNKS = 3  # of each client: one that was given no time to send shows nothing
GIVE_UP_SECONDS = 60  # a collector that does not come back must not keep the tests


class Client(threading.Thread):
    """Sends one chunk after the other, each until it is acknowledged."""

    def __init__(self, address: str, name: str) -> None:
        super().__init__()
        self.acknowledged: list[str] = []
        self._address = address
        self._name = name
        self._stop_sending = threading.Event()

    def run(self) -> None:
        """See the class."""
        with ForwardClient(self._address, timeout=5) as client:
            number = 0
            while number < LEAST_CHUNKS or not self._stop_sending.is_set():
                ids = [f"{self._name}-{number}-{part}" for part in range(ENTRIES)]
                if not self._send(client, [(NANOSECONDS, entry(run=run)[1]) for run in ids]):
                    return
                self.acknowledged += ids
                number += 1

    def _send(self, client: ForwardClient, entries: list) -> bool:
        """Send entries until they are acknowledged; return False if nobody answers any more."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(RetryLater):
                client.send("app.audit", entries, compressed=random.choice([None, "gzip", "zstd"]))  # noqa: S311 - variety
                return True
            time.sleep(0.05)
        return False

    def finish(self) -> None:
        """Send what is under way until it is acknowledged, then stop."""
        self._stop_sending.set()
        self.join()


def sealed_runs(running: Running) -> Counter:
    """Count how often each entry was sealed."""
    return Counter(item["metadata"]["attributes"]["run"] for item in forward.events(running))


def kill_under_load(root: Path, kills: int, clients: int, longest_seconds: float) -> None:
    """Kill a collector again and again while clients send; assert that nothing is lost or doubled."""
    chance = random.Random(5)  # noqa: S311 - the same moments on every run
    restarted = Restarting(root)
    senders = [Client(restarted.address("forward"), f"client-{number}") for number in range(clients)]
    for sender in senders:
        sender.start()
    try:
        for _ in range(kills):
            time.sleep(chance.uniform(0.05, longest_seconds))
            restarted.kill()
            restarted.start()
    finally:
        for sender in senders:
            sender.finish()
        restarted.running.terminate()
    acknowledged = Counter(run for sender in senders for run in sender.acknowledged)
    assert len(acknowledged) >= LEAST_CHUNKS * ENTRIES * clients
    assert sealed_runs(restarted.running) == acknowledged


def test_a_chunk_whose_acknowledgement_was_killed_is_sealed_once(tmp_path) -> None:
    """However far the collector had come with a chunk when it was killed, the chunk sent again completes it."""
    restarted = Restarting(tmp_path)
    runs = []
    try:
        for number, delay in enumerate((0.0, 0.002, 0.005, 0.01)):
            ids = [f"{number}-{part}" for part in range(3000)]
            content = forward.gzipped([entry(run=run) for run in ids], chunk=f"chunk-{number}")
            with Wire(restarted.address("forward")) as wire:
                wire.send(content)
                time.sleep(delay)
                restarted.kill()
                with contextlib.suppress(EOFError):
                    wire.answer()
            restarted.start()
            with Wire(restarted.address("forward")) as wire:
                wire.send(content)
                assert wire.answer() == {"ack": f"chunk-{number}"}
            runs += ids
    finally:
        restarted.running.terminate()
    assert sealed_runs(restarted.running) == Counter(runs)


def test_clients_that_send_again_lose_and_double_nothing(tmp_path) -> None:
    """Under load, with kills at any moment, exactly what was acknowledged is in the ledger, once."""
    kill_under_load(tmp_path, kills=2, clients=2, longest_seconds=0.6)


@pytest.mark.soak
def test_clients_that_send_again_lose_and_double_nothing_for_long(tmp_path) -> None:
    """The same with many kills."""
    kill_under_load(tmp_path, kills=40, clients=4, longest_seconds=3)
