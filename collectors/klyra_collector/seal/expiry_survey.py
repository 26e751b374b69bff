"""What expiry would do, said without doing it: a look at the files of a ledger, running or stopped."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from klyra_audit.format.errors import FrameError
from klyra_collector.data_directory import FRAMES, ShardDirectory
from klyra_collector.errors import LedgerDamaged
from klyra_collector.seal.expiry_controls import ControlLog
from klyra_collector.seal.expiry_files import DayFile, frame_files, leaves_of, mapped, spans
from klyra_collector.seal.reader import LedgerReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_collector.data_directory import DataDirectory
    from klyra_collector.seal.expiry_facts import RetentionFacts
    from klyra_collector.seal.expiry_plan import Aged, Leaves


class Fate(Enum):
    """What expiry does with a body whose day has come."""

    GOES = "goes"
    WAITS = "waits to be deleted"
    HELD = "held"


class _Group(NamedTuple):
    shard: str
    org_ref: bytes
    day: int
    fate: Fate
    hold_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fated:
    """Bodies of one organization with one fate.

    Attributes:
        shard: where they are.
        org_ref: whose.
        day: UTC day since 1970 on which they are due.
        fate: `GOES`; `WAITS` if an EXPIRY names them already; `HELD` by a legal hold.
        hold_id: which.
        count: how many.
        size: bytes of their frames, quarantined bytes included.
    """

    shard: str
    org_ref: bytes
    day: int
    fate: Fate
    hold_id: str | None
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class Survey:
    """What is due on a day.

    Attributes:
        fated: everything due, by shard, organization and day.
        next_day: the next UTC day on which something is due; None if nothing is left.
    """

    fated: tuple[Fated, ...]
    next_day: int | None


def survey(data: DataDirectory, cutoff_day: int) -> Survey:
    """Look at what is due up to a day.

    Raises:
        LedgerDamaged: a control record or a frame cannot be read.
    """
    counts: Counter[_Group] = Counter()
    sizes: Counter[_Group] = Counter()
    days: list[int] = []
    with contextlib.closing(LedgerReader(data.ledger)) as reader:
        facts = ControlLog(reader).catch_up()
        for log in reader.origins():
            shard = ShardDirectory(data.ledger / log.rpartition("/")[2])
            with leaves_of(shard, reader.committed(log)) as leaves:
                for file in frame_files(data, shard):
                    if file.day is not None and file.day > cutoff_day:
                        days.append(file.day)
                        continue
                    for group, size in _groups(file, log, leaves, facts, cutoff_day):
                        counts[group] += file.path.name == FRAMES
                        sizes[group] += size
    fated = tuple(
        Fated(
            shard=group.shard,
            org_ref=group.org_ref,
            day=group.day,
            fate=group.fate,
            hold_id=group.hold_id or None,
            count=counts[group],
            size=sizes[group],
        )
        for group in sorted(counts, key=lambda group: (group.shard, group.org_ref, group.day, group.fate.value))
    )
    return Survey(fated, min(days, default=None))


def _groups(
    file: DayFile, log: str, leaves: Leaves, facts: RetentionFacts, cutoff_day: int
) -> Iterator[tuple[_Group, int]]:
    """Yield what each frame of a file belongs to, with its size; nothing for one that is kept longer."""
    with mapped(file.path) as buffer:
        try:
            for index, offset, end in spans(buffer):
                leaf = leaves.at(index)
                fate, hold_id = _fate(log, leaf, facts)
                day = facts.effective_day(log, leaf)
                if day <= cutoff_day:
                    yield _Group(log.rpartition("/")[2], leaf.org_ref, day, fate, hold_id), end - offset
        except FrameError as error:
            raise LedgerDamaged(
                f"{file.path} cannot be read: {error}.", remedy="See what is wrong with: klyra-audit verify"
            ) from error


def _fate(log: str, leaf: Aged, facts: RetentionFacts) -> tuple[Fate, str]:
    if facts.is_named(log, leaf):
        return Fate.WAITS, ""
    hold = facts.hold_on(leaf)
    return (Fate.GOES, "") if hold is None else (Fate.HELD, hold.hold_id)
