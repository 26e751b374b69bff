"""A destination of your own: appends entries to a file, one JSON object a line, and confirms what is on the disk.

Everything else is the engine's: which entries, in what order, when again, and what is written down of those that are
refused. A destination says how much a request may hold, makes its bytes, sends them, and tells what became of them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from klyra_siem.destination import Limits, Payload
from klyra_siem.errors import BadDestination
from klyra_siem.outcome import Action, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_siem.destination import DestinationOptions, RecordFormat, SealedEntry

LIMITS: Final = Limits(entries=1_000, encoded_bytes=4_000_000)

_PERMISSIONS = re.compile(r"0[0-7]{3}")
_BLOCK_BYTES = 65_536
# What only an operator can mend; anything else passes: a full disk is emptied, a lost volume comes back.
_FOR_THE_OPERATOR = frozenset(
    {
        errno.EACCES,
        errno.EFBIG,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


def create(options: DestinationOptions) -> NdjsonFile:
    """Return the destination of a file; `BadDestination` for a path or an option that cannot be used.

    This is what the entry point `ndjson-file` names. Options: `permissions` of a new file, such as `0640`.
    """
    path = Path(options.endpoint)
    permissions = options.settings.get("permissions", "0640")
    if not path.is_absolute():
        raise BadDestination(
            f"Destination {options.name} needs the path of a file.",
            remedy='Write endpoint = "/var/log/klyra-audit/entries.ndjson".',
        )
    if options.settings.keys() - {"permissions"}:
        raise BadDestination(
            f"Destination {options.name} has unknown options.", remedy="Known is permissions, and nothing else."
        )
    if not isinstance(permissions, str) or _PERMISSIONS.fullmatch(permissions) is None:
        raise BadDestination(
            f"Destination {options.name} has permissions that are none.", remedy='Write permissions = "0640".'
        )
    return NdjsonFile(path, int(permissions, 8), options.record)


class NdjsonFile:
    """A file that is only ever added to; see `klyra_siem.destination.Destination` for what each method promises."""

    def __init__(self, path: Path, permissions: int, record: RecordFormat) -> None:
        self._path = path
        self._permissions = permissions
        self._record = record

    @property
    def limits(self) -> Limits:
        """How much is written at once."""
        return LIMITS

    def measure(self, entry: SealedEntry) -> int:
        """Return how many bytes an entry adds: its line."""
        return len(self._record.encode(entry)) + 1

    def encode(self, entries: Sequence[SealedEntry]) -> Payload:
        """Return the lines of some entries; the same bytes however often it is asked."""
        return Payload(b"".join(self._record.encode(entry) + b"\n" for entry in entries))

    def send(self, payload: Payload) -> Outcome:
        """Append the lines; taken means that they will be there after a power failure."""
        try:
            self._append(payload.content)
        except OSError as error:
            return _of_error(error)
        return Outcome(action=Action.DELIVERED, status="written")

    def probe(self) -> Outcome:
        """Say whether the file can be written; nothing is."""
        return self.send(Payload(b""))

    def close(self) -> None:
        """Nothing is open between requests."""

    def _append(self, content: bytes) -> None:
        """Write and sync, or leave the file as it was.

        A crash on the way leaves some of the lines, the last one perhaps broken off: it is cut away the next time,
        and the whole batch, which was never confirmed, is written again. Before the first lines are confirmed the
        folder is synced too: a crash earlier than that leaves no file, or an empty one.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self._permissions)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # with `concurrency`, several of us have the same file
            end = _end_of_last_line(descriptor)
            os.ftruncate(descriptor, end)
            try:
                _write(descriptor, content, end)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
        if end == 0:
            _sync_folder(self._path.parent)


def _write(descriptor: int, content: bytes, place: int) -> None:
    """Write all of it: a disk that fills up takes a part first."""
    left = memoryview(content)
    while left:
        written = os.pwrite(descriptor, left, place)
        left, place = left[written:], place + written


def _end_of_last_line(descriptor: int) -> int:
    """Return the size of a file without a line that was broken off."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _sync_folder(folder: Path) -> None:
    """Have a new name survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _of_error(error: OSError) -> Outcome:
    """Return what a failure means for the batch: nothing of it was taken, so it is not lost either way."""
    status = errno.errorcode.get(error.errno or 0, "no_answer")
    action = Action.PAUSE if error.errno in _FOR_THE_OPERATOR else Action.RETRY
    return Outcome(action=action, status=status, reason=str(error.strerror))
