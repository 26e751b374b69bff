"""Metrics of the collector process (Prometheus, `klyra_*`) and what it writes about itself into the ledger."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from klyra_audit import timestamps
from klyra_audit.errors import KlyraError, RetryLater
from klyra_audit.timestamps import MICROSECONDS
from klyra_collector.pipeline import BatchRefused
from klyra_collector.receive.signing_processor import SIGNATURE_FAULTS
from klyra_collector.stages import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from klyra_collector.pipeline import Accepted, Refusal
    from klyra_collector.registry import Registry
    from klyra_collector.registry.errors import KeyRefused
    from klyra_collector.seal.expiry import Expired
    from klyra_collector.stages import Outcome

_MAX_SOURCES = 200  # keys with a series of their own
_NO_KEY = "none"
_OTHER_KEYS = "other"

_log = structlog.get_logger(__name__)


class CollectorMetrics:
    """Counts what happens; observes receiving and sealing."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._prometheus = CollectorRegistry()
        self._accepted = self._counter("klyra_events_accepted", "Records acknowledged, duplicates included")
        self._sealed = self._counter("klyra_events_sealed", "Events sealed")
        self._quarantined = self._counter("klyra_events_quarantined", "Records kept in quarantine")
        self._quarantine_records = Counter(
            "klyra_quarantine_records", "Records kept in quarantine, by key", ["source"], registry=self._prometheus
        )
        self._sources: set[str] = set()
        self._duplicated = self._counter("klyra_events_duplicated", "Records recognised as repeats")
        self._dropped = self._counter(
            "klyra_attributes_lost_upstream", "Attributes that records say they lost before they came here"
        )
        self._refused = Counter(
            "klyra_requests_refused", "Requests not acknowledged", ["code"], registry=self._prometheus
        )
        self._bad_signatures = self._counter(
            "klyra_bad_signatures",
            "Records whose audit.integrity.value is wrong, or missing where required: quarantined or refused",
        )
        self._broken_chains = self._counter(
            "klyra_broken_audit_chains", "Records that contradict the audit.sequence of another of their request"
        )
        self._commit_seconds = Histogram("klyra_commit_seconds", "Duration of a commit", registry=self._prometheus)
        self._unsigned = Counter(
            "klyra_checkpoints_not_signed", "Checkpoints due and not published", ["code"], registry=self._prometheus
        )
        self._ledger_size = Gauge("klyra_ledger_signed", "Leaves under the checkpoint", registry=self._prometheus)
        self._signed_at = time.time()
        self._gauge("klyra_checkpoint_age_seconds", "Since a checkpoint was last due and made", self._checkpoint_age)

    @property
    def prometheus(self) -> CollectorRegistry:
        """Where other parts of the collector process show metrics of their own."""
        return self._prometheus

    def watch_waiting(self, oldest_seconds: Callable[[], float], waiting_bytes: Callable[[], int]) -> None:
        """Show what waits to be sealed."""
        self._gauge("klyra_oldest_unsealed_seconds", "Age of the oldest record waiting to be sealed", oldest_seconds)
        self._gauge("klyra_waiting_bytes", "Bytes waiting to be sealed", lambda: float(waiting_bytes()))

    def watch_shard(self, year_start_us: Callable[[], int]) -> None:
        """Show which year's shard is written."""
        self._gauge(
            "klyra_ledger_shard_year_start_seconds",
            "When the year of the shard being written began, in seconds since 1970",
            lambda: year_start_us() / MICROSECONDS,
        )

    def render(self) -> tuple[bytes, str]:
        """Return the metrics and their content type."""
        return generate_latest(self._prometheus), CONTENT_TYPE_LATEST

    def accepted(self, accepted: Accepted) -> None:
        """See `ReceiveObserver`."""
        self._accepted.inc(len(accepted.records))
        for sent, outcome in zip(accepted.records, accepted.outcomes, strict=True):
            if outcome.status is Status.QUARANTINED:
                self._quarantined_from(sent.key_id or _NO_KEY)
        if accepted.dropped_attributes:
            self._dropped.inc(accepted.dropped_attributes)
            _log.warning("attributes_lost_upstream", attributes=accepted.dropped_attributes)
        for refusal in accepted.refusals:
            _log.warning("quarantined", pointer=refusal.pointer, reason=refusal.reason, code=refusal.code)
        self._count_bad_signatures(accepted.refusals)
        for record in accepted.examined.values():
            if record.chain_warning:
                self._broken_chains.inc()
                _log.warning("audit_chain_broken", record_id=record.record_id, reason=record.chain_warning)

    def _quarantined_from(self, key_id: str) -> None:
        """Count a record by the key that brought it; beyond so many keys, the rest together."""
        if key_id not in self._sources:
            if len(self._sources) >= _MAX_SOURCES:
                key_id = _OTHER_KEYS
            self._sources.add(key_id)
        self._quarantine_records.labels(key_id).inc()

    def refused(self, error: KlyraError) -> None:
        """See `ReceiveObserver`."""
        self._refused.labels(error.code).inc()
        if isinstance(error, BatchRefused):
            self._count_bad_signatures(error.refusals)
        if isinstance(error, RetryLater):
            _log.warning("request_deferred", code=error.code, reason=str(error))

    def _count_bad_signatures(self, refusals: Iterable[Refusal]) -> None:
        self._bad_signatures.inc(sum(refusal.code in SIGNATURE_FAULTS for refusal in refusals))

    def key_refused(self, error: KeyRefused, endpoint: str) -> None:
        """See `ReceiveObserver`: a refused key becomes an entry, since stock clients drop what it brought."""
        _log.warning("key_refused", reason=error.reason, key_id=error.key_id, endpoint=endpoint)
        try:
            self._registry.record_access_denied(
                reason=error.reason, endpoint=endpoint, key_id=error.key_id, organization_id=error.organization_id
            )
        except KlyraError as problem:
            _log.error("key_refusal_not_recorded", reason=str(problem))

    def committed(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """See `SealObserver`."""
        self._commit_seconds.observe(seconds)
        statuses = [outcome.status for outcome in outcomes]
        self._sealed.inc(statuses.count(Status.SEALED))
        self._quarantined.inc(statuses.count(Status.QUARANTINED))
        self._duplicated.inc(statuses.count(Status.DUPLICATE))

    def signed(self, size: int) -> None:
        """See `SealObserver`."""
        self._signed_at = time.time()
        self._ledger_size.set(size)

    def not_signed(self, error: KlyraError) -> None:
        """See `SealObserver`."""
        self._unsigned.labels(error.code).inc()

    def _checkpoint_age(self) -> float:
        return time.time() - self._signed_at

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self._prometheus)

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(name, text, registry=self._prometheus).set_function(read)


