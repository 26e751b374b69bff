"""Sign the head of a shard and show it: who signs, what was signed last, which checkpoints are kept for good.

Nothing here reads or advances the ledger's state, so that a signature may be waited for while commits go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from klyra_audit.format import note
from klyra_audit.timestamps import MICROSECONDS, day_of, day_to_date
from klyra_collector.seal.recovery import read_last_signed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klyra_audit.format.checkpoint import Checkpoint
    from klyra_audit.format.note import SigningKey, VerifyingKey
    from klyra_collector.data_directory import ShardDirectory
    from klyra_collector.seal.clock import Clock
    from klyra_collector.seal.durable import Disk


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A durable head that is to be signed.

    Attributes:
        head: size and root of what is committed.
        lengths: how long every frame file is at that size, by path below the data directory.
    """

    head: Checkpoint
    lengths: Mapping[str, int]


class CheckpointSigner:
    """The one place where checkpoints of a shard are signed, published and kept."""

    def __init__(self, shard: ShardDirectory, disk: Disk, clock: Clock, keys: Sequence[SigningKey]) -> None:
        self._shard = shard
        self._disk = disk
        self._clock = clock
        self._keys = tuple(keys)
        self._signed: Checkpoint | None = None

    @property
    def verifying_keys(self) -> tuple[VerifyingKey, ...]:
        """The keys that sign now."""
        return tuple(key.verifying_key for key in self._keys)

    @property
    def signed(self) -> Checkpoint | None:
        """The newest head that was signed and published; None before the first."""
        return self._signed

    def load(self) -> None:
        """Read what was signed last; raises as `read_last_signed`."""
        self._signed = read_last_signed(self._shard, self._keys[0].verifying_key)

    def sign(self, unsigned: Unsigned) -> None:
        """Sign a head, remember it, then show it.

        A crash after `last-signed` leaves an older checkpoint public, which stays true; the next start signs anew.
        A crash before `offsets` makes the next start read a little more than it had to.

        Raises:
            NoteError: the signer gave a signature that does not verify; nothing was written.
            OSError: the disk failed.
        """
        encoded = note.sign(unsigned.head.text(), self._keys)
        self._disk.replace(self._shard.last_signed, encoded)
        if self._signed is not None and self._passed_midnight():
            self.keep_of_the_day()
        self._disk.replace(self._shard.checkpoint, encoded)
        self._signed = unsigned.head
        offsets = orjson.dumps({"size": unsigned.head.size, "lengths": dict(unsigned.lengths)})
        self._disk.replace(self._shard.offsets, offsets)

    def keep(self, name: str, encoded: bytes) -> None:
        """Keep a checkpoint for good as `checkpoints/<name>`, durably."""
        self._disk.replace(self._shard.checkpoints / name, encoded)

    def keep_of_the_day(self) -> None:
        """Keep the public checkpoint for good, as the last of its day."""
        path = self._shard.checkpoint
        if path.exists():
            published = int(path.stat().st_mtime * MICROSECONDS)
            self.keep(day_to_date(day_of(published)), path.read_bytes())

    def _passed_midnight(self) -> bool:
        published = self._shard.checkpoint.stat().st_mtime
        return day_of(int(published * MICROSECONDS)) != day_of(self._clock.wall_us())
