"""Read what a ledger has published: checkpoint, tiles, entry bundles and proofs (DESIGN section 5).

A tile or a bundle, partial ones too, is a byte range of the flat files `hashes/<L>` and `leaves`. Nothing beyond the
published checkpoint is ever given out. Every read is by position and takes no lock, so any process may read while the
collector writes: it appends hashes before it replaces `checkpoint`, so that whatever a checkpoint covers is there.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import orjson

from klyra_audit.format import merkle
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import FormatError
from klyra_audit.format.leaf import LEAF_SIZE
from klyra_audit.format.merkle import HASH_SIZE
from klyra_audit.format.proof import TlogProof
from klyra_audit.format.tile import ENTRIES, bundle
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.errors import LedgerDamaged
from klyra_collector.publish.errors import NoSuchLog, NotPublished
from klyra_collector.seal.reader import shard_order

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_audit.format.tile import Tile

_SHARD = re.compile(r"\d{4}(?:-\d{1,4})?", re.ASCII)
_REMEDY = "See what is wrong with: klyra-audit verify; then restore the file from a copy."
_LATER = "Fetch the checkpoint again and ask for what it covers."


class PublishedLedger:
    """All shards of one collector's ledger. Safe to share between threads: it holds no open file.

    Args:
        ledger: the directory of shards.
    """

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger

    def collector_id(self) -> str:
        """Return whose ledger it is; `NoSuchLog` before the first start."""
        try:
            return str(orjson.loads((self._ledger / "identity.json").read_bytes())["collector_id"])
        except FileNotFoundError as error:
            raise NoSuchLog("There is no ledger here.", remedy="Start the collector once.") from error
        except (orjson.JSONDecodeError, KeyError) as error:
            raise LedgerDamaged(f"{self._ledger / 'identity.json'} cannot be read.", remedy=_REMEDY) from error

    def shards(self) -> list[PublishedShard]:
        """Return the shards that have a published checkpoint, oldest first."""
        if not self._ledger.is_dir():
            return []
        folders = [path for path in self._ledger.iterdir() if _SHARD.fullmatch(path.name)]
        shards = [ShardDirectory(path) for path in sorted(folders, key=shard_order)]
        return [PublishedShard(shard) for shard in shards if shard.checkpoint.exists()]

    def shard(self, name: str) -> PublishedShard:
        """Return a shard by its name, such as `2026`; `NoSuchLog` if nothing of it is published."""
        # Looked for among those there are: a name from outside never becomes part of a path.
        found = next((shard for shard in self.shards() if shard.name == name), None)
        if found is None:
            raise NoSuchLog("There is no such shard here.", remedy="See which there are: klyra-audit ledger show.")
        return found

    def current(self) -> PublishedShard:
        """Return the newest shard; `NoSuchLog` before the first checkpoint."""
        shards = self.shards()
        if not shards:
            raise NoSuchLog(
                "Nothing is published yet.", remedy="Wait for the first checkpoint; one is signed a second."
            )
        return shards[-1]

    def of_origin(self, origin: str) -> PublishedShard:
        """Return the shard that is the log `origin`; `NoSuchLog` if it is another collector's."""
        shard = self.shard(origin.rpartition("/")[2])
        if shard.head().origin != origin:
            raise NoSuchLog(f"{origin} is not a log of this collector.", remedy="Ask the collector that sealed it.")
        return shard


