"""For applications that use the OpenTelemetry SDK: their audit records go into the spool, the others where they went.

    provider = LoggerProvider(resource=resource)
    provider.add_log_record_processor(KlyraAuditProcessor(emitter))      # audit records: durable before emit returns
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))  # everything, as before

Needs `opentelemetry-sdk`. Nothing is sampled. The SDK itself drops attributes beyond its limit (128) before any
processor sees the record, and turns values of types it does not know into text: raise `LogRecordLimits`.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk._logs import LogRecordProcessor

from klyra_audit.catalog import Catalog
from klyra_audit.mapping.foreign import Foreign
from klyra_audit.mapping.record import Arrival, map_record
from klyra_audit.mapping.table import NO_ADDITIONS, MappingTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk._logs import ReadWriteLogRecord

    from klyra_audit.emitter import AuditEmitter
    from klyra_audit.mapping.table import Additions

_SEED_BYTES = 16
_SPAN_HEX, _TRACE_HEX = 16, 32


class KlyraAuditProcessor(LogRecordProcessor):
    """Makes audit records events and emits them; the table is the collector's own.

    Args:
        emitter: where to; shut down with the provider.
        catalog: of the event types; the product's own by default.
        additions: attribute names, patterns, constants and words of your own.
        is_audit: which records are audit records; by default those whose event name is in the catalog, or that carry
            `audit.record.id` or `klyra.event_type`.
    """

    def __init__(
        self,
        emitter: AuditEmitter,
        *,
        catalog: Catalog | None = None,
        additions: Additions = NO_ADDITIONS,
        is_audit: Callable[[Foreign], bool] | None = None,
    ) -> None:
        self._emitter = emitter
        self._table = MappingTable(catalog or Catalog.load(), additions)
        self._is_audit = is_audit or self._names_an_event

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Return when an audit record is durable; raises what `AuditEmitter.emit` raises, to the one who emits."""
        foreign = as_foreign(log_record)
        if not self._is_audit(foreign):
            return
        resource = {} if log_record.resource is None else _plain(log_record.resource.attributes)
        arrival = Arrival(self._emitter.organization_id, time.time_ns(), os.urandom(_SEED_BYTES))
        mapped = map_record(foreign, resource, arrival, self._table)
        self._emitter.emit_document(mapped.document, mapped.marks)

    def shutdown(self) -> None:
        """Deliver what can be delivered and close the emitter; the rest stays in its spool."""
        self._emitter.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return whether everything is durable at the collector."""
        return self._emitter.flush(timeout_millis / 1000)

    def _names_an_event(self, foreign: Foreign) -> bool:
        if foreign.event_name:
            return self._table.catalog.get(foreign.event_name) is not None or "audit.record.id" in foreign.attributes
        return bool({"audit.record.id", "klyra.event_type"} & foreign.attributes.keys())


def as_foreign(record: ReadWriteLogRecord) -> Foreign:
    """Return a record of the SDK as one of any other program."""
    log, scope = record.log_record, record.instrumentation_scope
    return Foreign(
        event_name=log.event_name or "",
        body=_plain(log.body),
        attributes=_plain(log.attributes or {}),
        time_unix_nano=log.timestamp or 0,
        observed_time_unix_nano=log.observed_timestamp or 0,
        trace_id=_hexadecimal(log.trace_id, _TRACE_HEX),
        span_id=_hexadecimal(log.span_id, _SPAN_HEX),
        severity_number=0 if log.severity_number is None else log.severity_number.value,
        severity_text=log.severity_text or "",
        dropped_attributes_count=record.dropped_attributes,
        scope_name="" if scope is None else scope.name,
        scope_version="" if scope is None else scope.version or "",
        scope_attributes={} if scope is None else _plain(scope.attributes or {}),
    )


def _hexadecimal(number: int | None, digits: int) -> str:
    return f"{number:0{digits}x}" if number else ""


def _plain(value: Any) -> Any:  # noqa: ANN401 - attributes hold anything
    """Return a value with the SDK's mappings and tuples as plain ones."""
    if isinstance(value, str | bytes):
        return value
    if hasattr(value, "items"):
        members: Mapping[str, Any] = value
        return {name: _plain(member) for name, member in members.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
