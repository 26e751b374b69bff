"""Packets on their way: files in one folder, from the first byte to a day after the last (DESIGN section 9).

`<id>.part` is written first, then `<id>.json`, which says which command seals the packet's EXPORT record; when that is
under a checkpoint the record is added and the file becomes `<id>.zip`. Any process that shares the folder may go on
with a packet that another one has begun. A crash before `<id>.json` leaves a part that is only cleared away; one while
the record is being added leaves a part that cannot be read, and whoever asks for the packet is told to export again.
"""

from __future__ import annotations

import fcntl
import re
import secrets
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import orjson

from klyra_audit.errors import Rejected
from klyra_audit.format.errors import PacketError
from klyra_collector.publish import packet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_collector.publish.published import PublishedLedger

KEPT_SECONDS: Final = 24 * 3600

_ID: Final = re.compile(r"exp_[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PacketJob:
    """A packet that waits for its EXPORT record, or has it.

    Attributes:
        export_id: names it to whoever asked for it.
        organization_id: whose it is.
        command_id: the outbox command that seals its record.
        file_name: what to call the file.
        headers: of the answer that brings it.
    """

    export_id: str
    organization_id: str
    command_id: str
    file_name: str
    headers: dict[str, str]


class PacketFolder:
    """The folder of packets. Safe to share between threads and processes."""

    def __init__(self, folder: Path, ledger: PublishedLedger) -> None:
        self._folder = folder
        self._ledger = ledger

    def begin(self) -> str:
        """Return the id of a new packet, to be built at `part`, and clear away what is a day old."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clear(time.time() - KEPT_SECONDS)
        return f"exp_{secrets.token_hex(16)}"

    def part(self, export_id: str) -> Path:
        """Return where a packet is built."""
        return self._folder / f"{export_id}.part"

    def note(self, job: PacketJob) -> None:
        """Remember a packet whose record is on its way."""
        path = self._folder / f"{job.export_id}.json"
        written = path.with_suffix(".new")
        written.write_bytes(orjson.dumps(asdict(job)))
        written.replace(path)

    def discard(self, export_id: str) -> None:
        """Forget a packet that was begun and is not going to be one."""
        self.part(export_id).unlink(missing_ok=True)

    def job(self, export_id: str) -> PacketJob | None:
        """Return a packet by its id, None if there is none, or none any more."""
        if _ID.fullmatch(export_id) is None:
            return None
        try:
            return PacketJob(**orjson.loads((self._folder / f"{export_id}.json").read_bytes()))
        except FileNotFoundError:
            return None

    def finish(self, job: PacketJob, position: tuple[str, int] | None) -> Path | None:
        """Return the file of a packet once it is whole.

        Args:
            job: which.
            position: (origin, index) of its EXPORT record; None while that waits.

        Returns:
            None while the record waits, or no checkpoint covers it.

        Raises:
            Rejected: `export_lost`: a crash has broken it.
        """
        whole = self._folder / f"{job.export_id}.zip"
        if whole.exists():
            return whole
        if position is None:
            return None
        part = self.part(job.export_id)
        try:
            with _locked(part):
                if whole.exists():
                    return whole
                if not packet.finish(self._ledger, part, *position):
                    return None
                # From here on the archive is whole and synced; a crash before the renaming leaves `finish` to fail
                # on the next call, because it holds its record already.
                part.replace(whole)
        except (PacketError, FileNotFoundError) as error:
            raise Rejected(
                "The export was broken off and cannot be continued.", remedy="Export again.", code="export_lost"
            ) from error
        return whole

    def _clear(self, before: float) -> None:
        for path in self._folder.iterdir():
            try:
                if path.stat().st_mtime < before:
                    path.unlink()
            except FileNotFoundError:  # another process was quicker
                continue


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other threads and processes from finishing the same packet."""
    with path.open("rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield
