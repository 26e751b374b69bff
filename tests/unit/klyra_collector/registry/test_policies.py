"""Plans and what follows from them."""

from __future__ import annotations

import json

import pytest

from klyra_audit import resources
from klyra_audit.errors import Halted, Rejected
from klyra_collector.registry.errors import PolicyFileDamaged
from klyra_collector.registry.organizations import Organization
from klyra_collector.registry.policies import Policies

POLICIES = Policies.load()


@pytest.fixture
def folder(tmp_path):
    """A copy of the policy files, to be damaged."""
    for file in resources.folder("retention_policies").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("plan", "days", "siem"), [("startup", 30, False), ("business", 90, False), ("enterprise", 365, True)]
)
def test_plans_keep_what_the_product_page_says(plan, days, siem) -> None:
    """Each plan has the retention and the SIEM integration that are sold."""
    policy = POLICIES.for_plan(plan)
    assert (policy.plan, policy.policy, policy.retention_days, policy.siem) == (plan, plan, days, siem)
    assert {"json", "csv"} <= set(policy.export_formats)


def test_plans_are_listed_shortest_first() -> None:
    """The plans come in the order in which people think of them."""
    assert list(POLICIES.plans) == ["startup", "business", "enterprise"]


def test_a_longer_retention_names_the_policy() -> None:
    """Enterprise may be longer, and then the policy says how long."""
    policy = POLICIES.for_plan("enterprise", 730)
    assert (policy.policy, policy.retention_days, policy.siem) == ("enterprise-730d", 730, True)


def test_what_was_bought_stays_when_the_offer_changes(folder) -> None:
    """An organization keeps its own retention; export formats and SIEM are its plan's of today."""
    organization = Organization(
        organization_id="org_a", plan="business", policy="business", retention_days=90, created_at=0
    )
    assert POLICIES.of(organization) == POLICIES.for_plan("business")
    file = folder / "business.json"
    offer = {**json.loads(file.read_text()), "retention_days": 120, "longest_retention_days": 120, "siem": True}
    file.write_text(json.dumps(offer))
    policy = Policies.load(folder).of(organization)
    assert (policy.policy, policy.retention_days, policy.siem) == ("business", 90, True)
    file.unlink()
    with pytest.raises(Rejected, match="no plan business") as caught:
        Policies.load(folder).of(organization)
    assert caught.value.code == "bad_plan"


@pytest.mark.parametrize("plan", ["startup", "business", "enterprise"])
def test_asking_for_the_plans_own_length_changes_nothing(plan) -> None:
    """Saying the usual length is not buying another one."""
    assert POLICIES.for_plan(plan, POLICIES.plans[plan].retention_days) == POLICIES.for_plan(plan)


@pytest.mark.parametrize(
    ("plan", "days", "remedy"),
    [
        ("startup", 31, "choose a plan"),
        ("business", 30, "choose a plan"),
        ("enterprise", 364, "Choose 365 to 36500 days"),
        ("enterprise", 36_501, "Choose 365 to 36500 days"),
        ("enterprise", -1, "Choose 365 to 36500 days"),
    ],
)
def test_a_length_that_is_not_sold_is_rejected(plan, days, remedy) -> None:
    """Only Enterprise may be longer, and nothing may be shorter."""
    with pytest.raises(Rejected, match=f"not {days}") as caught:
        POLICIES.for_plan(plan, days)
    assert caught.value.code == "bad_retention"
    assert remedy in caught.value.remedy


def test_an_unknown_plan_is_rejected() -> None:
    """A plan that is not on sale is named with those that are."""
    with pytest.raises(Rejected, match="no plan free") as caught:
        POLICIES.for_plan("free")
    assert caught.value.code == "bad_plan"
    assert caught.value.remedy == "Choose one of startup, business, enterprise."


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"extra": 1}, "exactly the members"),
        ({"retention_days": "30"}, "whole days"),
        ({"retention_days": True}, "whole days"),
        ({"longest_retention_days": 29}, "whole days"),
        ({"siem": "no"}, "true or false"),
        ({"plan": "business"}, "about the plan business"),
        ({"export_formats": None}, "NoneType"),
    ],
)
def test_a_damaged_policy_file_halts(folder, change, problem) -> None:
    """A file that contradicts itself is named and nothing is guessed."""
    file = folder / "startup.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(PolicyFileDamaged, match=rf"startup\.json.*{problem}") as caught:
        Policies.load(folder)
    assert isinstance(caught.value, Halted)
    assert caught.value.code == "policy_file_damaged"
    assert "Restore the file" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"plan": "startup"}'])
def test_a_file_that_is_no_policy_halts(folder, content) -> None:
    """Anything but the object it must be is refused."""
    (folder / "startup.json").write_bytes(content)
    with pytest.raises(PolicyFileDamaged, match=r"startup\.json"):
        Policies.load(folder)
