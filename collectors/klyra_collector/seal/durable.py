"""The few operations on files whose order decides what a crash leaves behind.

`Disk` is the only way the seal writes. Tests replace it with one that fails before or after any step.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_SYNC_THREADS = 4


class Disk:
    """Append, sync and replace files; every method returns only when what it says is done."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_SYNC_THREADS, thread_name_prefix="fdatasync")

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown()

    def open_append(self, path: Path) -> tuple[int, bool]:
        """Return a descriptor that appends to `path`, and whether the file was created just now."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        created = not path.exists()
        if created:
            path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o640), created

    def close_file(self, descriptor: int) -> None:
        """Close a descriptor; nothing is synced here."""
        os.close(descriptor)

    def append(self, descriptor: int, content: bytes | bytearray) -> None:
        """Write all of `content` at the end of the file; not durable yet."""
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]

    def overwrite(self, descriptor: int, content: bytes, offset: int) -> None:
        """Write a small piece of a file in place of what stands there; not durable yet."""
        os.pwrite(descriptor, content, offset)

    def sync(self, descriptors: Iterable[int]) -> None:
        """Make everything written to the files durable, in parallel; raise the first error."""
        here, *others = descriptors
        outcomes = [self._threads.submit(os.fdatasync, descriptor) for descriptor in others]
        try:
            os.fdatasync(here)
        finally:
            wait(outcomes)  # none of the descriptors may be closed before
        for outcome in outcomes:
            outcome.result()

    def sync_file(self, path: Path) -> None:
        """Make what anyone wrote to a file durable."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_directory(self, directory: Path) -> None:
        """Make the names in a directory durable."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_new_file(self, path: Path, root: Path) -> None:
        """Make the name of a new file durable, and those of the directories above it down from `root`."""
        directory = path.parent
        self.sync_directory(directory)
        while directory != root:
            directory = directory.parent
            self.sync_directory(directory)

    def replace(self, path: Path, content: bytes, *, mode: int = 0o640) -> None:
        """Replace a whole file atomically and durably.

        A crash before the rename leaves the old content (and a `.new` file that the next replace overwrites),
        a crash after it the new content.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            self.append(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        self.sync_directory(path.parent)

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to `size` bytes, durably."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
