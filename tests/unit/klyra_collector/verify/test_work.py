"""The same work in this process, in parts, and spread over processes."""

from __future__ import annotations

import pytest

from klyra_collector.verify import Verdict, filing, target, tree
from klyra_collector.verify.work import Alone, Processes, cores
from support.ledgers import ACME, UMBRELLA, LedgerBuilder
from support.tampering import at, change_frames, flip, found, indexes, split_frames

V = Verdict


def double(number: int) -> int:
    """Return twice a number."""
    return 2 * number


def refuse(number: int) -> int:
    """Fail."""
    raise ValueError(str(number))


@pytest.mark.parametrize("make", [Alone, lambda: Processes(2)], ids=["alone", "processes"])
def test_results_come_in_order(make) -> None:
    """However many there are; errors come to the caller."""
    with make() as crew:
        assert list(crew.map(double, range(40))) == list(range(0, 80, 2))
        assert crew.begin(double, 4).result() == 8
        with pytest.raises(ValueError, match="5"):
            crew.begin(refuse, 5).result()


def test_there_is_a_processor() -> None:
    """At least this one."""
    assert cores() >= 1


class TestParts:
    """A file looked at in parts says the same as one looked at whole."""

    @pytest.fixture
    def data(self, large, tmp_path):
        """The large ledger on disk."""
        return large.write(tmp_path / "data")

    @pytest.fixture
    def path(self, data, large):
        """The file with most bodies."""
        day = max(large.bodies, key=lambda day: len(large.bodies[day]))
        return data / "ledger/2026/bodies" / str(day) / "frames"

    @pytest.mark.parametrize("size", [100, 1_000, 7_777, 100_000])
    def test_an_intact_ledger_in_parts(self, data, large, verify, monkeypatch, size) -> None:
        """Wherever the parts end, also within frames that are longer than them."""
        monkeypatch.setattr(filing, "BYTES_PER_TASK", size)
        monkeypatch.setattr(tree, "TILES_PER_TASK", 1)
        assert verify(data, large).shards[0].counts == {V.OK: len(large.leaves)}

    @pytest.mark.parametrize("size", [300, 1_000, 7_777])
    def test_damage_at_the_edges_of_parts(self, path, data, large, verify, monkeypatch, size) -> None:
        """Every header that a part begins or ends in is damaged once; each time exactly that record is named."""
        monkeypatch.setattr(filing, "BYTES_PER_TASK", size)
        start, order = 0, indexes(path)
        for index, encoded in zip(order, split_frames(path), strict=True):
            end = start + len(encoded)
            if start // size != end // size and index % 7 == 0:
                flip(path, start + 8)
                assert found(verify(data, large)) == {at(V.ALTERED, index)}
                flip(path, start + 8)
            start = end

    @pytest.mark.parametrize("size", [700, 5_000])
    def test_order_across_parts(self, path, data, large, verify, monkeypatch, size) -> None:
        """Exchanged, doubled and missing bodies far from each other."""
        monkeypatch.setattr(filing, "BYTES_PER_TASK", size)
        order = indexes(path)

        def work(frames):
            frames[10], frames[90] = frames[90], frames[10]
            frames.append(frames[50])
            frames.pop(30)

        change_frames(path, work)
        expected = {at(V.REORDERED, order[10]), at(V.REORDERED, order[90])}
        expected |= {at(V.DUPLICATE, order[50]), at(V.MISSING, order[30])}
        assert found(verify(data, large)) == expected


def test_several_processes_find_what_one_finds(tmp_path, verify, monkeypatch) -> None:
    """The whole verification, spread over two processes."""
    builder = LedgerBuilder().begin(ACME, UMBRELLA)
    for number in range(600):
        builder.event(ACME if number % 2 else UMBRELLA)
    data = builder.write(tmp_path / "data")
    path = max((data / "ledger/2026/bodies").glob("*/frames"))
    flip(path, 40_000)
    flip(data / "ledger/2026/leaves", 50_000)
    monkeypatch.setattr(target, "WORTH_PROCESSES", 0)
    monkeypatch.setattr(filing, "BYTES_PER_TASK", 50_000)
    steps = []
    one = verify(data, builder)
    two = verify(data, builder, processes=2, progress=lambda *step: steps.append(step))
    assert found(one) == found(two)
    assert one.shards[0].counts == two.shards[0].counts
    assert one.exit_status == 1
    assert {step for _, step, _, _ in steps} == {"leaves", "bodies"}
    assert all(done <= total for _, _, done, total in steps)
