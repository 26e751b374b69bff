"""What each shard of a ledger says about itself: for people and programs that look at a data directory.

It reads and judges nothing; `klyra-audit verify` is what checks.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit.format import canonical, frame
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import FormatError
from klyra_audit.timestamps import MICROSECONDS
from klyra_collector.seal.files import COMMITTED
from klyra_collector.seal.shards import leaf_count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_audit.format.canonical import JsonObject
    from klyra_collector.data_directory import ShardDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOverview:
    """One shard as its files show it.

    Attributes:
        name: of its folder, which ends its origin.
        leaves: whole leaves in the file.
        committed: how many of them followers may read.
        head: the newest checkpoint, as it stands there and not verified; None before the first.
        signed_us: when it was written, microseconds since 1970; None before the first.
        opened, closed: its SHARD records; None where there is none.
        vkeys: verifier keys that it announces for itself, in order.
        kept: names of the checkpoints that are kept for good.
    """

    name: str
    leaves: int
    committed: int
    head: Checkpoint | None
    signed_us: int | None
    opened: JsonObject | None
    closed: JsonObject | None
    vkeys: tuple[str, ...]
    kept: tuple[str, ...]


def overview(shard: ShardDirectory) -> ShardOverview:
    """Look at one shard; what cannot be read is left out."""
    controls = control_documents(shard)
    roles = {document["role"]: document for document in controls if document.get("type") == "shard"}
    return ShardOverview(
        name=shard.root.name,
        leaves=leaf_count(shard),
        committed=_committed(shard.committed),
        head=read_head(shard.checkpoint),
        signed_us=int(shard.checkpoint.stat().st_mtime * MICROSECONDS) if shard.checkpoint.exists() else None,
        opened=roles.get("open"),
        closed=roles.get("close"),
        vkeys=tuple(dict.fromkeys(_vkeys(shard.root.name, controls))),
        kept=tuple(sorted(path.name for path in shard.checkpoints.glob("*") if not path.name.endswith(".new"))),
    )


def read_head(path: Path) -> Checkpoint | None:
    """Return what a checkpoint file says, without checking who signed it; None if it is missing or no checkpoint."""
    try:
        text, _, _ = path.read_text().partition("\n\n")
        return Checkpoint.parse(f"{text}\n")
    except (OSError, UnicodeDecodeError, FormatError):
        return None


def control_documents(shard: ShardDirectory) -> list[JsonObject]:
    """Return a shard's control documents in order, as far as they can be read."""
    documents: list[JsonObject] = []
    with contextlib.suppress(OSError, FormatError):  # a torn end is a commit that is being written right now
        for _, _, blob in frame.read_blob_frames(shard.control.read_bytes()):
            documents.append(canonical.parse_canonical(blob.payload))
    return documents


def _committed(path: Path) -> int:
    try:
        return int(COMMITTED.unpack(path.read_bytes())[0])
    except (OSError, struct.error):
        return 0


def _vkeys(shard: str, documents: list[JsonObject]) -> Iterator[str]:
    """Yield the keys that are named by the shard's origin; it repeats those of the shards before."""
    for document in documents:
        if document.get("type") == "key" and document["boot"] is None and document["org_ref"] is None:
            vkey: str = document["vkey"]
            if vkey.partition("+")[0].endswith(f"/{shard}"):
                yield vkey
