"""Grouping messages, sealing them, and trying again what has to wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from klyra_audit.errors import Rejected, RetryLater
from klyra_audit.forward.framing import Framer
from klyra_audit.forward.message import decode_message
from klyra_collector.errors import Overloaded
from klyra_collector.fair_budget import FairBudget
from klyra_collector.pipeline import Accepted
from klyra_collector.receive.forward import intake as forward_intake
from klyra_collector.receive.forward.intake import ForwardIntake, Peer
from klyra_collector.receive.forward.metrics import ForwardMetrics
from klyra_collector.receive.forward.tags import TagTypes
from klyra_collector.receive.ingest import MAX_INFLIGHT_BYTES, Ingest
from klyra_collector.receive.rates import OrganizationRates
from klyra_collector.receive.senders import Sender
from support.forward import entry, forward, gzipped, message, packed_forward

PEER = Peer("default", "a key", "127.0.0.1:1")


@dataclass
class Sealing:
    """Stands where the pipeline, the senders and the observer are: seals, or raises what it is told to."""

    errors: list[Exception] = field(default_factory=list)
    sealed: list[tuple[int, bytes]] = field(default_factory=list)

    async def accept(self, wire, request, sender, *, strict):
        """Remember how many records came under which request."""
        assert not strict
        if self.errors:
            raise self.errors.pop(0)
        self.sealed.append((len(wire), request))
        return Accepted((), (), ())

    async def authenticate(self, key_text):
        """Know every key."""
        return Sender(key_text, "org_acme", ())

    def accepted(self, accepted) -> None:
        """Note nothing."""


def intake_of(sealing: Sealing) -> ForwardIntake:
    """Return an intake that seals there."""
    ingest = Ingest(
        pipeline=sealing,
        senders=sealing,
        budget=FairBudget(MAX_INFLIGHT_BYTES),
        rates=OrganizationRates(),
        observer=sealing,
        max_request_bytes=1 << 20,
    )
    return ForwardIntake(ingest=ingest, types=TagTypes({}), metrics=ForwardMetrics(CollectorRegistry()))


def messages(content: bytes):
    """Return the messages of a stream."""
    framer = Framer()
    framer.feed(content)
    return [decode_message(raw) for raw in framer.messages()]


def seal(sealing: Sealing, content: bytes) -> list[bytes]:
    """Seal every unit of a stream; return the answers."""
    intake = intake_of(sealing)

    async def run() -> list[bytes]:
        return [await intake.seal(unit, PEER) for unit in intake.units(messages(content))]

    return asyncio.run(run())


def test_what_has_no_chunk_is_sealed_together_and_not_answered() -> None:
    """Messages that follow each other without a chunk are one unit; each chunk is one of its own."""
    sealing = Sealing()
    entries = [entry(0), entry(1)]
    content = message(entries) + forward(entries, chunk="a") + forward(entries, chunk="b") + message(entries)
    assert seal(sealing, content) == [b"", b"\x81\xa3ack\xa1a", b"\x81\xa3ack\xa1b", b""]
    assert [count for count, _ in sealing.sealed] == [2, 2, 2, 2]
    assert len({request for _, request in sealing.sealed}) == 4


def test_only_the_same_chunk_has_the_same_seed() -> None:
    """Tag, name and entries make the seed; compression does not; without a chunk every message is new."""
    entries = [entry(0)]

    def seed(content: bytes) -> bytes:
        sealing = Sealing()
        seal(sealing, content)
        return sealing.sealed[0][1]

    same = seed(packed_forward(entries, chunk="a"))
    assert seed(packed_forward(entries, chunk="a")) == seed(gzipped(entries, chunk="a")) == same
    others = [
        packed_forward(entries, chunk="b"),
        packed_forward(entries, tag="other", chunk="a"),
        packed_forward([entry(1)], chunk="a"),
        packed_forward(entries),
        packed_forward(entries),
    ]
    assert len({same, *map(seed, others)}) == 6


def test_a_large_chunk_is_sealed_in_parts_of_different_seeds() -> None:
    """Two parts of equal entries are different events, again in the same way when the chunk comes again."""
    content = forward([entry(0)] * 1200, chunk="large")
    first, second = Sealing(), Sealing()
    seal(first, content)
    seal(second, content)
    assert [count for count, _ in first.sealed] == [500, 500, 200]
    assert len({request for _, request in first.sealed}) == 3
    assert first.sealed == second.sealed


def test_what_has_to_wait_is_tried_again() -> None:
    """An overload that passes costs the sender only time."""
    sealing = Sealing([Overloaded("full", retry_after=0.001), RetryLater("again", retry_after=0.001)])
    assert seal(sealing, forward([entry(0)], chunk="a")) == [b"\x81\xa3ack\xa1a"]


def test_what_does_not_pass_is_not_acknowledged(monkeypatch) -> None:
    """After some patience the error reaches the connection, which then closes."""
    monkeypatch.setattr(forward_intake, "PATIENCE_SECONDS", 0.01)
    sealing = Sealing([Overloaded("full", retry_after=0.004)] * 100)
    with pytest.raises(Overloaded):
        seal(sealing, forward([entry(0)], chunk="a"))
    assert sealing.sealed == []


def test_what_can_never_be_sealed_is_not_tried_again() -> None:
    """Any other error ends the connection at once."""
    sealing = Sealing([Rejected("never")])
    with pytest.raises(Rejected):
        seal(sealing, forward([entry(0)], chunk="a"))


def test_an_empty_chunk_is_acknowledged() -> None:
    """There is nothing to lose in it, and its sender waits."""
    assert seal(Sealing(), forward([], chunk="empty")) == [b"\x81\xa3ack\xa5empty"]
