"""The spool of one process: where its events become durable, and from where they are delivered."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from klyra_audit import ids
from klyra_audit.format.batch import MAX_SEQUENCE
from klyra_audit.spool.boots import Boots
from klyra_audit.spool.errors import SpoolClosed, SpoolFull
from klyra_audit.spool.reader import BootReader
from klyra_audit.spool.writer import SEGMENT_BYTES, BootWriter, SystemDisk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_audit.otlp import EmitterIdentity
    from klyra_audit.prepared import PreparedEvent
    from klyra_audit.spool.boots import LockedBoot
    from klyra_audit.spool.writer import Disk

WhenFull = Literal["block", "raise"]

DEFAULT_MAX_BYTES = 1024 * 1024 * 1024

_SEGMENTS_AT_LEAST = 8  # a spool is made of so many, so that what is delivered soon frees space
_FRAME_OVERHEAD = 256
_MEASURE_SECONDS = 1.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Spooled:
    """An event that is durable on this machine and will be delivered.

    Attributes:
        record_id: the entry's id.
        boot: of this process.
        sequence: within the boot.
    """

    record_id: str
    boot: str
    sequence: int


@dataclass(frozen=True, slots=True)
class SpoolOptions:
    """What a spool may take, and what happens when it is full.

    Attributes:
        folder: on a local disk, for this user alone; made if it does not exist.
        max_bytes: of all boots in the folder together.
        when_full: `block` until there is room, or `raise` `SpoolFull` at once. Nothing is ever dropped.
        block_seconds: how long to block; None for as long as it takes.
    """

    folder: Path
    max_bytes: int = DEFAULT_MAX_BYTES
    when_full: WhenFull = "block"
    block_seconds: float | None = None


@dataclass(slots=True)
class Boot:
    """A boot that this process writes or delivers."""

    identity: EmitterIdentity
    locked: LockedBoot
    reader: BootReader
    writer: BootWriter | None = None

    def end(self) -> None:
        """Remove it if all of it was delivered, otherwise leave it to whoever comes next."""
        if self.writer is not None:
            self.writer.close()
        if self.reader.read(1, 1):
            self.locked.release()
        else:
            self.reader.remove()
            self.locked.remove()


class Spool:
    """Appends events to a boot of this process, and finds boots that others left behind. Thread-safe.

    Args:
        options: the folder, shared by any number of processes, and its bounds.
        identity: of the emitter; its boot is replaced by one that is new.
        disk: where to write.

    Raises:
        SpoolUnusable: the folder cannot be used.
    """

    def __init__(self, options: SpoolOptions, identity: EmitterIdentity, disk: Disk | None = None) -> None:
        self._identity = identity
        self._options = options
        self._disk = disk or SystemDisk()
        self._boots = Boots(options.folder)
        self._lock = threading.Lock()
        self._current: Boot | None = None
        self._finished: list[Boot] = []
        self._process = os.getpid()
        self._closed = False
        self._measured = (float("-inf"), 0)
        self._appended = 0

    def append(self, event: PreparedEvent) -> Spooled:
        """Return once the event is durable.

        Raises:
            SpoolFull: there is no room, and there was none in time.
            SpoolFailed: the disk refused.
            SpoolUnusable: a new boot could not be begun.
            SpoolClosed: the spool was closed.
        """
        size = len(event.encoded) + _FRAME_OVERHEAD
        self._await_room(size)
        while True:
            boot, writer = self._open_boot()
            try:
                sequence = writer.append(event)
            except SpoolClosed:  # this boot ended meanwhile; if all of it did, `_open_boot` says so
                continue
            self._appended += size
            return Spooled(event.record_id, boot.identity.boot, sequence)

    @property
    def held_bytes(self) -> int:
        """How many bytes all boots in the folder take, at most a second old."""
        measured_at, size = self._measured
        if time.monotonic() - measured_at > _MEASURE_SECONDS:
            size, self._appended = self._boots.size(), 0
            self._measured = (time.monotonic(), size)
        return size + self._appended

    def check(self) -> None:
        """Raise what `append` would raise now, as far as that can be known beforehand."""
        self._refuse_full(_FRAME_OVERHEAD)
        self._open_boot()

    def own(self) -> list[Boot]:
        """Return the boots of this process that may have something to deliver, oldest first."""
        with self._lock:
            return [*self._finished, *([self._current] if self._current is not None else [])]

    def waiting(self) -> int:
        """Return how many events of this process are not delivered yet."""
        return sum(
            max(0, boot.writer.next_sequence - boot.reader.next_sequence)
            for boot in self.own()
            if boot.writer is not None
        )

    def oldest(self) -> PreparedEvent | None:
        """Return the first event of this process that is not delivered yet."""
        for boot in self.own():
            durable = None if boot.writer is None else boot.writer.durable
            if durable is not None:
                for spooled in boot.reader.read(1, 1, durable):
                    return spooled.event
        return None

    def left_behind(self) -> Iterator[Boot]:
        """Lock and yield boots of processes that are no more."""
        for locked, reader, identity in self._boots.left_behind(self._identity):
            yield Boot(identity, locked, reader)

    def forget(self, boot: Boot) -> None:
        """Let go of a boot that takes no more events and of which everything was delivered."""
        with self._lock:
            if boot not in self._finished:
                return
            self._finished.remove(boot)
        boot.end()

    def close(self) -> None:
        """Take no more events; what is not delivered stays for whoever comes next."""
        with self._lock:
            self._closed = True
            boots = [*self._finished, *([self._current] if self._current is not None else [])]
            self._finished, self._current = [], None
        for boot in boots:
            boot.end()

    def after_fork(self) -> None:
        """In a forked child: leave the parent's boots to the parent, and begin one's own at the next event."""
        self._lock = threading.Lock()
        for boot in (*self._finished, *([self._current] if self._current is not None else [])):
            if boot.writer is not None:
                boot.writer.abandon()
            boot.locked.release()  # the parent has the lock as long as it has its own descriptor
        self._finished, self._current = [], None
        self._process = os.getpid()

    def _open_boot(self) -> tuple[Boot, BootWriter]:
        with self._lock:
            if self._closed:
                raise SpoolClosed("The emitter was closed.", remedy="Emit before close, or make another emitter.")
            current = self._current
            if current is not None and current.writer is not None:
                if not current.writer.is_broken and current.writer.next_sequence <= MAX_SEQUENCE:
                    return current, current.writer
                current.writer.close()
                self._finished.append(current)
            return self._begin()

    def _begin(self) -> tuple[Boot, BootWriter]:
        identity = replace(self._identity, boot=str(ids.new_uuid7()))
        locked = self._boots.begin(identity.boot)
        segment_bytes = min(SEGMENT_BYTES, self._options.max_bytes // _SEGMENTS_AT_LEAST)
        writer = BootWriter(locked.folder, identity, self._disk, segment_bytes)
        self._current = Boot(identity, locked, BootReader(locked.folder), writer)
        return self._current, writer

    def _await_room(self, size: int) -> None:
        wait = self._options.block_seconds if self._options.when_full == "block" else 0.0
        deadline = float("inf") if wait is None else time.monotonic() + wait
        while True:
            try:
                self._refuse_full(size)
            except SpoolFull:
                if time.monotonic() >= deadline or self._closed:
                    raise
                time.sleep(_POLL_SECONDS)
            else:
                return

    def _refuse_full(self, size: int) -> None:
        held = self.held_bytes
        if held + size > self._options.max_bytes:
            raise SpoolFull(
                f"The spool {self._boots.root} holds {held} of at most {self._options.max_bytes} bytes.",
                remedy="Find out why the collector does not take events, or allow the spool more.",
            )
