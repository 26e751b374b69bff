"""Sign the head of a shard and show it: who signs, what was signed last, which checkpoints are kept for good.

Nothing here reads or advances the ledger's state, so that a signature may be waited for while commits go on.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
import structlog

from klyra_audit.format import note
from klyra_audit.format.errors import NoteError
from klyra_audit.timestamps import MICROSECONDS, day_of, day_to_date
from klyra_collector.errors import SignerFailed
from klyra_collector.seal.key_ring import KeyRing
from klyra_collector.seal.recovery import read_last_signed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from klyra_audit.format.checkpoint import Checkpoint
    from klyra_audit.format.control import Key
    from klyra_audit.format.note import SigningKey, VerifyingKey
    from klyra_collector.data_directory import ShardDirectory
    from klyra_collector.seal.cell_guard import CellGuard
    from klyra_collector.seal.clock import Clock
    from klyra_collector.seal.durable import Disk
    from klyra_collector.seal.signers import Signers

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A durable head that is to be signed.

    Attributes:
        head: size and root of what is committed.
        lengths: how long every frame file is at that size, by path below the data directory.
        keys: the shard's KEY records in it, newest of each key, in the order of their announcement.
    """

    head: Checkpoint
    lengths: Mapping[str, int]
    keys: tuple[Key, ...]


