"""Spools for tests, events to put into them, and disks that fail."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from klyra_audit import Actor, events
from klyra_audit.catalog import Catalog
from klyra_audit.otlp import EmitterIdentity
from klyra_audit.prepared import prepare
from klyra_audit.spool.spool import Spool, SpoolOptions
from klyra_audit.spool.writer import SystemDisk
from klyra_audit.validation import Validator

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_audit.prepared import PreparedEvent

IDENTITY = EmitterIdentity("service", "emitter", "00000000-0000-7000-8000-000000000000", "org_acme")
CATALOG = Catalog.load()
VALIDATOR = Validator(CATALOG)


def prepared() -> PreparedEvent:
    """Return a small event, ready to be sent."""
    event = events.moderation_created(actor=Actor.user("usr_1"), moderation_id="mod_1", content_type="text")
    return prepare(event.document("org_acme"), CATALOG, VALIDATOR, time.time_ns() // 1000)


def spool(folder: Path, disk: SystemDisk | None = None, **options) -> Spool:
    """Return a spool of `IDENTITY`'s."""
    return Spool(SpoolOptions(folder, **options), IDENTITY, disk)


class FailingDisk(SystemDisk):
    """Fails the calls it is told to, with the error it is told to.

    Attributes:
        failing: names of calls, each of which fails from now on.
        torn: a failing write leaves this many bytes behind.
    """

    def __init__(self, *failing: str, number: int = errno.EIO, torn: int = 0) -> None:
        self.failing = set(failing)
        self.number = number
        self.torn = torn

    def create(self, path: Path) -> int:
        """See `Disk`."""
        self._fail("create")
        return super().create(path)

    def write(self, descriptor: int, content: bytes) -> None:
        """See `Disk`."""
        if "write" in self.failing:
            super().write(descriptor, content[: self.torn])
        self._fail("write")
        super().write(descriptor, content)

    def sync(self, descriptor: int) -> None:
        """See `Disk`."""
        self._fail("sync")
        super().sync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """See `Disk`."""
        self._fail("sync_directory")
        super().sync_directory(path)

    def _fail(self, name: str) -> None:
        if name in self.failing:
            raise OSError(self.number, os.strerror(self.number))
