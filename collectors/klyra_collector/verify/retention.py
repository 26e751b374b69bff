"""When a body may be gone, must be gone, and may have lost a section. Pure: the ledger's own records decide.

A body may be absent iff an EXPIRY named it that was due: its cutoff_day reached the body's effective expiry day, was
itself reached when the EXPIRY was sealed (by the collector's clock and, where the policy has a quorum, by that of
the witnesses), and no legal hold was in force (DESIGN section 5, Bodies).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from klyra_audit.format.control import Erasure, Expiry, Extend, Hold, Release
from klyra_audit.format.leaf import NEVER
from klyra_collector.verify.facts import Place
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from klyra_audit.format.control import Ranges
    from klyra_audit.format.leaf import Leaf
    from klyra_audit.format.sections import SectionName
    from klyra_collector.verify.facts import ControlFacts, Sealed

_Document = TypeVar("_Document", Expiry, Extend, Erasure)

MICROSECONDS_PER_DAY: Final = 86_400_000_000
SECONDS_PER_DAY: Final = 86_400
END: Final = Place(1 << 62, 0)  # behind every record

_EXPIRED: Final = Problem(Verdict.EXPIRED_OK, "an EXPIRY names it, and it was due")
_NOTHING: Final = Problem(Verdict.MISSING, "its content is not here, and no EXPIRY names it")
_NOT_SEEN: Final = "no quorum of witnesses has cosigned a kept checkpoint that covers its EXPIRY, record {}"


class QuorumTimes:
    """By when a quorum of witnesses had cosigned how much of a ledger.

    Args:
        cosigned: (origin, size, seconds since 1970) of every kept checkpoint on which the quorum is met.
    """

    def __init__(self, cosigned: Iterable[tuple[str, int, int]]) -> None:
        self._logs: dict[str, list[tuple[int, int]]] = {}
        for log, size, seconds in sorted(cosigned):
            self._logs.setdefault(log, []).append((size, seconds))

    def covering(self, log: str, index: int) -> int | None:
        """Return the time of the first one that covers a record, None if none does."""
        known = self._logs.get(log, [])
        place = bisect_left(known, (index + 1, 0))
        return known[place][1] if place < len(known) else None


@dataclass(frozen=True, slots=True)
class HoldSpan:
    """A legal hold, and between which records it was in force."""

    hold: Hold
    begin: Place
    end: Place = END

    @property
    def is_certain(self) -> bool:
        """Whether it covers everything of its window, not just a selection that is not told."""
        return self.hold.selection_c is None


class Naming(NamedTuple):
    """The EXPIRY that names a body, and its number among all of them; what is wrong with it, None for nothing."""

    number: int
    expiry: Sealed[Expiry]
    problem: Problem | None


class Retention:
    """Judges presence and absence of bodies and sections in one shard.

    Args:
        facts: of the whole ledger, as far as it is there.
        log: origin of the shard whose bodies are judged.
        quorum: None where the policy asks for no witnesses.
        settled_us: what was sealed later than this may not have been carried out yet, in a running ledger.
    """

    def __init__(
        self, facts: ControlFacts, log: str, *, quorum: QuorumTimes | None = None, settled_us: int | None = None
    ) -> None:
        self._log = log
        self._quorum = quorum
        self._settled_us = settled_us
        self._number = facts.logs.index(log) if log in facts.logs else 0
        self.expiries: list[Sealed[Expiry]] = [sealed for sealed in facts.of(Expiry) if _about(sealed) == log]
        self._expiries: defaultdict[bytes, list[int]] = defaultdict(list)
        for number, expiry in enumerate(self.expiries):
            self._expiries[expiry.document.org_ref].append(number)
        self._cutoffs = {
            org_ref: list(accumulate((self.expiries[number].document.cutoff_day for number in numbers), max))
            for org_ref, numbers in self._expiries.items()
        }
        self._extensions = _by_organization(facts.of(Extend), log)
        self._erasures = _by_organization(facts.of(Erasure), log)
        self._holds = hold_spans(facts)
        self._keeping = {expiry.document.org_ref for expiry in self.expiries if expiry.document.held}
        self._rightful: dict[tuple[bytes, int], Naming] = {}

    def is_plain(self, org_ref: bytes) -> bool:
        """Say whether nothing but a leaf's own day decides about an organization's bodies."""
        return not (org_ref in self._extensions or org_ref in self._holds or org_ref in self._keeping)

    def effective_expire(self, leaf: Leaf, before: Place = END) -> int:
        """Return the first UTC day on which a body may be absent, by the EXTENDs sealed before a place."""
        day = leaf.expire_day
        for extend in self._extensions.get(leaf.org_ref, ()):
            document = extend.document
            if extend.place < before and document.first_seq <= leaf.org_seq <= document.last_seq:
                day = max(day, leaf.ingest_us // MICROSECONDS_PER_DAY + 1 + document.retention_days)
        return day

    def expire_days(self, leaf: Leaf, before: Place) -> set[int]:
        """Return the days that a copy may show as the end: by the EXTENDs before a place, and by each that follows."""
        later = (extend.place for extend in self._extensions.get(leaf.org_ref, ()) if extend.place >= before)
        return {self.effective_expire(leaf, before)} | {
            self.effective_expire(leaf, Place(place.shard, place.index + 1)) for place in later
        }

    def is_changing(self, leaf: Leaf, since: Place) -> bool:
        """Say whether a copy that has applied what stands before a place may be moving or rewriting an entry."""
        changing: Iterator[Sealed[Extend] | Sealed[Erasure]] = chain(
            self._extensions.get(leaf.org_ref, ()), self._erasures.get(leaf.org_ref, ())
        )
        return any(sealed.place >= since for sealed in changing) or any(
            span.begin >= since and span.hold.covers(leaf.ingest_us) for span in self._holds.get(leaf.org_ref, ())
        )

    def was_held(self, leaf: Leaf) -> bool:
        """Say whether any legal hold ever covered a record."""
        return any(span.hold.covers(leaf.ingest_us) for span in self._holds.get(leaf.org_ref, ()))

    def file_days(self, leaf: Leaf) -> set[int]:
        """Return the days in whose files a body may stand."""
        days = {leaf.expire_day}
        for extend in self._extensions.get(leaf.org_ref, ()):
            document = extend.document
            if document.first_seq <= leaf.org_seq <= document.last_seq:
                days.add(leaf.ingest_us // MICROSECONDS_PER_DAY + 1 + document.retention_days)
        return days

    def holds_on(self, leaf: Leaf, place: Place) -> list[HoldSpan]:
        """Return the holds that cover a record when the one at `place` is sealed; END for now."""
        return [
            span
            for span in self._holds.get(leaf.org_ref, ())
            if span.begin < place <= span.end and span.hold.covers(leaf.ingest_us)
        ]

    def naming(self, leaf: Leaf) -> Naming | None:
        """Return the first EXPIRY that names a body, by what it says itself; a rightful one if any is."""
        numbers = self._expiries.get(leaf.org_ref)
        if numbers is None:
            return None
        first = bisect_left(self._cutoffs[leaf.org_ref], leaf.expire_day)
        if first == len(numbers):
            return None
        key = (leaf.org_ref, leaf.expire_day)
        known = self._rightful.get(key)
        if known is not None:
            return known
        found = self._find_naming(leaf, numbers[first:])
        # A rightful EXPIRY is behind every leaf whose day it reaches, so nothing but the day decides.
        if found is not None and found.problem is None and self.is_plain(leaf.org_ref):
            self._rightful[key] = found
        return found

    def absent(self, leaf: Leaf) -> Problem:
        """Judge a body that is not here: EXPIRED_OK or MISSING."""
        found = self.naming(leaf)
        if found is None:
            return _NOTHING
        return found.problem or _EXPIRED

    def present(self, leaf: Leaf, day: int) -> Problem | None:
        """Judge a body that is here on a day: OVER_RETAINED, or None.

        Args:
            leaf: whose body.
            day: the newest UTC day that can be trusted to have begun.
        """
        if leaf.expire_day == NEVER:
            return None
        found = self.naming(leaf)
        if found is not None and found.problem is None and self._is_settled(found.expiry):
            reason = f"it is here, although EXPIRY, record {found.expiry.place.index}, says it was deleted"
            return Problem(Verdict.OVER_RETAINED, reason)
        if day <= leaf.expire_day or self.holds_on(leaf, END):
            return None
        due = self.effective_expire(leaf)
        if day <= due:
            return None
        return Problem(Verdict.OVER_RETAINED, f"it was due on day {due}, and is still here on day {day}")

    def redacted(self, leaf: Leaf, section: SectionName) -> Verdict:
        """Judge a section whose bytes and salt are gone."""
        authorised = any(True for _ in self._naming_erasures(leaf, section))
        return Verdict.REDACTED_OK if authorised else Verdict.REDACTED_UNAUTHORISED

    def unredacted(self, leaf: Leaf, section: SectionName) -> Problem | None:
        """Judge a section that is here: NOT_ERASED if an ERASURE names it."""
        for erasure in self._naming_erasures(leaf, section):
            if self._is_settled(erasure):
                reason = f"its {section} section is here, although ERASURE, record {erasure.place.index}, names it"
                return Problem(Verdict.NOT_ERASED, reason)
        return None

    @property
    def has_erasures(self) -> bool:
        """Whether any ERASURE is about this shard."""
        return bool(self._erasures)

    def misheld(self, leaf: Leaf) -> Iterator[tuple[int, str]]:
        """Yield (number, reason) of EXPIRY records that keep or name a body against what the legal holds say."""
        naming = self.naming(leaf)
        for number in self._expiries.get(leaf.org_ref, ()):
            expiry = self.expiries[number]
            if not self._follows(leaf, expiry):
                continue
            if expiry.document.cutoff_day < self.effective_expire(leaf, expiry.place):
                continue
            holds = self.holds_on(leaf, expiry.place)
            if naming is not None and number == naming.number:
                if any(span.is_certain for span in holds):
                    yield number, f"it names org_seq {leaf.org_seq}, which a legal hold kept"
                return
            # A list of ranges too long for one record goes on in the next one, of the same day.
            goes_on = naming is not None and naming.expiry.document.cutoff_day == expiry.document.cutoff_day
            if not holds and not goes_on:
                yield number, f"it calls org_seq {leaf.org_seq} held, which no legal hold covered"

    def _naming_erasures(self, leaf: Leaf, section: SectionName) -> Iterator[Sealed[Erasure]]:
        """Yield the ERASUREs of a section that no hold forbids."""
        if section == "core":
            return
        for erasure in self._erasures.get(leaf.org_ref, ()):
            ranges = erasure.document.actor if section == "actor" else erasure.document.target
            named = is_within(ranges, leaf.org_seq) and self._follows(leaf, erasure)
            if named and not any(span.is_certain for span in self.holds_on(leaf, erasure.place)):
                yield erasure

    def _find_naming(self, leaf: Leaf, numbers: Sequence[int]) -> Naming | None:
        first: Naming | None = None
        for number in numbers:
            expiry = self.expiries[number]
            if not self._follows(leaf, expiry) or is_within(expiry.document.held, leaf.org_seq):
                continue
            if expiry.document.cutoff_day < self.effective_expire(leaf, expiry.place):
                continue
            found = Naming(number, expiry, self._judge_expiry(leaf, expiry))
            first = first or found
            if found.problem is None:
                return found._replace(number=first.number)
        return first

    def _judge_expiry(self, leaf: Leaf, expiry: Sealed[Expiry]) -> Problem | None:
        """Say what makes an EXPIRY no reason for a body to be gone."""
        index, cutoff = expiry.place.index, expiry.document.cutoff_day
        holds = [span for span in self.holds_on(leaf, expiry.place) if span.is_certain]
        if holds:
            reason = f"EXPIRY, record {index}, names it, although the legal hold {holds[0].hold.hold_id} covers it"
            return Problem(Verdict.MISSING, reason)
        if expiry.leaf.ingest_us // MICROSECONDS_PER_DAY < cutoff:
            reason = f"EXPIRY, record {index}, was sealed before the day {cutoff} that it speaks of"
            return Problem(Verdict.MISSING, reason)
        if self._quorum is None:
            return None
        seen = self._quorum.covering(expiry.log, index)
        if seen is None:
            return Problem(Verdict.MISSING, _NOT_SEEN.format(index))
        if seen < cutoff * SECONDS_PER_DAY:
            reason = f"witnesses saw EXPIRY, record {index}, before the day {cutoff} that it speaks of"
            return Problem(Verdict.MISSING, reason)
        return None

    def _is_settled(self, sealed: Sealed[Expiry] | Sealed[Erasure]) -> bool:
        """Say whether what a record announces must have been carried out by now."""
        return self._settled_us is None or sealed.leaf.ingest_us <= self._settled_us

    def _follows(self, leaf: Leaf, sealed: Sealed[Expiry] | Sealed[Erasure]) -> bool:
        """Say whether a record was sealed behind a leaf of this shard; both are in one organization's chain."""
        if sealed.log != self._log:
            return sealed.place.shard > self._number
        return sealed.leaf.org_ref != leaf.org_ref or sealed.leaf.org_seq > leaf.org_seq


