"""The outbox is sealed exactly once, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from klyra_audit.event import Actor, AuditEvent, Resource
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from klyra_collector.data_directory import DataDirectory
from klyra_collector.receive.outbox import OutboxDrain
from klyra_collector.registry import Registry
from klyra_collector.registry.errors import RegistryUnavailable
from klyra_collector.seal.sealer import Sealer
from support.otlp import CATALOG, VALIDATOR
from support.replaying import replays
from support.sealing import SetClock, open_ledger, read_all

BY = Actor.system("tests")


class Silent:
    """Observes nothing."""

    def committed(self, outcomes, seconds) -> None:
        """See `SealObserver`."""

    def not_signed(self, error) -> None:
        """See `SealObserver`."""

    def signed(self, size) -> None:
        """See `SealObserver`."""


@pytest.fixture
def clock():
    """A clock that stands at midsummer, for registry and ledger alike."""
    return SetClock()


@pytest.fixture
def registry(tmp_path, clock):
    """A registry with one organization, whose commands wait."""
    url = DataDirectory(tmp_path).registry_url
    with contextlib.closing(Registry.open(url, CATALOG, clock=clock.wall_us)) as opened:
        opened.create_organization("org_acme", "startup", by=BY)
        yield opened


def drain(root, clock, registry, times: int = 1) -> None:
    """Open the ledger, drain a number of times, close it."""

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
                await outbox.step()
        finally:
            sealer.close()
            await running

    ledger = open_ledger(root, clock)
    try:
        asyncio.run(main())
    finally:
        ledger.close()


def sealed(root) -> list[str]:
    """Return the kinds of what was sealed for the organization, events by their type."""
    return [
        sections.join(item.body.sections)["event_type"] if item.leaf.kind == Kind.EVENT else item.control["type"]
        for item in read_all(root)
        if any(item.leaf.org_ref)
    ]


def test_commands_are_sealed_and_marked_with_their_position(tmp_path, clock, registry) -> None:
    """Policy and event are sealed in order, and each command knows where it stands."""
    commands = registry.pending_commands(10)
    drain(tmp_path, clock, registry)
    assert sealed(tmp_path) == ["policy", "retention.changed"]
    assert registry.pending_commands(10) == []
    positions = [registry.outbox_position(command.command_id) for command in commands]
    assert positions == [(item.origin, item.index) for item in read_all(tmp_path) if any(item.leaf.org_ref)]


def test_a_crash_before_marking_seals_nothing_twice(tmp_path, clock, registry, monkeypatch) -> None:
    """The commands are pending again, and recognised by what the ledger holds."""

    def crash(_) -> None:
        raise RegistryUnavailable("The registry is gone.")

    monkeypatch.setattr(registry, "mark_sealed", crash)
    with pytest.raises(RegistryUnavailable):
        drain(tmp_path, clock, registry)
    monkeypatch.undo()
    assert len(registry.pending_commands(10)) == 2
    drain(tmp_path, clock, registry, times=2)
    assert sealed(tmp_path) == ["policy", "retention.changed"]
    assert registry.pending_commands(10) == []


def test_a_plan_change_is_one_policy_more(tmp_path, clock, registry) -> None:
    """Each change of plan is sealed once, in the organization's own chain."""
    drain(tmp_path, clock, registry)
    registry.set_plan("org_acme", "business", by=BY)
    drain(tmp_path, clock, registry)
    assert sealed(tmp_path) == ["policy", "retention.changed", "policy", "retention.changed"]


def test_a_command_that_can_never_be_sealed_is_kept_with_its_reason(tmp_path, clock, registry) -> None:
    """A fault of our own does not block what stands behind it, and stays visible."""
    event = AuditEvent(
        event_type="session.created",
        actor=BY,
        resource=Resource("session", "s_1"),
        action="create",
        metadata={"scopes": ["read"]},
    )
    registry.record_event("org_acme", event)
    bad, *_ = registry.pending_commands(10)
    object.__setattr__(bad, "payload", {"nonsense": 1})
    original = registry.pending_commands
    registry.pending_commands = lambda limit: [bad, *original(limit)[1:]]
    drain(tmp_path, clock, registry)
    registry.pending_commands = original
    assert sealed(tmp_path)[-1] == "session.created"
    (refused,) = registry.refused_commands()
    assert refused.command.command_id == bad.command_id
    assert refused.reason
