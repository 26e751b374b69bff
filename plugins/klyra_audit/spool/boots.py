"""A spool's folder: one folder for each boot, which one process has locked for as long as it lives.

    SPOOL/<boot uuid>/lock  0000000000.segment  0000004096.segment …  delivered

Processes share a spool: each writes its own boot, and whoever finds a boot whose lock nobody holds delivers what is
left in it. The lock goes with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.spool.errors import SpoolUnusable
from klyra_audit.spool.reader import BootReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_audit.otlp import EmitterIdentity

LOCK: Final = "lock"

_BOOT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NEW = ".new-"  # a boot's folder before it is locked
_ATTEMPTS = 5
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(slots=True)
class LockedBoot:
    """A boot's folder, locked by this process."""

    folder: Path
    lock: int

    def release(self) -> None:
        """Let others deliver what is left."""
        os.close(self.lock)

    def remove(self) -> None:
        """Remove the folder, of which everything was delivered, and let the lock go."""
        (self.folder / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()
        os.close(self.lock)


class Boots:
    """The boots in a spool's folder.

    Args:
        root: the folder; made if it does not exist, for this user alone.

    Raises:
        SpoolUnusable: it cannot be made or written, or others may read it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = root.stat().st_mode
        except OSError as error:
            raise _unusable(root, str(error)) from error
        if mode & _OTHERS:
            raise _unusable(root, f"others may use it (mode {stat.S_IMODE(mode):04o}), and events name people")

    def begin(self, boot: str) -> LockedBoot:
        """Make and lock the folder of a new boot; `SpoolUnusable` if that cannot be done."""
        for attempt in range(_ATTEMPTS):
            try:
                return self._begin(boot, self.root / f"{_NEW}{boot}-{attempt}")
            except (FileNotFoundError, BlockingIOError):
                continue  # another process took it for one that was never finished, and removed it
            except OSError as error:
                raise _unusable(self.root, str(error)) from error
        raise _unusable(self.root, "its folders keep disappearing")

    def _begin(self, boot: str, new: Path) -> LockedBoot:
        """Lock the folder before it has its name, so that nobody takes it for one that was left behind."""
        new.mkdir(mode=0o700)
        lock = os.open(new / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(self.root / boot)
            _sync(self.root)
        except OSError:
            os.close(lock)
            raise
        return LockedBoot(self.root / boot, lock)

    def left_behind(self, identity: EmitterIdentity) -> Iterator[tuple[LockedBoot, BootReader, EmitterIdentity]]:
        """Lock and yield boots of the same emitter and organization that no process has any more."""
        for folder in sorted(self.root.iterdir()):
            if _BOOT.fullmatch(folder.name) is None:
                self._clear_unfinished(folder)
                continue
            lock = _try_lock(folder)
            if lock is None:
                continue
            locked, reader = LockedBoot(folder, lock), BootReader(folder)
            found = reader.identity()
            if found is None:  # nothing was promised in it
                reader.remove()
                locked.remove()
            elif _is_same_source(found, identity):
                yield locked, reader, found
            else:
                locked.release()

    def size(self) -> int:
        """Return how many bytes all boots take on the disk."""
        return sum(BootReader(folder).size() for folder in self.root.iterdir() if _BOOT.fullmatch(folder.name))

    def _clear_unfinished(self, folder: Path) -> None:
        if folder.name.startswith(_NEW):
            lock = _try_lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _try_lock(folder: Path) -> int | None:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _is_same_source(one: EmitterIdentity, other: EmitterIdentity) -> bool:
    return (one.emitter_id, one.organization_id) == (other.emitter_id, other.organization_id)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(root: Path, reason: str) -> SpoolUnusable:
    return SpoolUnusable(
        f"The spool {root} cannot be used: {reason}.",
        remedy="Name a folder on a local disk that only this user can use, as spool=… or KLYRA_AUDIT_SPOOL.",
    )
