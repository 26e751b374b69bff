"""Entries that a destination will never take: written down durably before the cursor moves on.

A dead letter names the entry and does not hold it: the entry stays in the ledger and the store until its retention
ends, and is sent again from there. So nothing is kept here for longer, and an erasure has nothing to find.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import orjson

from klyra_collector.durable_lines import append_lines

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from klyra_collector.seal.durable import Disk

SUFFIX: Final = ".dead.ndjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An entry that was refused.

    Attributes:
        origin, index: where it stands in the ledger.
        entry_id, organization_id: which entry, and whose.
        status: what the destination answered, such as `400`.
        refused_us: when, microseconds since 1970.
    """

    origin: str
    index: int
    entry_id: str
    organization_id: str
    status: str
    refused_us: int


class DeadLetters:
    """The file of one destination's dead letters."""

    def __init__(self, folder: Path, name: str, disk: Disk) -> None:
        self._path = folder / f"{name}{SUFFIX}"
        self._disk = disk
        self._known = {(letter.origin, letter.index) for letter in self.read()}

    def __len__(self) -> int:
        """How many entries were refused for good."""
        return len(self._known)

    def read(self) -> list[DeadLetter]:
        """Return all, oldest first; an entry that was written down twice around a crash stands here once."""
        if not self._path.exists():
            return []
        found: dict[tuple[str, int], DeadLetter] = {}
        for line in self._path.read_bytes().splitlines():
            try:
                letter = DeadLetter(**orjson.loads(line))
            except (orjson.JSONDecodeError, TypeError):
                continue  # the line that a crash broke off; its entry was not passed, so it stands here again
            found.setdefault((letter.origin, letter.index), letter)
        return list(found.values())

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """Write some down; durable when this returns."""
        append_lines(self._disk, self._path, [orjson.dumps(asdict(letter)) for letter in letters])
        self._known |= {(letter.origin, letter.index) for letter in letters}

    def remove(self, places: Collection[tuple[str, int]]) -> None:
        """Take letters out whose entries were taken after all, or are gone; durable when this returns."""
        left = [letter for letter in self.read() if (letter.origin, letter.index) not in places]
        self._disk.replace(self._path, b"".join(orjson.dumps(asdict(letter)) + b"\n" for letter in left))
        self._known -= set(places)
