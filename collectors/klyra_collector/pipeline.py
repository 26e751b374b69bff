"""The whole flow on one screen.

    bytes ──receive──▶ wire records ──open / map──▶ candidates ──validate──▶ records ──seal──▶ outcomes ──▶ ack
                                                        └─ invalid ─▶ quarantine record ─┘        └─▶ followers

Receivers turn protocols into wire records and outcomes into answers; everything between is here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from klyra_audit.errors import InvalidEvent, Rejected
from klyra_audit.format.quarantined import KeptInput
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_collector.errors import Conflict
from klyra_collector.quarantine import REPLAYED, quarantine_record
from klyra_collector.receive.audit_record import with_chain_warnings
from klyra_collector.receive.emitter_signatures import EmitterSignatures
from klyra_collector.receive.opening import RequestOpener
from klyra_collector.receive.replayed_from import with_origin
from klyra_collector.receive.signing_processor import SignatureCheck
from klyra_collector.receive.wire import MalformedRequest
from klyra_collector.stages import Submission
from klyra_collector.validate.judge import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from klyra_audit.mapping.table import MappingTable
    from klyra_audit.validation import Validator
    from klyra_collector.receive.audit_record import AuditRecord
    from klyra_collector.receive.senders import Sender, Senders
    from klyra_collector.receive.wire import WireRecord
    from klyra_collector.stages import Outcome, Record, Seal, Tenancy
    from klyra_collector.validate.judge import Candidate

_RECORD_OVERHEAD_BYTES = 1024  # what a record holds beside its content, for the bound on what may wait


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one record of a batch is no valid event.

    Attributes:
        position: in the batch, from 0.
        record_id: as far as one can be read.
        pointer: JSON Pointer to the offending member.
        reason: one sentence without values.
        code: `invalid_event`, `foreign_organization`, `foreign_emitter` or `id_conflict`.
    """

    position: int
    record_id: str | None
    pointer: str
    reason: str
    code: str


