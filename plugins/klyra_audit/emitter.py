"""The emitter that an application holds: an event that `emit` took is durable on this machine, and will be sealed."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
import weakref
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, overload

from klyra_audit import timestamps
from klyra_audit.catalog import Catalog
from klyra_audit.context import with_context
from klyra_audit.delivery import Delivery
from klyra_audit.errors import Halted, InvalidEvent, KlyraError, Paused, RetryLater
from klyra_audit.format.leaf import Leaf
from klyra_audit.otlp import EmitterIdentity
from klyra_audit.outcomes import Outcomes
from klyra_audit.prepared import prepare, prepare_invalid
from klyra_audit.receipt import ReceiptMismatch
from klyra_audit.signing import NoteSigner, Unsigned, load_key
from klyra_audit.spool.spool import Spool, SpoolOptions
from klyra_audit.transports.addresses import transport_to
from klyra_audit.validation import Validator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_audit.delivery import State, Transport
    from klyra_audit.event import AuditEvent
    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.keys import SigningKey
    from klyra_audit.format.sections import Marks
    from klyra_audit.prepared import PreparedEvent
    from klyra_audit.receipt import Receipt
    from klyra_audit.spool.reader import Lost
    from klyra_audit.spool.segment import SpooledEvent
    from klyra_audit.spool.spool import Spooled
    from klyra_audit.transports.client_tls import ClientTls

DEFAULT_TIMEOUT = 10.0
SPOOL_VARIABLE = "KLYRA_AUDIT_SPOOL"

_POLL_SECONDS = 0.05


class NotSealedYet(RetryLater):
    """The event is durable on this machine and will be sealed, but was not in time.

    Attributes:
        spooled: where it is.
    """

    code = "not_sealed_yet"

    def __init__(self, spooled: Spooled, reason: str) -> None:
        super().__init__(
            f"Event {spooled.record_id} is durable in the spool, but not sealed yet: {reason}",
            remedy="It will be sealed when the collector takes it; emitting the same object again sends nothing twice.",
        )
        self.spooled = spooled


class NoReceipts(Paused):
    """A receipt is asked for on a way to the collector that brings none; nothing was kept."""

    code = "no_receipts"


@dataclass(frozen=True, slots=True)
class EmitterStatus:
    """What an emitter is doing.

    Attributes:
        state: `delivering`, `retrying` (the collector does not take events now), `paused` (an operator must act),
            `halted` (what answers is not to be trusted) or `closed`.
        emitted: events that are durable, of this process.
        delivered: events acknowledged by the collector, of this process and of those it took over from.
        refused: events among them that the collector keeps in its quarantine.
        dropped: always 0.
        waiting: events of this process that are still to be delivered.
        oldest_seconds: age of the oldest of them by its timestamp; 0 if there is none.
        held_bytes: of the whole spool, with that of other processes.
        lost: what was promised and cannot be read from the disk any more; empty unless the disk is damaged.
        last_error: why the newest attempt failed; None after a success.
    """

    state: State
    emitted: int
    delivered: int
    refused: int
    dropped: Literal[0]
    waiting: int
    oldest_seconds: float
    held_bytes: int
    lost: tuple[Lost, ...]
    last_error: str | None


class AuditEmitter:
    """Validates events, makes them durable, has them sealed by a collector and checks the receipts.

    Safe to use from threads, from asyncio (`aemit`) and over forks; several processes may share one spool. An event
    that `emit` took survives the end of the process, however it ends: the next emitter with the same spool, emitter id
    and organization delivers it.

    Args:
        collector: its URL, http(s)://host:4318, grpc(s)://host:4317 or forward(s)://host:24224; or a `Transport`.
        api_key: a key with the scope `emit`, for a URL.
        receipts_from: URL of the collector's OTLP/HTTP port, for receipts of what is sent over gRPC.
        tls: what to trust and to show, where the URL says TLS; None for what the system trusts.
        organization_id: whose events these are.
        emitter_id: names this emitter over restarts; by default made of program and host.
        spool: folder on a local disk, or that and its bounds; by default what `KLYRA_AUDIT_SPOOL` names, else
            klyra-audit/spool in the user's state folder.
        signing_key: signs batches: a key, or the path of a key file.
        timeout: seconds that `emit(…, wait=True)` and `close` may take.
        strict: an invalid event raises; otherwise the collector gets it all the same and keeps it in quarantine.
        catalog: event types; the product's own by default.

    Attributes:
        organization_id: whose events these are.

    Raises:
        SpoolUnusable: the spool's folder cannot be used.
        KeyUnusable: the signing key cannot be used.
        AddressUnusable, MissingExtra, TlsUnusable: the collector cannot be reached in the way that is named.
    """

    def __init__(  # noqa: PLR0913 - all that an application may choose, in one place and nearly all with a default
        self,
        collector: str | Transport,
        *,
        organization_id: str,
        api_key: str = "",
        receipts_from: str = "",
        tls: ClientTls | None = None,
        emitter_id: str | None = None,
        spool: Path | str | SpoolOptions | None = None,
        signing_key: SigningKey | Path | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        strict: bool = True,
        catalog: Catalog | None = None,
    ) -> None:
        self._catalog = catalog or Catalog.load()
        self._validator = Validator(self._catalog)
        self.organization_id = organization_id
        self._timeout = timeout
        self._strict = strict
        name = emitter_id or default_emitter_id()
        identity = EmitterIdentity(Path(sys.argv[0]).name or "python", name, "", organization_id)
        self._transport: Transport = (
            transport_to(collector, api_key=api_key, timeout=timeout, receipts_from=receipts_from, tls=tls)
            if isinstance(collector, str)
            else collector
        )
        options = spool if isinstance(spool, SpoolOptions) else SpoolOptions(Path(spool) if spool else default_spool())
        self._spool = Spool(options, identity)
        key = load_key(signing_key, name) if isinstance(signing_key, Path) else signing_key
        self._outcomes = Outcomes()
        signer = Unsigned() if key is None else NoteSigner(key, name)
        self._delivery = Delivery(self._spool, self._transport, signer, self._check, self._outcomes)
        self._lock = threading.Lock()
        self._org_ref: bytes | None = None
        self._emitted = 0
        self._closed = False
        _reset_after_fork(self)
        self._delivery.start()

    @overload
    def emit(self, event: AuditEvent, *, wait: Literal[False] = False) -> Spooled: ...

    @overload
    def emit(self, event: AuditEvent, *, wait: Literal[True]) -> Receipt: ...

    def emit(self, event: AuditEvent, *, wait: bool = False) -> Spooled | Receipt:
        """Return when the event is durable on this machine, or with `wait` when it is sealed in the ledger.

        The same object may be emitted again: it is sealed once.

        Args:
            event: what happened.
            wait: wait for the receipt, and return it checked.

        Raises:
            InvalidEvent: the event breaks its schema; it says where and why. Nothing was kept, or with `wait`: the
                collector keeps it in its quarantine.
            SpoolFull, SpoolFailed, SpoolUnusable: it could not be made durable; it was not promised to be sealed.
            SpoolClosed: the emitter was closed.
            NotSealedYet: with `wait`: it is durable, and was not sealed in time.
            AlreadySealed: with `wait`: an earlier run of an emitter had the same event sealed.
            Paused, ReceiptMismatch: with `wait`: it is durable, but nothing is sent until somebody acts.
            NoReceipts: with `wait`: this way to the collector brings none. Nothing was kept.
        """
        if wait and self._transport.lacks_receipts:
            raise NoReceipts(
                "The way to the collector brings no receipts to wait for.", remedy=self._transport.lacks_receipts
            )
        spooled = self._outcomes.spooled(event) or self._spool_event(event, wait=wait)
        return self._await(self._outcomes.expect(spooled.record_id), spooled) if wait else spooled

    def emit_document(self, document: JsonObject, marks: Marks | None = None) -> Spooled:
        """Return when an event document is durable, as an integration has made it.

        Args:
            document: with the organization of this emitter.
            marks: what of it belongs to the actor and to the target; None for what the catalog says.

        Raises:
            InvalidEvent, SpoolFull, SpoolFailed, SpoolUnusable, SpoolClosed: see `emit`.
        """
        return self._append(self._prepare(document, marks))

    @overload
    async def aemit(self, event: AuditEvent, *, wait: Literal[False] = False) -> Spooled: ...

    @overload
    async def aemit(self, event: AuditEvent, *, wait: Literal[True]) -> Receipt: ...

    async def aemit(self, event: AuditEvent, *, wait: bool = False) -> Spooled | Receipt:
        """Do what `emit` does without blocking the event loop."""
        if wait:
            return await asyncio.to_thread(lambda: self.emit(event, wait=True))
        return await asyncio.to_thread(self.emit, event)

    @contextmanager
    def required(self, event: AuditEvent) -> Iterator[None]:
        """Let an action fail if its event cannot be made durable (fail-closed).

        The spool is tried before the action begins. Behind it the event is emitted, with the status `failure` if the
        action raised. If that fails, it raises: stand inside of the transaction, so that the action is rolled back.

            with transaction(), audit.required(event):
                act()

        Raises:
            InvalidEvent, SpoolFull, SpoolFailed, SpoolUnusable, SpoolClosed: before the action, or instead of its end.
        """
        self._prepare(event.document(self.organization_id))
        self._spool.check()
        try:
            yield
        except BaseException:
            self.emit(replace(event, status="failure"))
            raise
        self.emit(event)

    def flush(self, timeout: float | None = None) -> bool:
        """Deliver what is in the spool; return whether all of it is durable at the collector.

        Works without the background thread too, as at the end of a serverless function's call.
        """
        return self._delivery.flush(self._timeout if timeout is None else timeout)

    def status(self) -> EmitterStatus:
        """Return what is going on, for health checks and metrics."""
        progress = self._delivery.progress
        return EmitterStatus(
            state=progress.state,
            emitted=self._emitted,
            delivered=progress.delivered,
            refused=progress.refused,
            dropped=0,
            waiting=self._spool.waiting(),
            oldest_seconds=self._oldest_seconds(),
            held_bytes=self._spool.held_bytes,
            lost=progress.lost,
            last_error=None if progress.last_error is None else str(progress.last_error),
        )

    def close(self, timeout: float | None = None) -> bool:
        """Deliver for at most `timeout` seconds, then stop; return whether everything is durable at the collector.

        What is not stays in the spool.
        """
        if self._closed:
            return True
        self._closed = True
        is_done = self.flush(timeout)
        self._delivery.stop()
        self._spool.close()
        self._transport.close()
        return is_done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spool_event(self, event: AuditEvent, *, wait: bool) -> Spooled:
        prepared = self._prepare(with_context(event).document(self.organization_id))
        if wait:
            self._outcomes.expect(prepared.record_id)
        spooled = self._append(prepared)
        self._outcomes.note_spooled(event, spooled)
        return spooled

    def _append(self, prepared: PreparedEvent) -> Spooled:
        spooled = self._spool.append(prepared)
        with self._lock:
            self._emitted += 1
        self._delivery.start()
        self._delivery.notify()
        return spooled

    def _prepare(self, document: JsonObject, marks: Marks | None = None) -> PreparedEvent:
        try:
            return prepare(document, self._catalog, self._validator, time.time_ns() // 1000, marks)
        except InvalidEvent:
            if self._strict:
                raise
            return prepare_invalid(document)

    def _oldest_seconds(self) -> float:
        oldest = self._spool.oldest()
        if oldest is None:
            return 0.0
        return max(0.0, (time.time_ns() - timestamps.to_nanoseconds(oldest.document["timestamp"])) / 1e9)

    def _await(self, answer: Future[Receipt], spooled: Spooled) -> Receipt:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return answer.result(_POLL_SECONDS)
            except FutureTimeoutError:
                error = self._delivery.progress.last_error
            if isinstance(error, Paused | Halted):
                raise _durable(error, spooled) from error
            if time.monotonic() >= deadline:
                raise NotSealedYet(spooled, str(error or "the collector has not answered.")) from error

    def _check(self, receipt: Receipt, spooled: SpooledEvent) -> None:
        receipt.check(spooled.event, spooled.sequence)
        org_ref = Leaf.unpack(receipt.leaf).org_ref
        with self._lock:
            if self._org_ref is None:
                self._org_ref = org_ref
        if org_ref != self._org_ref:
            raise ReceiptMismatch(
                "The collector sealed this event for another organization than the ones before.",
                remedy="Stop sending there and find out what answers at that address.",
            )

    def _after_fork(self) -> None:
        """In a forked child: begin a boot of its own, and leave the parent's to the parent."""
        self._lock = threading.Lock()
        self._emitted = 0
        self._outcomes = Outcomes()
        self._spool.after_fork()
        self._delivery.after_fork(self._outcomes)
        self._transport.after_fork()


def default_emitter_id() -> str:
    """Return a name made of program and host, in printable ASCII."""
    name = f"{Path(sys.argv[0]).stem or 'python'}@{socket.gethostname()}"
    return "".join(character if "!" <= character <= "~" else "_" for character in name)[:256]


def default_spool() -> Path:
    """Return the folder that `KLYRA_AUDIT_SPOOL` names, else the one in the user's state folder (XDG)."""
    named = os.environ.get(SPOOL_VARIABLE)
    if named:
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "klyra-audit" / "spool"


def _durable(error: Paused | Halted, spooled: Spooled) -> KlyraError:
    """Return the error of a delivery that stands still, said of an event that is durable."""
    message = f"Event {spooled.record_id} is durable in the spool, but nothing is sent: {error.args[0]}"
    return type(error)(message, code=error.code, remedy=error.remedy)


def _reset_after_fork(emitter: AuditEmitter) -> None:
    known = weakref.ref(emitter)

    def reset() -> None:
        found = known()
        if found is not None:
            found._after_fork()  # noqa: SLF001 - this module's own

    os.register_at_fork(after_in_child=reset)
