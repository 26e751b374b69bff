"""What is left of a shard that cannot be continued, and how an operator goes on without the rest (DESIGN section 5).

Nothing is ever written into a damaged shard again. What can be read of it, from its first record up to the first that
cannot, is still served; the new shard says what was signed, how much of it is lost, and why that was accepted.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from klyra_audit.errors import Halted, Rejected
from klyra_audit.format import canonical, sections
from klyra_audit.format.control import REASON_DISASTER, Recovered, ShardOpen
from klyra_audit.format.errors import FormatError
from klyra_audit.format.leaf import Kind
from klyra_audit.format.merkle import EMPTY_ROOT
from klyra_audit.timestamps import MICROSECONDS, day_of
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.errors import LedgerDamaged, LedgerRolledBack
from klyra_collector.seal.closed import ClosedShard
from klyra_collector.seal.consent import Consent
from klyra_collector.seal.reader import LedgerReader, shard_order
from klyra_collector.seal.recovery import TAIL_UNVOUCHED, open_signed, read_last_signed, refuse_damaged
from klyra_collector.seal.shards import find_shards, leaf_count, shards_of, year_of
from klyra_collector.seal.state import BrokenChain, LedgerState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from klyra_audit.format.checkpoint import Checkpoint
    from klyra_audit.format.frame import BodyFrame
    from klyra_audit.format.note import VerifyingKey
    from klyra_collector.data_directory import DataDirectory
    from klyra_collector.seal.cell_guard import CellGuard
    from klyra_collector.seal.durable import Disk
    from klyra_collector.seal.identity import Identity
    from klyra_collector.seal.reader import SealedRecord
    from klyra_collector.seal.shards import FoundShards

MAX_REASON = 4096

_RECORDS_PER_READ = 1024


class KnownHead(NamedTuple):
    """A signed head: where its checkpoint was found, when that was written, and what it says."""

    where: str
    written_us: int
    head: Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What is left of the newest shard.

    Attributes:
        shard: the shard that would be continued.
        refusal: why it cannot be; None if it can.
        leaves: whole leaves that are there.
        readable: how many records from the first on have everything that belongs to them.
        problem: what is wrong with the first that has not; None if all leaves have.
        signed: the newest signed head of this collector that is known, perhaps of a later shard; None if there is none.
        lost: how many records of the signed head's shard cannot be read any more.
        state: after the readable records.
    """

    shard: ShardDirectory
    refusal: Halted | None
    leaves: int
    readable: int
    problem: str | None
    signed: KnownHead | None
    lost: int
    state: LedgerState


def examine(data: DataDirectory, identity: Identity, cell: CellGuard | None, now_us: int) -> Examination:
    """Look at the newest shard, and at the cell outside this disk if there is one, without writing anything.

    Raises:
        Halted: a secret or the cell cannot be used; that is to be mended first.
    """
    found = find_shards(data, now_us)
    shard, origin = found.current, identity.origin(found.current.root.name)
    keys = [key.verifying_key for key in identity.signers.available(shard.root.name)]
    refusal = _refusal(data, found, keys, cell)
    size = leaf_count(shard)
    if refusal is not None and refusal.code == TAIL_UNVOUCHED:  # whoever wrote it, it is not served as if received
        signed_last = read_last_signed(shard, keys)
        size = 0 if signed_last is None else signed_last.size
    state, problem = read_through(data, origin, size, day_of(now_us))
    heads = [*known_heads(shard, keys)]
    if cell is not None and cell.head is not None:
        heads.append(KnownHead("the cell outside this disk", now_us, cell.head))
    signed = max(heads, key=_age, default=None)
    return Examination(
        shard=shard,
        refusal=refusal,
        leaves=leaf_count(shard),
        readable=state.size,
        problem=problem,
        signed=signed,
        lost=lost_of(signed, origin, state.size),
        state=state,
    )


def read_through(data: DataDirectory, origin: str, size: int, today: int) -> tuple[LedgerState, str | None]:
    """Read a shard from its first record up to the first that is not whole.

    Args:
        data: where it is.
        origin: of the shard.
        size: how many of its records are looked at.
        today: UTC day since 1970; a body whose day has come may be gone.

    Returns:
        The state after the records that are whole, and what is wrong with the next one; None if all are.
    """
    readable = _Readable(data, origin, size, today)
    readable.read()
    return readable.state, readable.problem


def lost_of(signed: KnownHead | None, origin: str, readable: int) -> int:
    """Return how many records of a signed head's shard cannot be read any more, where so many of `origin` can be."""
    if signed is None:
        return 0
    return max(0, signed.head.size - (readable if signed.head.origin == origin else 0))


def leave_behind(
    data: DataDirectory, disk: Disk, identity: Identity, found: Examination, reason: str, now_us: int
) -> ShardDirectory:
    """Leave a damaged shard behind, as the operator agrees to, and return the one in which the ledger goes on.

    The caller holds the ledger's lock, and opens the ledger afterwards: that seals the new shard's first records.
    A crash before the last step leaves a key and files that nothing reads, and the damaged shard as the newest.

    Raises:
        Rejected: `not_damaged`: the newest shard can be continued. `bad_reason`: the reason is empty or too long.
    """
    if not 0 < len(reason.strip()) <= MAX_REASON:
        raise Rejected(
            f"The reason has {len(reason.strip())} characters.",
            remedy=f"Say in 1 to {MAX_REASON} characters what happened; it is kept in the ledger for ever.",
            code="bad_reason",
        )
    if found.refusal is None:
        raise Rejected(
            f"{found.shard.root} can be continued; nothing has to be left behind.",
            remedy="Start the collector.",
            code="not_damaged",
        )
    shard = ShardDirectory(data.ledger / _next_name(data, found, year_of(now_us)))
    identity.next_shard_key(shard.root.name)
    _forget_recent(data.recent)  # it may know ids whose records are lost; they are to be sealed when they come again
    ended = ClosedShard.of(found.shard.root.name, found.state)
    disk.replace(shard.sequences_of(ended.name), ended.encode())
    disk.replace(shard.consent, _consent(found, identity, reason.strip()).encode())
    disk.sync_new_file(shard.consent, data.root)
    return shard