class PublishedShard:
    """One shard under its newest checkpoint. Safe to share between threads.

    Raises from every method:
        LedgerDamaged: a file is shorter than what the checkpoint covers, or no checkpoint.
    """

    def __init__(self, directory: ShardDirectory) -> None:
        self.directory = directory

    @property
    def name(self) -> str:
        """The last part of its origin."""
        return self.directory.root.name

    def checkpoint(self) -> bytes:
        """Return the newest checkpoint as it is published, with whatever cosignatures it has."""
        try:
            return self.directory.checkpoint.read_bytes()
        except FileNotFoundError as error:
            raise NoSuchLog(f"Nothing of shard {self.name} is published.", remedy=_LATER) from error

    def witnessed(self) -> bytes:
        """Return the newest checkpoint that a quorum of witnesses has cosigned, which the log may have gone on from."""
        try:
            return self.directory.witnessed.read_bytes()
        except FileNotFoundError as error:
            raise NoSuchLog(f"No witness has cosigned shard {self.name}.", remedy=_LATER) from error

    def head(self) -> Checkpoint:
        """Return what the newest checkpoint says; its signatures are for readers to check, not for us."""
        return self.parse(self.checkpoint())

    def parse(self, encoded: bytes) -> Checkpoint:
        """Return what a checkpoint of this shard says."""
        return head_of(encoded, self.directory.checkpoint)

    def tile(self, tile: Tile, size: int | None = None) -> bytes:
        """Return a tile's hashes or a bundle's entries.

        Args:
            tile: full, or partial of any width that is published.
            size: of the tree it must lie in, if it is known already; the published one otherwise.

        Raises:
            NotPublished: the checkpoint does not cover it.
        """
        known = self.head().size if size is None else size
        if not tile.is_published_at(known):
            raise NotPublished(f"{tile.path} is not under the checkpoint of {known} leaves.", remedy=_LATER)
        if tile.level == ENTRIES:
            return bundle(self._read(self.directory.leaves, LEAF_SIZE, tile.first, tile.width))
        return self.hashes(tile.level, tile.first, tile.width)

    def leaf(self, index: int) -> bytes:
        """Return the 112 bytes of a published leaf; `NotPublished` if it is none."""
        self._require(index, self.head().size)
        return self._read(self.directory.leaves, LEAF_SIZE, index, 1)

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the audit path of a leaf in the tree of `size` leaves, by default the published one.

        Raises:
            NotPublished: there is no such leaf or tree under the checkpoint.
        """
        size = self._size(size)
        self._require(index, size)
        return merkle.inclusion_proof_from(self.hashes, index, size)

    def consistency_proof(self, old_size: int, new_size: int | None = None) -> list[bytes]:
        """Return the proof that the tree of `old_size` leaves is a prefix of the one of `new_size`.

        Raises:
            NotPublished: a size is beyond the checkpoint, or the old one beyond the new one.
        """
        new_size = self._size(new_size)
        if not 0 <= old_size <= new_size:
            raise NotPublished(f"A tree of {old_size} leaves is no prefix of one of {new_size}.", remedy=_LATER)
        return merkle.consistency_proof_from(self.hashes, old_size, new_size)

    def proof(self, index: int) -> TlogProof:
        """Return the proof file of one leaf under the newest checkpoint; `NotPublished` if that does not cover it."""
        checkpoint = self.checkpoint()
        size = self.parse(checkpoint).size
        self._require(index, size)
        return TlogProof(index, tuple(merkle.inclusion_proof_from(self.hashes, index, size)), checkpoint)

    def hashes(self, level: int, first: int, count: int) -> bytes:
        """Return consecutive hashes of a tile level: the roots of perfect subtrees of height 8 · level."""
        return self._read(self.directory.hashes(level), HASH_SIZE, first, count)

    def _size(self, asked: int | None) -> int:
        published = self.head().size
        if asked is None:
            return published
        if not 0 <= asked <= published:
            raise NotPublished(f"The checkpoint covers {published} leaves, not {asked}.", remedy=_LATER)
        return asked

    def _require(self, index: int, size: int) -> None:
        if not 0 <= index < size:
            raise NotPublished(f"Leaf {index} is not under the checkpoint of {size} leaves.", remedy=_LATER)

    def _read(self, path: Path, width: int, first: int, count: int) -> bytes:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise LedgerDamaged(f"{path} is missing.", remedy=_REMEDY) from error
        try:
            content = os.pread(descriptor, count * width, first * width)
        finally:
            os.close(descriptor)
        if len(content) != count * width:
            raise LedgerDamaged(f"{path} is shorter than its checkpoint says.", remedy=_REMEDY)
        return content


def head_of(encoded: bytes, path: Path) -> Checkpoint:
    """Return what a checkpoint says, whoever signed it; `LedgerDamaged` naming its path if it is none."""
    try:
        return Checkpoint.parse(encoded.decode().rpartition("\n\n")[0] + "\n")
    except (FormatError, UnicodeDecodeError) as error:
        raise LedgerDamaged(f"{path} is no checkpoint.", remedy=_REMEDY) from error
