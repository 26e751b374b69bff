"""Where everything lies in a data directory (DESIGN section 10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """The layout under one root. Nothing is created by asking for a path."""

    root: Path

    @property
    def ledger(self) -> Path:
        """The folder of shards."""
        return self.root / "ledger"

    @property
    def recent(self) -> Path:
        """Ids sealed lately, for duplicates; what is lost of it is read again from the ledger."""
        return self.ledger / "recent.sqlite"

    @property
    def witness_policy(self) -> Path:
        """The policy that the collector has checkpoints cosigned by, as it found it at its last start."""
        return self.ledger / "witness-policy"

    @property
    def keys(self) -> Path:
        """Private keys and salts, mode 0700."""
        return self.root / "keys"

    @property
    def quarantine(self) -> Path:
        """Raw bytes of quarantined input, by expiry day."""
        return self.root / "quarantine"

    @property
    def cursors(self) -> Path:
        """Durable positions of followers that keep none of their own."""
        return self.root / "cursors"

    @property
    def store(self) -> Path:
        """The embedded store."""
        return self.root / "store.sqlite"

    @property
    def registry_url(self) -> str:
        """Where the registry is unless configured otherwise."""
        return f"sqlite:///{(self.root / 'registry.sqlite').absolute()}"

    @property
    def exports(self) -> Path:
        """Export packets, kept for a day."""
        return self.root / "exports"

    @property
    def run_json(self) -> Path:
        """Addresses and process ids of a running `serve`."""
        return self.root / "run.json"


@dataclass(frozen=True, slots=True)
class ShardDirectory:
    """The layout of one shard under `ledger/` (DESIGN sections 5 and 10)."""

    root: Path

    @property
    def leaves(self) -> Path:
        """112 bytes for each record."""
        return self.root / "leaves"

    def hashes(self, level: int) -> Path:
        """Hashes of one tile level."""
        return self.root / "hashes" / str(level)

    @property
    def bodies(self) -> Path:
        """Folders of body frames, one an expiry day."""
        return self.root / "bodies"

    @property
    def control(self) -> Path:
        """Frames of control documents."""
        return self.root / "control" / "frames"

    @property
    def quarantine_name(self) -> str:
        """Name of this shard's file in each day's folder under `quarantine/`."""
        return f"{self.root.name}.frames"

    @property
    def checkpoint(self) -> Path:
        """The newest signed checkpoint."""
        return self.root / "checkpoint"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints kept for good."""
        return self.root / "checkpoints"

    @property
    def state(self) -> Path:
        """What the writer keeps for itself."""
        return self.root / "state"

    @property
    def last_signed(self) -> Path:
        """The newest checkpoint ever signed, durable before it is published."""
        return self.state / "last-signed"

    @property
    def witnessed(self) -> Path:
        """The newest checkpoint that a quorum of witnesses has cosigned."""
        return self.state / "witnessed"

    @property
    def witnesses(self) -> Path:
        """What each witness answered last: a hint and an alarm, nothing that is relied on."""
        return self.state / "witnesses.json"

    @property
    def committed(self) -> Path:
        """The size followers may read, an unsigned 64-bit big-endian number."""
        return self.state / "committed"

    @property
    def own_commits(self) -> Path:
        """What this collector itself committed last; nothing else is signed after a crash."""
        return self.state / "own"

    @property
    def sequences(self) -> Path:
        """What the shards after it must know of a closed shard; made again from its leaves if it is missing."""
        return self.state / "sequences"

    def sequences_of(self, damaged: str) -> Path:
        """The same of a damaged shard, which itself is never written again."""
        return self.state / f"sequences-{damaged}"

    @property
    def consent(self) -> Path:
        """Why and how an operator left the shard before behind after a disaster; durable before the first leaf."""
        return self.state / "consent"

    @property
    def offsets(self) -> Path:
        """Lengths of the frame files at a checkpoint: where recovery begins to read."""
        return self.state / "offsets"


FRAMES = "frames"