def known_heads(shard: ShardDirectory, keys: Sequence[VerifyingKey]) -> Iterator[KnownHead]:
    """Yield every checkpoint in a shard's folder that one of its keys has signed."""
    kept = sorted(shard.checkpoints.glob("*")) if shard.checkpoints.exists() else []
    for path in (shard.last_signed, shard.checkpoint, shard.witnessed, *kept):
        head = _open(path, keys)
        if head is not None:
            yield KnownHead(str(path.relative_to(shard.root.parent)), int(path.stat().st_mtime * MICROSECONDS), head)


def _open(path: Path, keys: Sequence[VerifyingKey]) -> Checkpoint | None:
    try:
        return open_signed(path.read_bytes(), keys)
    except (OSError, FormatError):
        return None


def _refusal(
    data: DataDirectory, found: FoundShards, keys: Sequence[VerifyingKey], cell: CellGuard | None
) -> Halted | None:
    refusal: Halted | None = None
    try:
        refuse_damaged(data, found.current, keys)
    except Halted as error:
        refusal = error
    if cell is not None:
        try:
            cell.check((*found.earlier, found.current))
        except LedgerRolledBack as error:
            refusal = refusal or error
    return refusal


def _age(known: KnownHead) -> tuple[tuple[int, int], int]:
    """Sort key of heads: by shard, then by size."""
    return shard_order(Path(known.head.origin)), known.head.size


def _consent(found: Examination, identity: Identity, reason: str) -> Consent:
    signed = found.signed.head if found.signed else None
    size = signed.size if signed else 0
    opened = ShardOpen(
        previous_origin=identity.origin(found.shard.root.name) if signed is None else signed.origin,
        previous_size=size,
        previous_root=EMPTY_ROOT if signed is None else signed.root,
        reason=REASON_DISASTER,
    )
    return Consent(opened, Recovered(size, found.lost, reason), found.readable)


def _next_name(data: DataDirectory, found: Examination, present_year: int) -> str:
    """Return `<year>-2` or the next number that is free; a folder without leaves or consent is what a crash left."""
    used = {shard_order(found.shard.root)}
    used |= {shard_order(shard.root) for shard in shards_of(data) if shard.consent.exists() or leaf_count(shard)}
    if found.signed is not None:
        used.add(shard_order(Path(found.signed.head.origin)))
    year = max(present_year, max(used)[0])
    return f"{year}-{max((number for of, number in used if of == year), default=1) + 1}"


def _forget_recent(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


class _Readable:
    """Reads a shard from its first record up to the first that is not whole."""

    def __init__(self, data: DataDirectory, origin: str, size: int, today: int) -> None:
        self.state = LedgerState()
        self.problem: str | None = None
        self._size = size
        self._origin = origin
        self._today = today
        self._reader = LedgerReader(data.ledger, {origin: self._size})

    def read(self) -> None:
        with contextlib.closing(self._reader):
            while self.problem is None and self.state.size < self._size:
                for record in self._next():
                    self._take(record)

    def _next(self) -> Sequence[SealedRecord]:
        """Return the next records; one alone where several cannot be read at once."""
        try:
            return self._reader.read(self._origin, self.state.size, _RECORDS_PER_READ)
        except (LedgerDamaged, OSError):
            try:
                return self._reader.read(self._origin, self.state.size, 1)
            except (LedgerDamaged, OSError) as error:
                self.problem = str(error)
                return ()

    def _take(self, record: SealedRecord) -> None:
        if self.problem is not None:
            return
        try:
            self._check(record)
            self.state.apply_leaf(record.leaf_bytes, record.leaf)
            if record.control is not None:
                self.state.apply_control(record.leaf.kind, record.control, record.index)
        except (FormatError, BrokenChain) as error:
            self.problem = f"Record {record.index}: {error}."

    def _check(self, record: SealedRecord) -> None:
        """Raise BrokenChain if the content is not what the leaf commits to; one that has expired may be gone."""
        leaf, body = record.leaf, record.body
        if record.control is not None:
            if sections.control_commit(canonical.encode(record.control)) != leaf.commit:
                raise BrokenChain("its control document is not the one that was sealed")
        elif body is None:
            if Kind(leaf.kind).has_body and leaf.expire_day > self._today:
                raise BrokenChain("its body is missing")
        elif body.commitments.event_commit() != leaf.commit or not _matches(body):
            raise BrokenChain("its body is not the one that was sealed")


def _matches(body: BodyFrame) -> bool:
    """Say whether each section hashes to its commitment; an erased one is zeros and hashes to nothing any more."""
    found, sealed, parts = sections.commitments(body.sections, body.salts), body.commitments, body.sections
    return (
        found.core == sealed.core
        and (found.actor == sealed.actor or not any(parts.actor or b"-"))
        and (found.target == sealed.target or not any(parts.target or b"-"))
    )
