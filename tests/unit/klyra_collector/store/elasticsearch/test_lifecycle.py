"""When entries go, by the lifecycle policies that are shipped and the daily sweep, over two simulated years."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from klyra_collector.registry.policies import Policies
from klyra_collector.store.elasticsearch.definitions import Retained, definitions
from klyra_collector.store.elasticsearch.names import HEALTH_STREAM, entry_stream
from support.ilm import DAY, HOUR, MINUTE, Document, Gone, Stream, phases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOLD = [Retained(name, plan.retention_days) for name, plan in Policies.load().plans.items()]
POLICIES = [*SOLD, Retained("enterprise-730d", 730)]
TWO_YEARS = 2 * 365
# An EXPIRY is sealed soon after midnight, and the follower looks every hour for what it names.
SWEEP = 2 * HOUR

every_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
every_plan = pytest.mark.parametrize("policy", SOLD, ids=lambda policy: policy.name)


def lifecycle(name: str) -> dict[str, Any]:
    """Return a policy as it is sent."""
    wanted = definitions(POLICIES)
    (found,) = [item.body for item in wanted if item.kind == "lifecycle policy" and item.name == name]
    return dict(found)


class Life:
    """A stream that is written to a few times a day, polled, and swept in the night."""

    def __init__(self, policy: Retained, *, is_swept: bool = True) -> None:
        self._policy = policy
        self._chance = random.Random(policy.days)  # noqa: S311 - the same days on every run
        self._is_swept = is_swept
        self.stream = Stream(lifecycle(entry_stream(policy.name)), poll_offset=self._chance.uniform(0, 10 * MINUTE))
        self.gone: list[Gone] = []
        self.sealed: list[Document] = []
        self.now = 0.0

    def live(self, until: float, *, lag: float = 0.0, is_running: bool = True) -> None:
        """Go on until a time.

        Args:
            until: in seconds.
            lag: how long after sealing documents are written.
            is_running: whether the cluster and its sweep are at work.
        """
        while self.now < until:
            self._advance(min(until, self.now + self._chance.uniform(0.2, 6) * HOUR), is_running=is_running)
            if is_running:
                sealed = max(0.0, self.now - lag - self._chance.uniform(0, 30))
                self.write(Document(sealed, self._policy.days))

    def write(self, *documents: Document) -> None:
        """Have documents written; the writer leaves out what has expired by then, as its body is gone."""
        kept = [document for document in documents if document.expire_day > int(self.now // DAY)]
        self.sealed += kept
        self.stream.write(self.now, *kept)

    def _advance(self, until: float, *, is_running: bool) -> None:
        for time in self._sweeps(until):
            self.gone += self.stream.run(time, is_running=is_running)
            if self._is_swept and is_running:
                self.gone += self.stream.sweep(time)
        self.gone += self.stream.run(until, is_running=is_running)
        self.now = until

    def _sweeps(self, until: float) -> Iterator[float]:
        day = int((self.now - SWEEP) // DAY) + 1
        while (time := day * DAY + SWEEP) <= until:
            yield float(time)
            day += 1

    def ages(self) -> tuple[float, float]:
        """Return the lowest and the highest age at deletion, in days more than the policy's."""
        ages = [item.age / DAY - self._policy.days for item in self.gone]
        return min(ages), max(ages)


def is_in_time(life: Life, delay: float = 0.0) -> bool:
    """Say whether age at deletion lies in [plan, plan + 1 day], with a delay on top."""
    lowest, highest = life.ages()
    return lowest >= 0 and highest <= 1 + delay / DAY


class TestLifecycleAlone:
    """What the cluster does by itself, which is exact for what is written when it is sealed."""

    @every_policy
    def test_no_entry_goes_early_and_none_a_day_late(self, policy) -> None:
        """Over two years of deletions, at whatever time the server polls."""
        life = Life(policy, is_swept=False)
        life.live((TWO_YEARS + policy.days) * DAY)
        assert len(life.gone) > 4 * TWO_YEARS
        assert is_in_time(life)

    @every_policy
    def test_nothing_stays(self, policy) -> None:
        """A day after the last entry's last day, nothing is left of it."""
        life = Life(policy, is_swept=False)
        life.live(20 * DAY)
        written = len(life.sealed)
        life.gone += life.stream.run((20 + policy.days + 1) * DAY)
        assert (len(life.gone), list(life.stream.documents())) == (written, [])

    @every_plan
    def test_a_cluster_that_stood_still_deletes_late_and_never_early(self, policy) -> None:
        """After three days in which it did nothing it catches up; nobody can delete while nothing runs."""
        life = Life(policy)
        life.live((policy.days + 20) * DAY)
        life.live((policy.days + 23) * DAY, is_running=False)
        life.live((policy.days + 60) * DAY)
        lowest, highest = life.ages()
        assert lowest >= 0
        assert 1 < highest <= 4
        back = [item for item in life.gone if item.at > (policy.days + 24) * DAY]
        assert max(item.age for item in back) <= (policy.days + 1) * DAY

    def test_a_quiet_stream_keeps_its_one_entry_as_long_as_any(self) -> None:
        """An index that was empty for weeks rolls over as soon as something is in it."""
        policy = POLICIES[0]
        stream = Stream(lifecycle(entry_stream(policy.name)))
        assert not list(stream.run(20 * DAY))
        stream.write(20 * DAY, Document(20 * DAY, policy.days))
        (gone,) = stream.run((21 + policy.days) * DAY)
        assert policy.days * DAY <= gone.age <= (policy.days + 1) * DAY

    def test_health_documents_go_after_a_week(self) -> None:
        """They show how it is now, and prove nothing."""
        stream = Stream(lifecycle(HEALTH_STREAM))
        gone: list[Gone] = []
        for hour in range(60 * 24):
            gone += stream.run(hour * HOUR)
            stream.write(hour * HOUR, Document(hour * HOUR, 7))
        assert 7 * DAY <= min(item.age for item in gone) <= max(item.age for item in gone) <= 8 * DAY


