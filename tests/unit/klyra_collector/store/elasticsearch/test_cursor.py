"""The store's cursor file."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from klyra_collector.seal.durable import Disk
from klyra_collector.store.elasticsearch.cursor import FILE, StoreCursor, StoreCursorDamaged, load, save

if TYPE_CHECKING:
    from pathlib import Path


def test_it_comes_back(tmp_path: Path) -> None:
    """What was saved is loaded; before the first time it is empty."""
    assert load(tmp_path) == StoreCursor()
    cursor = StoreCursor().moved("l/c/2026", 7).moved("l/c/2027", 2).seen({"l/c/2026": 5})
    with closing(Disk()) as disk:
        save(tmp_path, cursor, disk)
        assert load(tmp_path) == cursor
        save(tmp_path, cursor.moved("l/c/2027", 3), disk)
    assert load(tmp_path) == StoreCursor({"l/c/2026": 7, "l/c/2027": 3}, {"l/c/2026": 5})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": "klyra-store-cursor/2", "applied": {}, "searchable": {}}',
        b'{"format": "klyra-store-cursor/1", "applied": {"a": -1}, "searchable": {}}',
        b'{"format": "klyra-store-cursor/1", "applied": {"a": "1"}, "searchable": {}}',
        b'{"format": "klyra-store-cursor/1", "applied": [], "searchable": {}}',
    ],
)
def test_a_file_that_is_no_cursor(tmp_path: Path, content: bytes) -> None:
    """It stops the follower, with what to do, instead of beginning somewhere."""
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(StoreCursorDamaged) as caught:
        load(tmp_path)
    assert caught.value.code == "store_cursor_damaged"
    assert "Delete it" in caught.value.remedy
