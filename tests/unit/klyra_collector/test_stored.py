"""`ack = "stored"`: an answer waits for the store."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from klyra_audit.errors import RetryLater
from klyra_collector.config import BadConfiguration, Settings
from klyra_collector.seal.durable import Disk
from klyra_collector.stages import Outcome, Sealed, Status, Submission
from klyra_collector.store.elasticsearch.cursor import StoreCursor, save
from klyra_collector.supervise.stored import NotStoredYet, StoredSeal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOG = "l/c/2026"
NOTHING = Submission((), strict=False, size=0)


class Seals:
    """Answers at once."""

    def __init__(self, *indexes: int) -> None:
        self.outcomes = [Outcome(Status.SEALED, Sealed(LOG, index, b"")) for index in indexes]

    async def seal(self, submission: Submission) -> Sequence[Outcome]:
        """See `stages.Seal`."""
        del submission
        return self.outcomes


def moved(cursors: Path, size: int) -> None:
    """Move the store's cursor."""
    with closing(Disk()) as disk:
        save(cursors, StoreCursor({LOG: size}), disk)


def test_it_answers_when_the_store_has_it(tmp_path: Path) -> None:
    """Not before the cursor has passed the last record."""
    seal = Seals(3, 4)
    moved(tmp_path, 4)

    async def run() -> list[bool]:
        waiting = asyncio.create_task(StoredSeal(seal, tmp_path, seconds=60).seal(NOTHING))
        await asyncio.sleep(0.1)
        before = waiting.done()
        moved(tmp_path, 5)
        assert await waiting == seal.outcomes
        return [before]

    assert asyncio.run(run()) == [False]


def test_it_says_so_when_the_store_takes_too_long(tmp_path: Path) -> None:
    """What is sealed stays sealed; the sender is told to come again."""
    with pytest.raises(NotStoredYet) as caught:
        asyncio.run(StoredSeal(Seals(0), tmp_path, seconds=0.05).seal(NOTHING))
    assert isinstance(caught.value, RetryLater)
    assert caught.value.code == "not_stored_yet"
    assert "Send the same again" in caught.value.remedy


def test_nothing_sealed_is_not_waited_for(tmp_path: Path) -> None:
    """An empty submission needs no store."""
    assert asyncio.run(StoredSeal(Seals(), tmp_path, seconds=0).seal(NOTHING)) == []


def test_it_needs_elasticsearch(tmp_path: Path) -> None:
    """With the embedded store the setting is refused at the start."""
    file = tmp_path / "klyra-audit.toml"
    file.write_text('[store.elasticsearch]\nack = "stored"\n')
    with pytest.raises(BadConfiguration, match="needs a url that names Elasticsearch") as caught:
        Settings.load(file)
    assert caught.value.code == "bad_configuration"
    assert "config show" in caught.value.remedy
    file.write_text('[store]\nurl = "elasticsearch+https://es:9200"\n[store.elasticsearch]\nack = "stored"\n')
    assert Settings.load(file).store.is_elasticsearch
