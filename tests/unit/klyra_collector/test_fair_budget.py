"""The memory that requests share, and the rates of organizations, on a clock of the test's own."""

from __future__ import annotations

import contextlib

import pytest

from klyra_collector.errors import Overloaded
from klyra_collector.fair_budget import ACTIVE_SECONDS, FairBudget
from klyra_collector.receive.rates import OrganizationRates, RateLimited


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


class TestBudget:
    """Who gets how much."""

    def test_one_alone_gets_all_of_it(self, clock) -> None:
        """Nobody else is there to be fair to."""
        budget = FairBudget(100, clock)
        with contextlib.ExitStack() as requests:
            for _ in range(10):
                requests.enter_context(budget.reservation("a")).hold(10)
            with pytest.raises(Overloaded) as caught:
                requests.enter_context(budget.reservation("a")).hold(1)
            assert (caught.value.code, bool(caught.value.remedy)) == ("overloaded", True)
        assert budget.held == 0

    def test_one_that_floods_leaves_room_once_another_asks(self, clock) -> None:
        """The other's first refusal makes the flood's share smaller, so that its next request gets in."""
        budget = FairBudget(100, clock)
        with contextlib.ExitStack() as requests:
            flood = [requests.enter_context(contextlib.ExitStack()) for _ in range(10)]
            for one in flood:
                one.enter_context(budget.reservation("a")).hold(10)
            with budget.reservation("b") as refused, pytest.raises(Overloaded):
                refused.hold(10)
            flood[0].close()
            with budget.reservation("a") as more, pytest.raises(Overloaded):
                more.hold(10)
            with budget.reservation("b") as other:
                other.hold(10)

    def test_shares_are_equal_and_grow_when_others_leave(self, clock) -> None:
        """Three get a third each; long after the others have gone, one gets all again."""
        budget = FairBudget(90, clock)
        with contextlib.ExitStack() as requests:
            for name in "bc":
                with budget.reservation(name) as brief:
                    brief.hold(1)
            for _ in range(3):
                requests.enter_context(budget.reservation("a")).hold(15)
            with budget.reservation("a") as more, pytest.raises(Overloaded):
                more.hold(1)
            clock.now += ACTIVE_SECONDS + 1
            requests.enter_context(budget.reservation("a")).hold(45)

    def test_a_single_request_may_be_larger_than_a_share(self, clock) -> None:
        """Otherwise a large one would never get in while anybody else is there."""
        budget = FairBudget(100, clock)
        with budget.reservation("b") as other, budget.reservation("a") as large:
            other.hold(10)
            large.hold(80)
            with pytest.raises(Overloaded):
                large.hold(11)
            assert (large.held, budget.held) == (80, 90)


class TestRates:
    """How many events pass."""

    def test_without_a_rate_nothing_is_limited(self, clock) -> None:
        """It is off by default."""
        rates = OrganizationRates(clock=clock)
        rates.admit("a")
        with rates.charged("a", 10**9):
            pass
        rates.admit("a")

    def test_a_burst_passes_and_then_the_rate(self, clock) -> None:
        """After its burst an organization is told when the next event may come; another is not concerned."""
        rates = OrganizationRates(10, 100, clock)
        with rates.charged("a", 100):
            pass
        with pytest.raises(RateLimited) as caught:
            rates.admit("a")
        assert (caught.value.code, caught.value.retry_after) == ("rate_limited", pytest.approx(0.1))
        assert caught.value.remedy
        rates.admit("b")
        clock.now += 0.11
        rates.admit("a")

    def test_a_batch_larger_than_the_burst_passes_and_is_paid_afterwards(self, clock) -> None:
        """It could never pass otherwise."""
        rates = OrganizationRates(10, 100, clock)
        rates.admit("a")
        with rates.charged("a", 1100):
            pass
        with pytest.raises(RateLimited) as caught:
            rates.admit("a")
        assert caught.value.retry_after == pytest.approx(100.1)
        clock.now += 100.2
        rates.admit("a")

    def test_what_is_not_acknowledged_costs_nothing(self, clock) -> None:
        """The same request will come again."""
        rates = OrganizationRates(10, 100, clock)
        with contextlib.suppress(Overloaded), rates.charged("a", 100):
            raise Overloaded("full")
        rates.admit("a")

    def test_a_key_for_many_is_not_limited(self, clock) -> None:
        """It is the operator's own."""
        rates = OrganizationRates(10, 1, clock)
        with rates.charged(None, 10**6):
            pass
        rates.admit(None)

    def test_full_buckets_are_forgotten(self, clock) -> None:
        """However many organizations ever sent, memory holds those that sent lately."""
        rates = OrganizationRates(1, 1, clock)
        for number in range(10_000):
            with rates.charged(f"org_{number}", 1):
                pass
        clock.now += 10
        with rates.charged("one more", 1):
            pass
        assert len(rates._buckets) == 1
