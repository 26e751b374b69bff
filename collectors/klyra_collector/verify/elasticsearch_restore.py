"""Write the records of a ledger out of `klyra-audit-ledger`, as files that can be verified like any others.

(1) Leaves and control documents, bundle by bundle, up to the first that is not there.
(2) The heads kept in the index that a key of the policy has signed, or one that the records themselves announce.
(3) Nothing behind the newest of these heads: whoever can write the index could have added it.
(4) The hashes over what is left.

What these files are worth is for verification to say: nothing here is believed.
"""

from __future__ import annotations

import re
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from klyra_audit.format import control, note
from klyra_audit.format.canonical import parse_canonical
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.control import ShardClose
from klyra_audit.format.errors import FormatError
from klyra_audit.format.frame import BlobFrame, encode_blob
from klyra_audit.format.keys import VerifyingKey
from klyra_audit.format.leaf import LEAF_SIZE, Kind
from klyra_audit.format.merkle import HASH_SIZE
from klyra_collector.verify import tiles
from klyra_collector.verify.elasticsearch_ledger import LEDGER_INDEX
from klyra_collector.verify.errors import CannotVerify
from klyra_collector.verify.files import open_or_empty
from klyra_collector.verify.heads import MAX_KEPT, SignedHead
from klyra_collector.verify.keyring import read_ring
from klyra_collector.verify.layout import find_shards, shard_order
from klyra_collector.verify.tiles import TILE_BYTES, TILE_LEAVES
from klyra_collector.verify.walk import BlobWalker, Damage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klyra_audit.format.policy import Policy
    from klyra_collector.verify.elasticsearch_ledger import KeptNote, LedgerIndex
    from klyra_collector.verify.keyring import KeyRing
    from klyra_collector.verify.layout import ShardFolder

_ORIGIN: Final = re.compile(r"(.+/)(\d{4}(?:-\d{1,4})?)", re.ASCII)
_LEAVES_PER_READ: Final = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredShard:
    """What was written of one shard.

    Attributes:
        origin: of the shard.
        size: number of records written, all of which the newest head covers; without a head, of those in the index.
        found: number of records in the index.
        head: the newest head that a known key has signed; None without any.
    """

    origin: str
    size: int
    found: int
    head: Checkpoint | None

    @property
    def name(self) -> str:
        """Of the shard's folder."""
        return self.origin.rpartition("/")[2]


def restore_records(
    index: LedgerIndex, target: Path, *, collector: str | None = None, policy: Policy | None = None
) -> list[RestoredShard]:
    """Write everything but bodies of all shards of one collector.

    Args:
        index: what is kept of them.
        target: an empty folder, which becomes a data directory without keys.
        collector: `<ledger name>/<collector id>`; None for the only one there is.
        policy: whose keys sign heads; None to take those that the records announce.

    Raises:
        CannotVerify: the index cannot be read; `no_ledger`: it has nothing of that collector. `many_ledgers`: it has
            those of several, and none was named.
    """
    origins = _origins(index.sizes(), collector)
    found = {origin: _write_records(index, origin, _folder(target, origin)) for origin in origins}
    restored = []
    inherited: list[VerifyingKey] = []
    for folder, origin in zip(find_shards(target), origins, strict=True):
        head = _write_heads(index.notes(origin), folder, policy, inherited)
        inherited = _next_keys(folder)
        size = found[origin] if head is None else min(found[origin], head.size)
        _truncate(folder.leaves, size * LEAF_SIZE)
        folder.committed.write_bytes(size.to_bytes(8))
        _write_hashes(folder)
        restored.append(RestoredShard(origin=origin, size=size, found=found[origin], head=head))
    return restored


def collector_of(origin: str) -> str:
    """Return `<ledger name>/<collector id>` of a shard's origin."""
    return origin.rpartition("/")[0]


def _origins(sizes: Iterable[str], collector: str | None) -> list[str]:
    """Return the origins of one collector's shards, oldest first."""
    known = [matched for matched in map(_ORIGIN.fullmatch, sizes) if matched is not None]
    collectors = sorted({matched[1].removesuffix("/") for matched in known})
    if collector is None and len(collectors) > 1:
        raise CannotVerify(
            f"{LEDGER_INDEX} keeps the ledgers of {len(collectors)} collectors: {', '.join(collectors[:10])}.",
            code="many_ledgers",
            remedy="Name one of them with --collector.",
        )
    mine = [matched for matched in known if matched[1] == f"{collector or ''.join(collectors)}/"]
    if not mine:
        raise CannotVerify(
            f"{LEDGER_INDEX} keeps no ledger{f' of {collector}' if collector else ''}.",
            code="no_ledger",
            remedy="Give the address of the cluster that the collector writes to, and a key that may read that index.",
        )
    return [matched[0] for matched in sorted(mine, key=lambda matched: shard_order(Path(matched[2])))]


