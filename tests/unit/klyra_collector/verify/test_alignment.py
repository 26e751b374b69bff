"""Following what happened to leaves, hash by hash."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from klyra_collector.verify import alignment
from klyra_collector.verify.alignment import Aligner, Alignment, Segment


def align(authentic: list[bytes], actual: list[bytes], start: int = 0) -> Alignment:
    """Align two lists of hashes."""
    return Aligner(
        lambda first, count: authentic[first : first + count],
        lambda first, count: actual[first : first + count],
        start,
        len(authentic),
    ).run()


def names(count: int) -> list[bytes]:
    """Return hashes that are all different."""
    return [number.to_bytes(32) for number in range(count)]


def test_equal_lists_are_one_segment() -> None:
    """Nothing happened."""
    assert align(names(2000), names(2000)).segments == [Segment(0, 0, 2000)]


def test_what_stands_behind_the_signed_leaves_is_not_looked_at() -> None:
    """It is the unsigned tail."""
    found = align(names(10), names(15))
    assert (found.end, found.extra, found.cut) == (10, [], None)


def test_a_leaf_moved_behind_the_end_is_moved() -> None:
    """It is recognised there."""
    found = align(names(10), [*names(10)[1:], names(10)[0]])
    assert (found.moved, found.end, found.missing) == ([0], 10, [])


def test_too_many_differences_are_given_up(monkeypatch) -> None:
    """Another file is not followed leaf by leaf."""
    monkeypatch.setattr(alignment, "MAX_PENDING", 100)
    found = align(names(1000), [bytes([1]) * 32 for _ in range(1000)])
    assert found.given_up is not None
    assert found.given_up <= 101


def test_a_cut_within_the_last_window_keeps_what_moved() -> None:
    """What stands in front of something that is still there is missing, not cut off."""
    leaves = names(10)
    found = align(leaves, [leaves[9], *leaves[:7]])
    assert (found.moved, found.missing, found.cut) == ([9], [7, 8], None)


@given(st.integers(0, 60), st.data())
def test_every_authentic_leaf_that_is_there_is_found(count, draw) -> None:
    """Whatever is taken out, put in and exchanged: segments lead to the very leaf, and every index has one fate."""
    authentic = names(count)
    actual = list(authentic)
    for _ in range(draw.draw(st.integers(0, 6))):
        place = draw.draw(st.integers(0, len(actual)))
        change = draw.draw(st.sampled_from(["remove", "insert", "swap", "replace"]))
        if change == "insert":
            actual.insert(place, draw.draw(st.binary(min_size=32, max_size=32)))
        elif actual and change == "remove":
            actual.pop(place % len(actual))
        elif actual and change == "replace":
            actual[place % len(actual)] = draw.draw(st.binary(min_size=32, max_size=32))
        elif actual:
            other = draw.draw(st.integers(0, len(actual) - 1))
            actual[place % len(actual)], actual[other] = actual[other], actual[place % len(actual)]
    found = align(authentic, actual)
    fates: list[int] = [*found.missing, *(index for index, _ in found.altered)]
    for segment in found.segments:
        for step in range(segment.count):
            assert authentic[segment.index + step] == actual[segment.position + step]
            fates.append(segment.index + step)
    fates += range(len(authentic) if found.cut is None else found.cut, len(authentic))
    assert sorted(fates) == list(range(count))