class CheckpointSigner:
    """The one place where checkpoints of a shard are signed, published and kept. Safe with several threads.

    Args:
        shard: its folder.
        disk: to write with.
        clock: tells when a day has passed.
        signers: the keys at hand.
        vkey_file: where the newest verifier key line in force is shown to people.
        cell: what remembers the newest head outside this disk; None for none.
    """

    def __init__(
        self,
        *,
        shard: ShardDirectory,
        disk: Disk,
        clock: Clock,
        signers: Signers,
        vkey_file: Path,
        cell: CellGuard | None = None,
    ) -> None:
        self._shard = shard
        self._disk = disk
        self._clock = clock
        self._signers = signers
        self._vkey_file = vkey_file
        self._cell = cell
        self._available = signers.available(shard.root.name)
        self._signed: Checkpoint | None = None
        self._shown_vkey: str | None = None
        self._signing = threading.Lock()
        self._showing = threading.Lock()

    @property
    def origin(self) -> str:
        """The name of the shard as a log."""
        return self.preferred.verifying_key.name

    @property
    def preferred(self) -> SigningKey:
        """The key that a shard which announces none is signed with."""
        return self._available[-1]

    @property
    def wanted(self) -> SigningKey | None:
        """The key that the configuration asks for; None if it asks for none in particular."""
        return self.preferred if self._signers.is_configured else None

    @property
    def verifying_keys(self) -> tuple[VerifyingKey, ...]:
        """The keys at hand, among them those that sign."""
        return tuple(key.verifying_key for key in self._available)

    @property
    def signed(self) -> Checkpoint | None:
        """The newest head that was signed and published; None before the first."""
        return self._signed

    def ring(self, keys: Sequence[Key]) -> KeyRing:
        """Return which keys sign, given the shard's KEY records."""
        return KeyRing(keys, self._available, lambda ordinal: self._handover(ordinal).exists())

    def load(self) -> None:
        """Read what was signed last; raises as `read_last_signed`."""
        self._signed = read_last_signed(self._shard, self.verifying_keys)

    def add_key(self, used: Sequence[str]) -> SigningKey:
        """Return a key, drawn and durable, that no record announces yet; raises as `Signers.draw`."""
        key = self._signers.draw(self._shard.root.name, used)
        self._available = self._signers.available(self._shard.root.name)
        return key

    def sign(self, unsigned: Unsigned) -> None:
        """Sign a head with every key in force and show it; then let keys that it announces sign as well.

        Handing over to a new key takes three durable steps after its KEY record. A crash leaves after

        1. a checkpoint without the new key's line: the next start's first checkpoint covers the record as well;
        2. that checkpoint kept as `checkpoints/key-<ordinal>`: the new key is in force, and signs the next one;
        3. a checkpoint with both lines: the hand-over is done.

        Raises:
            SignerFailed: no signature, or one that does not verify; nothing was written.
            CellUnreachable, CellConflict: see `CellGuard.move`; nothing was shown.
            OSError: the disk failed.
        """
        with self._signing:
            if self._signed is not None and unsigned.head.size < self._signed.size:
                return  # a later one was signed while this one waited
            encoded = self._sign(unsigned)
            announced = self.ring(unsigned.keys).taking_over
            for key in announced:
                self._disk.replace(self._handover(key.ordinal), encoded)
                _log.warning("key_in_force", vkey=key.vkey, covered_by=unsigned.head.size)
            if announced:
                self._sign(unsigned)
            self._forget_revoked(unsigned.keys)

    def publish_cosigned(self, encoded: bytes) -> None:
        """Show a checkpoint with further signatures in place of the same one without, if it is still the newest.

        Raises:
            OSError: the disk failed; the checkpoint without them stays public.
        """
        with self._showing:
            if self._signed is None or not encoded.startswith(f"{self._signed.text()}\n".encode()):
                return
            self._show(encoded)

    def keep(self, name: str, encoded: bytes) -> None:
        """Keep a checkpoint for good as `checkpoints/<name>`, durably."""
        self._disk.replace(self._shard.checkpoints / name, encoded)

    def keep_of_the_day(self) -> None:
        """Keep the public checkpoint for good, as the last of its day."""
        path = self._shard.checkpoint
        if path.exists():
            published = int(path.stat().st_mtime * MICROSECONDS)
            self.keep(day_to_date(day_of(published)), path.read_bytes())

    def _sign(self, unsigned: Unsigned) -> bytes:
        """Sign, remember, move the cell on, show.

        A crash after `last-signed` leaves an older checkpoint public, which stays true, and the cell a head behind;
        the next start signs anew. A crash before `offsets` makes it read a little more than it had to.
        """
        encoded = self._signature(unsigned)
        self._disk.replace(self._shard.last_signed, encoded)
        if self._cell is not None:
            self._cell.move(encoded)
        with self._showing:
            self._show(encoded)
            self._signed = unsigned.head
        offsets = orjson.dumps({"size": unsigned.head.size, "lengths": dict(unsigned.lengths)})
        self._disk.replace(self._shard.offsets, offsets)
        return encoded

    def _signature(self, unsigned: Unsigned) -> bytes:
        keys = self.ring(unsigned.keys).in_force
        if not keys:
            raise SignerFailed("None of the keys that this shard announces is at hand.", remedy="Restore keys/.")
        self._show_vkey(keys[-1].vkey)
        try:
            return note.sign(unsigned.head.text(), keys)
        except NoteError as error:
            raise SignerFailed(
                f"The signer gave no signature of its key: {error}.",
                remedy="See that it signs the message itself with pure Ed25519, with the key it announces.",
                code="bad_signature",
            ) from error

    def _show(self, encoded: bytes) -> None:
        # A crash between `last-signed` and the first checkpoint leaves none to show; else it was the last of its day.
        if self._shard.checkpoint.exists() and self._passed_midnight():
            self.keep_of_the_day()
        self._disk.replace(self._shard.checkpoint, encoded)

    def _show_vkey(self, vkey: str) -> None:
        if vkey != self._shown_vkey:
            self._disk.replace(self._vkey_file, f"{vkey}\n".encode())
            self._shown_vkey = vkey

    def _forget_revoked(self, keys: Sequence[Key]) -> None:
        """Delete the private keys of revoked ones, now that a checkpoint covers their revocation."""
        revoked = {key.vkey for key in self._available} & set(self.ring(keys).revoked)
        for vkey in sorted(revoked):
            self._signers.forget(self._shard.root.name, vkey)
        if revoked:
            self._available = tuple(key for key in self._available if key.vkey not in revoked)

    def _handover(self, ordinal: int) -> Path:
        return self._shard.checkpoints / f"key-{ordinal}"

    def _passed_midnight(self) -> bool:
        published = self._shard.checkpoint.stat().st_mtime
        return day_of(int(published * MICROSECONDS)) != day_of(self._clock.wall_us())
