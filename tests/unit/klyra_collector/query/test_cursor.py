"""Cursors: opaque to callers, whole or refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from klyra_audit.errors import Rejected
from klyra_collector.query.cursor import Cursor, CursorCodec, Listing
from klyra_collector.query.problems import Problem
from klyra_collector.store.searching import SortKey

CODEC = CursorCodec(b"k" * 32)
LISTING = Listing("org_acme", '{"status":["failure"]}', "desc")
CURSOR = Cursor(SortKey(-(2**63), "log/1/2026", 7), {"log/1/2025": 9, "log/1/2026": 2**40})


@given(
    timestamp=st.integers(-(2**63), 2**63 - 1),
    index=st.integers(0, 2**40),
    snapshot=st.dictionaries(st.text("abc/12", min_size=1), st.integers(0, 2**40), max_size=4),
)
def test_a_cursor_is_read_as_it_was_written(timestamp: int, index: int, snapshot: dict[str, int]) -> None:
    """Any key and snapshot come back."""
    cursor = Cursor(SortKey(timestamp, "log/1/2026", index), snapshot)
    assert CODEC.decode(CODEC.encode(cursor, LISTING), LISTING) == cursor


@given(position=st.integers(0, 200), letter=st.sampled_from("AZaz09-_!é"))
def test_a_changed_letter_is_refused(position: int, letter: str) -> None:
    """Nothing of a cursor can be changed unnoticed, and whatever is sent is refused by a problem alone."""
    text = CODEC.encode(CURSOR, LISTING)
    position %= len(text) - 1  # the last letter has bits that base64 does not use
    assume(text[position] != letter)
    with pytest.raises(Problem) as refused:
        CODEC.decode(text[:position] + letter + text[position + 1 :], LISTING)
    assert (refused.value.status, refused.value.code) == (400, "invalid_cursor")


@pytest.mark.parametrize(
    "changes",
    [{"organization_id": "org_other"}, {"filters": "{}"}, {"order": "asc"}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_cursor_of_another_listing_is_refused(changes: dict[str, Any]) -> None:
    """A cursor is bound to organization, filters and order."""
    other = Listing(**{"organization_id": "org_acme", "filters": LISTING.filters, "order": "desc"} | changes)
    with pytest.raises(Rejected, match="cursor") as refused:
        CODEC.decode(CODEC.encode(CURSOR, LISTING), other)
    assert refused.value.code == "invalid_cursor"
    assert "leave the cursor out" in refused.value.remedy


def test_a_cursor_of_another_key_is_refused() -> None:
    """A server with another secret does not take it."""
    with pytest.raises(Problem):
        CursorCodec(b"other" * 8).decode(CODEC.encode(CURSOR, LISTING), LISTING)
