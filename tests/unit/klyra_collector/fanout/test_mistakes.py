"""What the log says of a mistake of ours."""

from __future__ import annotations

from klyra_collector.fanout.mistakes import places_of


def fail() -> None:
    """Do what must not happen."""
    raise RuntimeError("Bearer a-token-that-nobody-may-see")


def test_where_it_happened() -> None:
    """The calls that led to it are named, the innermost last; its words are not."""
    try:
        fail()
    except RuntimeError as error:
        places = places_of(error)
    assert [place.rpartition(" ")[2] for place in places] == ["test_where_it_happened", "fail"]
    assert all(":" in place for place in places)
    assert "a-token" not in repr(places)