def lagging(life: Life, policy: Retained) -> None:
    """Have the writer be three days behind for a week."""
    life.live(20 * DAY)
    life.live(27 * DAY, lag=3 * DAY)
    life.live(max(TWO_YEARS, policy.days + 60) * DAY)


def replayed(life: Life, policy: Retained) -> None:
    """Write everything again that is not expired, as after the loss of the cursor."""
    life.live((policy.days + 20) * DAY)
    life.write(*life.sealed)
    life.live(max(TWO_YEARS, 2 * policy.days + 60) * DAY)


def refilled(life: Life, policy: Retained) -> None:
    """Lose the cluster's data halfway through a retention, and fill it again out of the ledger."""
    life.live((policy.days // 2) * DAY)
    for index in life.stream.indexes.values():
        index.documents = []
    life.write(*life.sealed)
    life.live(max(TWO_YEARS, policy.days + 60) * DAY)


LATE = pytest.mark.parametrize("story", [lagging, replayed, refilled], ids=lambda story: story.__name__)


class TestSweep:
    """What keeps the bound where documents are older than their index."""

    @LATE
    @every_policy
    def test_what_was_written_late_goes_in_time(self, policy, story) -> None:
        """Age counts from sealing, whenever a document came to its index; nothing goes early by it either.

        Readers see nothing whose day is over, so that what waits for the sweep is in no answer.
        """
        life = Life(policy)
        story(life, policy)
        assert is_in_time(life, SWEEP)
        overdue = [one for one in life.stream.documents() if one.expire_day <= int((life.now - SWEEP) // DAY)]
        assert overdue == []

    @LATE
    def test_without_it_that_would_stay_too_long(self, story: Callable[[Life, Retained], None]) -> None:
        """A lifecycle knows when an index was rolled over, and nothing of what is in it."""
        policy = POLICIES[0]
        life = Life(policy, is_swept=False)
        story(life, policy)
        lowest, highest = life.ages()
        assert lowest >= 0
        assert highest > 2

    @pytest.mark.parametrize(
        ("policy", "longer"), [(POLICIES[0], POLICIES[1]), (POLICIES[2], POLICIES[3])], ids=lambda policy: policy.name
    )
    def test_what_was_extended_goes_when_the_longer_policy_says(self, policy, longer) -> None:
        """It is made anew in the longer policy's stream, in the middle of its life."""
        life, other = Life(policy), Life(longer)
        for day in range(1, policy.days + 120):
            life.live(day * DAY)
            other.live(day * DAY)
            if day % 5 == 0:
                extend(life, other, longer.days)
        until = max(TWO_YEARS, longer.days + policy.days + 150) * DAY
        life.live(until)
        other.live(until)
        assert is_in_time(life, SWEEP)
        assert is_in_time(other, SWEEP)


def extend(life: Life, other: Life, days: int) -> None:
    """Move a third of what is kept to a longer policy: made there first, then taken away here."""
    meant = set(sorted(life.stream.documents(), key=lambda document: document.sealed)[::3])
    other.write(*(replace(document, days=days) for document in meant))
    assert len(list(life.stream.take(life.now, meant.__contains__))) == len(meant)


class TestModel:
    """The simulated server itself."""

    def test_an_action_that_is_not_modelled_is_no_proof(self) -> None:
        """A policy with more in it than is simulated fails here instead of passing."""
        policy = {"policy": {"phases": {"delete": {"actions": {"wait_for_snapshot": {"policy": "daily"}}}}}}
        with pytest.raises(AssertionError, match="wait_for_snapshot"):
            phases(policy)

    def test_an_index_that_is_written_for_longer_breaks_the_bound(self) -> None:
        """What is tested here can fail: two hours more are too many."""
        policy = copy.deepcopy(lifecycle(entry_stream("startup")))
        policy["policy"]["phases"]["hot"]["actions"]["rollover"]["max_age"] = "1d"
        stream, gone = Stream(policy), []
        for hour in range(60 * 24):
            gone += stream.run(hour * HOUR)
            stream.write(hour * HOUR, Document(hour * HOUR, 30))
        assert max(item.age for item in gone) > 31 * DAY

    def test_phases_come_in_their_order_with_their_steps(self) -> None:
        """The server moves indexes to the tier of a phase, whether or not a policy says so."""
        names = [phase.steps for phase in phases(lifecycle(entry_stream("startup")))]
        assert names == [
            ("set priority", "check rollover", "attempt rollover", "update rollover date"),
            ("set priority", "migrate", "check migration", "force merge", "count segments"),
            ("wait for leases", "delete"),
        ]
