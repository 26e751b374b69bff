"""Sealed entries as destinations get them: whose plan allows it, unexpired, without what was erased.

Control records and quarantined input are never delivered: the first belong to the ledger, the second is no entry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from klyra_audit import timestamps
from klyra_audit.errors import Halted
from klyra_audit.format import canonical, sections
from klyra_audit.format.errors import FormatError
from klyra_audit.format.leaf import Kind
from klyra_audit.format.sections import OPERATOR_REFERENCE, Salts, Sections
from klyra_collector.fanout.erasures import ErasureLog
from klyra_collector.fanout.heartbeat import is_heartbeat_of
from klyra_collector.store.rows import RecordUnusable, check, erased_sections
from klyra_siem.destination import SealedEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.frame import BodyFrame
    from klyra_audit.format.sections import SectionName
    from klyra_collector.seal.expiry_facts import RetentionFacts
    from klyra_collector.seal.reader import LedgerReader, SealedRecord

_ERASED_SALT: Final = bytes(16)


class RecordUndeliverable(Halted):
    """A record of the ledger is not what was sealed; nothing behind it is delivered until it is mended."""

    code = "record_undeliverable"


class _Rules(NamedTuple):
    """What decides whether a record is delivered now; `references` are those that are looked into."""

    entitled: frozenset[bytes]
    references: frozenset[bytes]
    retention: RetentionFacts
    today: int


@dataclass(frozen=True, slots=True)
class Found:
    """One record of the ledger.

    Attributes:
        index: in its shard.
        entry: to be delivered; None for a record that is not.
        reason: why it is not; "" if it is.
    """

    index: int
    entry: SealedEntry | None
    reason: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries are delivered, by what they say; an empty set is no condition.

    Attributes:
        event_types, statuses: exact values.
        actors: ids. Of an erased actor nobody can say who it was: such an entry is not delivered.
    """

    event_types: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()
    actors: frozenset[str] = frozenset()

    def has(self, document: JsonObject) -> bool:
        """Say whether an event document fits."""
        actor = document.get("actor")
        actor_id = actor.get("id") if isinstance(actor, dict) else None
        pairs = (
            (self.event_types, document["event_type"]),
            (self.statuses, document["status"]),
            (self.actors, actor_id),
        )
        return all(not chosen or value in chosen for chosen, value in pairs)


class Entitled(Protocol):
    """Knows whose entries are delivered; see `Entitlement`."""

    def references(self) -> frozenset[bytes]:
        """Return the org_ref of each; not older than half a minute."""
        ...

    def refresh(self) -> bool:
        """Read them again; False if that was done a moment ago."""
        ...


