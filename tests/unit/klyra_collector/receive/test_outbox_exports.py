"""HEADS on demand and the record of an export, through the outbox: each once, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import TYPE_CHECKING

import pytest

from klyra_audit.errors import Rejected
from klyra_audit.event import Actor, AuditEvent, Resource
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_collector.data_directory import DataDirectory
from klyra_collector.receive.outbox import OutboxDrain
from klyra_collector.registry import Registry
from klyra_collector.registry.errors import RegistryUnavailable
from klyra_collector.seal.exports import export_record, find_sealed
from klyra_collector.seal.sealer import Sealer
from support import records
from support.otlp import CATALOG, VALIDATOR
from support.packets import Sealed
from support.records import STARTUP
from support.replaying import replays
from support.sealing import SetClock, open_ledger, read_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACME = "org_acme"
BY = Actor.system("tests")
SHA256 = hashlib.sha256(b"a manifest").digest()
EXPORTED = AuditEvent(
    event_type="audit_log.exported",
    actor=BY,
    resource=Resource("audit_log", ACME),
    action="read",
    metadata={"filters": {}, "format": "packet"},
)


class Silent:
    """Observes nothing."""

    def committed(self, outcomes, seconds) -> None:
        """See `SealObserver`."""

    def not_signed(self, error) -> None:
        """See `SealObserver`."""

    def signed(self, size) -> None:
        """See `SealObserver`."""


@pytest.fixture
def registry(tmp_path) -> Iterator[Registry]:
    """A registry with one organization."""
    clock = SetClock()
    url = DataDirectory(tmp_path).registry_url
    with contextlib.closing(Registry.open(url, CATALOG, clock=clock.wall_us)) as opened:
        opened.create_organization(ACME, "startup", by=BY)
        yield opened


def drain(root: Path, registry: Registry, times: int = 1) -> None:
    """Open the ledger, drain a number of times, close it."""
    clock = SetClock()

    async def main() -> None:
        sealer = Sealer(ledger, Silent())
        running = asyncio.create_task(sealer.run())
        outbox = OutboxDrain(
            registry=registry,
            sealer=sealer,
            ledger=ledger,
            catalog=CATALOG,
            validator=VALIDATOR,
            wall_us=clock.wall_us,
            replays=replays(root, registry, ledger, sealer, clock),
        )
        try:
            for _ in range(times):
                with contextlib.suppress(RegistryUnavailable):
                    await outbox.step()
        finally:
            sealer.close()
            await running

    ledger = open_ledger(root, clock)
    try:
        asyncio.run(main())
    finally:
        ledger.close()


def exports(root: Path) -> list[int]:
    """Return the indexes of the EXPORT records."""
    return [record.index for record in read_all(root) if record.leaf.kind == Kind.EXPORT]


def fail_to_mark(registry: Registry, monkeypatch) -> None:
    """Lose the next answer on its way back to the registry."""
    mark = registry.mark_sealed

    def broken(positions) -> None:
        monkeypatch.setattr(registry, "mark_sealed", mark)
        raise RegistryUnavailable("Gone.", remedy="Wait.")

    monkeypatch.setattr(registry, "mark_sealed", broken)


def test_heads_are_sealed_when_asked_for(registry, tmp_path) -> None:
    """The position is under HEADS; asked again with nothing new, none is added."""
    first = registry.record_heads()
    drain(tmp_path, registry)
    again = registry.record_heads()
    drain(tmp_path, registry)
    kinds = [record.leaf.kind for record in read_all(tmp_path)]
    for command_id in (first, again):
        _, index = registry.outbox_position(command_id)
        assert Kind.HEADS in kinds[: index + 1]


def test_an_export_is_recorded_in_its_organizations_chain(registry, tmp_path) -> None:
    """After the entry that tells of it; its document is the digest of the manifest."""
    command_id = registry.record_export(ACME, SHA256, [EXPORTED])
    drain(tmp_path, registry)
    (index,) = exports(tmp_path)
    found = read_all(tmp_path)
    assert registry.outbox_position(command_id) == (found[index].origin, index)
    assert found[index].control == {"type": "export", "sha256": SHA256.hex()}
    told = next(record for record in found if record.body and b"audit_log.exported" in record.body.sections.core)
    assert told.index < index
    assert told.leaf.org_ref == found[index].leaf.org_ref


def test_nothing_is_recorded_for_nobody(registry) -> None:
    """The entries and the record stand or fall together."""
    before = registry.pending_commands(100)
    with pytest.raises(Rejected) as refused:
        registry.record_export("org_nobody", SHA256, [EXPORTED])
    assert refused.value.code == "unknown_organization"
    assert registry.pending_commands(100) == before


def test_it_is_sealed_once_though_the_answer_was_lost(registry, tmp_path, monkeypatch) -> None:
    """In the same process, the second attempt finds the first one's record."""
    registry.record_export(ACME, SHA256, [])
    fail_to_mark(registry, monkeypatch)
    drain(tmp_path, registry, times=2)
    assert len(exports(tmp_path)) == 1


def test_it_is_sealed_once_though_the_process_died(registry, tmp_path, monkeypatch) -> None:
    """Another process finds it as well."""
    command_id = registry.record_export(ACME, SHA256, [])
    fail_to_mark(registry, monkeypatch)
    drain(tmp_path, registry)
    drain(tmp_path, registry)
    assert registry.outbox_position(command_id)[1] == exports(tmp_path)[0]
    assert len(exports(tmp_path)) == 1


def test_a_record_is_found_where_it_stands(tmp_path) -> None:
    """Not where its commit's bytes stand by chance, not behind the size, and not in an empty ledger."""
    sealed = Sealed(tmp_path / "data")
    record = export_record(STARTUP.organization_id, SHA256)
    leaves = tmp_path / "data/ledger/2026/leaves"
    assert find_sealed(leaves, "o", sealed.ledger.size, record) is None
    (outcome,) = sealed.ledger.commit_controls([record])
    sealed.seal(records.record(STARTUP))
    size, index = sealed.ledger.size, outcome.sealed.index
    assert find_sealed(leaves, "o", size, record).index == index
    assert find_sealed(leaves, "o", index, record) is None
    assert find_sealed(leaves, "o", 0, record) is None
    raw = leaves.read_bytes()
    commit = Leaf.unpack(raw[index * LEAF_SIZE : (index + 1) * LEAF_SIZE]).commit
    elsewhere = tmp_path / "leaves"
    elsewhere.write_bytes(bytes(10) + commit + bytes(LEAF_SIZE - 10 - len(commit)))
    assert find_sealed(elsewhere, "o", 1, record) is None
