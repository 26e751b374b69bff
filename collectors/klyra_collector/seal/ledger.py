"""The ledger's one writer: group commits, a signed checkpoint each second, recovery through one door.

Everything here runs on the sealing thread. What a crash leaves behind after each durable step is said in
`files.py` and below.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self, TypeVar

from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_audit.timestamps import MICROSECONDS, day_of
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.errors import Conflict, IntakeHalted
from klyra_collector.seal.clock import Clock, ClockGuard
from klyra_collector.seal.commit import CommitPlan
from klyra_collector.seal.files import ShardFiles
from klyra_collector.seal.heads import heads_are_due
from klyra_collector.seal.identity import load_identity
from klyra_collector.seal.lock import LedgerLock
from klyra_collector.seal.reader import LedgerReader, shard_order
from klyra_collector.seal.recent import LEAST_DAYS, RecentIds
from klyra_collector.seal.recent_catch_up import catch_up
from klyra_collector.seal.recovery import Recovered, recover
from klyra_collector.seal.signing import CheckpointSigner, Unsigned
from klyra_collector.stages import ControlRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.note import SigningKey
    from klyra_collector.data_directory import DataDirectory
    from klyra_collector.seal.durable import Disk
    from klyra_collector.seal.identity import Identity
    from klyra_collector.stages import Outcome, Submission, Tenancy

_HALTED = "The ledger's disk failed; intake pauses until it can be written again."
_RETRY_AFTER = 5.0
_SEARCH_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerOptions:
    """What the writer is told at start.

    Attributes:
        software: name and version, for START.
        schemas: SHA-256 hex of every schema in force, by schema id, for SCHEMA.
        ledger_name, collector_id: as configured; None takes what the data directory has.
        confirm_clock: an operator vouches for the clock.
        recognised_days: UTC days for which an id is recognised; two make at least 24 hours.
        on_progress: called with leaves read and leaves in all during recovery.
    """

    software: str
    schemas: Mapping[str, str]
    ledger_name: str | None = None
    collector_id: str | None = None
    confirm_clock: bool = False
    recognised_days: int = LEAST_DAYS
    on_progress: Callable[[int, int], None] = lambda _done, _total: None


_Answer = TypeVar("_Answer")


class Ledger:
    """The open shard of one collector. Use `open`; close it to let another writer in."""

    def __init__(self, data: DataDirectory, disk: Disk, clock: Clock, options: LedgerOptions, lock: LedgerLock) -> None:
        self._data = data
        self._disk = disk
        self._clock = clock
        self._options = options
        self._lock = lock
        self.identity: Identity = load_identity(
            data, disk, ledger_name=options.ledger_name, collector_id=options.collector_id
        )
        self._shard = _current_shard(data, clock)
        self._key: SigningKey = self.identity.signing_key(self._shard.root.name)
        self._files = ShardFiles(disk, data, self._shard)
        self._halted: str | None = None
        self._before: tuple[int, Mapping[str, int]] = (0, {})
        self._undo: tuple[int, Mapping[str, int]] | None = None
        self.signer = CheckpointSigner(self._shard, disk, clock, [self._key])
        self.recovered: Recovered = self._recover()
        self.signer.load()
        self._state = self.recovered.state
        today = day_of(max(self._state.last_us, clock.wall_us()))
        self._recent = RecentIds(data.recent, today, options.recognised_days)
        self._guard = ClockGuard(clock, self._state.last_us, options.confirm_clock)

    @classmethod
    def open(cls, data: DataDirectory, disk: Disk, clock: Clock, options: LedgerOptions) -> Self:
        """Lock, recover and continue the ledger in a data directory; make one if there is none.

        Raises:
            LedgerLocked, LedgerRolledBack, LedgerDamaged, IdentityChanged: see `klyra_collector.errors`.
        """
        lock = LedgerLock(data.ledger)
        try:
            ledger = cls(data, disk, clock, options, lock)
            ledger.begin()
        except BaseException:
            lock.release()
            raise
        return ledger

    @property
    def origin(self) -> str:
        """The name of the open shard as a log."""
        return self._key.verifying_key.name

    @property
    def vkey(self) -> str:
        """The verifier key line of the open shard."""
        return self._key.vkey

    @property
    def size(self) -> int:
        """Number of committed leaves."""
        return self._state.size

    @property
    def last_us(self) -> int:
        """Ingest time of the last leaf, microseconds since 1970; 0 in an empty ledger."""
        return self._state.last_us

    @property
    def signed_size(self) -> int:
        """Number of leaves under the newest checkpoint."""
        return self.signer.signed.size if self.signer.signed else 0

    @property
    def halted(self) -> str | None:
        """Why intake pauses, or None."""
        return self._halted

    def begin(self) -> None:
        """Let followers read what was recovered, then seal START and whatever is not announced yet."""
        self._files.publish_committed(self._state.size)
        self._catch_up()
        self._disk.replace(self._data.keys / "collector.vkey", f"{self.vkey}\n".encode())
        self.commit_controls(self._opening_records())
        self.sign()

    def close(self) -> None:
        """Sign what is committed and let another writer in."""
        try:
            if self._halted is None:
                self.sign()
                self.signer.keep_of_the_day()
        finally:
            self._recent.close()
            self._files.close()
            self._lock.release()

    def commit(self, submissions: Sequence[Submission]) -> list[list[Outcome] | Conflict]:
        """Make submissions durable in one group commit; return one answer each.

        Raises:
            IntakeHalted: none of them was acknowledged; each may be sent again.
        """
        plan = self._plan()
        return self._write(plan, lambda: [plan.add(submission) for submission in submissions])

    def commit_controls(self, controls: Sequence[ControlRecord]) -> list[Outcome]:
        """Make control records durable; raises as `commit` does."""
        plan = self._plan()
        return self._write(plan, lambda: [plan.add_control(control) for control in controls])

    def commit_policy(self, tenancy: Tenancy) -> Outcome:
        """Make an organization's policy the one in force; raises as `commit` does."""
        plan = self._plan()
        return self._write(plan, lambda: [plan.add_policy(tenancy)])[0]

    def seal_heads(self) -> None:
        """Seal HEADS if anything but HEADS was sealed since the last one; raises as `commit` does."""
        if heads_are_due(self._state):
            plan = self._plan()
            self._write(plan, lambda: [plan.add_heads()])

    def sign(self) -> None:
        """Sign and publish a checkpoint over all committed leaves, if there are new ones.

        Raises:
            IntakeHalted: the disk failed.
        """
        unsigned = self.prepare_to_sign()
        if unsigned is not None:
            self.publish(unsigned)

    def prepare_to_sign(self) -> Unsigned | None:
        """Write what a checkpoint over all committed leaves needs; None if there is nothing new to sign.

        Raises:
            IntakeHalted: the disk failed.
        """
        if self._halted is not None:
            raise self._halt_error()
        size = self._state.size
        if size == self.signed_size:
            return None
        try:
            self._files.append_hashes(self._state.frontier.take_tile_hashes())
        except OSError as error:
            self._halt(error)
            raise self._halt_error() from error
        # Ids are written whether or not a signature comes, since what is committed stays: memory is bounded.
        self._recent.flush(self._shard.root.name, size, day_of(max(self._state.last_us, self._clock.wall_us())))
        return Unsigned(Checkpoint(self.origin, size, self._state.frontier.root()), self._files.lengths())

    def publish(self, unsigned: Unsigned) -> None:
        """Sign and show what was prepared. It may take long, and may be called from another thread than the rest.

        Raises:
            IntakeHalted: the disk failed.
        """
        try:
            self.signer.sign(unsigned)
        except OSError as error:
            self._halt(error)
            raise self._halt_error() from error

    def resume(self) -> None:
        """Try to continue after a failed write: cut what was not acknowledged, recover, take intake up again.

        Raises:
            IntakeHalted: the disk still fails.
        """
        if self._halted is None:
            return
        try:
            if self._undo is not None:
                self._files.roll_back(*self._undo)
            self.recovered = self._recover()
        except OSError as error:
            self._halt(error)
            raise self._halt_error() from error
        self._undo = None
        self._state = self.recovered.state
        self._files.publish_committed(self._state.size)
        self._recent.forget_unwritten()
        self._catch_up()
        self._halted = None

    def _catch_up(self) -> None:
        with contextlib.closing(LedgerReader(self._data.ledger)) as reader:
            catch_up(self._recent, reader, self.origin, self._state.size, self.identity.tag_key)

    def forget_file(self, path: Path) -> None:
        """Close a frame file that is going to be deleted or replaced, so that its space is free afterwards."""
        self._files.forget(path)

    def _plan(self) -> CommitPlan:
        if self._halted is not None:
            raise self._halt_error()
        ingest_us = self._guard.ingest_us()
        self._before = (self._state.size, self._files.lengths())
        return CommitPlan(
            state=self._state,
            recent=self._recent,
            files=self._files,
            origin=self.origin,
            shard=self._shard.root.name,
            org_salt=self.identity.org_salt,
            tag_key=self.identity.tag_key,
            ingest_us=ingest_us,
            find_leaf=self._leaf_at,
            find_sequence=self._find_sequence,
        )

    def _write(self, plan: CommitPlan, fill: Callable[[], list[_Answer]]) -> list[_Answer]:
        """Fill the plan and write it: content first, then leaves, then the size followers may read."""
        try:
            answers = fill()
            if plan.leaves:
                self._files.write_content(plan.contents)
                self._files.write_leaves(plan.leaves)
        except BaseException as error:
            # The state ran ahead of the disk, or the disk is in doubt: only recovery may say where we are.
            self._undo = self._before
            self._halt(error)
            if isinstance(error, OSError):
                raise self._halt_error() from error
            raise
        self._files.publish_committed(self._state.size)
        self._guard.sealed(self._state.last_us)
        return answers

    def _recover(self) -> Recovered:
        now = datetime.fromtimestamp(self._clock.wall_us() / MICROSECONDS, UTC).strftime("%Y%m%dT%H%M%SZ")
        key = self._key.verifying_key
        return recover(self._data, self._shard, key, self._disk, now=now, on_progress=self._options.on_progress)

    def _opening_records(self) -> list[ControlRecord]:
        """Return START, then the collector's key and the schemas that the ledger does not announce yet."""
        cut = self.recovered.cut
        start: JsonObject = {
            "type": "start",
            "software": self._options.software,
            "clock_source": self._clock_source(),
            "org_salt_sha256": hashlib.sha256(self.identity.org_salt).hexdigest(),
            "recovered": None if cut is None else {"size": cut.size, "cut": cut.count, "reason": cut.reason},
        }
        records = [_operator_record(Kind.START, start)]
        if self.vkey not in self._state.collector_vkeys:
            key: JsonObject = {
                "type": "key",
                "ordinal": self._state.last_ordinal + 1,
                "emitter_id": self.identity.collector_id,
                "boot": None,
                "vkey": self.vkey,
                "org_ref": None,
                "revoked_after_seq": None,
            }
            records.append(_operator_record(Kind.KEY, key))
        for schema_id, digest in sorted(self._options.schemas.items()):
            if self._state.schemas.get(schema_id) != digest:
                document: JsonObject = {"type": "schema", "id": schema_id, "sha256": digest}
                records.append(_operator_record(Kind.SCHEMA, document))
        return records

    def _clock_source(self) -> str:
        source = "synchronised" if self._clock.synchronised() else "not synchronised"
        return f"{source}, confirmed by the operator" if self._options.confirm_clock else source

    def _leaf_at(self, index: int) -> bytes:
        with self._shard.leaves.open("rb") as file:
            return os.pread(file.fileno(), LEAF_SIZE, index * LEAF_SIZE)

    def _find_sequence(self, ordinal: int, sequence: int) -> int:
        """Return the index of an emitter's event that the recent ids no longer know; a rare, linear search."""
        step = _SEARCH_BYTES // LEAF_SIZE
        with self._shard.leaves.open("rb") as file:
            for start in range(0, self._state.size, step):
                block = os.pread(file.fileno(), step * LEAF_SIZE, start * LEAF_SIZE)
                for position in range(len(block) // LEAF_SIZE):
                    leaf = Leaf.unpack(block[position * LEAF_SIZE : (position + 1) * LEAF_SIZE])
                    if (leaf.emitter, leaf.emitter_seq) == (ordinal, sequence):
                        return start + position
        raise IntakeHalted(
            f"Sequence {sequence} of emitter {ordinal} is being sealed in this very commit.",
            remedy="Send it again.",
            retry_after=_RETRY_AFTER,
        )

    def _halt(self, error: BaseException) -> None:
        self._halted = f"{_HALTED} ({error})"

    def _halt_error(self) -> IntakeHalted:
        return IntakeHalted(
            self._halted or _HALTED,
            remedy="Free space or repair the disk; the collector tries again by itself.",
            retry_after=_RETRY_AFTER,
            code="disk_failed",
        )


def _operator_record(kind: Kind, document: JsonObject) -> ControlRecord:
    return ControlRecord(kind, document, OPERATOR_ORGANIZATION_ID)


def _current_shard(data: DataDirectory, clock: Clock) -> ShardDirectory:
    """Return the newest shard; the year's first one in an empty ledger."""
    shards = [path for path in data.ledger.iterdir() if path.is_dir() and path.name[0].isdigit()]
    if shards:
        return ShardDirectory(max(shards, key=shard_order))
    year = datetime.fromtimestamp(clock.wall_us() / MICROSECONDS, UTC).year
    return ShardDirectory(data.ledger / str(year))
