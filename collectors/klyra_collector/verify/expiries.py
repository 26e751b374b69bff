"""Judge every body of a shard by the ledger's retention records, and those records by the bodies (step 10).

One pass over the leaves, in order: org_seqs of one organization ascend, so that each EXPIRY's digest grows with it.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.format.leaf import LEAF_SIZE, Flag, Leaf
from klyra_collector.verify.leaves import KINDS_WITH_BODY
from klyra_collector.verify.presence import EXPIRED
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klyra_audit.format.control import Expiry
    from klyra_audit.format.sections import SectionName
    from klyra_collector.verify.facts import Sealed
    from klyra_collector.verify.findings import Marks
    from klyra_collector.verify.retention import Retention

MAX_REASONS: Final = 10_000  # so many are told apart; of the others only that they are missing

_AGED: Final = struct.Struct(">xBHI16sQQ72x")  # of a leaf: kind, flags, expire_day, org_ref, org_seq, ingest_us
_SEQUENCE: Final = struct.Struct(">Q")
_SECTIONS: Final[tuple[tuple[SectionName, int], ...]] = (
    ("actor", Flag.HAS_ACTOR.value),
    ("target", Flag.HAS_TARGET.value),
)


class BodyLife:
    """Says of each body whether it may be here, or gone, or erased in part.

    Args:
        retention: of the shard.
        marks: what was seen of each record.
        day: the newest UTC day that can be trusted to have begun.
        complain: called with the index of a record and a problem with its body.

    Attributes:
        counts: records that are EXPIRED_OK or REDACTED_OK.
        reasons: why bodies that are not here should be, by index, where more is known than that no EXPIRY names them.
    """

    def __init__(self, retention: Retention, marks: Marks, day: int, complain: Callable[[int, Problem], None]) -> None:
        self._retention = retention
        self._marks = marks
        self._day = day
        self._complain = complain
        self._digests: list[Any] = [hashlib.sha256() for _ in retention.expiries]
        self._named = [0] * len(retention.expiries)
        self._misheld: dict[int, str] = {}
        # Before this day nothing can be due, whatever is said of it.
        self._quiet_after = max([day, *(expiry.document.cutoff_day for expiry in retention.expiries)])
        self._erasures = retention.has_erasures or marks.any_erased()
        self.counts: Counter[Verdict] = Counter()
        self.reasons: dict[int, str] = {}

    def feed(self, first: int, leaves: bytes) -> bytearray:
        """Judge the bodies of leaves; return a byte for each: whether its content was seen, or `EXPIRED`."""
        seen = self._marks.seen_from(first, len(leaves) // LEAF_SIZE)
        for place, aged in enumerate(_AGED.iter_unpack(leaves)):
            kind, flags, expire_day, org_ref, org_seq, ingest_us = aged
            if kind not in KINDS_WITH_BODY or (expire_day > self._quiet_after and not self._erasures):
                continue
            leaf = Leaf(kind, flags, expire_day, org_ref, org_seq, ingest_us, 0, 0, b"", b"")
            is_seen = bool(seen[place])
            if expire_day <= self._quiet_after and self._is_gone(first + place, leaf, is_seen=is_seen):
                seen[place] = EXPIRED
            elif is_seen and self._erasures:
                self._judge_sections(first + place, leaf)
        return seen

    def reason(self, indexes: list[int]) -> str:
        """Return why content that is not here should be."""
        return next((self.reasons[index] for index in indexes if index in self.reasons), "its content is not here")

    def wrong_expiries(self) -> Iterator[tuple[Sealed[Expiry], str]]:
        """Yield the EXPIRY records that do not say what the leaves say; call it when all leaves were fed."""
        for number, expiry in enumerate(self._retention.expiries):
            document = expiry.document
            if number in self._misheld:
                yield expiry, self._misheld[number]
            elif (document.count, document.seq_digest) != (self._named[number], self._digests[number].digest()):
                reason = f"it names {document.count} bodies; by the leaves, {self._named[number]} others were due"
                if document.count == self._named[number]:
                    reason = f"it names {document.count} bodies, which are not those that were due"
                yield expiry, reason

    def _is_gone(self, index: int, leaf: Leaf, *, is_seen: bool) -> bool:
        """Judge whether a body may be here or gone; True if it is gone and may be."""
        naming = self._retention.naming(leaf)
        if naming is not None:
            self._digests[naming.number].update(_SEQUENCE.pack(leaf.org_seq))
            self._named[naming.number] += 1
        if not self._retention.is_plain(leaf.org_ref):
            for number, reason in self._retention.misheld(leaf):
                self._misheld.setdefault(number, reason)
        if is_seen:
            problem = self._retention.present(leaf, self._day)
            if problem is not None:
                self._complain(index, problem)
            return False
        problem = self._retention.absent(leaf)
        if problem.verdict is Verdict.EXPIRED_OK:
            self.counts[Verdict.EXPIRED_OK] += 1
            self._marks.flag(index, index)
            return True
        if naming is not None and len(self.reasons) < MAX_REASONS:
            self.reasons[index] = problem.reason
        return False

    def _judge_sections(self, index: int, leaf: Leaf) -> None:
        erased = self._marks.erased(index)
        for section, flag in _SECTIONS:
            if not leaf.flags & flag:
                continue
            if section not in erased:
                problem = self._retention.unredacted(leaf, section)
            elif self._retention.redacted(leaf, section) is Verdict.REDACTED_OK:
                problem = None
            else:
                reason = f"its {section} section is gone, and no ERASURE names it"
                problem = Problem(Verdict.REDACTED_UNAUTHORISED, reason)
            if problem is not None:
                self._complain(index, problem)
                return
        if erased:
            self.counts[Verdict.REDACTED_OK] += 1
            self._marks.flag(index, index)
