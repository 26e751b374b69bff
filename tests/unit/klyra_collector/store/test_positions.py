"""Positions order as (origin, index) does."""

from __future__ import annotations

import pytest

from klyra_audit.errors import Halted
from klyra_collector.store.positions import Positions


def positions_of(*origins: str) -> Positions:
    """Meet origins one after the other."""
    positions = Positions({})
    for origin in origins:
        positions = Positions({**positions.numbers, origin: positions.number_for(origin)})
    return positions


def test_positions_order_by_origin_then_index() -> None:
    """Whatever the order in which origins are met."""
    origins = ["l/c/2026", "l/a/2026", "l/b/2026", "l/a/2027", "l/a/2026-2"]
    positions = positions_of(*origins)
    places = [(origin, index) for origin in origins for index in (0, 1, 2**40 - 1)]
    assert sorted(places) == sorted(places, key=lambda place: positions.of(*place))
    assert all(positions.place(positions.of(*place)) == place for place in places)
    assert positions.span("l/b/2026") == (positions.of("l/b/2026", 0), positions.of("l/b/2026", 2**40 - 1))


def test_there_is_room_for_a_thousand_years_of_shards() -> None:
    """Shards that follow each other never run out of numbers."""
    positions = positions_of(*(f"l/a/{year}" for year in range(2026, 3026)))
    numbers = list(positions.numbers.values())
    assert numbers == sorted(numbers)


def test_when_no_number_is_left_between_two_the_store_stops() -> None:
    """Origins squeezed in at one place end with what to do about it."""
    squeezed = ["l/a", "l/z", *(f"l/{'m' * length}" for length in range(1, 40))]
    with pytest.raises(Halted) as refused:
        positions_of(*squeezed)
    assert refused.value.code == "store_origins_full"
    assert "delete store.sqlite" in refused.value.remedy
