"""Whole records written behind the end of a stopped ledger by hand, as anybody can who may write its files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from klyra_audit.format import control, frame, sections
from klyra_audit.format.frame import BlobFrame, BodyFrame
from klyra_audit.format.leaf import LEAF_SIZE, NEVER, Flag, Kind, Leaf
from klyra_audit.format.merkle import leaf_hash
from klyra_audit.timestamps import day_of
from klyra_collector.data_directory import DataDirectory, ShardDirectory

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.stages import Record


def shard_of(root: Path) -> ShardDirectory:
    """Return the only shard of a data directory."""
    (folder,) = (path for path in DataDirectory(root).ledger.iterdir() if path.is_dir() and path.name[0].isdigit())
    return ShardDirectory(folder)


def append_event(root: Path, record: Record, retention_days: int = 30) -> int:
    """Append an event that nobody sent: its body, its leaf, the committed size; return its index."""
    leaves = leaves_of(root)
    ingest_us = Leaf.unpack(leaves[-1]).ingest_us
    org_ref = _reference(root, record.tenancy.organization_id)
    expire_day = day_of(ingest_us) + 1 + retention_days
    body = BodyFrame(len(leaves), record.sections, record.salts, record.commitments)
    _append(shard_of(root).bodies / str(expire_day) / "frames", frame.encode_body(body))
    flags = 0 if record.sections.actor is None else Flag.HAS_ACTOR.value
    flags |= 0 if record.sections.target is None else Flag.HAS_TARGET.value
    return _append_leaf(root, Kind.EVENT, flags, expire_day, org_ref, record.commitments.event_commit())


def append_erasure(root: Path, organization_id: str) -> int:
    """Append an ERASURE of every actor that an organization's events name, and zero those actors; return its index."""
    org_ref = _reference(root, organization_id)
    sealed = [Leaf.unpack(encoded) for encoded in leaves_of(root)]
    mine = {at: leaf for at, leaf in enumerate(sealed) if leaf.org_ref == org_ref and leaf.flags & Flag.HAS_ACTOR}
    for path in shard_of(root).bodies.glob("*/frames"):
        bodies = [body for _, _, body in frame.read_body_frames(path.read_bytes())]
        path.write_bytes(
            b"".join(frame.encode_body(_nameless(body) if body.index in mine else body) for body in bodies)
        )
    sequences = control.to_ranges(sorted(leaf.org_seq for leaf in mine.values()))
    erasure = control.Erasure(org_ref, sequences, (), "art17", day_of(sealed[-1].ingest_us), None)
    encoded = erasure.encode()
    _append(shard_of(root).control, frame.encode_blob(BlobFrame(len(sealed), encoded)))
    return _append_leaf(root, Kind.ERASURE, 0, NEVER, org_ref, sections.control_commit(encoded))


def leaves_of(root: Path) -> list[bytes]:
    """Return every leaf in the shard's file."""
    content = shard_of(root).leaves.read_bytes()
    return [content[start : start + LEAF_SIZE] for start in range(0, len(content), LEAF_SIZE)]


def _append_leaf(root: Path, kind: Kind, flags: int, expire_day: int, org_ref: bytes, commit: bytes) -> int:
    """Append a leaf that continues everything there is to continue."""
    leaves = leaves_of(root)
    chain = [encoded for encoded in leaves if Leaf.unpack(encoded).org_ref == org_ref]
    previous = leaf_hash(chain[-1]) if chain else bytes(32)
    ingest_us = Leaf.unpack(leaves[-1]).ingest_us
    leaf = Leaf(kind, flags, expire_day, org_ref, len(chain), ingest_us, 0, 0, previous, commit)
    _append(shard_of(root).leaves, leaf.pack())
    shard_of(root).committed.write_bytes((len(leaves) + 1).to_bytes(8))
    return len(leaves)


def _nameless(body: BodyFrame) -> BodyFrame:
    """Return a body whose actor is erased."""
    parts = replace(body.sections, actor=bytes(len(body.sections.actor or b"")))
    return replace(body, sections=parts, salts=replace(body.salts, actor=bytes(16)))


def _reference(root: Path, organization_id: str) -> bytes:
    return sections.organization_reference((root / "keys/org-salt").read_bytes(), organization_id)


def _append(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(content)