def _folder(target: Path, origin: str) -> Path:
    return target / "ledger" / origin.rpartition("/")[2]


def _write_records(index: LedgerIndex, origin: str, folder: Path) -> int:
    """Write leaves and control documents; return how many leaves there are."""
    control = folder / "control" / "frames"
    control.parent.mkdir(parents=True)
    end = 0
    with (folder / "leaves").open("xb") as leaves, control.open("xb") as frames:
        for bundle in index.bundles(origin):
            leaves.write(bundle.leaves)
            frames.writelines(encode_blob(BlobFrame(place, document)) for place, document in bundle.controls)
            end = bundle.end
    return end


def _write_heads(
    notes: Iterable[KeptNote], folder: ShardFolder, policy: Policy | None, inherited: list[VerifyingKey]
) -> Checkpoint | None:
    """Write the heads that a trusted key has signed; return the newest of them.

    Args:
        notes: by ascending size.
        folder: of the shard, whose control documents are there.
        policy: see `restore_records`.
        inherited: keys that the shard before has named for this one.
    """
    ring, _ = read_ring(folder, policy, inherited)
    heads: deque[SignedHead] = deque(maxlen=MAX_KEPT)
    for number, kept in enumerate(notes):
        head = _opened(kept.encoded, folder.checkpoints / f"{kept.size}-{number}", ring)
        if head is not None and head.checkpoint.origin.rpartition("/")[2] == folder.root.name:
            heads.append(head)
    ring.vouch(heads)
    trusted = [head for head in heads if ring.signer(head) is not None]
    folder.checkpoints.mkdir()
    folder.state.mkdir()
    for head in trusted:
        head.path.write_bytes(head.encoded)
    newest = max(trusted, key=lambda head: head.checkpoint.size, default=None)
    if newest is None:
        return None
    folder.last_signed.write_bytes(newest.encoded)
    folder.checkpoint.write_bytes(newest.encoded)
    return newest.checkpoint


def _opened(encoded: bytes, path: Path, ring: KeyRing) -> SignedHead | None:
    """Return a head that a known key has signed, None for any other."""
    try:
        opened = note.open_note(encoded, ring.known)
        return SignedHead(path, Checkpoint.parse(opened.text), encoded, opened.signed_by, {}, None)
    except FormatError:
        return None


def _next_keys(folder: ShardFolder) -> list[VerifyingKey]:
    """Return the key that the record at the end of a shard names for the next one; what it is worth shows later."""
    with open_or_empty(folder.control) as file:
        for _, _, item in BlobWalker(file).walk(0, file.size):
            if not isinstance(item, Damage) and b'"next_vkey"' in item.payload:
                with suppress(FormatError):
                    closing = control.parse(Kind.SHARD, parse_canonical(item.payload))
                    return [VerifyingKey.parse(closing.next_vkey)] if isinstance(closing, ShardClose) else []
    return []


def _write_hashes(folder: ShardFolder) -> None:
    """Write the hashes of every tile level (C2SP tlog-tiles), which follow from the leaves."""
    level, count = 0, _write_leaf_hashes(folder)
    while count >= TILE_LEAVES:
        with folder.hashes(level).open("rb") as below, folder.hashes(level + 1).open("xb") as above:
            for _ in range(count // TILE_LEAVES):
                above.write(tiles.tile_root(below.read(TILE_BYTES)))
        level, count = level + 1, count // TILE_LEAVES


def _write_leaf_hashes(folder: ShardFolder) -> int:
    folder.hashes(0).parent.mkdir()
    with folder.leaves.open("rb") as leaves, folder.hashes(0).open("xb") as hashes:
        while block := leaves.read(_LEAVES_PER_READ * LEAF_SIZE):
            hashes.write(tiles.leaf_hashes(block))
        return hashes.tell() // HASH_SIZE


def _truncate(path: Path, length: int) -> None:
    with path.open("r+b") as file:
        file.truncate(length)
