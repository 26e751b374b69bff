"""Organizations and their plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from klyra_audit.errors import Rejected
from klyra_audit.format.sections import is_organization_id
from klyra_collector.registry import self_audit
from klyra_collector.registry.policies import MAX_RETENTION_LENGTHS
from klyra_collector.registry.tables import ORGANIZATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from klyra_audit.event import Actor
    from klyra_collector.registry.database import Database
    from klyra_collector.registry.outbox import Outbox
    from klyra_collector.registry.policies import Policies, RetentionPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """A customer and what it bought (DESIGN section 2).

    Attributes:
        organization_id: `org_…`.
        plan: startup, business or enterprise.
        policy: name of the retention policy, such as `enterprise-730d`.
        retention_days: how long its entries are kept from sealing.
        created_at: when it was registered, microseconds since 1970.
    """

    organization_id: str
    plan: str
    policy: str
    retention_days: int
    created_at: int


class Organizations:
    """Registers organizations and changes their plans; every change goes through the outbox as well."""

    def __init__(self, database: Database, outbox: Outbox, policies: Policies, clock: Callable[[], int]) -> None:
        self._database = database
        self._outbox = outbox
        self._policies = policies
        self._clock = clock

    def create(self, organization_id: str, plan: str, retention_days: int | None, *, by: Actor) -> Organization:
        """Register an organization."""
        if not is_organization_id(organization_id):
            raise Rejected(
                f"{organization_id} cannot name an organization.",
                remedy="Use org_ and 1 to 64 letters, digits, underscores or hyphens.",
                code="bad_organization_id",
            )
        policy = self._policies.for_plan(plan, retention_days)
        with self._database.writing() as connection:
            if find(connection, organization_id) is not None:
                raise Rejected(
                    f"{organization_id} exists already.",
                    remedy="Change its plan with `klyra-audit org set-plan`.",
                    code="organization_exists",
                )
            organization = _with_policy(organization_id, policy, self._clock())
            _check_lengths(connection, organization)
            connection.execute(ORGANIZATIONS.insert().values(_columns(organization)))
            self._report(connection, organization, None, by)
        return organization

    def set_plan(self, organization_id: str, plan: str, retention_days: int | None, *, by: Actor) -> Organization:
        """Change what an organization has bought; nothing happens if it has that already."""
        policy = self._policies.for_plan(plan, retention_days)
        with self._database.writing() as connection:
            before = require(connection, organization_id)
            after = _with_policy(organization_id, policy, before.created_at)
            if after == before:
                return before
            _check_lengths(connection, after)
            same = ORGANIZATIONS.c.organization_id == organization_id
            connection.execute(ORGANIZATIONS.update().where(same).values(_columns(after)))
            self._report(connection, after, before, by)
        return after

    def get(self, organization_id: str) -> Organization | None:
        """Return an organization, None if there is no such."""
        with self._database.reading() as connection:
            return find(connection, organization_id)

    def all(self) -> list[Organization]:
        """Return every organization by id."""
        query = select(ORGANIZATIONS).order_by(ORGANIZATIONS.c.organization_id)
        with self._database.reading() as connection:
            return [Organization(**row) for row in connection.execute(query).mappings()]

    def _report(self, connection: Connection, after: Organization, before: Organization | None, by: Actor) -> None:
        """Put the change in the outbox: first the policy, so that what follows is kept as long as it says."""
        self._outbox.add_policy(connection, after)
        changed = self_audit.retention_changed(by, after, before)
        self._outbox.add_event(connection, after.organization_id, changed)


def find(connection: Connection, organization_id: str) -> Organization | None:
    """Return an organization as this transaction sees it, None if there is no such."""
    query = select(ORGANIZATIONS).where(ORGANIZATIONS.c.organization_id == organization_id)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else Organization(**row)


def require(connection: Connection, organization_id: str) -> Organization:
    """Return an organization as this transaction sees it; `Rejected` (`unknown_organization`) if there is none."""
    organization = find(connection, organization_id)
    if organization is None:
        raise Rejected(
            f"There is no organization {organization_id}.",
            remedy="Register it with `klyra-audit org create`.",
            code="unknown_organization",
        )
    return organization


def _check_lengths(connection: Connection, changed: Organization) -> None:
    """Refuse one more retention length than a ledger keeps apart."""
    others = ORGANIZATIONS.c.organization_id != changed.organization_id
    query = select(ORGANIZATIONS.c.retention_days).where(others).distinct()
    lengths = set(connection.execute(query).scalars())
    if changed.retention_days in lengths or len(lengths) < MAX_RETENTION_LENGTHS:
        return
    in_force = ", ".join(map(str, sorted(lengths)))
    raise Rejected(
        f"{MAX_RETENTION_LENGTHS} retention lengths are in force ({in_force} days); "
        f"{changed.retention_days} days would be one more.",
        remedy="Choose one of those, or give up one of them first.",
        code="too_many_retentions",
    )


def _with_policy(organization_id: str, policy: RetentionPolicy, created_at: int) -> Organization:
    return Organization(
        organization_id=organization_id,
        plan=policy.plan,
        policy=policy.policy,
        retention_days=policy.retention_days,
        created_at=created_at,
    )


def _columns(organization: Organization) -> dict[str, Any]:
    return {column.name: getattr(organization, column.name) for column in ORGANIZATIONS.columns}
