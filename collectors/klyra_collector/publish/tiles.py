"""Write a published shard as the static tree that a C2SP tlog-tiles client reads: `checkpoint`, `tile/…`.

Each file appears whole under its name: it is written beside it and moved there. A full tile never changes, so a
second run, or one after a crash, writes only what is not there yet. The checkpoint comes last: a reader that sees it
finds everything that it covers, and an export that broke off shows the one before.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from klyra_audit.errors import Rejected
from klyra_audit.format.tile import tiles_of
from klyra_collector.publish.published import head_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klyra_audit.format.checkpoint import Checkpoint
    from klyra_collector.publish.published import PublishedShard

CHECKPOINT: Final = "checkpoint"

_UNFINISHED: Final = ".new"
_TOLD_EVERY: Final = 256


class AnotherLog(Rejected):
    """The directory holds the tree of another log, or of a newer state of this one."""

    code = "another_log"


def export_tiles(shard: PublishedShard, target: Path, progress: Callable[[int, int], None]) -> int:
    """Bring a static tree up to the published checkpoint.

    Args:
        shard: what to write.
        target: the tree's directory; made if it is not there.
        progress: called with how many of how many files were looked at.

    Returns:
        How many files were written.

    Raises:
        AnotherLog: the directory is some other log's.
        LedgerDamaged: the shard cannot be read.
    """
    checkpoint = shard.checkpoint()
    head = shard.parse(checkpoint)
    before = _exported_before(target, head)
    tiles = list(tiles_of(head.size))
    written = 0
    for number, tile in enumerate(tiles, 1):
        if not (tile.is_published_at(before) and (target / tile.path).exists()):
            written += _write(target / tile.path, shard.tile(tile, head.size))
        if number % _TOLD_EVERY == 0 or number == len(tiles):
            progress(number, len(tiles))
    if before == head.size and not written and (target / CHECKPOINT).read_bytes() == checkpoint:
        return 0
    # Tiles before the checkpoint: after a crash between the two, what the older checkpoint covers is whole, and
    # everything behind it is compared again.
    os.sync()
    return written + _write(target / CHECKPOINT, checkpoint)


def _exported_before(target: Path, head: Checkpoint) -> int:
    """Return how many leaves an earlier run has brought there for certain."""
    path = target / CHECKPOINT
    if not path.exists():
        return 0
    present = head_of(path.read_bytes(), path)
    if present.origin != head.origin or present.size > head.size:
        raise AnotherLog(
            f"{target} holds {present.size} leaves of {present.origin}, which is no earlier state of {head.origin}.",
            remedy="Name an empty directory, or the one that this log was exported to before.",
        )
    return present.size


def _write(path: Path, content: bytes) -> int:
    """Write a file that appears whole; return 1, or 0 if it is there as it should be."""
    if path.exists() and path.read_bytes() == content:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + _UNFINISHED)
    unfinished.write_bytes(content)
    unfinished.replace(path)
    return 1
