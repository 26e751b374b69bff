"""What the routes work with: built once by `create_app`, passed to each of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import anyio.to_thread

from klyra_audit import timestamps
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_collector.query.export import PACKET, RENDERINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio import CapacityLimiter

    from klyra_audit.catalog import Catalog
    from klyra_collector.publish.policy import PolicyPublisher
    from klyra_collector.publish.published import PublishedLedger
    from klyra_collector.query.cursor import CursorCodec
    from klyra_collector.query.destinations import DestinationRules
    from klyra_collector.query.metrics import QueryMetrics
    from klyra_collector.query.packets import Packets
    from klyra_collector.query.quarantine import Quarantine
    from klyra_collector.registry import Registry
    from klyra_collector.registry.policies import Policies, RetentionPolicy
    from klyra_collector.store.searching import Store

_OPERATOR_PLAN = "enterprise"  # what the seal keeps the operator's own entries by

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicLog:
    """The ledger beside the API.

    Attributes:
        ledger: what of it is published.
        policy: makes the policy file.
        public_entries: entry bundles are for everyone.
        patience_seconds: how long a proof waits for the checkpoint that covers its entry.
        witnessed_at: by when a quorum of witnesses had cosigned, seconds since 1970; None while UNWITNESSED.
        packets: what export packets are made with; None makes none.
    """

    ledger: PublishedLedger
    policy: PolicyPublisher
    public_entries: bool = False
    patience_seconds: float = 10.0
    witnessed_at: Callable[[], int | None] = lambda: None
    packets: Packets | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The objects behind the API.

    Attributes:
        registry: organizations, keys, sessions, self-auditing.
        store: where entries are searched.
        catalog: known event types.
        policies: what each plan gives.
        cursors: signs page cursors.
        metrics: counts.
        clock: present time, microseconds since 1970.
        threads: how many calls may block at once.
        log: the ledger beside the API; None where there is none.
        quarantine: what quarantined input is read from; None where nothing lists it.
        destinations: what organizations may set up for themselves; None where they may nothing.
    """

    registry: Registry
    store: Store
    catalog: Catalog
    policies: Policies
    cursors: CursorCodec
    metrics: QueryMetrics
    clock: Callable[[], int]
    threads: CapacityLimiter
    log: PublicLog | None = None
    quarantine: Quarantine | None = None
    destinations: DestinationRules | None = None

    @property
    def export_formats(self) -> tuple[str, ...]:
        """Every format of exports that can be made here."""
        has_packets = self.log is not None and self.log.packets is not None
        return (*RENDERINGS, PACKET) if has_packets else tuple(RENDERINGS)

    def today(self) -> int:
        """Return the present UTC day since 1970."""
        return timestamps.day_of(self.clock())

    def policy(self, organization_id: str) -> RetentionPolicy | None:
        """Return what an organization has bought, None if there is no such organization."""
        if organization_id == OPERATOR_ORGANIZATION_ID:
            return self.policies.for_plan(_OPERATOR_PLAN)
        organization = self.registry.organization(organization_id)
        if organization is None:
            return None
        return self.policies.of(organization)

    async def blocking(
        self, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> _Result:
        """Run what blocks, a search or the registry, in a thread."""
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), limiter=self.threads)
