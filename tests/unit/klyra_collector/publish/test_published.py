from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from klyra_audit.format import merkle, tile
from klyra_audit.format import policy as policies
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.tile import ENTRIES, Tile, tiles_of
from klyra_collector.errors import LedgerDamaged
from klyra_collector.publish.errors import NoSuchLog, NotPublished
from klyra_collector.publish.published import PublishedLedger
from support.ledgers import LedgerBuilder, large_ledger, put
from support.published import policy_text, write_published

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.publish.published import PublishedShard

SIGNED = 700  # of somewhat more leaves: what is behind the checkpoint must never be seen


@pytest.fixture(scope="module")
def builder() -> LedgerBuilder:
    """A ledger of three tiles."""
    return large_ledger(720)


@pytest.fixture(scope="module")
def ledger(builder: LedgerBuilder, tmp_path_factory: pytest.TempPathFactory) -> PublishedLedger:
    """The ledger on disk, its checkpoint behind its end, as while a collector runs."""
    root = tmp_path_factory.mktemp("published")
    published = write_published(builder, root, signed=SIGNED)
    hashes = root / "ledger" / "2026" / "hashes" / "0"
    put(hashes, b"".join(map(merkle.leaf_hash, builder.leaves)))
    return published


@pytest.fixture
def shard(ledger: PublishedLedger) -> PublishedShard:
    """Its only shard."""
    return ledger.current()


def roots(builder: LedgerBuilder, size: int) -> bytes:
    """Return the root over the first `size` leaves, computed the long way."""
    return merkle.root_of(merkle.leaf_hash(leaf) for leaf in builder.leaves[:size])


class TestTiles:
    """Tiles and bundles are byte ranges of the flat files."""

    def test_every_tile_of_the_published_size_leads_to_the_root(
        self, shard: PublishedShard, builder: LedgerBuilder
    ) -> None:
        """Bundles hold the leaves, level 0 their hashes, level 1 the roots of full tiles."""
        head = shard.head()
        entries = [leaf for item in tiles_of(SIGNED) if item.level == ENTRIES for leaf in split(shard, item)]
        assert entries == builder.leaves[:SIGNED]
        hashes = b"".join(shard.tile(item) for item in tiles_of(SIGNED) if item.level == 0)
        assert hashes == b"".join(map(merkle.leaf_hash, entries))
        assert merkle.root_of(hashes[at : at + 32] for at in range(0, len(hashes), 32)) == head.root
        above = shard.tile(Tile(1, 0, 2))
        assert above == roots(builder, 256) + merkle.root_of(map(merkle.leaf_hash, builder.leaves[256:512]))

    def test_a_partial_tile_of_any_published_width_is_there(self, shard: PublishedShard) -> None:
        """A reader of an older checkpoint asks for narrower tiles than the newest one's."""
        full = shard.tile(Tile(0, 0))
        assert shard.tile(Tile(0, 0, 5)) == full[: 5 * 32]
        assert shard.tile(Tile(0, 2, SIGNED - 512)) == shard.tile(Tile(0, 2, 10)) + shard.hashes(0, 522, SIGNED - 522)

    @pytest.mark.parametrize(
        "unpublished",
        [
            Tile(0, 2, SIGNED - 512 + 1),
            Tile(0, 2),
            Tile(1, 0, 3),
            Tile(2, 0, 1),
            Tile(63, 0, 1),
            Tile(ENTRIES, 2, SIGNED - 512 + 1),
            Tile(ENTRIES, 10**18),
        ],
        ids=lambda item: item.path,
    )
    def test_nothing_beyond_the_checkpoint_is_given_out(self, shard: PublishedShard, unpublished: Tile) -> None:
        """The bytes are on disk already, and a checkpoint that covers them is not."""
        with pytest.raises(NotPublished) as caught:
            shard.tile(unpublished)
        assert caught.value.code == "not_published"
        assert "checkpoint" in caught.value.remedy


