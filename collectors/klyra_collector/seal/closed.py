"""What later shards must know of the ones before: emitters' boots and sequences, and what was in force at the end.

It follows from a shard's leaves and control documents. So that a start need not read years of them, it is written
once, when nothing can change it any more, to `state/sequences`, and made again where that file is missing.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import orjson
import structlog

from klyra_audit.format import canonical, control, frame
from klyra_audit.format.errors import FormatError, FrameError
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.seal.carried import in_force
from klyra_collector.seal.intervals import IntervalSet
from klyra_collector.seal.state import Boot, BrokenChain, LedgerState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from klyra_audit.format.control import ControlDocument

_log = structlog.get_logger(__name__)

_LEAVES_PER_READ = 8192
_EMITTER = slice(40, 48)  # ordinal and sequence, side by side in a leaf


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedShard:
    """A shard to which nothing is added any more.

    Attributes:
        name: of its folder, which ends its origin.
        size: number of its leaves that count: all, or of a damaged shard those before the damage.
        last_us: ingest time of the last of them.
        last_ordinal: highest KEY ordinal given up to its end.
        boots: ordinal of each emitter boot announced in it.
        sequences: sequence numbers sealed in it, by boot ordinal.
        in_force: the documents that the next shard repeats.
    """

    name: str
    size: int
    last_us: int
    last_ordinal: int
    boots: Mapping[Boot, int]
    sequences: Mapping[int, IntervalSet]
    in_force: tuple[ControlDocument, ...]

    @classmethod
    def of(cls, name: str, state: LedgerState) -> Self:
        """Return what a shard's state at its end says."""
        return cls(
            name=name,
            size=state.size,
            last_us=state.last_us,
            last_ordinal=state.last_ordinal,
            boots=state.boots,
            sequences=state.sequences,
            in_force=in_force(state),
        )

    def encode(self) -> bytes:
        """Return the bytes of `state/sequences`."""
        return orjson.dumps(
            {
                "size": self.size,
                "last_us": self.last_us,
                "last_ordinal": self.last_ordinal,
                "boots": [[scope.hex(), emitter, boot, to] for (scope, emitter, boot), to in self.boots.items()],
                "sequences": [[ordinal, seen.intervals()] for ordinal, seen in self.sequences.items()],
                "in_force": [[document.KIND, document.document()] for document in self.in_force],
            }
        )

    @classmethod
    def parse(cls, name: str, encoded: bytes) -> Self:
        """Read `state/sequences`; ValueError, KeyError or TypeError if it is not what `encode` gives."""
        stored: dict[str, Any] = orjson.loads(encoded)
        return cls(
            name=name,
            size=stored["size"],
            last_us=stored["last_us"],
            last_ordinal=stored["last_ordinal"],
            boots={Boot(bytes.fromhex(scope), emitter, boot): to for scope, emitter, boot, to in stored["boots"]},
            sequences={ordinal: IntervalSet.of(intervals) for ordinal, intervals in stored["sequences"]},
            in_force=tuple(control.parse(kind, document) for kind, document in stored["in_force"]),
        )


class EarlierShards:
    """The shards before the one that is written, oldest first."""

    def __init__(self, shards: Iterable[ClosedShard] = ()) -> None:
        self.shards: list[ClosedShard] = list(shards)

    def followed_by(self, shard: ClosedShard) -> EarlierShards:
        """Return them with a shard that was closed after them, once, however often this is said."""
        return EarlierShards((*(earlier for earlier in self.shards if earlier.name != shard.name), shard))

    @property
    def last_us(self) -> int:
        """Ingest time of their last leaf, 0 without any."""
        return max((shard.last_us for shard in self.shards), default=0)

    @property
    def last_ordinal(self) -> int:
        """Highest KEY ordinal given in them."""
        return max((shard.last_ordinal for shard in self.shards), default=0)

    def ordinal(self, boot: Boot) -> int | None:
        """Return the ordinal of a boot that was announced in one of them."""
        return next((shard.boots[boot] for shard in self.shards if boot in shard.boots), None)

    def holder(self, ordinal: int, sequence: int) -> ClosedShard | None:
        """Return the shard in which an emitter's event was sealed."""
        return next((shard for shard in self.shards if sequence in shard.sequences.get(ordinal, ())), None)


