"""Where an emitter's events stand in the ledger, by their place in its sequence; read beside the writer, without locks.

An emitter's sequence runs nearly in step with the ledger. So of each boot that is asked for, this remembers which
sequence numbers lie between which leaves, in stretches of some thousand, and looks the rest up in the leaves
themselves. Nothing is written: after a start the first question reads a boot's leaves once, from the record on that
announces it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson

from klyra_audit.format.leaf import LEAF_SIZE
from klyra_audit.format.sections import OPERATOR_REFERENCE
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.seal.state import Boot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STRETCH_LEAVES: Final = 4096
REMEMBERED_BOOTS: Final = 1024

_ORDINAL = slice(40, 44)
_SEQUENCE = slice(44, 48)
_LAST_OF_ORDINAL: Final = 43
_CONTROLS_PER_READ: Final = 1000


@dataclass(frozen=True, slots=True)
class Placed:
    """A record of an emitter: the shard's origin, the index of its leaf, and the leaf's 112 bytes."""

    origin: str
    index: int
    leaf: bytes


@dataclass(frozen=True, slots=True)
class _Announced:
    """A boot's KEY record: the ordinal it gives, and where it stands."""

    ordinal: int
    index: int


@dataclass(slots=True)
class _Stretch:
    """Leaves `begin` to before `end`, with the least and the greatest sequence number of one boot among them."""

    begin: int
    end: int
    least: int
    greatest: int


@dataclass(slots=True)
class _Announcements:
    """The boots announced in a shard, and up to which record that was read."""

    read: int = 0
    boots: dict[Boot, _Announced] = field(default_factory=dict)


@dataclass(slots=True)
class _Scanned:
    """The stretches of one boot in one shard, and up to which leaf they reach."""

    read: int
    stretches: list[_Stretch] = field(default_factory=list)


class EmitterPlaces:
    """Finds emitters' records. Not thread-safe: each asker has its own.

    Raises from its methods:
        LedgerDamaged: a committed record cannot be read.
    """

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._reader = LedgerReader(ledger)
        self._announcements: dict[str, _Announcements] = {}
        self._scanned: OrderedDict[tuple[str, int], _Scanned] = OrderedDict()

    def find(self, boot: Boot, first: int, count: int) -> dict[int, Placed]:
        """Return the records of a boot from sequence number `first` on, as far as they are committed, by number."""
        found: dict[int, Placed] = {}
        for origin in reversed(self._reader.origins()):
            committed = self._reader.committed(origin)
            announced = self._announced(origin, boot, committed)
            if announced is not None:
                self._find_in(origin, announced, committed, range(first, first + count), found)
            if len(found) == count:
                break
        return found

    def close(self) -> None:
        """Close all files."""
        self._reader.close()

    def _announced(self, origin: str, boot: Boot, committed: int) -> _Announced | None:
        known = self._announcements.setdefault(origin, _Announcements())
        while known.read < committed:
            controls = self._reader.controls(origin, known.read, _CONTROLS_PER_READ)
            for index, payload in controls:
                named = _boot_of(payload)
                if named is not None:
                    known.boots.setdefault(named[0], _Announced(named[1], index))
            known.read = controls[-1][0] + 1 if len(controls) == _CONTROLS_PER_READ else committed
        return known.boots.get(boot)

    def _find_in(
        self, origin: str, announced: _Announced, committed: int, wanted: range, found: dict[int, Placed]
    ) -> None:
        ordinal = announced.ordinal.to_bytes(4)
        for stretch in self._scan(origin, announced, committed):
            if stretch.least < wanted.stop and wanted.start <= stretch.greatest:
                for index, leaf in self._leaves_of(origin, stretch.begin, stretch.end, ordinal):
                    sequence = int.from_bytes(leaf[_SEQUENCE])
                    if sequence in wanted:
                        found.setdefault(sequence, Placed(origin, index, leaf))

    def _scan(self, origin: str, announced: _Announced, committed: int) -> list[_Stretch]:
        """Return the stretches of a boot, up to what is committed."""
        key = (origin, announced.ordinal)
        scanned = self._scanned.setdefault(key, _Scanned(announced.index))
        self._scanned.move_to_end(key)
        if len(self._scanned) > REMEMBERED_BOOTS:
            self._scanned.popitem(last=False)
        ordinal = announced.ordinal.to_bytes(4)
        while scanned.read < committed:
            end = min(committed, scanned.read + STRETCH_LEAVES)
            numbers = [
                int.from_bytes(leaf[_SEQUENCE]) for _, leaf in self._leaves_of(origin, scanned.read, end, ordinal)
            ]
            if numbers:
                _extend(scanned.stretches, _Stretch(scanned.read, end, min(numbers), max(numbers)))
            scanned.read = end
        return scanned.stretches

    def _leaves_of(self, origin: str, begin: int, end: int, ordinal: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the leaves of an emitter among those from `begin` to before `end`, with their indexes."""
        with ShardDirectory(self._ledger / origin.rpartition("/")[2]).leaves.open("rb") as file:
            file.seek(begin * LEAF_SIZE)
            block = file.read((end - begin) * LEAF_SIZE)
        # One byte of each leaf, put side by side, tells most of the others' leaves apart without looking at them.
        last_bytes = block[_LAST_OF_ORDINAL::LEAF_SIZE]
        place = last_bytes.find(ordinal[-1])
        while place >= 0:
            leaf = block[place * LEAF_SIZE : (place + 1) * LEAF_SIZE]
            if leaf[_ORDINAL] == ordinal and len(leaf) == LEAF_SIZE:
                yield begin + place, leaf
            place = last_bytes.find(ordinal[-1], place + 1)


def _extend(stretches: list[_Stretch], more: _Stretch) -> None:
    """Add a stretch; a short one behind a short one is made one with it, or each question would leave one."""
    last = stretches[-1] if stretches else None
    if last is None or last.end != more.begin or more.end - last.begin > STRETCH_LEAVES:
        stretches.append(more)
        return
    last.end = more.end
    last.least, last.greatest = min(last.least, more.least), max(last.greatest, more.greatest)


def _boot_of(payload: bytes) -> tuple[Boot, int] | None:
    """Return which boot a control document announces, and its ordinal; None if it announces none."""
    if b'"type":"key"' not in payload:
        return None
    document = orjson.loads(payload)
    if document.get("boot") is None:
        return None
    scope = OPERATOR_REFERENCE if document["org_ref"] is None else bytes.fromhex(document["org_ref"])
    return Boot(scope, document["emitter_id"], document["boot"]), document["ordinal"]
