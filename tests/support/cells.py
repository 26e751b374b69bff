"""What every cell must do, whatever keeps it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from klyra_collector.errors import CellConflict


def check_cell(make) -> None:
    """Assert what `Cell` promises of cells that `make` opens on one empty place."""
    cell, other = make(), make()
    assert cell.read() is None
    cell.compare_and_swap(None, b"first\n\xe2\x80\x94 x\n")
    assert other.read() == b"first\n\xe2\x80\x94 x\n"
    for expected in (None, b"second", b""):
        with pytest.raises(CellConflict) as caught:
            other.compare_and_swap(expected, b"third")
        assert (caught.value.code, bool(caught.value.remedy)) == ("cell_conflict", True)
    other.compare_and_swap(b"first\n\xe2\x80\x94 x\n", b"second")
    assert cell.read() == b"second"


def check_race(make) -> None:
    """Assert that of many writers that expect the same value exactly one succeeds, round after round."""
    cells = [make() for _ in range(4)]
    with ThreadPoolExecutor(len(cells)) as threads:
        for turn in range(5):
            expected = None if turn == 0 else cells[0].read()

            def write(number: int, turn=turn, expected=expected) -> bool:
                try:
                    cells[number].compare_and_swap(expected, f"{turn}/{number}".encode())
                except CellConflict:
                    return False
                return True

            won = list(threads.map(write, range(len(cells))))
            assert won.count(True) == 1
            assert cells[0].read() == f"{turn}/{won.index(True)}".encode()
