"""Proofs out of a large published ledger: `run.py --published 10000000`."""

from __future__ import annotations

import os
import random
import statistics
import time
from typing import TYPE_CHECKING

from klyra_audit.format import checkpoint, merkle
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.merkle import Frontier
from klyra_audit.format.tile import Tile
from klyra_collector.publish.published import PublishedLedger, PublishedShard
from support.ledgers import ORIGIN, SHARD, put, signing_key
from support.published import chained

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_BLOCK = 65_536  # leaves that are repeated: so the files are written as fast as the disk takes them
_ROUNDS = 200


def published(root: Path, leaves: int, say: Callable[[str], None]) -> None:
    """Write the files of a shard of at least so many leaves, then time what readers ask for."""
    began = time.perf_counter()
    shard = _write(root, -(-leaves // _BLOCK))
    size = shard.head().size
    say(f"\npublished ledger of {size:,} leaves, {_ROUNDS} reads each (written in {time.perf_counter() - began:.1f} s)")
    chosen = random.Random(1)  # noqa: S311 - the same places on every run
    for name, read in (
        ("proof of one entry", lambda: shard.proof(chosen.randrange(size)).encode()),
        ("consistency proof", lambda: shard.consistency_proof(chosen.randrange(1, size))),
        ("full tile of hashes", lambda: shard.tile(Tile(0, chosen.randrange(size // 256)))),
        ("entry bundle", lambda: shard.tile(Tile(-1, chosen.randrange(size // 256)))),
    ):
        times = sorted(_time(read) for _ in range(_ROUNDS))
        say(f"  {statistics.median(times) * 1e3:8.3f} ms p50, {times[-1] * 1e3:.3f} ms max  {name}")


def _time(read: Callable[[], object]) -> float:
    began = time.perf_counter()
    read()
    return time.perf_counter() - began


def _write(root: Path, blocks: int) -> PublishedShard:
    """Write a shard that repeats one block of leaves, each block the same perfect subtree."""
    shard = root / "ledger" / SHARD
    leaf_of = chained()
    block = [leaf_of(index) for index in range(_BLOCK)]
    frontier = Frontier()
    for leaf in block:
        frontier.append(merkle.leaf_hash(leaf))
    levels = frontier.take_tile_hashes()
    _repeat(shard / "leaves", b"".join(block), blocks)
    for level, hashes in levels.items():
        _repeat(shard / "hashes" / str(level), hashes, blocks)
    for level in range(max(levels) + 1, 8):  # above one block there are whole levels only if there are 256 of them
        above = _parents((shard / "hashes" / str(level - 1)).read_bytes())
        if above:
            put(shard / "hashes" / str(level), above)
        else:
            break
    size = blocks * _BLOCK

    def read(level: int, first: int, count: int) -> bytes:
        with (shard / "hashes" / str(level)).open("rb") as file:
            return os.pread(file.fileno(), count * 32, first * 32)

    head = Checkpoint(ORIGIN, size, merkle.root_from(read, size))
    put(shard / "checkpoint", checkpoint.sign(head, signing_key()))
    return PublishedLedger(root / "ledger").current()


def _repeat(path: Path, content: bytes, times: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for _ in range(times):
            file.write(content)


def _parents(hashes: bytes) -> bytes:
    """Return the roots of the full tiles of a level."""
    nodes = [hashes[at : at + 32] for at in range(0, len(hashes) // 8192 * 8192, 32)]
    return b"".join(merkle.root_of(nodes[at : at + 256]) for at in range(0, len(nodes), 256))
