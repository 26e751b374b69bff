"""A ledger whose days can be made to pass, with expiry run over it as the collector does."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from klyra_audit.format.control import ControlDocument, Extend, Hold, Release, parse
from klyra_audit.format.control import Expiry as ExpiryRecord
from klyra_audit.format.leaf import Kind
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_audit.timestamps import SECONDS_PER_DAY, day_of
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.expiry import Expired, Expiry, finish
from klyra_collector.seal.expiry_clock import ExpiryClock
from klyra_collector.seal.ledger import Ledger
from klyra_collector.seal.reader import LedgerReader, SealedRecord
from klyra_collector.stages import ControlRecord, Tenancy
from support import records
from support.records import STARTUP
from support.sealing import MICROSECONDS, SetClock, open_ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from klyra_collector.witnessed import Witnessed

NOON_OF_JANUARY_FIRST_US = int(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()) * MICROSECONDS


@dataclass
class ExpiringLedger:
    """A collector's ledger and expiry in a folder; close it, or let `with` do it."""

    root: Path
    clock: SetClock = field(default_factory=lambda: SetClock(NOON_OF_JANUARY_FIRST_US))
    disk: Disk = field(default_factory=Disk)
    witnessed: Callable[[ShardDirectory], Witnessed | None] | None = None
    confirmed: bool = False

    def __post_init__(self) -> None:
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start, or start again."""
        self.ledger: Ledger = open_ledger(self.root, self.clock, self.disk)
        expiry_clock = ExpiryClock(self.clock, self.ledger.found_us, self.confirmed)
        self.expiry = Expiry(self.ledger, self.data, self.disk, expiry_clock, self.witnessed)

    def stop(self) -> None:
        """Stop cleanly."""
        self.expiry.close()
        self.ledger.close()

    def kill(self) -> None:
        """Stop as a killed process does: nothing is signed or written any more."""
        self.expiry.close()
        with contextlib.suppress(OSError):
            self.ledger._files.close()
        self.ledger._recent.close()
        self.ledger._lock.release()

    @property
    def data(self) -> DataDirectory:
        """The data directory."""
        return DataDirectory(self.root)

    @property
    def shard(self) -> ShardDirectory:
        """The open shard."""
        return ShardDirectory(self.data.ledger / self.ledger.origin.rpartition("/")[2])

    @property
    def today(self) -> int:
        """The day by the clock."""
        return day_of(self.clock.wall)

    def pass_days(self, days: float) -> None:
        """Let time pass."""
        self.clock.pass_seconds(days * SECONDS_PER_DAY)

    def event(self, tenancy: Tenancy = STARTUP, **members: object) -> int:
        """Seal an event; return its index."""
        ((outcome,),) = self.ledger.commit([records.submission(records.record(tenancy, **members))])
        return outcome.sealed.index

    def bad(self, tenancy: Tenancy = STARTUP, raw: bytes = b"not an event") -> int:
        """Seal a quarantined input; return its index."""
        ((outcome,),) = self.ledger.commit([records.submission(records.bad(tenancy, raw))])
        return outcome.sealed.index

    def seal(self, document: ControlDocument, tenancy: Tenancy | None = STARTUP) -> int:
        """Seal a control document; return its index."""
        owner = OPERATOR_ORGANIZATION_ID if tenancy is None else tenancy.organization_id
        (outcome,) = self.ledger.commit_controls([ControlRecord(document.KIND, document.document(), owner)])
        return outcome.sealed.index

    def hold(self, hold_id: str = "hold_1", tenancy: Tenancy = STARTUP, from_us: int = 0, to_us: int | None = None):
        """Place a legal hold."""
        return self.seal(Hold(hold_id, self.reference(tenancy), from_us, to_us), tenancy)

    def release(self, hold_id: str = "hold_1", tenancy: Tenancy = STARTUP) -> int:
        """Release a legal hold."""
        return self.seal(Release(hold_id), tenancy)

    def extend(self, first: int, last: int, days: int, tenancy: Tenancy = STARTUP, log: str | None = None) -> int:
        """Extend the retention of some org_seqs."""
        return self.seal(Extend(self.reference(tenancy), first, last, days, log), tenancy)

    def reference(self, tenancy: Tenancy = STARTUP) -> bytes:
        """Return an organization's reference."""
        from klyra_audit.format import sections

        return sections.organization_reference(self.ledger.identity.org_salt, tenancy.organization_id)

    def run(self) -> Expired:
        """Run expiry as on one day: name, sign, delete."""
        first = finish(self.expiry.run())
        self.ledger.sign()
        second = finish(self.expiry.run())
        return Expired(
            cutoff_day=second.cutoff_day,
            named=first.named + second.named,
            deleted=first.deleted + second.deleted,
            waiting=second.waiting,
        )

    def records(self, shard: int = -1) -> list[SealedRecord]:
        """Return every committed record of a shard, as a follower sees it."""
        with contextlib.closing(LedgerReader(self.data.ledger)) as reader:
            origin = reader.origins()[shard]
            return reader.read(origin, 0, reader.committed(origin))

    def present(self, shard: int = -1) -> list[int]:
        """Return the indexes of records whose bodies are here."""
        return [record.index for record in self.records(shard) if record.body is not None]

    def expiries(self, shard: int = -1) -> list[ExpiryRecord]:
        """Return the EXPIRY records of a shard."""
        found = [record for record in self.records(shard) if record.leaf.kind == Kind.EXPIRY]
        return [parse(record.leaf.kind, record.control) for record in found]

    def files(self) -> list[str]:
        """Return the names of all files of bodies and quarantined bytes, below the data directory."""
        paths = [*self.data.ledger.glob("*/bodies/*/*"), *self.data.quarantine.glob("*/*")]
        return sorted(str(path.relative_to(self.root)) for path in paths)
