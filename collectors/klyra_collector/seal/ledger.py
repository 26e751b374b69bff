"""The ledger's one writer: group commits, a signed checkpoint each second, recovery through one door.

Everything here runs on the sealing thread. What a crash leaves behind after each durable step is said in
`files.py` and below.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self, TypeVar

import structlog

from klyra_audit.errors import Rejected
from klyra_audit.format import control
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.control import REASON_YEAR, ShardClose, ShardOpen, Start
from klyra_audit.format.note import VerifyingKey
from klyra_audit.format.sections import OPERATOR_REFERENCE
from klyra_audit.timestamps import MICROSECONDS, day_of
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.errors import CellConflict, CellUnreachable, Conflict, IntakeHalted, LedgerDamaged, SignerFailed
from klyra_collector.seal.cell_guard import guard_of
from klyra_collector.seal.clock import Clock, ClockGuard
from klyra_collector.seal.closed import ClosedShard, EarlierShards, LeafFiles
from klyra_collector.seal.commit import CommitPlan
from klyra_collector.seal.consent import read_consent
from klyra_collector.seal.exports import export_record, find_sealed
from klyra_collector.seal.files import ShardFiles
from klyra_collector.seal.heads import heads_are_due
from klyra_collector.seal.identity import KeyOptions, load_identity
from klyra_collector.seal.key_ring import KeyRing, keys_of, unknown_key
from klyra_collector.seal.lock import LedgerLock
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.seal.recent import LEAST_DAYS, RecentIds
from klyra_collector.seal.recent_catch_up import catch_up
from klyra_collector.seal.recovery import Cut, Recovered, recover
from klyra_collector.seal.shards import (
    CLOSE,
    find_shards,
    first_documents,
    load_earlier,
    shard_year,
    year_of,
    year_start_us,
)
from klyra_collector.seal.signing import CheckpointSigner, Unsigned
from klyra_collector.stages import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from klyra_audit.format.control import Expiry, Key
    from klyra_collector.data_directory import DataDirectory
    from klyra_collector.seal.durable import Disk
    from klyra_collector.seal.identity import Identity
    from klyra_collector.seal.own_commits import OwnCommits
    from klyra_collector.seal.shards import FoundShards
    from klyra_collector.seal.state import LedgerState
    from klyra_collector.stages import ControlRecord, Submission, Tenancy

_HALTED = "The ledger's disk failed; intake pauses until it can be written again."
_RETRY_AFTER = 5.0

_log = structlog.get_logger(__name__)


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
        keys: where the keys of checkpoints are.
        cell: URL of the cell outside this disk that remembers the newest head; None for none.
    """

    software: str
    schemas: Mapping[str, str]
    ledger_name: str | None = None
    collector_id: str | None = None
    confirm_clock: bool = False
    recognised_days: int = LEAST_DAYS
    on_progress: Callable[[int, int], None] = lambda _done, _total: None
    keys: KeyOptions = field(default_factory=KeyOptions)
    cell: str | None = None


_Answer = TypeVar("_Answer")