class LeafFiles:
    """Leaves of any shard by their place."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger

    def leaf(self, shard: str, index: int) -> bytes:
        """Return a leaf's 112 bytes."""
        with self._path(shard).open("rb") as file:
            return os.pread(file.fileno(), LEAF_SIZE, index * LEAF_SIZE)

    def find(self, shard: str, size: int, ordinal: int, sequence: int) -> int | None:
        """Return the index of an emitter's event among the first `size` leaves; a rare, linear search."""
        wanted = ordinal.to_bytes(4) + sequence.to_bytes(4)
        for index, encoded in enumerate(read_leaves(self._path(shard), size)):
            if encoded[_EMITTER] == wanted:
                return index
        return None

    def _path(self, shard: str) -> Path:
        return ShardDirectory(self._ledger / shard).leaves


def load_closed(shard: ShardDirectory, derived: Path, size: int) -> ClosedShard:
    """Return what is known of a shard of which `size` leaves count, from the file made of it or else from its leaves.

    A closed shard that cannot be read to its end does not keep the collector from sealing: what stands behind the
    damage is not recognised when it is sent again, and is sealed again.
    """
    name = shard.root.name
    try:
        stored = ClosedShard.parse(name, derived.read_bytes())
    except (FileNotFoundError, ValueError, KeyError, TypeError, FormatError):
        stored = None
    if stored is not None and stored.size == size:
        return stored
    state, problem = replay(shard, size)
    if problem is not None:
        _log.error("closed_shard_damaged", shard=name, record=state.size, of=size, reason=problem)
    return ClosedShard.of(name, state)


def replay(shard: ShardDirectory, size: int) -> tuple[LedgerState, str | None]:
    """Return the state after a shard's first leaves, without looking at bodies, and what stopped it before `size`."""
    state = LedgerState()
    try:
        controls = dict(_controls(shard))
        for encoded in read_leaves(shard.leaves, size):
            apply(state, encoded, controls)
    except (OSError, FormatError, BrokenChain) as error:
        return state, str(error)
    except KeyError:
        return state, "its control document is missing"
    return state, None if state.size == size else "it is missing"


def apply(state: LedgerState, encoded: bytes, controls: Mapping[int, bytes]) -> Leaf:
    """Advance a state by a leaf and, if it has one, its control document.

    Raises:
        FormatError, BrokenChain: the leaf cannot be read or does not continue.
        KeyError: its control document is not there.
    """
    index = state.size
    leaf = Leaf.unpack(encoded)
    payload = None if Kind(leaf.kind).has_body else controls[index]
    state.apply_leaf(encoded, leaf)
    if payload is not None:
        state.apply_control(leaf.kind, canonical.parse_canonical(payload), index)
    return leaf


def read_leaves(path: Path, size: int) -> Iterator[bytes]:
    """Yield the first `size` leaves of a file, as far as they are there."""
    with path.open("rb") as file:
        for start in range(0, size, _LEAVES_PER_READ):
            block = file.read(min(_LEAVES_PER_READ, size - start) * LEAF_SIZE)
            for offset in range(0, len(block) - LEAF_SIZE + 1, LEAF_SIZE):
                yield block[offset : offset + LEAF_SIZE]


def _controls(shard: ShardDirectory) -> Iterator[tuple[int, bytes]]:
    with contextlib.suppress(FrameError):  # what is needed and not read is noticed when its leaf comes
        for _, _, blob in frame.read_blob_frames(shard.control.read_bytes()):
            yield blob.index, blob.payload
