"""A `logging.Handler` for applications whose audit trail is a logger today.

    audit_log = logging.getLogger("audit")
    audit_log.addHandler(AuditHandler(emitter))
    audit_log.info("removed", extra={"audit_event": events.user_removed(actor=actor, user_id="usr_2")})

Unlike other handlers it lets the caller know when an event could not be made durable.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from klyra_audit.event import AuditEvent

if TYPE_CHECKING:
    from klyra_audit.emitter import AuditEmitter

ATTRIBUTE = "audit_event"


class AuditHandler(logging.Handler):
    """Emits the event that a log record carries; records without one are none of its business.

    Args:
        emitter: where to.
    """

    def __init__(self, emitter: AuditEmitter) -> None:
        super().__init__()
        self._emitter = emitter

    def emit(self, record: logging.LogRecord) -> None:
        """Return when the event is durable; raises what `AuditEmitter.emit` raises, to the one who logs."""
        event = getattr(record, ATTRIBUTE, None)
        if isinstance(event, AuditEvent):
            self._emitter.emit(event)

    def createLock(self) -> None:  # noqa: N802 - the standard library's name
        """Take no lock: the emitter is safe for threads, and shares one fsync among them."""
        self.lock = None
