"""Make events durable in a boot's segment files: many threads, one fsync (group commit).

What a crash leaves behind, after each step: (1) a segment file without a whole header: nothing was promised in it, it
is removed; (2) frames in the page cache or torn on the disk: none of their `emit` calls has returned; (3) behind
`fdatasync`: they are there, and are sent by whoever finds them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from klyra_audit.spool import segment
from klyra_audit.spool.errors import SpoolClosed, SpoolFailed
from klyra_audit.spool.segment import SpooledEvent

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_audit.otlp import EmitterIdentity
    from klyra_audit.prepared import PreparedEvent

SEGMENT_BYTES = 4 * 1024 * 1024

_DISK_REMEDY = "Free or mend the disk that holds the spool; the event may then be emitted again."


class Disk(Protocol):
    """The four calls by which bytes become durable; a test stands in to make them fail."""

    def create(self, path: Path) -> int:
        """Create a file that must not exist, mode 0600, for appending; return its descriptor."""
        ...

    def write(self, descriptor: int, content: bytes) -> None:
        """Append all of the content."""
        ...

    def sync(self, descriptor: int) -> None:
        """Make what was written durable."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Make the names in a folder durable."""
        ...


class SystemDisk:
    """The machine's own."""

    def create(self, path: Path) -> int:
        """See `Disk`."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, content: bytes) -> None:
        """See `Disk`."""
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def sync(self, descriptor: int) -> None:
        """See `Disk`."""
        os.fdatasync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """See `Disk`."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Ticket:
    """One event on its way to the disk.

    Attributes:
        gate: held until the event is settled, or its thread is to write for all that wait.
        leads: its thread is the one that writes, from now on.
        is_left: its thread was interrupted and waits no more; the event is written all the same.
    """

    __slots__ = ("error", "event", "gate", "is_left", "leads", "sequence")

    def __init__(self, event: PreparedEvent) -> None:
        self.event = event
        self.sequence: int | None = None
        self.error: Exception | None = None
        self.gate = threading.Lock()
        self.gate.acquire()
        self.leads = False
        self.is_left = False

    @property
    def is_settled(self) -> bool:
        return self.sequence is not None or self.error is not None


@dataclass(frozen=True, slots=True)
class Durable:
    """So far a boot may be read: the segment being written, and how much of it is durable."""

    name: str
    size: int


@dataclass(slots=True)
class _Segment:
    name: str
    descriptor: int
    size: int


class BootWriter:
    """Appends to the segments of one boot, whose sequence it numbers without a gap. Thread-safe.

    Args:
        folder: of the boot; exists, and belongs to this process alone.
        identity: of the boot.
        disk: where to write.
        segment_bytes: from which size on a new file is begun, so that delivered events free their space.
    """

    def __init__(self, folder: Path, identity: EmitterIdentity, disk: Disk, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._header = segment.encode_header(identity)
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._pending: list[_Ticket] = []
        self._queue = threading.Lock()
        self._commit = threading.Lock()
        self._is_led = False
        self._segment: _Segment | None = None
        self._closed = False
        self.is_broken = False
        self.next_sequence = 0
        self.durable: Durable | None = None

    def append(self, event: PreparedEvent) -> int:
        """Return the event's sequence number once it is durable.

        Raises:
            SpoolFailed: the disk refused; see `is_broken` for whether this boot can go on.
            SpoolClosed: the boot takes no more events.
        """
        ticket = _Ticket(event)
        try:
            with self._queue:
                self._pending.append(ticket)
                ticket.leads, self._is_led = not self._is_led, True
            if not ticket.leads:
                ticket.gate.acquire()
            if ticket.leads:
                with self._commit:
                    self._commit_pending()
        finally:
            self._leave(ticket)
        if ticket.error is not None:
            raise ticket.error
        if ticket.sequence is None:  # pragma: no cover - a settled ticket has one or the other
            raise AssertionError
        return ticket.sequence

    def close(self) -> None:
        """Take no more events; those under way are finished first."""
        with self._commit:
            self._closed = True
            self._end_segment()

    def abandon(self) -> None:
        """Let the descriptor go without a word: this process is a fork of the one whose boot it is."""
        if self._segment is not None:
            os.close(self._segment.descriptor)
            self._segment = None
        self._closed = True

    def _leave(self, ticket: _Ticket) -> None:
        """Hand the lead on to a thread that waits; those whose events are settled go on by themselves."""
        with self._queue:
            ticket.is_left = True
            if not ticket.leads:
                return
            following = next((waiting for waiting in self._pending if not waiting.is_left), None)
            if following is None:
                self._is_led = False
                return
            following.leads = True
        following.gate.release()

    def _commit_pending(self) -> None:
        """Write for all that wait, and let them go on."""
        with self._queue:
            tickets, self._pending = self._pending, []
        try:
            self._settle(tickets)
        except BaseException:
            # Nobody knows how far the file was written: nothing more goes into it.
            self.is_broken = True
            _settle(tickets, SpoolFailed("The thread that wrote to the spool was interrupted.", remedy=_DISK_REMEDY))
            raise
        finally:
            for ticket in tickets:
                if not ticket.leads:
                    ticket.gate.release()

    def _settle(self, tickets: list[_Ticket]) -> None:
        if self._closed or self.is_broken:
            _settle(tickets, SpoolClosed("The emitter's boot has ended.", remedy="Emit on an open emitter."))
            return
        try:
            self._write(tickets)
        except OSError as error:
            failure = SpoolFailed(f"The spool in {self._folder} cannot be written: {error}.", remedy=_DISK_REMEDY)
            failure.__cause__ = error
            _settle(tickets, failure)

    def _write(self, tickets: list[_Ticket]) -> None:
        opened = self._open_segment()
        frames = [
            segment.encode_frame(SpooledEvent(self.next_sequence + place, ticket.event))
            for place, ticket in enumerate(tickets)
        ]
        content = b"".join(frames)
        try:
            self._disk.write(opened.descriptor, content)
        except OSError:
            self._undo(opened)
            raise
        try:
            self._disk.sync(opened.descriptor)
        except OSError:
            # The kernel may have dropped the pages and call the next fsync a success: nothing more goes in here.
            self.is_broken = True
            self._undo(opened)
            raise
        for ticket in tickets:
            ticket.sequence = self.next_sequence
            self.next_sequence += 1
        opened.size += len(content)
        self.durable = Durable(opened.name, opened.size)

    def _open_segment(self) -> _Segment:
        """Return the file to append to; a full one is left behind, to be removed when all of it was delivered."""
        if self._segment is not None and self._segment.size < self._segment_bytes:
            return self._segment
        self._end_segment()
        name = segment.file_name(self.next_sequence)
        path = self._folder / name
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # from an attempt that failed: nothing in it was promised
        descriptor = self._disk.create(path)
        try:
            self._disk.write(descriptor, self._header)
            self._disk.sync_directory(self._folder)
        except OSError:
            os.close(descriptor)
            raise
        self._segment = _Segment(name, descriptor, len(self._header))
        return self._segment

    def _undo(self, opened: _Segment) -> None:
        """Cut off what may have been written; where that fails too, this boot is given up."""
        try:
            os.ftruncate(opened.descriptor, opened.size)
        except OSError:
            self.is_broken = True

    def _end_segment(self) -> None:
        if self._segment is not None:
            os.close(self._segment.descriptor)
            self._segment = None


def _settle(tickets: list[_Ticket], error: Exception) -> None:
    for ticket in tickets:
        if ticket.sequence is None:
            ticket.error = error
