"""What emitters vouch for: an unbroken sequence in each boot, and a signature where one was checked. Pure."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.format.batch import BatchNote, Evidence
from klyra_audit.format.control import Key
from klyra_audit.format.errors import FormatError, NoteError
from klyra_audit.format.keys import VerifyingKey
from klyra_audit.format.merkle import leaf_hash, verify_inclusion
from klyra_audit.format.sections import OPERATOR_REFERENCE
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_audit.format.leaf import Leaf
    from klyra_collector.verify.facts import ControlFacts

MAX_NOTES: Final = 1024  # so many batches are remembered; all events of one stand close to each other


@dataclass(slots=True)
class Span:
    """A run of sequence numbers without a gap, and index, ingest time and shard of the record it begins with."""

    first: int
    last: int
    index: int
    ingest_us: int
    shard: int = 0


@dataclass(slots=True)
class Sequences:
    """Which sequence numbers of each boot were sealed.

    Attributes:
        spans: ascending, by ordinal of the boot's KEY.
    """

    spans: dict[int, list[Span]] = field(default_factory=dict)

    def add(self, ordinal: int, sequence: int, index: int, ingest_us: int) -> bool:
        """Take in a record; False if its place in the sequence is taken."""
        spans = self.spans.get(ordinal)
        if spans is None:
            self.spans[ordinal] = [Span(sequence, sequence, index, ingest_us)]
            return True
        newest = spans[-1]
        if sequence == newest.last + 1:
            newest.last = sequence
            return True
        return _insert(spans, Span(sequence, sequence, index, ingest_us))

    def merge(self, later: Sequences, shard: int) -> Iterator[tuple[int, Span]]:
        """Take in those of the next shard; yield (ordinal, span) of what both of them have."""
        for ordinal, spans in later.spans.items():
            known = self.spans.setdefault(ordinal, [])
            for span in spans:
                if not _insert(known, replace(span, shard=shard)):
                    yield ordinal, span

    def gaps(self) -> Iterator[tuple[int, int, int, Span]]:
        """Yield (ordinal, first, last, span behind it) of what is missing in front of something that is not."""
        for ordinal, spans in self.spans.items():
            expected = 0
            for span in spans:
                if span.first > expected:
                    yield ordinal, expected, span.first - 1, span
                expected = span.last + 1


def _insert(spans: list[Span], span: Span) -> bool:
    """Put a span among ascending ones and join it to its neighbours; False if any of it is there already."""
    place = bisect_right(spans, span.first, key=lambda known: known.first)
    before = spans[place - 1] if place else None
    behind = spans[place] if place < len(spans) else None
    if (before is not None and before.last >= span.first) or (behind is not None and behind.first <= span.last):
        return False
    if before is not None and before.last + 1 == span.first:
        before.last = span.last
        span = before
    else:
        spans.insert(place, span)
        place += 1
    if behind is not None and span.last + 1 == behind.first:
        span.last = behind.last
        del spans[place]
    return True


class _Boot(NamedTuple):
    emitter_id: str
    boot: str


class _Revocation(NamedTuple):
    """No record of these boots behind a sequence number is believed; without a boot, none sealed later than it."""

    boot: str | None
    after_seq: int
    place: tuple[int, int]


@dataclass(slots=True)
class EmitterKeys:
    """The emitters' boots and keys that KEY records announce."""

    boots: dict[int, _Boot] = field(default_factory=dict)
    keys: dict[str, dict[VerifyingKey, bytes | None]] = field(default_factory=dict)
    revoked: dict[VerifyingKey, list[_Revocation]] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: ControlFacts) -> EmitterKeys:
        """Return those of a ledger."""
        known = cls()
        for sealed in facts.of(Key):
            known.note(sealed.document, (sealed.place.shard, sealed.place.index))
        return known

    def note(self, document: Key, place: tuple[int, int]) -> None:
        """Take in the next KEY record; a key that cannot be read vouches for nothing."""
        if document.boot is not None:
            self.boots.setdefault(document.ordinal, _Boot(document.emitter_id, document.boot))
        if document.vkey is None:
            return
        try:
            key = VerifyingKey.parse(document.vkey)
        except NoteError:
            return
        if document.revoked_after_seq is None:
            self.keys.setdefault(document.emitter_id, {}).setdefault(key, document.org_ref)
        else:
            revocation = _Revocation(document.boot, document.revoked_after_seq, place)
            self.revoked.setdefault(key, []).append(revocation)


class EvidenceChecker:
    """Judges the evidence kept with bodies. Remembers the batches whose signature it has checked."""

    def __init__(self, keys: EmitterKeys, shard: int) -> None:
        self._keys = keys
        self._shard = shard
        self._opened: dict[tuple[bytes, VerifyingKey], BatchNote | None] = {}

    def check(self, index: int, leaf: Leaf, attachment: bytes) -> Problem | None:
        """Judge the evidence of one record; None if its emitter signed for it."""
        reason = self._judge(index, leaf, attachment)
        return None if reason is None else Problem(Verdict.EMITTER_SIG, reason)

    def _judge(self, index: int, leaf: Leaf, attachment: bytes) -> str | None:
        if not attachment:
            return "the leaf says that its emitter's signature was checked, and no evidence of it is here"
        boot = self._keys.boots.get(leaf.emitter)
        if boot is None:
            return "no KEY record announces the boot of its emitter"
        try:
            evidence = Evidence.parse(attachment)
        except FormatError as error:
            return str(error)
        for key, org_ref in self._keys.keys.get(boot.emitter_id, {}).items():
            batch = self._open(evidence.note, key)
            if batch is not None:
                if org_ref not in (None, OPERATOR_REFERENCE, leaf.org_ref):
                    return "the key that signed it is bound to another organization"
                return self._judge_batch(leaf, evidence, batch, boot) or self._judge_key(index, leaf, key, boot)
        return f"no key of {boot.emitter_id} that a KEY record announces has signed it"

    def _open(self, encoded: bytes, key: VerifyingKey) -> BatchNote | None:
        known = (encoded, key)
        if known not in self._opened:
            if len(self._opened) >= MAX_NOTES:
                self._opened.clear()
            try:
                self._opened[known] = BatchNote.open(encoded, key)
            except NoteError:
                self._opened[known] = None
        return self._opened[known]

    @staticmethod
    def _judge_batch(leaf: Leaf, evidence: Evidence, batch: BatchNote, boot: _Boot) -> str | None:
        if (batch.emitter_id, batch.boot) != boot or batch.first_seq + evidence.position != leaf.emitter_seq:
            return "its emitter signed it for another place in the sequence"
        try:
            verify_inclusion(leaf_hash(leaf.commit), evidence.position, batch.count, evidence.path, batch.root)
        except FormatError as error:
            return f"it is not in the batch that its emitter signed: {error}"
        return None

    def _judge_key(self, index: int, leaf: Leaf, key: VerifyingKey, boot: _Boot) -> str | None:
        for revoked in self._keys.revoked.get(key, ()):
            applies = revoked.boot == boot.boot or (revoked.boot is None and revoked.place < (self._shard, index))
            if applies and leaf.emitter_seq > revoked.after_seq:
                return "the key that signed it was revoked before this place in the sequence"
        return None
