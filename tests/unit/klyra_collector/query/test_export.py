"""Renderings: pure functions from entries to chunks, a batch at a time."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.format.rendering import COLUMNS, row_of
from klyra_collector.query.export import RENDERINGS
from support.entries import document, entry_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def encoded(entries: list[dict[str, Any]]) -> list[bytes]:
    """Return entries as a store has them."""
    return [orjson.dumps(entry) for entry in entries]


names = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))


@given(
    batches=st.lists(st.lists(st.builds(lambda n, name: (n, name), st.integers(0, 99), names), max_size=4), max_size=4)
)
def test_every_rendering_holds_the_same(batches: list[list[tuple[int, str | None]]]) -> None:
    """However entries are batched, each file holds exactly them, in order, whatever stands in their names."""
    entries = [
        [
            entry_of(document(number, actor={"type": "user", "id": "usr_1", "name": name}, metadata={"note": name}))
            for number, name in batch
        ]
        for batch in batches
    ]
    whole = [entry for batch in entries for entry in batch]
    files = {
        name: b"".join(rendering.render(encoded(batch) for batch in entries)) for name, rendering in RENDERINGS.items()
    }
    assert json.loads(files["json"]) == whole
    assert [json.loads(line) for line in files["ndjson"].split(b"\n") if line] == whole
    rows = list(csv.DictReader(io.StringIO(files["csv"].decode(), newline=""), strict=True))
    assert [json.loads(row["metadata"]) for row in rows] == [entry["metadata"] for entry in whole]
    for row, entry in zip(rows, whole, strict=True):
        assert row["actor_name"].removeprefix("'") == (entry["actor"]["name"] or "").removeprefix("'")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_that_a_spreadsheet_would_run_is_disarmed(start: str) -> None:
    """A cell that begins like a formula gets a quotation mark before it."""
    entry = entry_of(document(0, resource={"type": "webhook", "id": start + "1", "name": "a" + start}))
    cells = dict(zip(COLUMNS, row_of(entry), strict=True))
    assert cells["resource_id"] == f"'{start}1"
    assert cells["resource_name"] == f"a{start}"


def test_what_is_no_text_is_written_as_json() -> None:
    """Metadata may hold anything under the names that have a column."""
    entry = entry_of(document(0, metadata={"client_ip": 7, "user_agent": {"name": "x"}}))
    cells = dict(zip(COLUMNS, row_of(entry), strict=True))
    assert (cells["client_ip"], cells["user_agent"]) == ("7", '{"name":"x"}')


def test_erased_members_are_empty_cells() -> None:
    """What an erasure took is nothing in a file."""
    entry = entry_of(document(0, actor={"type": "user", "id": None, "name": None}))
    assert row_of(entry)[3:6] == ["user", "", ""]


@pytest.mark.parametrize("name", list(RENDERINGS))
def test_a_batch_is_read_only_when_its_chunk_is_wanted(name: str) -> None:
    """Memory holds one batch, however long the export is."""
    read: list[int] = []

    def batches() -> Iterator[list[bytes]]:
        for number in range(100):
            read.append(number)
            yield encoded([entry_of(document(number))])

    chunks = RENDERINGS[name].render(batches())
    for _ in range(3):
        next(chunks)
    assert len(read) <= 3
