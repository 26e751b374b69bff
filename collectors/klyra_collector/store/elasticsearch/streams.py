"""Which data stream a document goes to: one for each retention policy, so that its ILM policy fits what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit.format.leaf import NEVER
from klyra_audit.timestamps import day_of
from klyra_collector.store.elasticsearch import names
from klyra_collector.store.elasticsearch.documents import Placing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from klyra_collector.registry.policies import Policies
    from klyra_collector.seal.expiry_facts import RetentionFacts
    from klyra_collector.seal.reader import SealedRecord


@dataclass(frozen=True, slots=True)
class Streams:
    """Names of streams.

    Attributes:
        policy_names: retention days of each plan → its policy's name.
        longer: name of the plan that sells longer retentions.
        dedicated: organizations that have streams of their own.
    """

    policy_names: Mapping[int, str]
    longer: str
    dedicated: frozenset[str] = frozenset()

    @classmethod
    def of(cls, policies: Policies, dedicated: Iterable[str] = ()) -> Streams:
        """Return the streams of the plans on sale."""
        plans = policies.plans.values()
        lengths = {plan.retention_days: plan.plan for plan in plans}
        longer = next((plan.plan for plan in plans if plan.may_be_longer), next(iter(policies.plans)))
        return cls(lengths, longer, frozenset(dedicated))

    def of_plans(self) -> list[str]:
        """Return every stream of the plans on sale."""
        plans = sorted(self.policy_names.values())
        shared = [name for plan in plans for name in (names.entry_stream(plan), names.quarantine_stream(plan))]
        own = [names.dedicated_stream(plan, one) for plan in plans for one in sorted(self.dedicated)]
        return [*shared, *own, names.QUARANTINE_HELD_STREAM]

    def policy(self, retention_days: int) -> str:
        """Return the retention policy that keeps entries for some days."""
        return self.policy_names.get(retention_days) or f"{self.longer}-{retention_days}d"

    def placing(self, record: SealedRecord, facts: RetentionFacts) -> Placing:
        """Return how long a record is kept, by all that the ledger says of it now, and so by which policy."""
        leaf = record.leaf
        day = facts.effective_day(record.origin, leaf)
        policy = self.longer if day == NEVER else self.policy(retention_days(day, leaf.ingest_us))
        return Placing(policy=policy, expire_day=day, held=facts.hold_on(leaf) is not None)

    def of_entry(self, placing: Placing, organization_id: str) -> str:
        """Return the stream of an entry."""
        if placing.held:
            return names.HELD_STREAM
        if organization_id in self.dedicated:
            return names.dedicated_stream(placing.policy, organization_id)
        return names.entry_stream(placing.policy)

    def of_quarantined(self, placing: Placing) -> str:
        """Return the stream of a quarantined input."""
        return names.QUARANTINE_HELD_STREAM if placing.held else names.quarantine_stream(placing.policy)


def retention_days(expire_day: int, ingest_us: int) -> int:
    """Return the days behind an effective expiry day: it is the day of sealing, one more, and these."""
    return expire_day - day_of(ingest_us) - 1
