"""Segment receipts: for each batch that a destination has confirmed, a signed note that says which entries it holds.

A segment receipt is a signed note (C2SP signed-note) of the destination key over seven lines:

    klyra-audit segment v1
    <destination>
    <origin>
    <indexes, ascending: 4-9,12>
    <count of entries>
    <Merkle root of RFC 6962 over their leaves in that order, base64>
    <time of the confirmation, RFC 3339>

So whoever has the ledger's leaves, or the delivered records, can check what the collector says it has handed over, and
the collector cannot say later that it was something else. Files are of one UTC day each, `NAME.receipts-DAY.ndjson`,
and are removed after `destination.receipt_days`. They name no person.
"""

from __future__ import annotations

import base64
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from klyra_audit import timestamps
from klyra_audit.errors import Halted
from klyra_audit.format import merkle, note
from klyra_audit.format.errors import FormatError
from klyra_collector.durable_lines import append_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from klyra_audit.format.keys import SigningKey, VerifyingKey
    from klyra_collector.seal.durable import Disk
    from klyra_siem.destination import SealedEntry

HEADING: Final = "klyra-audit segment v1"

_INFIX: Final = ".receipts-"
_SUFFIX: Final = ".ndjson"


class SegmentReceiptDamaged(Halted):
    """A segment receipt is not as it was written."""

    code = "segment_receipt_damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Entries that a destination has confirmed at once.

    Attributes:
        destination: its name.
        origin: their shard.
        indexes: where their leaves stand, ascending.
        root: Merkle root over these leaves, 32 bytes.
        confirmed_us: microseconds since 1970.
    """

    destination: str
    origin: str
    indexes: tuple[int, ...]
    root: bytes
    confirmed_us: int


def segment_of(destination: str, entries: Sequence[SealedEntry], confirmed_us: int) -> Segment:
    """Return the segment that a batch is; it has at least one entry."""
    return Segment(
        destination=destination,
        origin=entries[0].origin,
        indexes=tuple(entry.index for entry in entries),
        root=root_of(entry.leaf for entry in entries),
        confirmed_us=confirmed_us,
    )


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Return the Merkle root over leaves of 112 bytes, in order."""
    return merkle.root_of(merkle.leaf_hash(leaf) for leaf in leaves)


def encode(segment: Segment, key: SigningKey) -> bytes:
    """Return the signed note of a segment."""
    lines = (
        HEADING,
        segment.destination,
        segment.origin,
        ",".join(_ranges(segment.indexes)),
        str(len(segment.indexes)),
        base64.b64encode(segment.root).decode(),
        timestamps.from_microseconds(segment.confirmed_us),
    )
    return note.sign("".join(f"{line}\n" for line in lines), [key])


def decode(encoded: bytes, key: VerifyingKey) -> Segment:
    """Return the segment that a note is about.

    Raises:
        SegmentReceiptDamaged: the key has not signed it, or it is none of this version.
    """
    try:
        return _parse(note.open_note(encoded, [key]).text)
    except (FormatError, ValueError) as error:
        raise SegmentReceiptDamaged(
            f"A segment receipt is not as it was signed: {error}.",
            remedy="Find out who has written to the cursors folder; deliveries themselves do not depend on it.",
        ) from error


def _parse(text: str) -> Segment:
    heading, destination, origin, ranges, count, root, confirmed = text.splitlines()
    indexes = tuple(_indexes(ranges))
    if heading != HEADING or len(indexes) != int(count):
        raise ValueError("it is no segment receipt of this version")
    return Segment(
        destination=destination,
        origin=origin,
        indexes=indexes,
        root=base64.b64decode(root, validate=True),
        confirmed_us=timestamps.to_nanoseconds(confirmed) // 1000,
    )


def _ranges(indexes: Iterable[int]) -> Iterator[str]:
    for _, run in itertools.groupby(enumerate(indexes), lambda pair: pair[1] - pair[0]):
        members = [index for _, index in run]
        yield str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}"


def _indexes(ranges: str) -> Iterator[int]:
    for text in ranges.split(","):
        first, _, last = text.partition("-")
        yield from range(int(first), int(last or first) + 1)


class SegmentReceipts:
    """The segment receipts of one destination, newest day last."""

    def __init__(
        self, folder: Path, name: str, disk: Disk, key: SigningKey | None, *, days: int, wall_us: Callable[[], int]
    ) -> None:
        """Prepare to write.

        Args:
            folder: of the destination's files.
            name: of the destination.
            disk: where to write.
            key: signs them; None to read only.
            days: how long a file is kept, from the end of its day.
            wall_us: present time, microseconds since 1970.
        """
        self._folder = folder
        self._name = name
        self._disk = disk
        self._key = key
        self._days = days
        self._wall_us = wall_us

    def add(self, entries: Sequence[SealedEntry]) -> None:
        """Write down that entries were confirmed; durable when this returns. Begins a day by removing old ones.

        Written before the cursor moves: a crash in between leaves a receipt, and the same batch goes again with a
        receipt of its own.
        """
        if self._key is None or not entries:
            return
        now = self._wall_us()
        line = orjson.dumps({"note": encode(segment_of(self._name, entries, now), self._key).decode()})
        path = self._folder / f"{self._name}{_INFIX}{timestamps.day_to_date(timestamps.day_of(now))}{_SUFFIX}"
        if not path.exists():
            self._forget(timestamps.day_of(now) - self._days)
        append_lines(self._disk, path, [line])

    def read(self) -> Iterator[bytes]:
        """Yield every note, oldest first; a line that a crash broke off is none."""
        for path in sorted(self._folder.glob(f"{self._name}{_INFIX}*{_SUFFIX}")):
            for line in path.read_bytes().splitlines():
                try:
                    yield orjson.loads(line)["note"].encode()
                except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
                    continue

    def _forget(self, first_day: int) -> None:
        oldest = f"{self._name}{_INFIX}{timestamps.day_to_date(first_day)}{_SUFFIX}"
        for path in self._folder.glob(f"{self._name}{_INFIX}*{_SUFFIX}"):
            if path.name < oldest:
                path.unlink(missing_ok=True)