class Ledger:
    """The open shard of one collector. Use `open`; close it to let another writer in.

    Attributes:
        identity: who this collector is.
        earlier: what is known of the shards before the open one.
        found_us: ingest time of the last leaf that this start found, microseconds since 1970; 0 in a new ledger.
        recovered: what the last recovery had to cut.
    """

    def __init__(self, data: DataDirectory, disk: Disk, clock: Clock, options: LedgerOptions, lock: LedgerLock) -> None:
        self._data = data
        self._disk = disk
        self._clock = clock
        self._options = options
        self._lock = lock
        self.identity: Identity = load_identity(
            data, disk, ledger_name=options.ledger_name, collector_id=options.collector_id, keys=options.keys
        )
        self._cell = guard_of(options.cell, self.identity.origin(""), data.ledger, disk)
        self._leaf_files = LeafFiles(data.ledger)
        self._halted: str | None = None
        self._conflict: CellConflict | None = None
        self._signs = True
        self._before: tuple[int, Mapping[str, int]] = (0, {})
        self._undo: tuple[int, Mapping[str, int]] | None = None
        self._own: OwnCommits
        self._state: LedgerState
        self._cut_at_open: Cut | None = None
        found = find_shards(data, clock.wall_us())
        self.earlier: EarlierShards = load_earlier(found)
        self._enter(found.current)
        if self._state.size == 0 and found.earlier:
            found = self._go_back(found)
        if self._cell is not None:
            self._cell.check((*found.earlier, found.current))
        last_us = self.found_us = max(self._state.last_us, self.earlier.last_us)
        today = day_of(max(last_us, clock.wall_us()))
        self._recent = RecentIds(data.recent, today, options.recognised_days)
        self._guard = ClockGuard(clock, last_us, options.confirm_clock)

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
        return self.signer.origin

    @property
    def vkey(self) -> str:
        """The verifier key line of the open shard: of the key announced last that is not revoked."""
        newest = self.ring().newest()
        return self.signer.preferred.vkey if newest is None else str(newest.vkey)

    @property
    def size(self) -> int:
        """Number of committed leaves."""
        return self._state.size

    @property
    def last_us(self) -> int:
        """Ingest time of the last leaf, microseconds since 1970; 0 in an empty ledger."""
        return self._state.last_us

    @property
    def year_start_us(self) -> int:
        """When the year of the open shard began, microseconds since 1970."""
        return year_start_us(shard_year(self._shard))

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
        self._catch_up(self.earlier.shards)
        if self._state.closed is None:
            self._seal_first_documents(self._guard.ingest_us())
        else:
            self._go_on_in_next_shard(self._guard.ingest_us())
        self._sign_if_possible()

    def close(self) -> None:
        """Sign what is committed and let another writer in."""
        try:
            if self._halted is None:
                self._sign_if_possible()
                self.signer.keep_of_the_day()
        finally:
            self._recent.close()
            self._files.close()
            self._own.close()
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

    def commit_expiries(self, expiries: Sequence[Expiry]) -> list[Outcome]:
        """Make EXPIRY records durable, each with its `log` unless that is the open shard; raises as `commit` does."""
        plan = self._plan()  # which may open the next shard
        named = [replace(expiry, log=None) if expiry.log == self.origin else expiry for expiry in expiries]
        return self._write(plan, lambda: [plan.add_document(expiry) for expiry in named])

    def commit_policy(self, tenancy: Tenancy) -> Outcome:
        """Make an organization's policy the one in force; raises as `commit` does."""
        plan = self._plan()
        return self._write(plan, lambda: [plan.add_policy(tenancy)])[0]

    def commit_export(self, organization_id: str, sha256: bytes, *, again: bool) -> Outcome:
        """Seal the EXPORT record of a packet; raises as `commit` does.

        Args:
            organization_id: whose packet.
            sha256: of its manifest.
            again: it may have been sealed before, so look for it first.
        """
        record = export_record(organization_id, sha256)
        sealed = find_sealed(self._shard.leaves, self.origin, self.size, record) if again else None
        return self.commit_controls([record])[0] if sealed is None else Outcome(Status.DUPLICATE, sealed)

    def commit_emitter_key(
        self, emitter_id: str, vkey: str, organization_id: str | None, revoked_after_seq: int | None
    ) -> Outcome:
        """Announce or revoke a key of an emitter; raises as `commit` does.

        Raises:
            Rejected: `bad_emitter_id`: it is the collector's own, or one of its logs; or the key signs this ledger.
        """
        own = self.identity.collector_id
        if emitter_id == own or emitter_id.startswith(self.identity.origin("")):
            raise Rejected(f"{emitter_id} names the collector.", remedy="Rename the emitter.", code="bad_emitter_id")
        signing = {key.public for key in self.signer.verifying_keys}
        if VerifyingKey.parse(vkey).public in signing:
            raise Rejected(
                "This key signs the ledger itself.", remedy="Give the emitter a key of its own.", code="bad_emitter_id"
            )
        plan = self._plan()
        return self._write(plan, lambda: [plan.add_key(emitter_id, vkey, organization_id, revoked_after_seq)])[0]

    def rotate_key(self, outgoing: str) -> Outcome:
        """Announce a new key of the collector; it signs once a checkpoint covers that (see `CheckpointSigner.sign`).

        A crash after the key was drawn leaves a file that nobody has heard of, which the next call takes; a crash
        after its record was sealed leaves the rest to the signing that follows, at the next start too.

        Args:
            outgoing: the verifier key line that is newest. If another one is by now, nothing is done: this very
                rotation has happened already.

        Raises:
            Rejected: `unknown_key`, or `external_signer`; raises as `commit` does as well.
        """
        plan = self._plan()  # which may open the next shard
        ring = self.ring()
        newest = ring.newest()
        if newest is None or ring.find(outgoing) is None:
            raise unknown_key(outgoing)
        vkey = str(newest.vkey)
        if vkey == outgoing:
            vkey = self._draw_key()
        return self._write(plan, lambda: [plan.add_key(self.identity.collector_id, vkey, None, None)])[0]

    def _draw_key(self) -> str:
        try:
            return self.signer.add_key([str(key.vkey) for key in self._own_keys()]).vkey
        except OSError as error:
            self._halt(error)
            raise self._halt_error() from error

    def revoke_key(self, vkey: str) -> Outcome:
        """Revoke a key of the collector: it vouches for what is sealed by now, and signs nothing more.

        Raises:
            Rejected: `unknown_key`, or `last_key` when no other key signs yet; raises as `commit` does as well.
        """
        plan = self._plan()
        revoked = self.ring().check_revocable(vkey).revoked_after_seq
        last = self._state.chain(OPERATOR_REFERENCE).next_seq - 1 if revoked is None else revoked
        return self._write(plan, lambda: [plan.add_key(self.identity.collector_id, vkey, None, last)])[0]

    def seal_heads(self) -> None:
        """Seal HEADS if anything but HEADS was sealed since the last one; raises as `commit` does."""
        if heads_are_due(self._state):
            plan = self._plan()
            self._write(plan, lambda: [plan.add_heads()])

    def sign(self) -> None:
        """Sign and publish a checkpoint over all committed leaves, if there are new ones; raises as `publish`."""
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
        head = Checkpoint(self.origin, size, self._state.frontier.root())
        return Unsigned(head, self._files.lengths(), self._own_keys())

    def publish(self, unsigned: Unsigned) -> None:
        """Sign and show what was prepared. It may take long, and may be called from another thread than the rest.

        Raises:
            IntakeHalted: the disk failed, or for good, `cell_conflict`: another collector writes this ledger.
            SignerFailed, CellUnreachable: intake goes on; try again with what is committed then.
        """
        signer = self.signer
        if unsigned.head.origin != signer.origin:
            return  # the shard was closed meanwhile, with a checkpoint over its end
        try:
            signer.sign(unsigned)
        except (SignerFailed, CellUnreachable):
            self._signs = False
            raise
        except CellConflict as error:
            self._conflict = error
            self._halt(error)
            raise self._halt_error() from error
        except OSError as error:
            self._halt(error)
            raise self._halt_error() from error
        self._signs = True

    def resume(self) -> None:
        """Try to continue after a failed write: cut what was not acknowledged, recover, take intake up again.

        Raises:
            IntakeHalted: the disk still fails.
        """
        if self._halted is None:
            return
        if self._conflict is not None:
            raise self._halt_error()
        try:
            if self._undo is not None:
                self._files.roll_back(*self._undo)
            self.recovered = self._recover(self._shard, self.signer)
        except OSError as error:
            self._halt(error)
            raise self._halt_error() from error
        self._undo = None
        self._own.close()
        self._own = self.recovered.own
        self._state = self.recovered.state
        self._files.publish_committed(self._state.size)
        self._recent.forget_unwritten()
        self._catch_up()
        self._halted = None

    def ring(self) -> KeyRing:
        """Return which keys sign the open shard."""
        return self.signer.ring(self._own_keys())

    def _own_keys(self) -> tuple[Key, ...]:
        return keys_of(self._state.keys.values(), self.identity.collector_id, self.origin)

    def _sign_if_possible(self) -> None:
        """Sign; what is committed stays so without a signature, which a later second brings."""
        try:
            self.sign()
        except (SignerFailed, CellUnreachable) as error:
            _log.error("not_signed", reason=str(error))

    def forget_file(self, path: Path) -> None:
        """Close a frame file that is going to be deleted or replaced, so that its space is free afterwards."""
        self._files.forget(path)

    def _plan(self) -> CommitPlan:
        if self._halted is not None:
            raise self._halt_error()
        ingest_us = self._guard.ingest_us()
        self._turn_year(ingest_us)
        return self._plan_at(ingest_us)

    def _plan_at(self, ingest_us: int) -> CommitPlan:
        self._before = (self._state.size, self._files.lengths())
        return CommitPlan(
            state=self._state,
            recent=self._recent,
            files=self._files,
            identity=self.identity,
            earlier=self.earlier,
            leaf_files=self._leaf_files,
            ingest_us=ingest_us,
        )

    def _turn_year(self, ingest_us: int) -> None:
        """Seal what must come before a commit of this time: a shard's end, the first documents of the next one.

        A shard is closed only while checkpoints are signed, since nothing may follow its end until that is signed.

        What a crash leaves behind after each step is said in `shards.py`; what a failing disk leaves, the next
        commit goes on with.
        """
        try:
            if not self._begun:
                self._seal_first_documents(ingest_us)
            if self._state.closed is None and year_of(ingest_us) > shard_year(self._shard) and self._signs:
                self._close_shard(str(year_of(ingest_us)), ingest_us)
            if self._state.closed is not None:
                self._go_on_in_next_shard(ingest_us)
        except OSError as error:
            self._halt(error)
            raise self._halt_error() from error
        except (SignerFailed, CellUnreachable) as error:
            raise IntakeHalted(
                f"The closed shard's end is not signed yet: {error}",
                remedy="Send it again; signing is tried again with it.",
                retry_after=_RETRY_AFTER,
                code=error.code,
            ) from error

    def _close_shard(self, next_shard: str, ingest_us: int) -> None:
        """Seal the shard's last two records: HEADS, under which everyone's newest record stays provable, and SHARD."""
        key = self.identity.next_shard_key(next_shard)  # durable before it is named
        close = ShardClose(self.identity.origin(next_shard), key.vkey)
        plan = self._plan_at(ingest_us)
        self._write(plan, lambda: [plan.add_heads(), plan.add_document(close)])

    def _go_on_in_next_shard(self, ingest_us: int) -> None:
        """Sign the closed shard's end and open the one it names. Every step may be repeated."""
        closed = self._state.closed
        assert closed is not None  # noqa: S101 - callers have looked
        shard = ShardDirectory(self._data.ledger / closed.next_origin.rpartition("/")[2])
        if self.identity.signing_key(shard.root.name).vkey != closed.next_vkey:
            raise LedgerDamaged(
                f"The key that {self.origin} names for the shard after it is not at hand: {closed.next_vkey}.",
                remedy=f"Restore keys/{shard.root.name}.key from your backup, or name the key's signer again.",
                code="secret_missing",
            )
        self.sign()
        self.signer.keep(CLOSE, self._shard.checkpoint.read_bytes())
        ended = ClosedShard.of(self._shard.root.name, self._state)
        self._disk.replace(self._shard.sequences, ended.encode())
        opened = ShardOpen(self.origin, self._state.size, self._state.frontier.root(), REASON_YEAR)
        files, own = self._files, self._own
        self.earlier = self.earlier.followed_by(ended)
        self._enter(shard, opened)
        files.close()
        own.close()
        self._seal_first_documents(ingest_us)

    def _enter(self, shard: ShardDirectory, opened: ShardOpen | None = None) -> None:
        """Take up a shard: recover it and write to it from now on. Nothing changes if that fails."""
        signer = CheckpointSigner(
            shard=shard,
            disk=self._disk,
            clock=self._clock,
            signers=self.identity.signers,
            vkey_file=self._data.keys / "collector.vkey",
            cell=self._cell,
        )
        recovered = self._recover(shard, signer)
        signer.load()
        consent = read_consent(shard)
        self._files = ShardFiles(self._disk, self._data, shard)
        self._shard = shard
        self.signer = signer
        self.recovered = recovered
        self._own = recovered.own
        self._state = recovered.state
        self._opened = opened if consent is None else consent.opened
        self._consented = None if consent is None else consent.recovered
        self._begun = False

    def _go_back(self, found: FoundShards) -> FoundShards:
        """Return to the shard before, which is closed, if a crash left none of the first records of this one.

        They were one commit, so that part of them is none; the shard is opened again as if it never had been.
        """
        self._cut_at_open = self.recovered.cut
        again = find_shards(self._data, self._clock.wall_us())
        if again.current != found.current:
            self._files.close()
            self._own.close()
            self.earlier = load_earlier(again)
            self._enter(again.current)
        return again

    def _seal_first_documents(self, ingest_us: int) -> None:
        announced = self.ring().to_announce(self.signer.wanted, self.signer.preferred)
        plan = self._plan_at(ingest_us)
        documents = first_documents(
            self._state,
            opened=self._opened,
            start=self._start(),
            earlier=self.earlier,
            vkeys=[] if announced is None else [announced.vkey],
            collector_id=self.identity.collector_id,
            schemas=self._options.schemas,
        )
        self._write(plan, lambda: [plan.add_document(document) for document in documents])
        self._begun = True
        self._cut_at_open = None

    def _write(self, plan: CommitPlan, fill: Callable[[], list[_Answer]]) -> list[_Answer]:
        """Fill the plan and write it: content and what vouches for it, then leaves, then what followers may read."""
        try:
            answers = fill()
            if plan.leaves:
                vouching = self._own.write(self._state.size, self._state.frontier.root())
                self._files.write_content(plan.contents, vouching)
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

    def _recover(self, shard: ShardDirectory, signer: CheckpointSigner) -> Recovered:
        now = datetime.fromtimestamp(self._clock.wall_us() / MICROSECONDS, UTC).strftime("%Y%m%dT%H%M%SZ")
        keys = signer.verifying_keys
        recovered = recover(self._data, shard, keys, self._disk, now=now, on_progress=self._options.on_progress)
        state = recovered.state
        state.last_ordinal = max(state.last_ordinal, self.earlier.last_ordinal)
        return recovered

    def _catch_up(self, earlier: Sequence[ClosedShard] = ()) -> None:
        """Note the recent ids that the file does not have, of this shard and of earlier ones that are recent too."""
        tag_key = self.identity.tag_key
        with contextlib.closing(LedgerReader(self._data.ledger)) as reader:
            for shard in earlier:
                if day_of(shard.last_us) >= self._recent.first_day:
                    try:
                        catch_up(self._recent, reader, self.identity.origin(shard.name), shard.size, tag_key)
                    except LedgerDamaged as error:  # what cannot be read there is sealed again when it comes again
                        _log.error("closed_shard_damaged", shard=shard.name, reason=str(error))
            catch_up(self._recent, reader, self.origin, self._state.size, tag_key)

    def _start(self) -> Start:
        """Return START, with what this start had to cut or, in a shard opened after a disaster, what was agreed to."""
        cut = self.recovered.cut or self._cut_at_open
        recovered = None if cut is None else control.Recovered(cut.size, cut.count, cut.reason)
        if self._consented is not None and not self._state.started:
            recovered = self._consented
        org_salt = hashlib.sha256(self.identity.org_salt).digest()
        return Start(self._options.software, self._clock_source(), org_salt, recovered)

    def _clock_source(self) -> str:
        source = "synchronised" if self._clock.synchronised() else "not synchronised"
        return f"{source}, confirmed by the operator" if self._options.confirm_clock else source

    def _halt(self, error: BaseException) -> None:
        self._halted = f"{_HALTED} ({error})"

    def _halt_error(self) -> IntakeHalted:
        if self._conflict is not None:
            return IntakeHalted(
                "Another collector writes this ledger: the cell outside this disk holds its head.",
                remedy="Stop both, find the newest copy of the data directory, and start one collector on it.",
                retry_after=_RETRY_AFTER,
                code=self._conflict.code,
            )
        return IntakeHalted(
            self._halted or _HALTED,
            remedy="Free space or repair the disk; the collector tries again by itself.",
            retry_after=_RETRY_AFTER,
            code="disk_failed",
        )
