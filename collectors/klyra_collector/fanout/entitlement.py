"""Whose entries a destination may get: organizations whose plan includes destinations (DESIGN section 7)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from klyra_audit.errors import Paused, RetryLater
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID, organization_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klyra_collector.registry import Registry
    from klyra_collector.registry.organizations import Organization
    from klyra_collector.registry.policies import Policies

FRESH_SECONDS: Final = 30.0
REFRESH_SECONDS: Final = 1.0
OPERATOR_REFERENCE: Final = bytes(16)


class NotEntitled(Paused):
    """A destination is configured for an organization whose plan does not include destinations."""

    code = "not_entitled"


class OrganizationsUnknown(RetryLater):
    """What tells organizations apart in the ledger is not there yet: no collector has begun it."""

    code = "organizations_unknown"


class Entitlement:
    """The organizations of one destination, as the registry has them. One thread uses it."""

    def __init__(
        self,
        registry: Registry,
        policies: Policies,
        *,
        wanted: Sequence[str],
        org_salt: Callable[[], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to answer.

        Args:
            registry: where plans are.
            policies: what each plan gives.
            wanted: organizations by id; none for every one whose plan allows it. The operator's own entries go
                only where the operator is named.
            org_salt: returns the ledger's.
            clock: seconds.
        """
        self._registry = registry
        self._policies = policies
        self._wanted = frozenset(wanted)
        self._org_salt = org_salt
        self._clock = clock
        self._references: frozenset[bytes] = frozenset()
        self._read_at: float | None = None
        self._refreshed_at: float | None = None

    def check(self, destination: str) -> None:
        """Return if all the wanted organizations may have destinations.

        Raises:
            NotEntitled: names the first that may not, and its plan.
        """
        for organization_id in sorted(self._wanted - {OPERATOR_ORGANIZATION_ID}):
            organization = self._registry.organization(organization_id)
            if organization is None:
                raise NotEntitled(
                    f"Destination {destination} is for {organization_id}, which does not exist.",
                    remedy="Create it with `klyra-audit org create`, or correct `organizations`.",
                    code="unknown_organization",
                )
            if not self._is_entitled(organization):
                raise NotEntitled(
                    f"Destination {destination} is for {organization_id}, whose plan is {organization.plan}.",
                    remedy=f"Destinations need the plan {self._plans()}: `klyra-audit org set-plan`.",
                )

    def references(self) -> frozenset[bytes]:
        """Return the org_ref of everyone whose entries are delivered, as it was within half a minute.

        Raises:
            RetryLater: the registry does not answer, and has not answered before.
        """
        now = self._clock()
        if self._read_at is None or now - self._read_at >= FRESH_SECONDS:
            try:
                self._read_again(now)
            except RetryLater:
                if self._read_at is None:
                    raise
        return self._references

    def refresh(self) -> bool:
        """Read the registry now, unless that was done within the second; say whether it was read.

        Raises:
            RetryLater: the registry does not answer.
        """
        now = self._clock()
        if self._refreshed_at is not None and now - self._refreshed_at < REFRESH_SECONDS:
            return False
        self._read_again(now)
        self._refreshed_at = now
        return True

    def _read_again(self, now: float) -> None:
        entitled = {one.organization_id for one in self._registry.organizations() if self._is_entitled(one)}
        chosen = entitled & self._wanted if self._wanted else entitled
        salt = self._org_salt()
        references = {organization_reference(salt, organization_id) for organization_id in chosen}
        if OPERATOR_ORGANIZATION_ID in self._wanted:
            references.add(OPERATOR_REFERENCE)
        self._references, self._read_at = frozenset(references), now

    def _is_entitled(self, organization: Organization) -> bool:
        plan = self._policies.plans.get(organization.plan)
        return plan is not None and plan.siem  # a plan that is not on sale any more gives nothing

    def _plans(self) -> str:
        return " or ".join(name for name, plan in self._policies.plans.items() if plan.siem)
