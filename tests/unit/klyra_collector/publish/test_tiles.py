from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from klyra_audit.format.tile import tiles_of
from klyra_collector.errors import LedgerDamaged
from klyra_collector.publish.errors import NoSuchLog
from klyra_collector.publish.tiles import AnotherLog, export_tiles
from support.ledgers import ORIGIN, LedgerBuilder, large_ledger, put, small_ledger
from support.published import write_published

if TYPE_CHECKING:
    from pathlib import Path


def quiet(done: int, total: int) -> None:
    """Show no progress."""


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_tree_is_what_the_log_publishes(tmp_path: Path) -> None:
    """Exactly the checkpoint, and every tile and bundle of its size."""
    shard = write_published(large_ledger(600), tmp_path / "data").current()
    told: list[tuple[int, int]] = []
    written = export_tiles(shard, tmp_path / "out", lambda done, total: told.append((done, total)))
    expected = {tile.path: shard.tile(tile) for tile in tiles_of(shard.head().size)}
    assert tree(tmp_path / "out") == expected | {"checkpoint": shard.checkpoint()}
    assert written == len(expected) + 1
    assert told[-1] == (len(expected), len(expected))


def test_a_second_run_writes_only_what_is_new(tmp_path: Path) -> None:
    """Nothing when nothing was sealed; after more leaves the new tiles and the checkpoint, full ones untouched."""
    builder = large_ledger(600)
    shard = write_published(builder, tmp_path / "data").current()
    export_tiles(shard, tmp_path / "out", quiet)
    assert export_tiles(shard, tmp_path / "out", quiet) == 0
    before = (tmp_path / "out/tile/0/000").stat().st_mtime_ns
    for _ in range(300):
        builder.event()
    shard = write_published(builder, tmp_path / "data").current()
    assert 0 < export_tiles(shard, tmp_path / "out", quiet) < 10
    assert (tmp_path / "out/tile/0/000").stat().st_mtime_ns == before
    assert (
        tree(tmp_path / "out").items()
        >= {
            **{tile.path: shard.tile(tile) for tile in tiles_of(shard.head().size)},
            "checkpoint": shard.checkpoint(),
        }.items()
    )


def test_an_export_that_broke_off_goes_on(tmp_path: Path) -> None:
    """What a crash left half written, under its name or beside it, is made whole; the checkpoint comes last."""
    shard = write_published(large_ledger(600), tmp_path / "data").current()
    put(tmp_path / "out/tile/0/000", b"torn")
    put(tmp_path / "out/tile/0/001.new", b"torn too")
    put(tmp_path / "out/tile/entries/000", b"")
    export_tiles(shard, tmp_path / "out", quiet)
    for tile in tiles_of(shard.head().size):
        assert (tmp_path / "out" / tile.path).read_bytes() == shard.tile(tile)
    assert not (tmp_path / "out/tile/0/001.new").exists()


def test_a_failure_shows_no_new_checkpoint(tmp_path: Path) -> None:
    """A reader of the tree goes on seeing the older state, which is whole."""
    builder = large_ledger(600)
    shard = write_published(builder, tmp_path / "data").current()
    export_tiles(shard, tmp_path / "out", quiet)
    before = (tmp_path / "out/checkpoint").read_bytes()
    for _ in range(300):
        builder.event()
    shard = write_published(builder, tmp_path / "data").current()
    shard.directory.hashes(1).unlink()
    with pytest.raises(LedgerDamaged):
        export_tiles(shard, tmp_path / "out", quiet)
    assert (tmp_path / "out/checkpoint").read_bytes() == before


def test_another_logs_tree_is_left_alone(tmp_path: Path) -> None:
    """Neither another log's nor a newer state's checkpoint is written over."""
    other = LedgerBuilder(origin=f"{ORIGIN}-2").begin()
    for number, present in enumerate((other, large_ledger(600))):
        out = tmp_path / str(number) / "out"
        export_tiles(write_published(present, tmp_path / str(number) / "a").current(), out, quiet)
        shard = write_published(small_ledger(), tmp_path / str(number) / "b").current()
        before = tree(out)
        with pytest.raises(AnotherLog) as caught:
            export_tiles(shard, out, quiet)
        assert caught.value.code == "another_log"
        assert "empty directory" in caught.value.remedy
        assert tree(out) == before


def test_without_a_checkpoint_nothing_is_exported(tmp_path: Path) -> None:
    """It may go between finding the shard and reading it."""
    shard = write_published(small_ledger(), tmp_path / "data").current()
    shard.directory.checkpoint.unlink()
    with pytest.raises(NoSuchLog):
        export_tiles(shard, tmp_path / "out", quiet)