class BatchRefused(Rejected):
    """A strict batch with records that cannot be sealed; none of it was."""

    code = "batch_refused"

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        super().__init__(
            f"{len(refusals)} records of the batch cannot be sealed, so none of it was.",
            remedy="Mend or leave out the records named, then send the rest.",
        )
        self.refusals = tuple(refusals)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a batch: one record and outcome each, and why some were quarantined.

    Attributes:
        examined: of a strict batch, what is to be answered about the records that are not in our own form, by position.
        dropped_attributes: that the records lost before they came here, by their own account.
    """

    records: tuple[Record, ...]
    outcomes: tuple[Outcome, ...]
    refusals: tuple[Refusal, ...]
    examined: Mapping[int, AuditRecord] = field(default_factory=dict)
    dropped_attributes: int = 0


class Pipeline:
    """From wire records to durable outcomes."""

    def __init__(
        self,
        *,
        senders: Senders,
        mapping: MappingTable,
        validator: Validator,
        seal: Seal,
        wall_us: Callable[[], int],
        signatures: SignatureCheck | None = None,
    ) -> None:
        self._senders = senders
        self._mapping = mapping
        self._validator = validator
        self._seal = seal
        self._wall_us = wall_us
        self._signatures = signatures or SignatureCheck()

    async def accept(self, wire: Sequence[WireRecord], request: bytes, sender: Sender, *, strict: bool) -> Accepted:
        """Make a request's records durable.

        Args:
            wire: the records, decoded.
            request: the decoded request they came in, which makes their ids repeatable.
            sender: whose key brought them.
            strict: refuse the whole batch for one bad record; otherwise quarantine that record.

        Raises:
            BatchRefused: a strict batch; nothing of it was sealed.
            MalformedRequest: a value inside a record is not OTLP.
            RetryLater: nothing was acknowledged.
        """
        opener = self._opener(sender, request, self._wall_us(), strict=strict)
        emitters = EmitterSignatures()
        records: list[Record] = []
        refusals: list[Refusal] = []
        for position, item in enumerate(wire):
            try:
                candidate = opener.open(item, position)
                _refuse_own_word(candidate)
                tenancy = await self._tenancy(sender, candidate)
                record = judge(candidate, tenancy, self._validator, opener.received_us, sender.key_id)
                records.append(await self._vouched_for(record, item, emitters))
            except InvalidEvent as error:
                refusals.append(Refusal(position, item.record_id(), error.pointer, error.reason, error.code))
                records.append(await self._quarantine(opener, item, error))
        if strict and refusals:
            raise BatchRefused(refusals)
        submission = Submission(tuple(records), strict, sum(map(_held_bytes, records)))
        try:
            outcomes = await self._seal.seal(submission) if records else ()
        except Conflict as error:
            raise BatchRefused([_conflict(position, wire[position]) for position in error.positions]) from error
        return Accepted(
            submission.records,
            tuple(outcomes),
            tuple(refusals),
            with_chain_warnings(opener.examined),
            opener.dropped_attributes,
        )

    async def reopen(
        self, item: WireRecord, raw: bytes, sender: Sender, received_us: int, *, replayed_from: str
    ) -> Record:
        """Return the record of an input that was quarantined, read again by what is configured now.

        It has no place in its emitter's sequence: the quarantine record has that.

        Args:
            item: the record, decoded.
            raw: the bytes kept of it, which make its id repeatable.
            sender: whose key brought it then.
            received_us: when that was.
            replayed_from: where it was quarantined, for `metadata.replayed_from` of what is not in our own form.

        Raises:
            InvalidEvent: it still is no valid event.
            MalformedRequest: a value inside it is not OTLP.
        """
        opener = self._opener(sender, raw, received_us, strict=False)
        candidate = opener.open(item, 0)
        _refuse_own_word(candidate)
        if item.own_form() is None:
            candidate = with_origin(candidate, replayed_from)
        tenancy = await self._tenancy(sender, candidate)
        record = judge(candidate, tenancy, self._validator, self._wall_us(), sender.key_id)
        record = await self._vouched_for(record, item, EmitterSignatures())
        return replace(record, position=None, evidence=b"")

    def _opener(self, sender: Sender, request: bytes, received_us: int, *, strict: bool) -> RequestOpener:
        return RequestOpener(sender, request, received_us, self._mapping, signatures=self._signatures, strict=strict)

    async def _tenancy(self, sender: Sender, candidate: Candidate) -> Tenancy:
        """Return whose event it is to be: the key's organization, or for a key of many the one it names."""
        organization_id = sender.organization_id or str(candidate.document.get("organization_id"))
        tenancy = await self._senders.tenancy(organization_id)
        if tenancy is None:
            raise InvalidEvent("names an organization that does not exist", pointer="/organization_id")
        return tenancy

    async def _vouched_for(self, record: Record, item: WireRecord, emitters: EmitterSignatures) -> Record:
        """Return the record with its emitter's signature, where the emitter has a key."""
        if record.position is None:
            return record
        keys = await self._senders.emitter_keys(record.position.emitter_id)
        return replace(record, evidence=emitters.evidence(record, item.resource, keys)) if keys else record

    async def _quarantine(self, opener: RequestOpener, item: WireRecord, error: InvalidEvent) -> Record:
        """Return the record that keeps an invalid event; the operator's if the key belongs to no organization."""
        owner = await self._senders.tenancy(opener.sender.organization_id or OPERATOR_ORGANIZATION_ID)
        if owner is None:  # removed between the key's check and now
            raise MalformedRequest("The key's organization does not exist any more.")
        position = opener.position_of(item)
        key_id = opener.sender.key_id
        raw = KeptInput(item.encoding, key_id, item.raw()).pack()
        return quarantine_record(
            owner, raw, reason=error.reason, pointer=error.pointer, position=position, key_id=key_id
        )


def _refuse_own_word(candidate: Candidate) -> None:
    """Refuse an entry that a store believes: a sender could pass off what waits in quarantine as replayed."""
    if candidate.document.get("event_type") == REPLAYED:
        raise InvalidEvent("is an event that the collector alone tells of", pointer="/event_type")


def _conflict(position: int, item: WireRecord) -> Refusal:
    return Refusal(position, item.record_id(), "/id", "was sealed before with other content", Conflict.code)


def _held_bytes(record: Record) -> int:
    return _RECORD_OVERHEAD_BYTES + len(record.content) + len(record.quarantined or b"")
