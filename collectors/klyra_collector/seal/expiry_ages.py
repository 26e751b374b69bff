"""How old the oldest entry of each plan is whose body is still here: what tells an operator that expiry works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klyra_audit.timestamps import MICROSECONDS, SECONDS_PER_DAY
from klyra_collector.seal.expiry_plan import LEAVES_AT_ONCE, Leaves

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from klyra_collector.seal.expiry_facts import RetentionFacts

_DAY_US = SECONDS_PER_DAY * MICROSECONDS


class OldestEntries:
    """Finds them along the leaves, going on where it stopped: each leaf is looked at once a plan."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, str], int] = {}

    def find(
        self, plan: str, log: str, leaves: Leaves, facts: RetentionFacts, days: Collection[int]
    ) -> Generator[None, None, int | None]:
        """Return when the oldest entry of a plan that a shard still has was sealed, in microseconds since 1970.

        Records that only a hold keeps do not count. Yields after each piece of work.

        Args:
            plan: whose.
            log: the shard.
            leaves: of it.
            facts: what control records say.
            days: expiry days whose files are here.
        """
        if not days:
            return None
        earliest = (min(days) - 1 - max(facts.plan_lengths[plan])) * _DAY_US
        index = max(self._next.get((plan, log), 0), leaves.first_at(max(earliest, 0)))
        while index < leaves.size:
            for leaf in leaves.between(index, min(index + LEAVES_AT_ONCE, leaves.size)):
                if facts.plans.get(leaf.org_ref) == plan and facts.effective_day(log, leaf) in days:
                    self._next[plan, log] = index
                    return leaf.ingest_us
                index += 1
            self._next[plan, log] = index
            yield
        return None
