"""Expiry in operation: name what is due, wait until that is signed for, then delete it (DESIGN section 5).

The order is the promise: nothing goes before an EXPIRY record that names it is under a signed checkpoint, cosigned
where witnesses are configured, and nothing that is held or extended goes at all. Every step can be repeated. A crash
leaves, after

1. the EXPIRY records, in one or more commits: bodies that are named and still here. Records that were not sealed yet
   are planned again; those that were name the same bodies, which are not named twice.
2. `state/expired`: as before; without it every day is planned again, and nothing found.
3. the kept checkpoint `checkpoints/expiry-<index>`: as before. Without it the next run keeps a later one, which
   covers the records as well.
4. frames that are held or extended, appended to their new files: they stand in two files. They are found in the new
   one and not appended again.
5. a deleted file: the others of the day. Whatever lies under a day that was named is deleted by the next run.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from klyra_audit.timestamps import SECONDS_PER_DAY
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.seal.expiry_ages import OldestEntries
from klyra_collector.seal.expiry_controls import ControlLog
from klyra_collector.seal.expiry_files import ExpiredState, ShardBodies, leaves_of
from klyra_collector.seal.expiry_plan import Leaves, destination, plan
from klyra_collector.seal.overview import read_head
from klyra_collector.seal.reader import LedgerReader

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from pathlib import Path

    from klyra_audit.format.control import Expiry as ExpiryRecord
    from klyra_collector.data_directory import DataDirectory
    from klyra_collector.seal.durable import Disk
    from klyra_collector.seal.expiry_clock import ExpiryClock
    from klyra_collector.stages import Outcome
    from klyra_collector.witnessed import Witnessed

RECORDS_AT_ONCE: Final = 256

_Result = TypeVar("_Result")


class SealingLedger(Protocol):
    """What expiry asks of the ledger; it is called on the sealing thread only."""

    def commit_expiries(self, expiries: Sequence[ExpiryRecord]) -> Sequence[Outcome]:
        """Make EXPIRY records durable.

        Raises:
            IntakeHalted: the disk or the clock is not to be trusted now.
        """
        ...

    def forget_file(self, path: Path) -> None:
        """Close a frame file that is going to be deleted or replaced."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """What one run did.

    Attributes:
        cutoff_day: up to which UTC day it looked.
        named: bodies that EXPIRY records of this run name.
        deleted: files it deleted.
        waiting: it has to run again once the newest EXPIRY is signed for.
    """

    cutoff_day: int
    named: int
    deleted: int
    waiting: bool


class Expiry:
    """Expires the bodies of all shards of one ledger."""

    def __init__(
        self,
        ledger: SealingLedger,
        data: DataDirectory,
        disk: Disk,
        clock: ExpiryClock,
        witnessed: Callable[[ShardDirectory], Witnessed | None] | None = None,
    ) -> None:
        """Prepare to run.

        Args:
            ledger: to seal with.
            data: where the shards are.
            disk: to write with.
            clock: until when to believe it.
            witnessed: how much of a shard a quorum has cosigned, and by when; None without witnesses.
        """
        self._ledger = ledger
        self._data = data
        self._disk = disk
        self._clock = clock
        self._witnessed = witnessed
        self._reader = LedgerReader(data.ledger)
        self._controls = ControlLog(self._reader)
        self._ages = OldestEntries()
        self._sifted = 0

    def close(self) -> None:
        """Close what is open."""
        self._reader.close()

    def run(self) -> Generator[None, None, Expired]:
        """Expire what is due. Yields after each piece of work, so that commits go on in between.

        Raises:
            ExpiryRefused: the time is in doubt; nothing was done.
            IntakeHalted: an EXPIRY record could not be sealed; what was not named stays.
            LedgerDamaged: a control record or a frame that decides cannot be read.
        """
        yield from self._controls.read_on()
        shards = self._shards()
        cutoff_day = self._clock.cutoff_day(self._witness_seconds(shards.values()), has_witnesses=self._has_witnesses)
        named = deleted = 0
        for log, shard in shards.items():
            named += yield from self._name(log, shard, cutoff_day)
        yield from self._controls.read_on()
        shards = self._shards()  # the first EXPIRY of a year opens its shard
        changes = self._controls.facts.changes
        waiting = False
        for log, shard in shards.items():
            if self._is_covered(log, shards):
                deleted += yield from self._delete(log, shard)
            else:
                waiting = True
        if not waiting:
            self._sifted = changes
        return Expired(cutoff_day=cutoff_day, named=named, deleted=deleted, waiting=waiting)

    def oldest(self) -> Generator[None, None, dict[str, int]]:
        """Return when the oldest entry still here was sealed, by plan. Yields after each piece of work."""
        yield from self._controls.read_on()
        facts = self._controls.facts
        found: dict[str, int] = {}
        for log, shard in self._shards().items():
            days = {file.day for file in self._bodies(shard).files() if file.day is not None}
            with leaves_of(shard, self._reader.committed(log)) as leaves:
                for plan_name in facts.plan_lengths.keys() - found.keys():
                    sealed_us = yield from self._ages.find(plan_name, log, leaves, facts, days)
                    if sealed_us is not None:
                        found[plan_name] = sealed_us
        return found

    def _bodies(self, shard: ShardDirectory) -> ShardBodies:
        return ShardBodies(self._data, shard, self._disk, self._ledger.forget_file)

    def _shards(self) -> dict[str, ShardDirectory]:
        return {
            origin: ShardDirectory(self._data.ledger / origin.rpartition("/")[2]) for origin in self._reader.origins()
        }

    @property
    def _has_witnesses(self) -> bool:
        return self._witnessed is not None

    def _witness_seconds(self, shards: Iterable[ShardDirectory]) -> int | None:
        if self._witnessed is None:
            return None
        return max((seen.time for shard in shards if (seen := self._witnessed(shard)) is not None), default=None)

    def _name(self, log: str, shard: ShardDirectory, cutoff_day: int) -> Generator[None, None, int]:
        """Seal EXPIRY records for what is due in a shard; return how many bodies they name."""
        with leaves_of(shard, self._reader.committed(log)) as leaves:
            after_day = named_through(shard, leaves)
            if after_day is None or cutoff_day < after_day:
                return 0
            found = yield from plan(leaves, log, self._controls.facts, after_day, cutoff_day)
        pending = iter(found.documents)
        while documents := list(islice(pending, RECORDS_AT_ONCE)):
            self._ledger.commit_expiries(documents)
            yield
        if cutoff_day > after_day:
            ExpiredState(cutoff_day).write(shard, self._disk)
        return sum(document.count for document in found.documents)

    def _is_covered(self, log: str, shards: dict[str, ShardDirectory]) -> bool:
        """Say whether the newest EXPIRY about a shard is signed for; the checkpoint that says so is kept then."""
        newest = self._controls.facts.newest_expiry(log)
        if newest is None:
            return True
        origin, index, cutoff_day = newest
        shard = shards[origin]
        kept = shard.checkpoints / f"expiry-{index}"
        if kept.exists():
            return True
        covering = self._covering(shard, index, cutoff_day)
        if covering is None:
            return False
        self._disk.replace(kept, covering.read_bytes())
        return True

    def _covering(self, shard: ShardDirectory, index: int, cutoff_day: int) -> Path | None:
        """Return the file of a checkpoint that covers a record, cosigned on its cutoff day or later if need be."""
        if self._witnessed is None:
            head = read_head(shard.checkpoint)
            return shard.checkpoint if head is not None and head.size > index else None
        seen = self._witnessed(shard)
        if seen is None or seen.size <= index or seen.time < cutoff_day * SECONDS_PER_DAY:
            return None
        return shard.witnessed

    def _delete(self, log: str, shard: ShardDirectory) -> Generator[None, None, int]:
        """Delete the files of days that were named, after moving what is kept on; return how many files went."""
        state = ExpiredState.read(shard)
        if state is None:
            return 0
        facts = self._controls.facts
        bodies = self._bodies(shard)
        deleted = 0
        with leaves_of(shard, self._reader.committed(log)) as leaves:

            def folder_of(index: int) -> str | None:
                return destination(facts, log, leaves.at(index), state.day)

            for file in bodies.due(state.day):
                if facts.moves_any():
                    yield from bodies.move(file, folder_of)
                bodies.remove(file)
                deleted += 1
                yield
            if facts.changes != self._sifted:
                for file in bodies.held():
                    yield from bodies.move(file, folder_of)
                    yield from bodies.sift(file, lambda index: folder_of(index) == file.folder)  # noqa: B023 - used up
        return deleted


def named_through(shard: ShardDirectory, leaves: Leaves) -> int | None:
    """Return the UTC day up to which everything due in a shard is named; None for a shard without leaves.

    Before the first expiry that is the day of the first leaf: nothing is due on the day it is sealed.
    """
    state = ExpiredState.read(shard)
    return leaves.first_day() if state is None else state.day


def finish(steps: Generator[None, None, _Result]) -> _Result:
    """Do all steps at once, where nothing else waits; return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: _Result = done.value
            return result