def hold_spans(facts: ControlFacts) -> dict[bytes, list[HoldSpan]]:
    """Return the holds of each organization; one that a new shard repeats is the same hold."""
    ends: dict[str, list[Place]] = {}
    for release in facts.of(Release):
        ends.setdefault(release.document.hold_id, []).append(release.place)
    spans: dict[bytes, list[HoldSpan]] = {}
    for sealed in facts.of(Hold):
        hold = sealed.document
        end = min((place for place in ends.get(hold.hold_id, ()) if place > sealed.place), default=END)
        spans.setdefault(hold.org_ref, []).append(HoldSpan(hold, sealed.place, end))
    return spans


def is_within(ranges: Ranges, sequence: int) -> bool:
    """Say whether a number lies in ascending ranges; for many numbers, faster than looking at each range."""
    place = bisect_left(ranges, (sequence + 1,)) - 1
    return place >= 0 and sequence <= ranges[place][1]


def _about(sealed: Sealed[_Document]) -> str:
    """Return the shard whose records a document names."""
    return sealed.document.log or sealed.log


def _by_organization(documents: Sequence[Sealed[_Document]], log: str) -> dict[bytes, list[Sealed[_Document]]]:
    """Return the documents about one shard, by organization."""
    grouped: dict[bytes, list[Sealed[_Document]]] = {}
    for sealed in documents:
        if _about(sealed) == log:
            grouped.setdefault(sealed.document.org_ref, []).append(sealed)
    return grouped
