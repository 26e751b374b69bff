"""An emitter's events over Fluent Forward, in our own form: acknowledged by chunk, without receipts."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from klyra_audit import timestamps
from klyra_audit.forward import library
from klyra_audit.otlp import BATCH, COMMITS, draft_attributes
from klyra_audit.transports.forward import DEFAULT_TIMEOUT, ForwardClient

if TYPE_CHECKING:
    import ssl

    from klyra_audit.batch import Batch
    from klyra_audit.spool.segment import SpooledEvent

TAG: Final = "klyra.audit"
DEFAULT_PORT: Final = 24224

_LATEST: Final = 0xFFFFFFFF * 1_000_000_000  # what Forward's seconds can say; the document has the time itself


class ForwardTransport:
    """Sends batches as chunks to a collector, or to a Fluentd or Fluent Bit that forwards them. Thread-safe.

    The same events are the same chunk whenever they are sent again.

    Args:
        address: `host:port`, or `unix:/path`.
        shared_key: None for no handshake.
        username: None for none.
        password: the user's.
        tls: None for plain TCP.
        timeout: seconds to connect, and to wait for each acknowledgement.
        compressed: how chunks are compressed; None for not at all, which every receiver reads.
        tag: of every chunk, by which pipelines in between route.

    Raises:
        MissingExtra: the extra `forward` is not installed.
    """

    # Each entry has all the commits that its batch's signature speaks of, since a pipeline may take entries apart.
    batch_events = 64
    lacks_receipts = "Send over https:// or grpcs:// where a receipt is needed, or emit without wait."

    def __init__(
        self,
        address: str,
        *,
        shared_key: str | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        compressed: Literal["gzip", "zstd"] | None = None,
        tag: str = TAG,
    ) -> None:
        library.msgpack()  # here, not when the first event is sent
        self._compressed = compressed
        self._tag = tag
        self._client = ForwardClient(
            address, shared_key=shared_key, username=username, password=password, tls=tls, timeout=timeout
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def after_fork(self) -> None:
        """In a forked child: use a connection of its own."""
        self._client.after_fork()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, batch: Batch) -> None:
        """Return when the chunk was acknowledged; a collector then has sealed or quarantined every event of it.

        Raises:
            RetryLater: no acknowledgement came.
            Paused: the shared key, the user or the certificate is refused.
        """
        entries = [entry_of(batch, spooled) for spooled in batch.events]
        self._client.send(self._tag, entries, compressed=self._compressed)

    def quarantine(self, batch: Batch) -> None:
        """Do as `send` does, since a collector keeps here what is invalid."""
        self.send(batch)


def entry_of(batch: Batch, spooled: SpooledEvent) -> tuple[int, dict[str, Any]]:
    """Return the time and the record of an event in our own form: the attributes of its OTLP form are members.

    Bytes are written as base64, which also survives what knows JSON alone.
    """
    event, document = spooled.event, spooled.event.document
    record: dict[str, Any] = {
        "event_name": document["event_type"],
        "body": event.encoded.decode(),
        "klyra.salts": base64.b64encode(event.salts).decode(),
        "klyra.emitter.seq": spooled.sequence,
        "resource": _resource(batch),
    }
    if event.sections is not None:
        record["klyra.sections"] = event.sections
    record.update(draft_attributes(document))
    return min(max(0, timestamps.to_nanoseconds(document["timestamp"])), _LATEST), record


def _resource(batch: Batch) -> dict[str, str]:
    identity = batch.identity
    resource = {
        "service.name": identity.service_name,
        "klyra.emitter.id": identity.emitter_id,
        "klyra.emitter.boot": identity.boot,
        "klyra.organization.id": identity.organization_id,
    }
    if batch.signed is not None:
        resource |= {BATCH: batch.signed.note.decode(), COMMITS: base64.b64encode(batch.signed.commits).decode()}
    return resource
