"""Change files of a ledger as somebody with access to them could, and read what verification says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klyra_audit.format import frame
from klyra_audit.format.leaf import LEAF_SIZE
from klyra_collector.verify import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klyra_collector.verify import Report


def found(report: Report) -> set[tuple[str, int | None, int | None]]:
    """Return (verdict, first, last) of every finding of the only shard."""
    (shard,) = report.shards
    return {(finding.verdict.value, finding.first, finding.last) for finding in shard.findings}


def at(verdict: Verdict, first: int, last: int | None = None) -> tuple[str, int | None, int | None]:
    """Return what `found` has of a record, or of a range of records."""
    return verdict.value, first, first if last is None else last


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


def split_leaves(path: Path) -> list[bytes]:
    """Return the leaves of a file, one by one."""
    content = path.read_bytes()
    return [content[start : start + LEAF_SIZE] for start in range(0, len(content), LEAF_SIZE)]


def split_frames(path: Path) -> list[bytes]:
    """Return the frames of a file, one by one."""
    content = path.read_bytes()
    read = frame.read_body_frames if content.startswith(frame.BODY_MAGIC) else frame.read_blob_frames
    return [content[start:end] for start, end, _ in read(content)]


def indexes(path: Path) -> list[int]:
    """Return the indexes of the frames of a file."""
    content = path.read_bytes()
    read = frame.read_body_frames if content.startswith(frame.BODY_MAGIC) else frame.read_blob_frames
    return [item.index for _, _, item in read(content)]


def change_frames(path: Path, change: Callable[[list[bytes]], object]) -> None:
    """Rewrite a file of frames after `change` has worked on the list of them."""
    frames = split_frames(path)
    change(frames)
    path.write_bytes(b"".join(frames))


def change_leaves(path: Path, change: Callable[[list[bytes]], object]) -> None:
    """Rewrite `leaves` after `change` has worked on the list of them."""
    leaves = split_leaves(path)
    change(leaves)
    path.write_bytes(b"".join(leaves))


def swap(items: list[bytes], one: int, other: int) -> None:
    """Exchange two items."""
    items[one], items[other] = items[other], items[one]
