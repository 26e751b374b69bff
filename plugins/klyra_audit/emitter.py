"""The emitter: what an application calls to have an event sealed."""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from klyra_audit import ids, otlp
from klyra_audit.catalog import Catalog
from klyra_audit.errors import InvalidEvent, Rejected, RetryLater
from klyra_audit.format.leaf import Leaf
from klyra_audit.otlp import EmitterIdentity
from klyra_audit.prepared import PreparedEvent, prepare
from klyra_audit.receipt import ReceiptMismatch
from klyra_audit.transports.otlp_http import BatchRefused, OtlpHttpTransport
from klyra_audit.validation import Validator

if TYPE_CHECKING:
    from klyra_audit.event import AuditEvent
    from klyra_audit.receipt import Receipt

DEFAULT_TIMEOUT = 10.0
_MAX_SEQUENCE = 0xFFFFFFFE
_LONGEST_WAIT = 5.0
_MAX_UNANSWERED = 1000


class Transport(Protocol):
    """A way to a collector that answers with receipts."""

    def send(self, request: bytes) -> list[Receipt]:
        """Return a receipt for each record; see `OtlpHttpTransport.send` for what it raises."""
        ...

    def quarantine(self, request: bytes) -> None:
        """Have refused records kept where invalid input is kept."""
        ...

    def close(self) -> None:
        """Let connections go."""
        ...


@dataclass(frozen=True, slots=True)
class _Sending:
    """An event on its way: its place in the sequence and the bytes that are sent, again if need be."""

    source: AuditEvent
    event: PreparedEvent
    sequence: int
    request: bytes


class AuditEmitter:
    """Validates events, has them sealed by a collector and checks the receipts. Thread-safe.

    `emit` returns only when the event is durable in the ledger, or raises. It retries by itself while `timeout`
    lasts; an event that then still has no answer is raised to the caller, never dropped in silence.

    Args:
        endpoint: URL of the collector's OTLP/HTTP port, such as http://127.0.0.1:4318.
        api_key: a key with the scope `emit`.
        organization_id: whose events these are.
        emitter_id: names this emitter over restarts; by default made of program and host.
        timeout: seconds that one `emit` may take in all.
        catalog: event types; the product's own by default.
        transport: another way to the collector.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        api_key: str,
        organization_id: str,
        emitter_id: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        catalog: Catalog | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._catalog = catalog or Catalog.load()
        self._validator = Validator(self._catalog)
        self._organization_id = organization_id
        self._emitter_id = emitter_id or default_emitter_id()
        self._timeout = timeout
        self._transport: Transport = transport or OtlpHttpTransport(endpoint, api_key, timeout)
        self._lock = threading.Lock()
        self._identity = self._new_boot()
        self._sequence = 0
        self._org_ref: bytes | None = None
        self._unanswered: dict[str, _Sending] = {}

    def emit(self, event: AuditEvent) -> Receipt:
        """Return the checked receipt of a sealed event.

        An event that got no answer may be emitted again: the same object is sent as the very same bytes, and sealed
        once.

        Raises:
            InvalidEvent: the event breaks its schema; it says where and why. Nothing was sent, or the
                collector keeps the event in its quarantine.
            RetryLater: no acknowledgement within `timeout`. The event may or may not be sealed.
            AlreadySealed: an earlier run of an emitter had the same event sealed.
            Paused: the key is refused.
            ReceiptMismatch: what the collector acknowledged is not what was sent.
        """
        sending = self._again(event) or self._first(event)
        try:
            receipt = self._deliver(sending.request)
        except RetryLater:
            self._remember(sending)
            raise
        self._check(receipt, sending.event, sending.sequence)
        return receipt

    def close(self) -> None:
        """Let connections go; every emitted event has its answer already."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _first(self, event: AuditEvent) -> _Sending:
        document = event.document(self._organization_id)
        prepared = prepare(document, self._catalog, self._validator, time.time_ns() // 1000)
        identity, sequence = self._next_place()
        return _Sending(event, prepared, sequence, otlp.encode(identity, [(prepared, sequence)]))

    def _again(self, event: AuditEvent) -> _Sending | None:
        """Return an earlier, unanswered sending of the same event: same bytes, same place, same salts."""
        with self._lock:
            earlier = self._unanswered.pop(str(event.id), None)
        return earlier if earlier is not None and earlier.source == event else None

    def _remember(self, sending: _Sending) -> None:
        with self._lock:
            while len(self._unanswered) >= _MAX_UNANSWERED:
                self._unanswered.pop(next(iter(self._unanswered)))
            self._unanswered[sending.event.record_id] = sending

    def _next_place(self) -> tuple[EmitterIdentity, int]:
        """Return the next place in the sequence; a forked child and a used-up boot begin a new one."""
        with self._lock:
            if self._sequence > _MAX_SEQUENCE or os.getpid() != self._process:
                self._identity = self._new_boot()
                self._sequence = 0
            sequence = self._sequence
            self._sequence += 1
            return self._identity, sequence

    def _new_boot(self) -> EmitterIdentity:
        self._process = os.getpid()
        program = Path(sys.argv[0]).name or "python"
        return EmitterIdentity(program, self._emitter_id, str(ids.new_uuid7()), self._organization_id)

    def _deliver(self, request: bytes) -> Receipt:
        """Send until there is an answer or the time is over, waiting as told, with jitter."""
        deadline = time.monotonic() + self._timeout
        attempt = 0
        while True:
            try:
                receipts = self._transport.send(request)
            except RetryLater as error:
                attempt += 1
                wait = min(max(error.retry_after, 0.1 * 2**attempt), _LONGEST_WAIT) * random.uniform(0.5, 1)  # noqa: S311 - jitter
                if time.monotonic() + wait > deadline:
                    raise
                time.sleep(wait)
            except BatchRefused as error:
                raise self._refused(request, error) from error
            else:
                return _only(receipts)

    def _refused(self, request: bytes, error: BatchRefused) -> Rejected:
        """Have the refused event kept in quarantine, then tell the caller."""
        self._transport.quarantine(request)
        for record in error.refused:
            return InvalidEvent(f"{record.reason} (kept in the collector's quarantine)", pointer=record.pointer)
        return error

    def _check(self, receipt: Receipt, prepared: PreparedEvent, sequence: int) -> None:
        receipt.check(prepared, sequence)
        org_ref = Leaf.unpack(receipt.leaf).org_ref
        with self._lock:
            if self._org_ref is None:
                self._org_ref = org_ref
        if org_ref != self._org_ref:
            raise ReceiptMismatch(
                "The collector sealed this event for another organization than the ones before.",
                remedy="Stop sending there and find out what answers at that address.",
            )


def default_emitter_id() -> str:
    """Return a name made of program and host, in printable ASCII."""
    name = f"{Path(sys.argv[0]).stem or 'python'}@{socket.gethostname()}"
    return "".join(character if "!" <= character <= "~" else "_" for character in name)[:256]


def _only(receipts: list[Receipt]) -> Receipt:
    if len(receipts) != 1:
        raise ReceiptMismatch(
            f"The collector answered one event with {len(receipts)} receipts.",
            remedy="Check that the endpoint is a klyra-audit collector.",
        )
    return receipts[0]
