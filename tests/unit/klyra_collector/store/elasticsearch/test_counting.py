"""Counts of the writer in Elasticsearch, from its process to another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from klyra_collector.store.elasticsearch.counting import FILE, Counts, read_counts
from klyra_collector.store.elasticsearch.results import Result

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_counted_can_be_read_elsewhere(tmp_path: Path) -> None:
    """Documents by what became of them, requests, bytes and time; not oftener than once a second."""
    now = [100.0]
    counts = Counts(tmp_path, monotonic=lambda: now[0])
    counts.stored(20, 4096, 0.25)
    counts.stored(10, 1024, 0.25)
    counts.happened(Result.RETRY, 3)
    counts.publish()
    expected = {"stored": 30, "requests": 2, "bytes": 5120, "milliseconds": 500, "retry": 3}
    assert read_counts(tmp_path) == expected
    counts.happened(Result.RETRY, 1)
    now[0] += 0.5
    counts.publish()
    assert read_counts(tmp_path) == expected
    now[0] += 0.5
    counts.publish()
    assert read_counts(tmp_path) == expected | {"retry": 4}


@pytest.mark.parametrize("content", [None, b"", b"[1]", b'{"stored": "many"}', b'{"stored": null}'])
def test_what_cannot_be_read_counts_nothing(tmp_path: Path, content: bytes | None) -> None:
    """No file yet, or one that a crash broke off, keeps no metrics from being shown."""
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    assert read_counts(tmp_path) == {}
