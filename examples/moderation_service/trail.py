"""The audit trail: nothing happens here that is not recorded first."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Protocol

from fastapi import Depends, HTTPException, Request

from klyra_audit import InvalidEvent, KlyraError, RetryLater

if TYPE_CHECKING:
    from klyra_audit import AuditEvent, Receipt


class Emitter(Protocol):
    """The part of `klyra_audit.AuditEmitter` that is needed here."""

    def emit(self, event: AuditEvent) -> Receipt:
        """Return once the event is sealed; raise `KlyraError` otherwise."""
        ...


class AuditTrail:
    """Records an action before it is taken; an action that cannot be recorded is not taken."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter

    def record(self, event: AuditEvent, *, permitted: bool = True) -> None:
        """Return once the event is sealed, so that the caller may do what it says.

        Args:
            event: what is about to happen.
            permitted: whether the caller may do it. If not, the attempt is recorded as a failure.

        Raises:
            HTTPException: 403 not permitted; 422 the request holds what no entry may; 503 the audit log cannot be
                reached. In each case the action must not be taken. After a 503 the log may hold an entry of it all
                the same: an answer that was lost on the way back.
        """
        try:
            self._emitter.emit(event if permitted else _failed(event, "not permitted"))
        except InvalidEvent as error:
            raise HTTPException(422, f"Nothing was done, because it cannot be recorded: {error}") from error
        except KlyraError as error:
            wait = str(int(error.retry_after) + 1) if isinstance(error, RetryLater) else "60"
            detail = f"Nothing was done, because the audit log cannot record it now: {error}"
            raise HTTPException(503, detail, {"Retry-After": wait}) from error
        if not permitted:
            raise HTTPException(403, "Your role does not permit this. The attempt was recorded.")

    def refuse(self, event: AuditEvent, status: int, reason: str) -> HTTPException:
        """Record that a request was refused for `reason`; return the answer to raise."""
        self.record(_failed(event, reason))
        return HTTPException(status, f"Refused: {reason}.")


def _failed(event: AuditEvent, reason: str) -> AuditEvent:
    return replace(event, status="failure", metadata={**event.metadata, "failure_reason": reason})


def trail_of(request: Request) -> AuditTrail:
    """Return the audit trail of the application that serves a request."""
    trail: AuditTrail = request.app.state.trail
    return trail


TrailDependency = Annotated[AuditTrail, Depends(trail_of)]