class TestProofs:
    """Proofs verify against the published root, and none is given beyond it."""

    @pytest.mark.parametrize("index", [0, 1, 255, 256, 511, 512, SIGNED - 1])
    def test_a_leaf_is_proved(self, shard: PublishedShard, builder: LedgerBuilder, index: int) -> None:
        """The proof file verifies with nothing but the policy."""
        trusted = policies.parse(policy_text())
        proof = shard.proof(index)
        assert proof.verify(shard.leaf(index), trusted).checkpoint == Checkpoint(
            builder.origin, SIGNED, roots(builder, SIGNED)
        )
        assert shard.inclusion_proof(index) == list(proof.path)

    def test_a_leaf_is_proved_in_an_older_tree(self, shard: PublishedShard, builder: LedgerBuilder) -> None:
        """An archived checkpoint is smaller than the newest one."""
        path = shard.inclusion_proof(17, 300)
        merkle.verify_inclusion(merkle.leaf_hash(builder.leaves[17]), 17, 300, path, roots(builder, 300))

    @pytest.mark.parametrize(("old", "new"), [(1, SIGNED), (256, 512), (300, SIGNED), (255, 257), (7, 7)])
    def test_an_older_tree_is_a_prefix(self, shard: PublishedShard, builder: LedgerBuilder, old: int, new: int) -> None:
        """Consistency proofs between any two published sizes verify."""
        proof = shard.consistency_proof(old, new)
        merkle.verify_consistency(old, roots(builder, old), new, roots(builder, new), proof)

    def test_no_proof_reaches_beyond_the_checkpoint(self, shard: PublishedShard) -> None:
        """Neither a leaf nor a tree that is not signed yet."""
        for ask in (
            lambda: shard.proof(SIGNED),
            lambda: shard.leaf(SIGNED),
            lambda: shard.leaf(-1),
            lambda: shard.inclusion_proof(0, SIGNED + 1),
            lambda: shard.consistency_proof(1, SIGNED + 1),
            lambda: shard.consistency_proof(8, 7),
        ):
            with pytest.raises(NotPublished):
                ask()


class TestLogs:
    """Shards are found by name, and by nothing else."""

    def test_shards_are_listed_oldest_first(self, ledger: PublishedLedger, tmp_path: Path) -> None:
        """By year, then by number; one without a checkpoint is not published."""
        for name in ("2026-2", "2026-10", "2026", "2027", "2025"):
            put(tmp_path / name / "checkpoint", ledger.current().checkpoint())
        (tmp_path / "2028").mkdir()
        (tmp_path / "notes").mkdir()
        assert [shard.name for shard in PublishedLedger(tmp_path).shards()] == [
            *("2025", "2026", "2026-2", "2026-10", "2027")
        ]

    @pytest.mark.parametrize("name", ["2025", "..", "../ledger/2026", "", "2026/", "identity.json", "20 26"])
    def test_a_name_from_outside_never_becomes_a_path(self, ledger: PublishedLedger, name: str) -> None:
        """What is not the name of a published shard is no log, whatever it is spelt like."""
        with pytest.raises(NoSuchLog) as caught:
            ledger.shard(name)
        assert caught.value.code == "no_such_log"
        assert caught.value.remedy

    def test_another_collectors_origin_is_no_log_here(self, ledger: PublishedLedger) -> None:
        """Two collectors have shards of the same name."""
        assert ledger.of_origin("klyra-audit.test/collector-1/2026").name == "2026"
        with pytest.raises(NoSuchLog):
            ledger.of_origin("klyra-audit.test/collector-2/2026")

    def test_an_empty_directory_publishes_nothing(self, tmp_path: Path) -> None:
        """Before the first start, or the first checkpoint."""
        empty = PublishedLedger(tmp_path / "ledger")
        assert empty.shards() == []
        for ask in (empty.current, empty.collector_id, lambda: empty.shard("2026")):
            with pytest.raises(NoSuchLog):
                ask()


class TestDamage:
    """What was signed and cannot be read is said to be damage, never invented."""

    def test_a_short_file_is_damage(self, builder: LedgerBuilder, tmp_path: Path) -> None:
        """Leaves and hashes are checked for their length at every read."""
        shard = write_published(builder, tmp_path).current()
        os.truncate(shard.directory.leaves, 100 * 112)
        os.truncate(shard.directory.hashes(0), 100 * 32)
        shard.directory.hashes(1).unlink()
        for ask in (
            lambda: shard.leaf(100),
            lambda: shard.tile(Tile(0, 0)),
            lambda: shard.tile(Tile(1, 0, 1)),
            lambda: shard.tile(Tile(ENTRIES, 0)),
        ):
            with pytest.raises(LedgerDamaged) as caught:
                ask()
            assert caught.value.code == "ledger_damaged"
            assert "klyra-audit verify" in caught.value.remedy

    def test_a_checkpoint_that_is_none_is_damage(self, builder: LedgerBuilder, tmp_path: Path) -> None:
        """So are names that cannot be read."""
        published = write_published(builder, tmp_path)
        put(tmp_path / "ledger" / "identity.json", b"{")
        put(tmp_path / "ledger" / "2026" / "checkpoint", b"\xff")
        for ask in (published.collector_id, published.current().head):
            with pytest.raises(LedgerDamaged):
                ask()


def split(shard: PublishedShard, item: Tile) -> list[bytes]:
    """Return the entries of a published bundle."""
    return tile.split_bundle(shard.tile(item))
