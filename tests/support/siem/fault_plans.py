"""A ledger delivered by the real engine through any script of faults and kills, watched at every step.

What a plan's run must hold, whatever the plan: see `Story`.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from klyra_audit import timestamps
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from klyra_collector.fanout.delivery import IDLE_SECONDS
from klyra_collector.fanout.fitting import WhenTooOld
from klyra_collector.fanout.source import Wanted
from klyra_siem.outcome import Action
from support.delivering import Bench
from support.records import BUSINESS, STARTUP, bad, record, submission
from support.sealing import MICROSECONDS, MIDSUMMER_US, Fault, FaultyDisk, Killed, SetClock, open_ledger, read_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from klyra_collector.fanout.cursor import Cursor
    from klyra_collector.stages import Record
    from klyra_siem.destination import Destination, Limits, Payload, SealedEntry
    from klyra_siem.outcome import Outcome
    from support.siem import cloud_server
    from support.siem.vendors import Vendor

BATCH = 8  # entries
PATIENCE = 600  # steps of one life
HOUR_US = 3600 * MICROSECONDS
DAY_US = 24 * HOUR_US
CHOSEN = "usr_chosen"


class Kill(NamedTuple):
    """The process ends.

    Attributes:
        at: how many operations on the disk have come before.
        moment: before the next one, after it, or in the midst of an append.
        hours: until somebody starts it again.
    """

    at: int
    moment: str
    hours: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is delivered, and what happens on the way.

    Attributes:
        records: a letter each: `s`tartup and `b`usiness are organizations, `c` is by the chosen actor, `o` is older
            than any vendor takes, `q` is quarantined.
        faults: of the first requests.
        poisoned: positions of records that the vendor refuses.
        kills: each ends a life of the engine; after the last one it lives until all is done.
        lanes: batches at once.
        when_too_old: the policy.
        has_filter: whether only the chosen actor's entries are delivered.
        timeout_seconds: how long an answer is waited for.
    """

    records: str
    faults: tuple[cloud_server.Fault, ...] = ()
    poisoned: frozenset[int] = frozenset()
    kills: tuple[Kill, ...] = ()
    lanes: int = 1
    when_too_old: WhenTooOld = WhenTooOld.RESTAMP
    has_filter: bool = False
    timeout_seconds: float = 10.0


class Expected(NamedTuple):
    """An entry of the filtered ledger: its index there, its id and whose it is."""

    index: int
    entry_id: str
    organization_id: str


@dataclass
class Attempt:
    """A request that a destination was given.

    Attributes:
        entry_ids: in it.
        outcome: None as long as there is none.
        is_true: whether everything that was confirmed was there at that moment.
    """

    entry_ids: list[str]
    outcome: Outcome | None = None
    is_true: bool = True

    @property
    def confirmed(self) -> set[str]:
        """What the destination has said to have."""
        if self.outcome is None or self.outcome.action is not Action.DELIVERED:
            return set()
        return {name for place, name in enumerate(self.entry_ids) if place not in self.outcome.refused}


class Watched:
    """A destination about whose every request somebody keeps a book."""

    def __init__(self, inner: Destination, vendor: Vendor, book: list[Attempt]) -> None:
        self._inner = inner
        self._vendor = vendor
        self._book = book
        self._entry_ids: list[str] = []

    @property
    def limits(self) -> Limits:
        """See `Destination`: no more than a few entries."""
        return replace(self._inner.limits, entries=BATCH)

    def measure(self, entry: SealedEntry) -> int:
        """See `Destination`."""
        return self._inner.measure(entry)

    def encode(self, entries: Sequence[SealedEntry]) -> Payload:
        """See `Destination`."""
        self._entry_ids = [entry.entry_id for entry in entries]
        return self._inner.encode(entries)

    def send(self, payload: Payload) -> Outcome:
        """See `Destination`."""
        attempt = Attempt(self._entry_ids)
        self._book.append(attempt)
        attempt.outcome = outcome = self._inner.send(payload)
        attempt.is_true = attempt.confirmed <= set(self._vendor.received())
        return outcome

    def probe(self) -> Outcome:
        """See `Destination`."""
        return self._inner.probe()

    def close(self) -> None:
        """See `Destination`."""
        self._inner.close()