class EntrySource:
    """Reads one ledger for one destination. One thread uses it."""

    def __init__(
        self,
        reader: LedgerReader,
        entitled: Entitled,
        today: Callable[[], int],
        wanted: Wanted | None = None,
        heartbeats_of: str | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            reader: of the ledger; nobody else uses it.
            entitled: knows whose entries are delivered.
            today: returns the present UTC day since 1970.
            wanted: which entries; None for all.
            heartbeats_of: the destination whose own signs of life are delivered besides.
        """
        self._wanted = wanted or Wanted()
        self._heartbeats_of = heartbeats_of
        self._reader = reader
        self._entitled = entitled
        self._today = today
        self._erasures = ErasureLog(reader)
        self._vouched: dict[str, int] = {}

    def read(self, origin: str, start: int, limit: int) -> list[Found]:
        """Return up to `limit` committed records, with the entries that are to be delivered now.

        Raises:
            RecordUndeliverable: naming origin and index.
            LedgerDamaged: a record cannot be read.
            RetryLater: nobody can say now whose entries are delivered.
        """
        return self._judged(self._reader.read(origin, start, limit))

    def read_on(self, origin: str, start: int, limit: int) -> list[Found]:
        """Return as `read` does, but only as far as the registry is known to be newer than the records.

        An organization may have been entitled a moment before its first entry; to pass over that entry by what the
        registry said before would lose it.
        """
        records = self._reader.read(origin, start, limit)
        return self._judged(records[: self._vouch(origin, records)])

    def _vouch(self, origin: str, records: Sequence[SealedRecord]) -> int:
        """Return how many of the records the registry's answer is newer than, asking it again where it matters."""
        known, vouched = self._references(), self._vouched.get(origin, 0)
        strangers = (
            position
            for position, record in enumerate(records)
            if record.leaf.kind == Kind.EVENT and record.leaf.org_ref not in known and record.index >= vouched
        )
        first = next(strangers, None)
        if first is None:
            return len(records)
        committed = self._reader.committed(origin)  # before the registry is asked
        if not self._entitled.refresh():
            return first
        self._vouched[origin] = committed
        return len(records)

    def _judged(self, records: Sequence[SealedRecord]) -> list[Found]:
        if not records:
            return []
        # After the records: an erasure sealed before a section was overwritten is then among those read.
        self._erasures.catch_up()
        rules = _Rules(self._entitled.references(), self._references(), self._reader.retention(), self._today())
        return [self._found(record, rules) for record in records]

    def _found(self, record: SealedRecord, rules: _Rules) -> Found:
        reason = _unwanted(record, rules)
        if reason:
            return Found(record.index, None, reason)
        entry = self._entry(record)
        reason = self._not_chosen(entry.document, is_entitled=record.leaf.org_ref in rules.entitled)
        return Found(record.index, None, reason) if reason else Found(record.index, entry, "")

    def _references(self) -> frozenset[bytes]:
        """Return whose records are looked into."""
        references = self._entitled.references()
        return references if self._heartbeats_of is None else references | {OPERATOR_REFERENCE}

    def _not_chosen(self, document: JsonObject, *, is_entitled: bool) -> str:
        """Return why an entry is not delivered, by what it says; "" if it is."""
        if self._heartbeats_of is not None and is_heartbeat_of(self._heartbeats_of, document):
            return ""
        if not is_entitled:
            return "organization"
        return "" if self._wanted.has(document) else "filter"

    def _entry(self, record: SealedRecord) -> SealedEntry:
        try:
            check(record)
            assert record.body is not None  # noqa: S101 - an EVENT without one is unwanted or raised
            return self._built(record, record.body)
        except (RecordUnusable, FormatError) as error:
            raise _undeliverable(record, str(error)) from error

    def _built(self, record: SealedRecord, body: BodyFrame) -> SealedEntry:
        overwritten, named = erased_sections(body), self._erasures.of(record)
        if not overwritten <= named:
            raise _undeliverable(record, "a section was overwritten, and no ERASURE record says so.")
        kept = _without(body, named)
        document = sections.join(kept.sections)
        return SealedEntry(
            origin=record.origin,
            index=record.index,
            leaf=record.leaf_bytes,
            ingest_us=record.leaf.ingest_us,
            filed_ns=timestamps.to_nanoseconds(document["timestamp"]),
            document=document,
            encoded=canonical.encode(document),
            body=kept,
            redacted=tuple(sorted(named)),
        )


def _unwanted(record: SealedRecord, rules: _Rules) -> str:
    """Return why a record is not delivered, "" if it is."""
    leaf = record.leaf
    if leaf.kind != Kind.EVENT:
        return "quarantine" if leaf.kind == Kind.QUARANTINE else "control"
    if leaf.org_ref not in rules.references:
        return "organization"
    if rules.retention.effective_day(record.origin, leaf) <= rules.today:
        return "expired"
    if record.body is None:
        if rules.retention.is_named(record.origin, leaf):
            return "expired"  # an EXTEND that came after its EXPIRY brings nothing back
        raise _undeliverable(record, "its body is missing, and no EXPIRY record names it.")
    return ""


def _without(body: BodyFrame, erased: frozenset[SectionName]) -> BodyFrame:
    """Return a body without the erased sections and their salts."""
    if not erased:
        return body
    parts, salts = body.sections, body.salts
    has_actor, has_target = "actor" not in erased, "target" not in erased
    return replace(
        body,
        sections=Sections(parts.core, parts.actor if has_actor else None, parts.target if has_target else None),
        salts=Salts(
            salts.core, salts.actor if has_actor else _ERASED_SALT, salts.target if has_target else _ERASED_SALT
        ),
    )


def _undeliverable(record: SealedRecord, reason: str) -> RecordUndeliverable:
    return RecordUndeliverable(
        f"Record {record.index} of {record.origin} cannot be delivered: {reason}",
        remedy="Run `klyra-audit verify` on the ledger; nothing after this record is delivered until it is mended.",
    )
