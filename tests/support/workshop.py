"""What is tampered with: one baseline, written once, and a copy of it for each experiment with its own judge.

Every subject is OK until somebody touches it (REDACTED_OK and EXPIRED_OK included).
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from klyra_collector.verify import CannotVerify, Options, Verdict, verify_target
from klyra_collector.verify.copies_store import verify_copy, verify_store
from support.baseline import Baseline, baseline
from support.copies import ListedCopy, follow
from support.forge import SECOND_US

if TYPE_CHECKING:
    from klyra_collector.verify import Report
    from support.experiments_packets import PacketShop
    from support.forge import Forge, ForgedShard


class Workshop:
    """The baseline: in memory, and on disk with its store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.forge = baseline()

    @cached_property
    def data(self) -> Path:
        """The data directory, with the store that the real follower made of it."""
        root = self.forge.write(self._folder / "data")
        follow(root, self.forge.newest.now_us)
        return root

    @cached_property
    def packets(self) -> PacketShop:
        """Packets of it."""
        from support.experiments_packets import PacketShop

        return PacketShop(self, self._folder / "packets")

    @cached_property
    def before_erasure(self) -> Forge:
        """The same ledger, had nobody asked for an erasure: a backup."""
        return Baseline(erase=False).build()

    def options(self, **changes: object) -> Options:
        """Return how the baseline is verified: at its own time, by its own policy."""
        own = {"policy": self.forge.policy(), "patience": 0.0, "now_us": self.forge.newest.now_us + SECOND_US}
        return Options(**(own | changes))


class Subject(ABC):
    """Something to tamper with."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        self.workshop = workshop
        self.folder = folder
        self.options: dict[str, object] = {}

    @abstractmethod
    def verify(self) -> Report:
        """Verify it as it stands."""

    def verdicts(self) -> set[Verdict]:
        """Return everything but the good verdicts; what cannot be verified at all is UNVERIFIABLE."""
        try:
            report = self.verify()
        except CannotVerify:
            return {Verdict.UNVERIFIABLE}
        found = {verdict for shard in report.shards for verdict, count in shard.counts.items() if count}
        assert bool(found) or report.exit_status == 2
        bad = {verdict for verdict in found if not verdict.is_good}
        assert (report.exit_status == 0) == (found != set() and not bad)
        return bad or (set() if found else {Verdict.UNVERIFIABLE})


class Disk(Subject):
    """The data directory, its files changed by somebody without a key."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        super().__init__(workshop, folder)
        self.root = shutil.copytree(workshop.data, folder / "data")

    @property
    def shard(self) -> Path:
        """The newest shard's folder."""
        return self.root / "ledger" / self.workshop.forge.newest.shard

    @property
    def old(self) -> Path:
        """The closed shard's folder."""
        return self.root / "ledger" / self.workshop.forge.shards[0].shard

    def verify(self) -> Report:
        """See `Subject`."""
        return verify_target(self.root, self.workshop.options(**self.options))


class Thief(Subject):
    """The ledger made again by somebody with the signing key, but without those of the witnesses."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        super().__init__(workshop, folder)
        self.forge: Forge = workshop.forge.copy()

    def bring(self, encoded: bytes) -> None:
        """Have the verifier bring along a checkpoint of the newest shard that it archived before."""
        path = self.folder / "archived"
        path.write_bytes(encoded)
        self.options["expect_checkpoint"] = path, encoded

    @property
    def newest(self) -> ForgedShard:
        """Where records are sealed."""
        return self.forge.newest

    def verify(self) -> Report:
        """See `Subject`."""
        root = self.forge.write(self.folder / "data")
        return verify_target(root, self.workshop.options(**self.options))


class Store(Disk):
    """The embedded store beside its ledger, its file changed."""

    @property
    def store(self) -> Path:
        """The store's file."""
        return self.root / "store.sqlite"

    def verify(self) -> Report:
        """See `Subject`."""
        return verify_store(self.store, self.root, self.workshop.options(**self.options))


class Documents(Subject):
    """Documents that carry their sections and salts, as a search engine keeps them."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        super().__init__(workshop, folder)
        self.copy = ListedCopy.of(workshop.forge)

    def verify(self) -> Report:
        """See `Subject`."""
        return verify_copy(self.copy, self.workshop.data, self.workshop.options(**self.options))
