"""Finding an emitter's records in a ledger by their places in its sequence, over shards and starts."""

from __future__ import annotations

import contextlib

import pytest

from klyra_audit.format.leaf import Leaf
from klyra_audit.format.sections import OPERATOR_REFERENCE, organization_reference
from klyra_collector.data_directory import FRAMES, DataDirectory, ShardDirectory
from klyra_collector.seal import emitter_places
from klyra_collector.seal.body_search import BodySearch
from klyra_collector.seal.emitter_places import EmitterPlaces
from klyra_collector.seal.state import Boot
from klyra_collector.stages import EmitterPosition
from support.records import BUSINESS, STARTUP, record, submission
from support.sealing import SetClock, open_ledger

UUID = "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b10"
HALF_A_YEAR = 183 * 86_400


def positioned(sequence: int, *, emitter: str = "api-1", tenancy=STARTUP, shared: bool = False):
    """Return an event at a place in an emitter's sequence."""
    return record(tenancy, position=EmitterPosition(emitter, UUID, sequence, shared))


@pytest.fixture
def clock():
    """A clock that stands in midsummer."""
    return SetClock()


@pytest.fixture
def ledger(tmp_path, clock):
    """An open ledger."""
    with contextlib.closing(open_ledger(tmp_path, clock)) as opened:
        yield opened


@pytest.fixture
def places(tmp_path, ledger):
    """What finds records in it."""
    with contextlib.closing(EmitterPlaces(DataDirectory(tmp_path).ledger)) as made:
        yield made


def boot_of(ledger, organization_id: str = STARTUP.organization_id, emitter: str = "api-1") -> Boot:
    """Return the name of a boot in the ledger."""
    return Boot(organization_reference(ledger.identity.org_salt, organization_id), emitter, UUID)


def sequences(found) -> dict[int, int]:
    """Return the sequence numbers that the leaves found hold, by those they were found under."""
    return {number: Leaf.unpack(placed.leaf).emitter_seq for number, placed in found.items()}


@pytest.mark.parametrize("stretch", [3, 4096])
def test_records_are_found_by_their_numbers(ledger, places, monkeypatch, stretch) -> None:
    """In whatever order they were sealed, among others' records, and only those asked for."""
    monkeypatch.setattr(emitter_places, "STRETCH_LEAVES", stretch)
    order = [0, 1, 2, 5, 4, 3, 6, 8, 9]
    for number in order:
        ledger.commit([submission(positioned(number), positioned(number, emitter="api-2"), record())])
    found = places.find(boot_of(ledger), 3, 6)
    assert sequences(found) == {3: 3, 4: 4, 5: 5, 6: 6, 8: 8}
    assert found[6].origin == ledger.origin
    ledger.commit([submission(positioned(7))])
    assert sequences(places.find(boot_of(ledger), 7, 2)) == {7: 7, 8: 8}


def test_each_organization_has_boots_of_its_own(ledger, places) -> None:
    """The same names elsewhere are somebody else's, and a shared boot is the operator's."""
    ledger.commit([submission(positioned(0), positioned(0, tenancy=BUSINESS), positioned(1, shared=True))])
    mine, others = places.find(boot_of(ledger), 0, 9), places.find(boot_of(ledger, BUSINESS.organization_id), 0, 9)
    assert (list(mine), list(others), mine[0].leaf == others[0].leaf) == ([0], [0], False)
    assert list(places.find(Boot(OPERATOR_REFERENCE, "api-1", UUID), 0, 9)) == [1]
    assert places.find(boot_of(ledger, "org_nobody"), 0, 9) == {}


def test_an_empty_ledger_has_nothing(tmp_path) -> None:
    """Before the first start there is not even a folder."""
    with contextlib.closing(EmitterPlaces(DataDirectory(tmp_path).ledger)) as made:
        assert made.find(Boot(bytes(16), "api-1", UUID), 0, 1) == {}


def test_a_boot_that_goes_on_in_the_next_shard_is_found_in_both(ledger, clock, places) -> None:
    """Its numbers go on, and the earlier ones are still found where they are."""
    ledger.commit([submission(positioned(0), positioned(1))])
    before = ledger.origin
    clock.pass_seconds(HALF_A_YEAR + 86_400 * 20)
    ledger.commit([submission(positioned(2), positioned(3))])
    assert ledger.origin != before
    found = places.find(boot_of(ledger), 0, 10)
    assert {number: placed.origin for number, placed in found.items()} == {
        0: before,
        1: before,
        2: ledger.origin,
        3: ledger.origin,
    }
    assert sequences(found) == {0: 0, 1: 1, 2: 2, 3: 3}


def test_what_is_not_asked_for_any_more_is_forgotten(ledger, places, monkeypatch) -> None:
    """And found again."""
    monkeypatch.setattr(emitter_places, "REMEMBERED_BOOTS", 1)
    ledger.commit([submission(positioned(0), positioned(0, emitter="api-2"))])
    for _ in range(2):
        for emitter in ("api-1", "api-2"):
            assert list(places.find(boot_of(ledger, emitter=emitter), 0, 1)) == [0]
    assert len(places._scanned) == 1


class TestBodies:
    """One body among many."""

    def bodies(self, tmp_path, ledger):
        """Return the path of the one file of bodies."""
        shard = ShardDirectory(tmp_path / "ledger" / ledger.origin.rpartition("/")[2])
        (folder,) = shard.bodies.iterdir()
        return folder / FRAMES

    def test_any_of_many_is_found(self, tmp_path, ledger) -> None:
        """By halves and along, forwards, backwards and where a frame is larger than what is read at once."""
        indexes = []
        for number in range(900):
            metadata = {"content_type": "text", "note": "KLB1" * (3 + 5000 * (number % 97 == 0))}
            ((outcome,),) = ledger.commit([submission(record(metadata=metadata))])
            indexes.append(outcome.sealed.index)
        with BodySearch(self.bodies(tmp_path, ledger)) as search:
            for index in (*indexes[::7], *reversed(indexes[::11]), indexes[0], indexes[-1]):
                assert search.find(index).index == index
            assert (search.find(indexes[0] - 1), search.find(indexes[-1] + 1)) == (None, None)

    def test_a_file_that_is_gone_has_none(self, tmp_path) -> None:
        """Nor has an empty one."""
        (tmp_path / "empty").touch()
        for name in ("gone", "empty"):
            with BodySearch(tmp_path / name) as search:
                assert search.find(0) is None

    def test_damage_costs_what_it_hits(self, tmp_path, ledger) -> None:
        """The other bodies are found all the same."""
        indexes = [ledger.commit([submission(record())])[0][0].sealed.index for _ in range(600)]
        path = self.bodies(tmp_path, ledger)
        content = bytearray(path.read_bytes())
        content[0:8] = bytes(8)
        path.write_bytes(content)
        with BodySearch(path) as search:
            assert search.find(indexes[0]) is None
            assert search.find(indexes[-1]).index == indexes[-1]