class Death(Fault):
    """The process is killed around any operation on the disk; only an append can be cut in two."""

    def strikes(self, step: str, path: str = "") -> bool:
        """See `Fault`: whatever the step is."""
        if self.moment == "torn" and step not in {"append", "overwrite"}:
            return False
        self.step = step
        return super().strikes(step, path)


@dataclass
class Story:
    """One plan, carried out; `check` raises what it breaks.

    * What was received and what is a dead letter is the filtered ledger: no more and no less.
    * The cursor never passes an entry that was neither confirmed nor written down as a dead letter, in any life.
    * An entry is there more than once only for an attempt that was not confirmed, or because it was in a batch under
      way when the process was killed; no more batches than lanes were.
    * Each organization's entries come in ledger order: exactly with one lane, else but for what is under way.
    """

    root: Path
    vendor: Vendor
    plan: Plan
    now_us: int = MIDSUMMER_US
    book: list[Attempt] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)  # of the plan; some more are sealed after each kill
    in_flight: list[set[str]] = field(default_factory=list)  # at each kill
    dead: set[str] = field(default_factory=set)

    def run(self) -> Story:
        """Carry the plan out, to its end."""
        self.records = self._seal(self.plan.records)
        for position in self.plan.poisoned:
            self.vendor.spoil(self.records[position % len(self.records)].record_id)
        self.vendor.server.plan(*self.plan.faults)
        for kill in self.plan.kills:
            self._live(kill)
            self.now_us += kill.hours * HOUR_US
            self._seal("sc")  # the ledger grows while nobody delivers
        self._live(None)
        self.vendor.server.faults.clear()
        self.vendor.server.settle()
        return self

    def check(self) -> None:
        """Compare what is there with what was promised."""
        received = self.vendor.received()
        expected = self.expected()
        assert all(attempt.is_true for attempt in self.book), "a confirmation of what is not there"
        assert set(received) | self.dead == set(expected)
        assert {self.records[one % len(self.records)].record_id for one in self.plan.poisoned} & set(received) == set()
        self._check_copies(Counter(received))
        self._check_order(list(dict.fromkeys(received)))

    def expected(self) -> list[str]:
        """Return the ids of the filtered ledger, in order."""
        return [one.entry_id for one in self._wanted()]

    def _wanted(self) -> list[Expected]:
        found = []
        for item in read_all(self.root):
            if item.leaf.kind == Kind.EVENT:
                document = sections.join(item.body.sections)
                if not self.plan.has_filter or document["actor"]["id"] == CHOSEN:
                    found.append(Expected(item.index, document["id"], document["organization_id"]))
        return found

    def _seal(self, kinds: str) -> list[Record]:
        made = [_made(kind, MIDSUMMER_US) for kind in kinds]
        ledger = open_ledger(self.root, SetClock(MIDSUMMER_US))
        ledger.commit([submission(*made)])
        ledger.close()
        return made

    def _live(self, kill: Kill | None) -> None:
        """Have an engine, made of what is on disk, deliver until it is killed or all is done."""
        self.vendor.set_clock(self.now_us)
        disk = FaultyDisk()
        made = [self.vendor.make(timeout_seconds=self.plan.timeout_seconds) for _ in range(self.plan.lanes)]
        lanes = [Watched(one, self.vendor, self.book) for one in made]
        bench = Bench(
            self.root,
            *lanes,
            limits=lanes[0].limits,
            when_too_old=self.plan.when_too_old,
            wanted=Wanted(actors=frozenset({CHOSEN})) if self.plan.has_filter else None,
            disk=disk,
        )
        bench.now_us = self.now_us
        disk.fault = None if kill is None else Death("", kill.moment, kill.at, error=Killed)
        try:
            self._drive(bench)
        except Killed:
            bench.delivery._lanes.forget()  # what is under way reaches the vendor; nobody hears the answer
            self._note_kill(bench)
        finally:
            bench.delivery._lanes.forget()
            bench.delivery._lanes.close()
            self.dead = {letter.entry_id for letter in bench.dead_letters.read()}
            bench.close()

    def _drive(self, bench: Bench) -> None:
        wanted = self._wanted()
        for _ in range(PATIENCE):
            wait = bench.delivery.step()
            cursor = bench.cursor_file.load()
            self._check_cursor(bench, cursor, wanted)
            if wait == IDLE_SECONDS and cursor is not None and not cursor.pending:
                return
            if wait:
                time.sleep(self.vendor.breath_seconds)
        raise AssertionError("it never comes to an end")

    def _check_cursor(self, bench: Bench, cursor: Cursor | None, wanted: list[Expected]) -> None:
        passed = {one.entry_id for one in wanted if cursor is not None and one.index < cursor.index}
        settled = {letter.entry_id for letter in bench.dead_letters.read()}.union(*(one.confirmed for one in self.book))
        assert passed <= settled, "the cursor is ahead of what was confirmed"

    def _note_kill(self, bench: Bench) -> None:
        cursor = bench.cursor_file.load()
        wanted = self._wanted()
        self._check_cursor(bench, cursor, wanted)
        spans = [] if cursor is None else cursor.pending
        pending = {one.entry_id for one in wanted if any(span.start <= one.index < span.end for span in spans)}
        confirmed = set[str]().union(*(attempt.confirmed for attempt in self.book))
        assert len(pending & confirmed) <= BATCH * self.plan.lanes, "more is under way than batches may be"
        self.in_flight.append(pending)

    def _check_copies(self, received: Counter[str]) -> None:
        for name, copies in received.items():
            unconfirmed = sum(name in one.entry_ids and name not in one.confirmed for one in self.book)
            killed = sum(name in pending for pending in self.in_flight)
            assert copies <= 1 + unconfirmed + killed, f"{copies} copies of an entry that was in flight less often"

    def _check_order(self, received: list[str]) -> None:
        wanted = self._wanted()
        for organization_id in {one.organization_id for one in wanted}:
            own = [one.entry_id for one in wanted if one.organization_id == organization_id]
            there = [name for name in own if name in set(received)]
            self._check_order_of_one([name for name in received if name in set(own)], there)

    def _check_order_of_one(self, received: list[str], there: list[str]) -> None:
        # A request of CloudWatch is in the order of time, which for entries under another time is not the ledger's.
        if self.plan.lanes == 1 and self.vendor.kind != "cloudwatch":
            assert received == there, "another order than the ledger's"
        rank = {name: place for place, name in enumerate(there)}
        moved = max((abs(place - rank[name]) for place, name in enumerate(received)), default=0)
        assert moved < BATCH * self.plan.lanes, "out of order by more than is under way at once"


def _made(kind: str, now_us: int) -> Record:
    """Return a record of a plan's letter."""
    if kind == "q":
        return bad()
    tenancy = BUSINESS if kind == "b" else STARTUP
    then_us = now_us - 20 * DAY_US if kind == "o" else now_us
    actor = {"type": "user", "id": CHOSEN if kind in {"c", "o"} else "usr_other", "name": None}
    return record(tenancy, timestamp=timestamps.from_microseconds(then_us), actor=actor)


def run(root: Path, vendor: Vendor, plan: Plan) -> Story:
    """Carry a plan out and check it; what the vendor has of it is gone afterwards."""
    story = Story(root, vendor, plan)
    try:
        story.run().check()
    finally:
        with contextlib.suppress(AssertionError):
            vendor.server.settle()
        vendor.forget()
    return story
