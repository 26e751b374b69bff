"""What each plan gives, read from `retention_policies/*.json` (DESIGN sections 2 and 8)."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from klyra_audit import resources
from klyra_audit.errors import Rejected
from klyra_collector.registry.errors import PolicyFileDamaged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.resources.abc import Traversable

    from klyra_collector.registry.organizations import Organization

MAX_RETENTION_LENGTHS: Final = 8  # bodies are filed by length and day: more would be too many files (section 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """What follows from an organization's plan.

    Attributes:
        plan: startup, business or enterprise.
        policy: its name: the plan's, with `-<days>d` where a longer retention was bought.
        retention_days: how long an entry is kept from sealing.
        export_formats: what an export may be asked for.
        siem: whether entries may be copied to destinations.
    """

    plan: str
    policy: str
    retention_days: int
    export_formats: tuple[str, ...]
    siem: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One file of `retention_policies/`; its README says what each member means."""

    plan: str
    title: str
    retention_days: int
    longest_retention_days: int
    export_formats: tuple[str, ...]
    siem: bool

    @property
    def may_be_longer(self) -> bool:
        """Whether more than the plan's own retention may be bought."""
        return self.longest_retention_days > self.retention_days


@dataclass(frozen=True, slots=True)
class Policies:
    """Every plan on sale, by name, shortest retention first."""

    plans: Mapping[str, Plan]

    @classmethod
    def load(cls, folder: Traversable | None = None) -> Policies:
        """Read every policy file, from `folder` if it is given; `PolicyFileDamaged` if one is not as it must be."""
        files = (folder or resources.folder("retention_policies")).iterdir()
        plans = sorted(
            (_read(file) for file in files if file.name.endswith(".json")), key=lambda plan: plan.retention_days
        )
        return cls(MappingProxyType({plan.plan: plan for plan in plans}))

    def for_plan(self, plan: str, retention_days: int | None = None) -> RetentionPolicy:
        """Return the policy of a plan, with a longer retention if one is given.

        Raises:
            Rejected: `bad_plan` if there is no such plan, `bad_retention` if it does not allow that length.
        """
        terms = self._terms(plan)
        days = terms.retention_days if retention_days is None else retention_days
        _check_length(terms, days)
        return _policy(terms, plan if days == terms.retention_days else f"{plan}-{days}d", days)

    def of(self, organization: Organization) -> RetentionPolicy:
        """Return what an organization has: the retention it bought, whatever is on sale now, and its plan's rest.

        Raises:
            Rejected: `bad_plan` if its plan is not on sale any more.
        """
        return _policy(self._terms(organization.plan), organization.policy, organization.retention_days)

    def _terms(self, plan: str) -> Plan:
        if plan in self.plans:
            return self.plans[plan]
        raise Rejected(f"There is no plan {plan}.", remedy=f"Choose one of {', '.join(self.plans)}.", code="bad_plan")


def _policy(terms: Plan, name: str, days: int) -> RetentionPolicy:
    return RetentionPolicy(
        plan=terms.plan, policy=name, retention_days=days, export_formats=terms.export_formats, siem=terms.siem
    )


def _check_length(terms: Plan, days: int) -> None:
    """Refuse a retention that the plan does not sell."""
    if terms.retention_days <= days <= terms.longest_retention_days:
        return
    if terms.may_be_longer:
        remedy = f"Choose {terms.retention_days} to {terms.longest_retention_days} days."
    else:
        remedy = "Leave the retention out, or choose a plan whose retention may be longer."
    raise Rejected(
        f"The {terms.plan} plan keeps entries for {terms.retention_days} days, not {days}.",
        remedy=remedy,
        code="bad_retention",
    )


def _read(file: Traversable) -> Plan:
    """Read one policy file."""
    try:
        plan = _parse(json.loads(file.read_bytes()))
    except (ValueError, TypeError) as error:
        raise _damaged(file, str(error)) from error
    if file.name != f"{plan.plan}.json":
        raise _damaged(file, f"it is about the plan {plan.plan}")
    return plan


def _parse(content: Any) -> Plan:  # noqa: ANN401 - JSON is whatever the file says
    """Return a plan; `ValueError` or `TypeError` says what is wrong."""
    names = {field.name for field in fields(Plan)}
    if not isinstance(content, dict) or content.keys() != names:
        raise ValueError(f"it must have exactly the members {', '.join(sorted(names))}")
    days, longest = content["retention_days"], content["longest_retention_days"]
    if type(days) is not int or type(longest) is not int or not 0 < days <= longest:
        raise ValueError("retention_days and longest_retention_days must be whole days, ascending")
    if type(content["siem"]) is not bool:
        raise ValueError("siem must be true or false")
    return Plan(**{**content, "export_formats": tuple(content["export_formats"])})


def _damaged(file: Traversable, problem: str) -> PolicyFileDamaged:
    """Return the error for one file."""
    return PolicyFileDamaged(
        f"The retention policy {file.name} cannot be used: {problem}.",
        remedy="Restore the file, or install this software again.",
    )
