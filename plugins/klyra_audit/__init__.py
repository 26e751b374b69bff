"""Audit logs that cannot be lost, cannot be changed unnoticed, and are not kept too long.

    from klyra_audit import Actor, AuditEmitter, events

    with AuditEmitter("http://127.0.0.1:4318", api_key=key, organization_id="org_7f3a") as audit:
        audit.emit(events.moderation_created(actor=Actor.user("usr_1"), moderation_id="mod_1"))

Names are loaded when they are first used, so that the verifier, which needs `klyra_audit.format` alone, loads
neither an HTTP client nor protobuf.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from klyra_audit import events
    from klyra_audit.emitter import AuditEmitter
    from klyra_audit.errors import Halted, InvalidEvent, KlyraError, Paused, Rejected, RetryLater
    from klyra_audit.event import Actor, AuditEvent, Resource
    from klyra_audit.receipt import Receipt
    from klyra_audit.spool.spool import Spooled, SpoolOptions
    from klyra_audit.transports.client_tls import ClientTls

__all__ = [
    "Actor",
    "AuditEmitter",
    "AuditEvent",
    "ClientTls",
    "Halted",
    "InvalidEvent",
    "KlyraError",
    "Paused",
    "Receipt",
    "Rejected",
    "Resource",
    "RetryLater",
    "SpoolOptions",
    "Spooled",
    "events",
]

_HOMES = {
    "AuditEmitter": "klyra_audit.emitter",
    "Actor": "klyra_audit.event",
    "AuditEvent": "klyra_audit.event",
    "Resource": "klyra_audit.event",
    "ClientTls": "klyra_audit.transports.client_tls",
    "Receipt": "klyra_audit.receipt",
    **dict.fromkeys(("Spooled", "SpoolOptions"), "klyra_audit.spool.spool"),
    **dict.fromkeys(("Halted", "InvalidEvent", "KlyraError", "Paused", "Rejected", "RetryLater"), "klyra_audit.errors"),
}


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name == "events":
        return importlib.import_module("klyra_audit.events")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'klyra_audit' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