class ExpiryMetrics:
    """Shows that what has expired goes, and what is still here."""

    def __init__(self, prometheus: CollectorRegistry, wall_us: Callable[[], int]) -> None:
        self._wall_us = wall_us
        self._refused = Gauge(
            "klyra_expiry_refused", "1 while expiry cannot run, such as for a clock in doubt", registry=prometheus
        )
        self._waiting = Gauge(
            "klyra_expiry_waiting", "1 while deletion waits for a checkpoint or a witness", registry=prometheus
        )
        self._expired = Counter("klyra_bodies_expired", "Bodies named by an EXPIRY", registry=prometheus)
        self._ages = Gauge(
            "klyra_oldest_entry_age_seconds", "Age of the oldest entry still here", ["plan"], registry=prometheus
        )

    def expired(self, expired: Expired) -> None:
        """See `ExpiryObserver`."""
        self._refused.set(0)
        self._waiting.set(expired.waiting)
        self._expired.inc(expired.named)

    def expiry_refused(self, code: str) -> None:
        """See `ExpiryObserver`."""
        del code
        self._refused.set(1)

    def oldest_entries(self, sealed_us: Mapping[str, int]) -> None:
        """See `ExpiryObserver`: the age is told at the moment it is asked for."""
        self._ages.clear()
        for plan, oldest_us in sealed_us.items():
            self._ages.labels(plan).set_function(partial(self._age, oldest_us))

    def _age(self, sealed_us: int) -> float:
        return max((self._wall_us() - sealed_us) / timestamps.MICROSECONDS, 0.0)


class TlsMetrics:
    """Shows when certificates expire, and that a changed one could not be used."""

    def __init__(self, prometheus: CollectorRegistry) -> None:
        self._expires = Gauge(
            "klyra_tls_certificate_expires_seconds",
            "When the certificate in use expires, in seconds since 1970",
            ["listener"],
            registry=prometheus,
        )
        self._refused = Gauge(
            "klyra_tls_reload_failed",
            "1 while the certificate files hold what cannot be used, and older ones are served",
            ["listener"],
            registry=prometheus,
        )

    def certificate_used(self, listener: str, expires_at: float) -> None:
        """See `TlsObserver`."""
        self._expires.labels(listener).set(expires_at)
        self._refused.labels(listener).set(0)

    def certificate_refused(self, listener: str) -> None:
        """See `TlsObserver`."""
        self._refused.labels(listener).set(1)
