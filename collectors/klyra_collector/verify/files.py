"""Read files that somebody hostile may have made: no links, no devices, no memory maps, never more than is asked.

A memory map of a file that is cut short meanwhile ends the process, so everything is read by position.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A FIFO would block forever without O_NONBLOCK; a link could lead anywhere.
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Unreadable(Exception):  # noqa: N818 - read as what it says
    """Something stands at the path, and it cannot be read as a file of a ledger."""


class RegularFile:
    """An open regular file of which `size` bytes are looked at, however long it grows meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, _FLAGS)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(str(path)) from error
        except (OSError, ValueError) as error:
            raise Unreadable(_why(path, error)) from error
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise Unreadable("it is no regular file")
        self.size = status.st_size
        self.modified_ns = status.st_mtime_ns

    @property
    def dense_size(self) -> int:
        """How many bytes there are before the first hole: a file that claims a terabyte may take up none.

        Where the file system cannot tell, the size.
        """
        try:
            return min(os.lseek(self._descriptor, 0, os.SEEK_HOLE), self.size)
        except (AttributeError, OSError):  # none on this system; an empty file
            return self.size

    def data_from(self, offset: int) -> int:
        """Return where, at or behind an offset, a sparse file has bytes of its own; the size where it has none."""
        try:
            return min(os.lseek(self._descriptor, offset, os.SEEK_DATA), self.size)
        except AttributeError:
            return min(offset, self.size)
        except OSError as error:
            return self.size if error.errno == errno.ENXIO else min(offset, self.size)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`, fewer only at the end of the file."""
        wanted = min(length, self.size - offset)
        parts: list[bytes] = []
        while wanted > 0:
            try:
                part = os.pread(self._descriptor, wanted, offset)
            except OSError as error:
                raise Unreadable(str(error)) from error
            if not part:
                break
            parts.append(part)
            offset += len(part)
            wanted -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NoFile:
    """Reads as an empty file where there is none."""

    size = 0
    dense_size = 0

    def data_from(self, _offset: int) -> int:
        """Return the end."""
        return 0

    def close(self) -> None:
        """Do nothing."""

    def read(self, _offset: int, _length: int) -> bytes:
        """Return nothing."""
        return b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def open_or_empty(path: Path) -> RegularFile | NoFile:
    """Open a file; one that is not there reads as an empty one. Raises `Unreadable`."""
    try:
        return RegularFile(path)
    except FileNotFoundError:
        return NoFile()


def open_if_readable(path: Path) -> RegularFile | NoFile:
    """Open a file; one that is not there or cannot be read reads as an empty one."""
    try:
        return open_or_empty(path)
    except Unreadable:
        return NoFile()


def read_small(path: Path, limit: int) -> bytes:
    """Return a whole small file; of a longer one only enough to see that it is too long.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: it is no regular file, or may not be read.
    """
    with RegularFile(path) as file:
        return file.read(0, limit + 1)


def is_folder(path: Path) -> bool:
    """Say whether a real folder, not a link to one, stands at `path`."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """Say whether anything stands at `path`, if only a link that leads nowhere."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def entries(folder: Path) -> Iterator[Path]:
    """Yield what stands in a folder, by name; nothing for one that is not there.

    Raises:
        Unreadable: it is a link, or may not be listed.
    """
    if not exists(folder):
        return
    if not is_folder(folder):
        raise Unreadable("it is no folder")
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise Unreadable(str(error)) from error
    yield from paths


def _why(path: Path, error: Exception) -> str:
    return "it is a symbolic link, and none is followed" if path.is_symlink() else str(error)
