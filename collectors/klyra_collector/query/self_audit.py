"""Reads and exports as entries of the log that is read: recorded before they are answered (DESIGN section 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klyra_audit.event import AuditEvent, Resource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_collector.query.authorization import Caller, Subject
    from klyra_collector.query.requests import Call
    from klyra_collector.query.services import Services
    from klyra_collector.query.window import Window


def note_read(
    services: Services, call: Call, caller: Caller, about: Subject, filters: Mapping[str, Any], returned: int
) -> None:
    """Record a list, a search or a look at one entry; what the operator reads is an entry of its own each time.

    Raises:
        RetryLater: it cannot be recorded now, so it must not be answered.
    """
    services.metrics.returned(returned)
    if about.by_operator:
        note_operator(services, call, caller, about, {"filters": dict(filters), "returned": returned})
        return
    services.registry.note_read(
        about.organization_id,
        caller.actor,
        filters,
        returned,
        client_ip=call.client_ip,
        user_agent=call.user_agent,
    )


def note_export(
    services: Services,
    call: Call,
    caller: Caller,
    about: Subject,
    filters: Mapping[str, Any],
    rendering: str,
    window: Window,
) -> None:
    """Record an export, never merged with another.

    Raises:
        RetryLater: it cannot be recorded now, so it must not be answered.
    """
    metadata = {
        "filters": dict(filters),
        "format": rendering,
        "window_start": window.start,
        "window_end": window.end,
    }
    services.registry.record_event(about.organization_id, exported_event(call, caller, about, metadata))


def exported_event(call: Call, caller: Caller, about: Subject, metadata: Mapping[str, Any]) -> AuditEvent:
    """Return the entry that tells of an export."""
    return AuditEvent(
        event_type="audit_log.exported",
        actor=caller.actor,
        resource=Resource("audit_log", about.organization_id),
        action="read",
        metadata={**metadata, **origin_of(call)},
    )


def note_proof(services: Services, call: Call, caller: Caller, about: Subject, entry_id: str) -> None:
    """Record that evidence for an entry is given out, never merged with another.

    Raises:
        RetryLater: it cannot be recorded now, so it must not be answered.
    """
    if about.by_operator:
        note_operator(services, call, caller, about, {"filters": {"id": entry_id}, "returned": 1})
        return
    event = AuditEvent(
        event_type="audit_log.verified",
        actor=caller.actor,
        resource=Resource("audit_log", about.organization_id),
        action="read",
        metadata={"entry_id": entry_id, "evidence": "proof"} | origin_of(call),
    )
    services.registry.record_event(about.organization_id, event)


def note_operator(services: Services, call: Call, caller: Caller, about: Subject, metadata: Mapping[str, Any]) -> None:
    """Record that the operator looked at an organization; `RetryLater` if that cannot be done now."""
    services.registry.record_event(about.organization_id, operator_event(call, caller, about, metadata))


def operator_event(call: Call, caller: Caller, about: Subject, metadata: Mapping[str, Any]) -> AuditEvent:
    """Return the entry that tells an organization of the operator's look."""
    return AuditEvent(
        event_type="operator.accessed",
        actor=caller.actor,
        resource=Resource("organization", about.organization_id),
        action="read",
        metadata={"call": f"{call.method} {call.route}", **metadata, **origin_of(call)},
    )


def origin_of(call: Call) -> dict[str, str]:
    """Return where a call came from, as metadata has it."""
    given = {"client_ip": call.client_ip, "user_agent": call.user_agent}
    return {name: value for name, value in given.items() if value is not None}
