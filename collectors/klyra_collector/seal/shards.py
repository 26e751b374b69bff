"""Which shard is written, which came before it, and what the first records of a new one are (DESIGN section 5).

A year ends in five durable steps. A crash after each of them leaves:

1. the next shard's key: a key that nobody has heard of; the next start draws no other.
2. HEADS and SHARD close, in one commit: a closed shard, perhaps without a checkpoint over its end, and no next one.
   (If only part of it reached the disk, that is cut: the shard is open still, and is closed by the next commit.)
3. the checkpoint over the close, kept as `checkpoints/close`: as before, but final.
4. `state/sequences`: as before; the file follows from the leaves and is made again if it is missing.
5. the next shard's folder, then its first commit: SHARD open, START and what is repeated. A folder without a leaf is
   nothing: the closed shard is still the newest, and the next start opens the folder again. Some of the first records
   without the others are part of a commit: the next start cuts them, says so in START, and opens the folder again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from klyra_audit.format.control import Key, SchemaRecord
from klyra_audit.format.leaf import LEAF_SIZE
from klyra_audit.timestamps import MICROSECONDS
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.seal.carried import not_repeated
from klyra_collector.seal.closed import EarlierShards, load_closed
from klyra_collector.seal.consent import read_consent
from klyra_collector.seal.reader import shard_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from klyra_audit.format.control import ControlDocument, ShardOpen, Start
    from klyra_collector.data_directory import DataDirectory
    from klyra_collector.seal.state import LedgerState

CLOSE = "close"  # name of the kept checkpoint over a shard's end


class FoundShards(NamedTuple):
    """The shards of a data directory: those before the one to be written, oldest first, and that one."""

    earlier: tuple[ShardDirectory, ...]
    current: ShardDirectory


def shards_of(data: DataDirectory) -> list[ShardDirectory]:
    """Return every shard folder of a data directory, oldest first, also one that has no leaf yet."""
    if not data.ledger.exists():
        return []
    folders = [path for path in data.ledger.iterdir() if path.is_dir() and path.name[0].isdigit()]
    return [ShardDirectory(path) for path in sorted(folders, key=shard_order)]


def find_shards(data: DataDirectory, now_us: int) -> FoundShards:
    """Return which shard is to be written: the newest that was begun; in an empty ledger that of the year."""
    shards = shards_of(data)
    begun = [shard for shard in shards if _has_begun(shard)]
    if not begun:
        return FoundShards((), shards[-1] if shards else ShardDirectory(data.ledger / str(year_of(now_us))))
    return FoundShards(tuple(shards[: shards.index(begun[-1])]), begun[-1])


def load_earlier(found: FoundShards) -> EarlierShards:
    """Return what is known of the shards before the current one; `LedgerDamaged` if a consent cannot be read."""
    loaded = []
    for shard, following in pairwise((*found.earlier, found.current)):
        consent = read_consent(following)
        if consent is None:
            loaded.append(load_closed(shard, shard.sequences, leaf_count(shard)))
        else:
            loaded.append(load_closed(shard, following.sequences_of(shard.root.name), consent.readable))
    return EarlierShards(loaded)


def leaf_count(shard: ShardDirectory) -> int:
    """Return how many whole leaves a shard's file has."""
    return shard.leaves.stat().st_size // LEAF_SIZE if shard.leaves.exists() else 0


def year_of(microseconds: int) -> int:
    """Return the UTC year of a time."""
    return datetime.fromtimestamp(microseconds / MICROSECONDS, UTC).year


def shard_year(shard: ShardDirectory) -> int:
    """Return the year that a shard is for."""
    return int(shard.root.name.partition("-")[0])


def year_start_us(year: int) -> int:
    """Return when a UTC year begins, in microseconds since 1970."""
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * MICROSECONDS


def first_documents(
    state: LedgerState,
    *,
    opened: ShardOpen | None,
    start: Start,
    earlier: EarlierShards,
    vkeys: Sequence[str],
    collector_id: str,
    schemas: Mapping[str, str],
) -> Iterator[ControlDocument]:
    """Yield what a start seals before anything else: START, and whatever the shard does not say yet.

    Args:
        state: of the shard; advanced by each document before the next one is asked for.
        opened: the SHARD record of a shard that goes on from another and has no leaf yet.
        start: this start.
        earlier: the shards before this one.
        vkeys: keys of the collector to announce.
        collector_id: whose they are.
        schemas: SHA-256 hex of every schema of this software, by id.
    """
    if opened is not None and state.size == 0:
        yield opened
    yield start
    if earlier.shards:
        yield from not_repeated(earlier.shards[-1].in_force, state)
    for vkey in vkeys:
        if vkey not in state.collector_vkeys:
            yield Key(state.last_ordinal + 1, collector_id, None, vkey, None)
    for schema_id, digest in sorted(schemas.items()):
        if state.schemas.get(schema_id) != digest:
            yield SchemaRecord(schema_id, bytes.fromhex(digest))


def _has_begun(shard: ShardDirectory) -> bool:
    """Say whether a folder is more than what a crash left of opening it.

    What was signed counts too: a shard whose leaves are gone must be refused, not opened anew.
    """
    return leaf_count(shard) > 0 or shard.last_signed.exists() or shard.consent.exists()
