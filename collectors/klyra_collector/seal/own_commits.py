r"""What this collector itself has committed: so that nothing else behind the last signed record is ever signed.

Leaves that continue the chains and have their content can be written by anybody who may write these files. `state/own`
therefore says, for each of the last commits, how many leaves there are with it and their root, each under an HMAC of
`keys/commit.key`. It is durable before the first leaf of its commit is appended, in the same parallel sync as the
content: records that were acknowledged are always among those it speaks of, without a further wait for the disk.

The file is a ring of 64 places of 128 bytes, and an entry is 72 of them: size (u64, big-endian), root[32], and
HMAC-SHA256(commit.key, "klyra/own-commit\0" ‖ origin ‖ "\0" ‖ size ‖ root). Neighbouring commits stand on different
pages, no entry crosses a disk sector: a write that power loss tears costs its own entry alone, and nobody was told of
its commit. Nothing outside the collector reads the file.
"""

from __future__ import annotations

import hmac
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from klyra_collector.seal.key_files import SECRET_BYTES, KeyFiles, checked_secret, read_private

if TYPE_CHECKING:
    from klyra_collector.data_directory import DataDirectory, ShardDirectory
    from klyra_collector.seal.durable import Disk

COMMIT_KEY: Final = "commit.key"

_DOMAIN = b"klyra/own-commit\0"
_STATED = struct.Struct(">Q32s")
_CODE_BYTES = 32
_ENTRY = _STATED.size + _CODE_BYTES
_PLACE = 128
_PAGE = 4096
_PAGES = 2
_PLACES = _PAGES * _PAGE // _PLACE


class OwnCommit(NamedTuple):
    """A state of the tree that this collector wrote: number of leaves, and their root."""

    size: int
    root: bytes


class OwnCommits:
    """The commits of one shard that this collector vouches for. One writer; the sealing thread owns it.

    Attributes:
        is_new: there was no key yet, so that nothing could have been vouched for: the data directory is new, or it
            was written by a version before this file.
    """

    def __init__(self, data: DataDirectory, shard: ShardDirectory, origin: str) -> None:
        key = data.keys / COMMIT_KEY
        self.is_new = not key.exists()
        self._key = os.urandom(SECRET_BYTES) if self.is_new else checked_secret(key, read_private(key))
        self._folder = data.keys
        self._path = shard.own_commits
        self._origin = origin.encode()
        self._disk: Disk | None = None
        self._found: dict[OwnCommit, int] = {}
        self._next = 0
        self._descriptor: int | None = None

    @classmethod
    def read(cls, data: DataDirectory, shard: ShardDirectory, origin: str) -> Self:
        """Read what is there; an entry that is damaged, or another's, says nothing.

        Raises:
            LedgerDamaged: the key is damaged, or usable by others; see `read_private`.
        """
        commits = cls(data, shard, origin)
        try:
            content = shard.own_commits.read_bytes()
        except FileNotFoundError:
            content = b""
        for place in range(_PLACES):
            commit = commits._open(content[_offset(place) :][:_ENTRY])
            if commit is not None:
                commits._found[commit] = place
        return commits

    @property
    def sizes(self) -> frozenset[int]:
        """How many leaves there were after each commit that is remembered."""
        return frozenset(commit.size for commit in self._found)

    def has(self, size: int, root: bytes) -> bool:
        """Say whether this collector committed exactly these leaves, as one of the last 64 commits."""
        return OwnCommit(size, root) in self._found

    def settle(self, size: int, root: bytes, disk: Disk) -> None:
        """Go on from a state that recovery has judged, and vouch for it; durable when this returns.

        A crash in here leaves the file as it was or as it should be. The key of a new data directory comes last:
        without it the next start finds everything as this one did.
        """
        commit = OwnCommit(size, root)
        if commit not in self._found:
            latest = sorted(self._found)[1 - _PLACES :]
            self._found = {found: place for place, found in enumerate([*latest, commit])}
            disk.replace(self._path, self._encode())
        if self.is_new:  # like the other local secrets never encrypted: it signs nothing
            KeyFiles(self._folder, disk).store(COMMIT_KEY, self._key)
            self.is_new = False
        self._next = (self._found[commit] + 1) % _PLACES
        self._disk = disk
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)

    def write(self, size: int, root: bytes) -> int:
        """Vouch for a commit that is about to be written; return the descriptor to sync before its first leaf.

        A crash before the leaves leaves an entry for a commit that was never acknowledged: it vouches for nothing
        until the same leaves are there.
        """
        assert self._disk is not None  # noqa: S101 - recovery has settled it
        assert self._descriptor is not None  # noqa: S101 - and opened it
        self._disk.overwrite(self._descriptor, self._seal(OwnCommit(size, root)), _offset(self._next))
        self._next = (self._next + 1) % _PLACES
        return self._descriptor

    def close(self) -> None:
        """Close the file; nothing is synced here."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _encode(self) -> bytes:
        content = bytearray(_PAGES * _PAGE)
        for commit, place in self._found.items():
            content[_offset(place) : _offset(place) + _ENTRY] = self._seal(commit)
        return bytes(content)

    def _seal(self, commit: OwnCommit) -> bytes:
        stated = _STATED.pack(*commit)
        return stated + self._code(stated)

    def _open(self, entry: bytes) -> OwnCommit | None:
        stated, code = entry[: _STATED.size], entry[_STATED.size :]
        if len(entry) != _ENTRY or not hmac.compare_digest(code, self._code(stated)):
            return None
        return OwnCommit(*_STATED.unpack(stated))

    def _code(self, stated: bytes) -> bytes:
        return hmac.digest(self._key, _DOMAIN + self._origin + b"\0" + stated, "sha256")


def _offset(place: int) -> int:
    """Return where a place begins: neighbours on different pages."""
    return place % _PAGES * _PAGE + place // _PAGES * _PLACE
