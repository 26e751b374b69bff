"""The transactional outbox."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import uuid

import pytest

from klyra_audit import ids
from klyra_audit.errors import InvalidEvent, Rejected
from klyra_audit.event import Actor, AuditEvent, Resource
from klyra_collector.registry import self_audit
from klyra_collector.registry.denials import Denial
from klyra_collector.registry.origin import Origin

KILLED_AFTER_COMMITTING = """
import os, signal, sys
from klyra_audit.catalog import Catalog
from klyra_audit.event import Actor
from klyra_collector.registry import Registry
registry = Registry.open(sys.argv[1], Catalog.load())
for number in range(50):
    registry.create_organization(f"org_{number}", "startup", by=Actor.user("usr_1"))
    print(number, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def event(**changes) -> AuditEvent:
    """Return an event of the product about itself."""
    origin = Origin(None, None)
    denial = Denial(reason="revoked", endpoint="/v1/logs", key_id="", organization_id="org_a", origin=origin)
    made = self_audit.access_denied(denial, 1)
    members = {
        name: getattr(made, name) for name in ("event_type", "actor", "resource", "action", "status", "metadata")
    }
    return AuditEvent(**{**members, **changes})


def test_an_event_becomes_a_document_whose_id_derives_from_the_command(registry, told) -> None:
    """So that the seal recognises the command when it is drained a second time."""
    command_id = registry.record_event("org_a", event(id="log_00000000"))
    (command,) = told.new()
    assert (command.command_id, command.organization_id, command.kind) == (command_id, "org_a", "event")
    assert uuid.UUID(command_id).version == 7
    document = command.payload["document"]
    assert document["id"] == ids.log_id(uuid.UUID(command_id))
    assert (document["organization_id"], document["event_type"]) == ("org_a", "access.denied")
    assert document["timestamp"] == "2026-06-21T12:00:00.000Z"


def test_an_event_keeps_a_time_of_its_own(registry, told) -> None:
    """When it happened may be earlier than when it is written down."""
    registry.record_event("org_a", event(timestamp="2026-06-21T11:59:59.5Z"))
    assert told.new_documents()[0]["timestamp"] == "2026-06-21T11:59:59.5Z"


def test_the_operator_has_a_chain_of_its_own(registry, told) -> None:
    """None and the operator's own name mean the same."""
    registry.record_event(None, event())
    registry.record_event("operator", event())
    assert [command.organization_id for command in told.new()] == ["operator", "operator"]


def test_commands_come_in_the_order_of_their_creation(registry, second) -> None:
    """Also those of two processes within one millisecond, and a limit takes the oldest."""
    made = [process.record_event("org_a", event()) for process in (registry, second) * 10]
    pending = [command.command_id for command in registry.pending_commands(1000)]
    assert pending[-20:] == made
    assert [command.command_id for command in second.pending_commands(3)] == pending[:3]


def test_a_sealed_command_is_pending_no_more(registry, second, told) -> None:
    """Its position can be asked for, in every process."""
    command_id = registry.record_event("org_a", event())
    assert registry.outbox_position(command_id) is None
    registry.mark_sealed([(command_id, "klyra-audit.local/c/2026", 41)])
    assert second.outbox_position(command_id) == ("klyra-audit.local/c/2026", 41)
    assert told.new() == []


def test_marking_sealed_again_changes_nothing(registry) -> None:
    """The first position stays, as it does on a receipt."""
    command_id = registry.record_event("org_a", event())
    registry.mark_sealed([(command_id, "log/1", 1)])
    registry.mark_sealed([(command_id, "log/2", 2), ("00000000-0000-7000-8000-000000000000", "log/2", 3)])
    registry.mark_refused(command_id, "too late")
    assert registry.outbox_position(command_id) == ("log/1", 1)
    assert registry.refused_commands() == []


def test_a_refused_command_stays_visible_with_its_reason(registry, told, clock) -> None:
    """It is not tried again, and who waits for its position is told why."""
    command_id = registry.record_event("org_a", event())
    registry.mark_refused(command_id, "metadata/reason: not a known reason" + "." * 2000)
    registry.mark_refused(command_id, "another reason")
    clock.advance(days=400)
    assert told.new() == []
    (refused,) = registry.refused_commands()
    assert (refused.command.command_id, refused.refused_at) == (command_id, clock.now - 400 * 86_400_000_000)
    assert refused.reason.startswith("metadata/reason: not a known reason")
    assert len(refused.reason) == 1000
    with pytest.raises(Rejected, match="not a known reason") as caught:
        registry.outbox_position(command_id)
    assert (caught.value.code, "again once" in caught.value.remedy) == ("command_refused", True)


def test_a_refused_command_may_be_sealed_after_all(registry) -> None:
    """Once whoever refused it has changed its mind."""
    command_id = registry.record_event("org_a", event())
    registry.mark_refused(command_id, "a reason")
    registry.mark_sealed([(command_id, "log/1", 1)])
    assert registry.outbox_position(command_id) == ("log/1", 1)
    assert registry.refused_commands() == []


def test_sealed_rows_are_forgotten_a_day_later(registry, clock, monkeypatch) -> None:
    """In small batches, each time something is marked; pending ones are never."""
    monkeypatch.setattr("klyra_collector.registry.outbox.PRUNED_AT_ONCE", 2)
    old = [registry.record_event("org_a", event()) for _ in range(3)]
    registry.mark_sealed([(command_id, "log/1", index) for index, command_id in enumerate(old)])
    waiting = registry.record_event("org_a", event())
    clock.advance(days=1)
    registry.mark_sealed([])
    assert all(registry.outbox_position(command_id) for command_id in old)
    clock.advance(seconds=1)
    registry.mark_sealed([])
    assert [registry.outbox_position(command_id) is None for command_id in old].count(True) == 2
    registry.mark_sealed([])
    assert not any(registry.outbox_position(command_id) for command_id in old)
    assert registry.pending_commands(100)[-1].command_id == waiting


@pytest.mark.parametrize(
    "changes",
    [
        {"event_type": "no.such_type"},
        {"action": "create"},
        {"resource": Resource("user", "usr_1")},
        {"metadata": {}},
        {"actor": Actor.api_key("")},
        {"timestamp": "2026-06-21T13:00:00Z"},
    ],
)
def test_an_event_that_the_seal_would_refuse_is_refused_at_once(registry, told, changes) -> None:
    """Nothing of it is kept."""
    with pytest.raises(InvalidEvent) as caught:
        registry.record_event("org_a", event(**changes))
    assert caught.value.code
    assert caught.value.pointer or caught.value.reason
    assert told.new() == []


def test_an_event_beyond_the_json_profile_is_refused_at_once(registry, told) -> None:
    """A floating-point number has no canonical form here."""
    with pytest.raises(InvalidEvent, match="metadata"):
        registry.record_event("org_a", event(metadata={"reason": "revoked", "attempts": 1.5}))
    assert told.new() == []


def test_an_event_of_an_unknown_organization_is_rejected(registry) -> None:
    """There would be no plan to keep it by."""
    with pytest.raises(Rejected, match="no organization org_b") as caught:
        registry.record_event("org_b", event())
    assert caught.value.code == "unknown_organization"


def test_a_change_whose_entry_is_refused_does_not_happen(registry, told) -> None:
    """A change and what tells of it are one transaction."""
    with pytest.raises(InvalidEvent):
        registry.create_organization("org_b", "startup", by=Actor.user(""))
    assert registry.organization("org_b") is None
    assert told.new() == []


def test_what_was_committed_before_a_kill_is_there_with_its_commands(registry, url) -> None:
    """Every organization of a process that died has its two commands, and none has only one of them."""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", KILLED_AFTER_COMMITTING, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        for line in process.stdout:
            if int(line) == 20:
                os.kill(process.pid, signal.SIGKILL)
                break
        rest = process.stdout.read().split()
    reported = int(rest[-1]) if rest else 20
    made = {organization.organization_id for organization in registry.organizations()}
    assert {f"org_{number}" for number in range(reported + 1)} <= made
    told = [(command.organization_id, command.kind) for command in registry.pending_commands(1000)]
    assert sorted(told) == sorted((name, kind) for name in made for kind in ("event", "policy"))


def test_two_processes_lose_no_command(registry, second) -> None:
    """While a third drains, each command is seen, once, in order."""
    made: list[list[str]] = [[], []]

    def write(process, mine) -> None:
        mine.extend(process.record_event("org_a", event()) for _ in range(30))

    threads = [threading.Thread(target=write, args=pair) for pair in zip((registry, second), made, strict=True)]
    for thread in threads:
        thread.start()
    drained: list[str] = []
    while any(thread.is_alive() for thread in threads) or registry.pending_commands(1):
        batch = [command.command_id for command in registry.pending_commands(7)]
        registry.mark_sealed([(command_id, "log/1", len(drained) + i) for i, command_id in enumerate(batch)])
        drained += batch
    assert len(drained) == len(set(drained)) == 62
    for mine in made:
        assert [command_id for command_id in drained if command_id in set(mine)] == mine
    assert re.fullmatch(r"[0-9a-f-]{36}", drained[0])
