"""Write a packet's archive, whose bytes depend on nothing but its members (`klyra_audit.format.stored_zip`)."""

from __future__ import annotations

import hashlib
import os
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final, Self

from klyra_audit.format import stored_zip
from klyra_audit.format.stored_zip import StoredMember

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

_BLOCK: Final = 1024 * 1024


class PacketArchive:
    """Writes members one after another, each once. It can be read when the block has ended without an error.

    Attributes:
        digests: SHA-256 hex of each member written here, by name.
    """

    def __init__(self, file: IO[bytes], members: list[StoredMember]) -> None:
        self._file = file
        self._members = members
        self.digests: dict[str, str] = {}

    @classmethod
    def create(cls, path: Path) -> Self:
        """Begin a new archive; what stands at the path is replaced."""
        return cls(path.open("wb"), [])

    @classmethod
    def append_to(cls, path: Path) -> Self:
        """Take up an archive behind its last member; until the block ends it cannot be read.

        Raises:
            PacketError: it is no archive of this form.
        """
        file = path.open("r+b")
        try:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - stored_zip.MAX_TAIL_BYTES))
            members = stored_zip.read_directory(file.read(), length)
            file.truncate(sum(member.length for member in members))
            file.seek(0, os.SEEK_END)
        except BaseException:
            file.close()
            raise
        return cls(file, members)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self._file.write(stored_zip.directory(self._members))
                self._file.flush()
                os.fsync(self._file.fileno())

    def write(self, name: str, content: bytes) -> None:
        """Write a small member."""
        with self.member(name) as write:
            write(content)

    @contextmanager
    def member(self, name: str) -> Iterator[Callable[[bytes], None]]:
        """Give a function that appends to a new member, until the block ends."""
        begin = self._file.tell()
        self._file.write(stored_zip.local_header(StoredMember(name, 0, 0)))
        digest, size, crc = hashlib.sha256(), 0, 0

        def write(block: bytes) -> None:
            nonlocal size, crc
            digest.update(block)
            size += len(block)
            crc = zlib.crc32(block, crc)
            self._file.write(block)

        yield write
        member = StoredMember(name, size, crc)
        end = self._file.tell()
        self._file.seek(begin)
        self._file.write(stored_zip.local_header(member))
        self._file.seek(end)
        self._members.append(member)
        self.digests[name] = digest.hexdigest()

    def copy(self, name: str, source: IO[bytes]) -> None:
        """Write a member out of an open file, from its beginning."""
        source.seek(0)
        with self.member(name) as write:
            while block := source.read(_BLOCK):
                write(block)
