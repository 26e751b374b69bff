"""Whose entries a destination may get: organizations whose plan includes destinations (DESIGN section 7)."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from klyra_audit.errors import Paused, RetryLater
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID, organization_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klyra_collector.registry import Registry
    from klyra_collector.registry.policies import Policies

FRESH_SECONDS: Final = 30.0
OPERATOR_REFERENCE: Final = bytes(16)


class NotEntitled(Paused):
    """A destination is configured for an organization whose plan does not include destinations."""

    code = "not_entitled"


class OrganizationsUnknown(RetryLater):
    """What tells organizations apart in the ledger is not there yet: no collector has begun it."""

    code = "organizations_unknown"


class Entitlement:
    """The organizations of one destination, read again from the registry every half minute. Thread-safe."""

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
        self._lock = threading.Lock()
        self._references: frozenset[bytes] = frozenset()
        self._until: float | None = None

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
            if not self._policies.of(organization).siem:
                raise NotEntitled(
                    f"Destination {destination} is for {organization_id}, whose plan is {organization.plan}.",
                    remedy=f"Destinations need the plan {self._plans()}: `klyra-audit org set-plan`.",
                )

    def references(self) -> frozenset[bytes]:
        """Return the org_ref of everyone whose entries are delivered.

        Raises:
            RetryLater: the registry does not answer, and has not answered before.
        """
        with self._lock:
            now = self._clock()
            if self._until is None or now >= self._until:
                try:
                    self._references = self._read()
                except RetryLater:
                    if self._until is None:
                        raise
                self._until = now + FRESH_SECONDS
            return self._references

    def _read(self) -> frozenset[bytes]:
        entitled = {
            organization.organization_id
            for organization in self._registry.organizations()
            if self._policies.of(organization).siem
        }
        chosen = entitled & self._wanted if self._wanted else entitled
        salt = self._org_salt()
        references = {organization_reference(salt, organization_id) for organization_id in chosen}
        if OPERATOR_ORGANIZATION_ID in self._wanted:
            references.add(OPERATOR_REFERENCE)
        return frozenset(references)

    def _plans(self) -> str:
        return " or ".join(name for name, plan in self._policies.plans.items() if plan.siem)
