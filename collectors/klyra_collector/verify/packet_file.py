"""The members of an export packet, read by position out of an archive that somebody hostile may have made.

The archive must be spelled exactly as a packet's is (`klyra_audit.format.stored_zip`): its members are stored and
fill it, so nothing in it is longer than the file, and no byte of it is without meaning.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, Self

from klyra_audit.format import stored_zip
from klyra_audit.format.errors import PacketError
from klyra_collector.verify.files import RegularFile
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from hashlib import _Hash
    from pathlib import Path

    from klyra_audit.format.stored_zip import StoredMember

_BLOCK: Final = 1024 * 1024
_BEGINNING: Final = b"PK\x03\x04"


class BadArchive(Exception):  # noqa: N818 - read as what it says
    """The file is no packet, or not a whole one.

    Attributes:
        problem: the verdict on it.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.reason)
        self.problem = problem


class PacketFile:
    """An open packet.

    Raises:
        BadArchive: on opening, for what is no packet.
        Unreadable, FileNotFoundError: on opening and from every method, as `RegularFile`.
    """

    def __init__(self, path: Path) -> None:
        self._file = RegularFile(path)
        try:
            self._members = {member.name: (offset, member) for offset, member in self._read_members()}
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def names(self) -> frozenset[str]:
        """The names of all members."""
        return frozenset(self._members)

    def size(self, name: str) -> int:
        """Return the length of a member, 0 of one that is not there."""
        return self._members[name][1].size if name in self._members else 0

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes of a member from `offset`, fewer only at its end."""
        begin, member = self._members[name]
        return self._file.read(begin + offset, max(0, min(length, member.size - offset)))

    def small(self, name: str, limit: int) -> bytes:
        """Return a whole member; `PacketError` if it is not there or longer than `limit`."""
        if name not in self._members:
            raise PacketError(f"{name} is not in the packet")
        if self.size(name) > limit:
            raise PacketError(f"{name} is longer than {limit} bytes")
        return self.read(name, 0, limit)

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield a member in parts."""
        for offset in range(0, self.size(name), _BLOCK):
            yield self.read(name, offset, _BLOCK)

    def lines(self, name: str, limit: int, total: int | None = None) -> Iterator[bytes]:
        """Yield a member's lines without their newlines.

        Raises:
            PacketError: a line longer than `limit`, a member longer than `total`, or a last line without its newline.
        """
        if total is not None and self.size(name) > total:
            raise PacketError(f"it is longer than {total} bytes")
        rest = b""
        for block in self.blocks(name):
            *whole, rest = (rest + block).split(b"\n")
            yield from whole
            if len(rest) > limit:
                raise PacketError(f"a line is longer than {limit} bytes")
        if rest:
            raise PacketError("the last line has no end")

    def hash_into(self, name: str, digest: _Hash) -> bool:
        """Feed a member to a digest; say whether it has the checksum that the archive gives it."""
        crc = 0
        for block in self.blocks(name):
            digest.update(block)
            crc = zlib.crc32(block, crc)
        return crc == self._members[name][1].crc

    def _read_members(self) -> Iterator[tuple[int, StoredMember]]:
        """Yield where each member's bytes begin, and what it is."""
        length = self._file.size
        tail = self._file.read(max(0, length - stored_zip.MAX_TAIL_BYTES), stored_zip.MAX_TAIL_BYTES)
        try:
            members = stored_zip.read_directory(tail, length)
        except PacketError as error:
            raise BadArchive(self._what_it_is(error)) from error
        offset = 0
        for member in members:
            header = stored_zip.local_header(member)
            if self._file.read(offset, len(header)) != header:
                raise BadArchive(Problem(Verdict.UNVERIFIABLE, f"the header of {member.name} is not a packet's"))
            yield offset + len(header), member
            offset += member.length

    def _what_it_is(self, error: PacketError) -> Problem:
        """Tell the beginning of a packet from what never was one."""
        names = self._file.read(0, 64)
        ends = self._file.read(max(0, self._file.size - 22), 22).startswith(b"PK\x05\x06")
        if names.startswith(_BEGINNING) and not ends:
            return Problem(Verdict.TRUNCATED, f"{error}: its end is missing")
        return Problem(Verdict.UNVERIFIABLE, f"it is no export packet: {error}")
