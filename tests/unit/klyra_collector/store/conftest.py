"""A store on disk that has followed a ledger in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from klyra_collector.store.follower import Follower
from klyra_collector.store.sqlite import SqliteStore
from support.entries import MemoryLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An empty store."""
    opened = SqliteStore.open(tmp_path / "store.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def ledger() -> MemoryLedger:
    """An empty ledger."""
    return MemoryLedger()


@pytest.fixture
def follow(store: SqliteStore, ledger: MemoryLedger) -> Callable[[], None]:
    """A function that brings the store up to the end of the ledger."""
    follower = Follower(ledger, store)

    def follow() -> None:
        while follower.step():
            pass

    return follow
