"""Index lifecycle management as Elasticsearch does it, in simulated time, and the daily sweep beside it.

Every poll looks at every index once and takes it at most one step on, be it into its next phase or through an action:
the server is quicker, so what holds here holds there. `min_age` counts from the rollover.

Source: Elasticsearch reference, "Index lifecycle" (phases, order of actions) and "Rollover".
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MINUTE, HOUR, DAY = 60, 3600, 86400
POLL = 10 * MINUTE  # indices.lifecycle.poll_interval
_UNITS = {"ms": 0.001, "s": 1, "m": MINUTE, "h": HOUR, "d": DAY}
_PHASES = ("hot", "warm", "cold", "frozen", "delete")
# Actions in the order in which a phase carries them out, with the steps of each; one that is not here is not modelled.
_STEPS = {
    "set_priority": ("set priority",),
    "rollover": ("check rollover", "attempt rollover", "update rollover date"),
    "readonly": ("set read only",),
    "allocate": ("allocate", "check allocation"),
    "migrate": ("migrate", "check migration"),
    "forcemerge": ("force merge", "count segments"),
    "delete": ("wait for leases", "delete"),
}
_DAY_AFTER = 1  # the day of sealing is not counted


def seconds(text: str) -> float:
    """Return a time value such as `22h` in seconds."""
    number = text.rstrip("smhd")
    return float(number) * _UNITS[text[len(number) :]]


@dataclass(frozen=True)
class Document:
    """What is stored of an entry.

    Attributes:
        sealed: when, in seconds.
        days: its retention.
    """

    sealed: float
    days: int

    @property
    def expire_day(self) -> int:
        """First day on which it may be gone, as its leaf has it."""
        return int(self.sealed // DAY) + self.days + _DAY_AFTER


@dataclass(frozen=True)
class Gone:
    """A document that was deleted."""

    document: Document
    at: float

    @property
    def age(self) -> float:
        """Seconds since it was sealed."""
        return self.at - self.document.sealed


@dataclass
class Index:
    """One backing index.

    Attributes:
        created: when it was made.
        documents: what is in it.
        phase: number of the phase it is in.
        steps: what is left to do in that phase.
        first_expiry: no document in it expires earlier, so that not every sweep looks at every document.
        since: from when the `min_age` of later phases counts.
    """

    created: float
    steps: list[str]
    documents: list[Document] = field(default_factory=list)
    phase: int = 0
    first_expiry: int = 0
    since: float = 0.0


@dataclass(frozen=True)
class Phase:
    """One phase of a policy."""

    min_age: float
    steps: tuple[str, ...]


def phases(policy: Mapping[str, Any]) -> list[Phase]:
    """Return the phases of a policy as it is sent, with what the server adds to them."""
    written = policy["policy"]["phases"]
    assert set(written) <= set(_PHASES)
    return [_phase(name, written[name]) for name in _PHASES if name in written]


def _phase(name: str, written: Mapping[str, Any]) -> Phase:
    actions = dict(written["actions"])
    if name in ("warm", "cold"):
        actions["migrate"] = {}  # injected, unless it is switched off
    assert actions.keys() <= _STEPS.keys(), f"not modelled: {actions.keys() - _STEPS.keys()}"
    steps = [step for action, steps in _STEPS.items() if action in actions for step in steps]
    return Phase(seconds(written.get("min_age", "0ms")), tuple(steps))


class Stream:
    """A data stream under a policy."""

    def __init__(self, policy: Mapping[str, Any], poll_offset: float = 0.0) -> None:
        rollover = policy["policy"]["phases"]["hot"]["actions"]["rollover"]
        self._max_age = seconds(rollover["max_age"])
        self._min_docs = rollover["min_docs"]
        self._phases = phases(policy)
        self._next_poll = poll_offset
        self._waiting: list[tuple[float, int, Index]] = []  # for when something can be due
        self._made = 0
        self.indexes: dict[int, Index] = {}
        self._create(0.0)

    def write(self, now: float, *documents: Document) -> None:
        """Put documents into the newest index, as the writer does, which looks whether they are there already."""
        assert all(document.sealed <= now for document in documents)
        index = self.indexes[max(self.indexes)]
        index.documents += documents
        index.first_expiry = 0

    def run(self, until: float, *, is_running: bool = True) -> Iterator[Gone]:
        """Poll up to a time; nothing happens while the cluster is not running."""
        while self._next_poll <= until:
            if is_running:
                yield from self._poll(self._next_poll)
            self._next_poll += POLL

    def sweep(self, now: float) -> Iterator[Gone]:
        """Delete what has expired, wherever it is."""
        today = int(now // DAY)
        for index in self.indexes.values():
            if index.first_expiry <= today:
                yield from _taken(index, now, lambda document: document.expire_day <= today)
                index.first_expiry = min((document.expire_day for document in index.documents), default=today + 1)

    def take(self, now: float, is_meant: Callable[[Document], bool]) -> Iterator[Gone]:
        """Delete some documents."""
        for index in self.indexes.values():
            yield from _taken(index, now, is_meant)

    def documents(self) -> Iterable[Document]:
        """Return everything that is there."""
        return [document for index in self.indexes.values() for document in index.documents]

    def _poll(self, now: float) -> Iterator[Gone]:
        due = []
        while self._waiting and self._waiting[0][0] <= now:
            due.append(heapq.heappop(self._waiting))
        for _, number, index in due:
            if index.steps:
                yield from self._step(number, index, now)
            elif now - index.since >= self._phases[index.phase + 1].min_age:
                index.phase += 1
                index.steps = list(self._phases[index.phase].steps)
            if number in self.indexes and (index.steps or index.phase + 1 < len(self._phases)):
                heapq.heappush(self._waiting, (self._wakes(index, now), number, index))

    def _step(self, number: int, index: Index, now: float) -> Iterator[Gone]:
        step = index.steps[0]
        if step == "check rollover" and not self._is_due(index, now):
            return
        index.steps.pop(0)
        if step == "attempt rollover":
            index.since = now
            self._create(now)
        elif step == "delete":
            del self.indexes[number]
            yield from (Gone(document, now) for document in index.documents)

    def _is_due(self, index: Index, now: float) -> bool:
        return now - index.created >= self._max_age and len(index.documents) >= self._min_docs

    def _wakes(self, index: Index, now: float) -> float:
        """Return when the next poll can do something about an index."""
        if index.steps:
            return now
        return index.since + self._phases[index.phase + 1].min_age

    def _create(self, now: float) -> None:
        index = Index(now, list(self._phases[0].steps), since=now)
        self._made += 1
        self.indexes[self._made] = index
        heapq.heappush(self._waiting, (now, self._made, index))


def _taken(index: Index, now: float, is_meant: Callable[[Document], bool]) -> list[Gone]:
    """Delete some documents of an index."""
    gone = [Gone(document, now) for document in index.documents if is_meant(document)]
    index.documents = [document for document in index.documents if not is_meant(document)]
    return gone
