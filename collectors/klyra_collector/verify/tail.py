"""What lies behind the records that are looked at: a commit on its way, what a crash left, or what somebody added."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.format.leaf import LEAF_SIZE
from klyra_collector.verify.files import RegularFile, Unreadable
from klyra_collector.verify.heads import PAUSE_SECONDS, is_interrupted, read_committed
from klyra_collector.verify.verdicts import Finding, Verdict
from klyra_collector.verify.walk import BlobWalker, BodyWalker, Damage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from klyra_collector.verify.layout import ShardFolder

_MAX_COMMIT: Final = 65_536  # no commit has more records than this
_GONE: Final = -1
_REMEDY: Final = (
    "nothing in the ledger vouches for it; a crash can leave it, and a start of the collector removes it then"
)


@dataclass(frozen=True, slots=True)
class Leftover:
    """Bytes behind the end.

    Attributes:
        path, offset: where they stand.
        index: of the record they would belong to; None for a torn frame.
        what: how to call them.
        count: how many records.
    """

    path: Path
    offset: int
    index: int | None
    what: str
    count: int = 1


class Tail:
    """Judges leftovers of one shard.

    Attributes:
        tolerated: how many of them a crash or a running collector accounts for.
    """

    def __init__(
        self, folder: ShardFolder, leaves: int, patience: float, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._folder = folder
        self._leaves = leaves
        self._patience = patience
        self._sleep = sleep
        self.tolerated = 0

    def judge(self, leftovers: Iterable[Leftover]) -> list[Finding]:
        """Return a finding for each leftover that neither a running collector nor a crash accounts for.

        A running collector commits what it was writing within a moment, so it is waited for. After a crash
        run.json is still there, and what was never committed is no news to anybody.
        """
        waiting = [leftover for leftover in leftovers if not self._is_accounted_for(leftover)]
        until = time.monotonic() + self._patience
        while waiting:
            waiting = [leftover for leftover in waiting if not self._is_committed(leftover)]
            if not waiting or time.monotonic() >= until:
                break
            self._sleep(PAUSE_SECONDS)
        return [self._finding(leftover) for leftover in waiting]

    def _is_accounted_for(self, leftover: Leftover) -> bool:
        """Say whether this may be the next commit of a ledger that was not stopped cleanly, or of a copy."""
        plausible = leftover.index is None or leftover.index < self._leaves + _MAX_COMMIT
        accounted = plausible and (is_interrupted(self._folder) or read_committed(self._folder) is None)
        self.tolerated += leftover.count if accounted else 0
        return accounted

    def _is_committed(self, leftover: Leftover) -> bool:
        """Say whether a leftover has become a record meanwhile, or is gone."""
        index = self._read_index(leftover) if leftover.index is None else leftover.index
        committed = read_committed(self._folder)
        return index is not None and committed is not None and index < committed

    def _read_index(self, leftover: Leftover) -> int | None:
        """Return the index of a frame that was torn when it was first read: None if it still is, -1 if it is gone."""
        try:
            with RegularFile(leftover.path) as file:
                walker = BodyWalker(file) if leftover.path.parent.parent.name == "bodies" else BlobWalker(file)
                for _, _, item in walker.walk(leftover.offset, leftover.offset + 1):
                    return None if isinstance(item, Damage) else item.index
        except (FileNotFoundError, Unreadable):
            pass
        return _GONE

    def _finding(self, leftover: Leftover) -> Finding:
        return Finding(
            verdict=Verdict.EXTRA,
            reason=f"{leftover.what} of a record that was never sealed",
            first=leftover.index,
            last=None if leftover.index is None else leftover.index + leftover.count - 1,
            file=self._folder.name(leftover.path),
            offset=leftover.offset,
            count=leftover.count,
            remedy=_REMEDY,
        )


def leaves_behind(folder: ShardFolder, position: int, committed: int | None, leaves: int, size: int) -> list[Leftover]:
    """Return what stands in `leaves` behind the committed records: whole leaves, and a torn one.

    Args:
        folder: the shard.
        position: position in the file behind the last signed leaf.
        committed: how many records the collector speaks of; None if it does not say.
        leaves: number of whole leaves in the file.
        size: of the file, in bytes.
    """
    found = []
    first = max(position, committed or 0)
    if committed is not None and leaves > first:
        found.append(Leftover(folder.leaves, first * LEAF_SIZE, first, "leaf", leaves - first))
    if size % LEAF_SIZE:
        found.append(Leftover(folder.leaves, leaves * LEAF_SIZE, leaves, "part of a leaf"))
    return found
