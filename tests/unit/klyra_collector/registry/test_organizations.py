"""Organizations and their plans."""

from __future__ import annotations

import threading

import pytest

from klyra_audit.errors import Rejected


def test_an_organization_has_what_its_plan_gives(registry, clock) -> None:
    """It is returned, found and listed alike."""
    made = registry.organization("org_a")
    assert (made.plan, made.policy, made.retention_days, made.created_at) == ("business", "business", 90, clock.now)
    assert registry.organizations() == [made]
    assert registry.organization("org_b") is None


def test_a_registration_tells_the_collector_and_the_log(registry, told, admin) -> None:
    """First the policy command, then the entry, so that the entry is kept by that policy."""
    registry.create_organization("org_b", "enterprise", 730, by=admin)
    policy, event = told.new()
    assert (policy.kind, policy.organization_id) == ("policy", "org_b")
    assert policy.payload == {
        "organization_id": "org_b",
        "plan": "enterprise",
        "policy": "enterprise-730d",
        "retention_days": 730,
    }
    document = event.payload["document"]
    assert (event.kind, event.organization_id, document["organization_id"]) == ("event", "org_b", "org_b")
    assert (document["event_type"], document["actor"]["id"]) == ("retention.changed", "usr_admin")
    assert document["resource"]["id"] == "org_b"


def test_a_plan_change_tells_what_was_before(registry, told, admin) -> None:
    """The entry has both the old and the new terms."""
    changed = registry.set_plan("org_a", "startup", by=admin)
    assert registry.organization("org_a") == changed
    policy, event = told.new()
    assert (policy.payload["policy"], policy.payload["retention_days"]) == ("startup", 30)
    metadata = event.payload["document"]["metadata"]
    assert (metadata["plan"], metadata["retention_days"]) == ("startup", 30)
    assert (metadata["previous_plan"], metadata["previous_retention_days"]) == ("business", 90)


def test_setting_the_same_plan_again_tells_nothing(registry, told, admin) -> None:
    """A repeated command is no change."""
    assert registry.set_plan("org_a", "business", 90, by=admin) == registry.organization("org_a")
    assert told.new() == []


@pytest.mark.parametrize("organization_id", ["acme", "org_", "operator", "org_" + "a" * 65, "org_ü", "org_a b"])
def test_a_bad_id_is_rejected(registry, admin, organization_id) -> None:
    """An id that could not be told apart or written down is refused."""
    with pytest.raises(Rejected, match="cannot name an organization") as caught:
        registry.create_organization(organization_id, "startup", by=admin)
    assert (caught.value.code, "org_ and 1 to 64" in caught.value.remedy) == ("bad_organization_id", True)


def test_an_existing_organization_is_not_made_again(registry, told, admin) -> None:
    """Nor is its plan changed by the attempt."""
    with pytest.raises(Rejected, match="org_a exists already") as caught:
        registry.create_organization("org_a", "startup", by=admin)
    assert (caught.value.code, "set-plan" in caught.value.remedy) == ("organization_exists", True)
    assert registry.organization("org_a").plan == "business"
    assert told.new() == []


def test_the_plan_of_an_unknown_organization_is_not_set(registry, admin) -> None:
    """It must be registered first."""
    with pytest.raises(Rejected, match="no organization org_b") as caught:
        registry.set_plan("org_b", "startup", by=admin)
    assert (caught.value.code, "org create" in caught.value.remedy) == ("unknown_organization", True)


@pytest.mark.parametrize(("plan", "days", "code"), [("gold", None, "bad_plan"), ("startup", 60, "bad_retention")])
def test_terms_that_are_not_sold_change_nothing(registry, told, admin, plan, days, code) -> None:
    """Neither for a new organization nor for one there is."""
    for act in (registry.create_organization, registry.set_plan):
        with pytest.raises(Rejected) as caught:
            act("org_a", plan, days, by=admin)
        assert caught.value.code == code
    assert told.new() == []


class TestRetentionLengths:
    """A ledger keeps at most eight retention lengths apart."""

    @pytest.fixture
    def eight(self, registry, admin):
        """A registry with eight lengths in force: 90 and 401 to 407."""
        for days in range(401, 408):
            registry.create_organization(f"org_{days}", "enterprise", days, by=admin)
        return registry

    def test_the_ninth_length_is_rejected(self, eight, admin) -> None:
        """The refusal lists those in force and says what to do."""
        with pytest.raises(Rejected, match=r"8 retention lengths are in force \(90, 401, .*407 days\)") as caught:
            eight.create_organization("org_408", "enterprise", 408, by=admin)
        assert (caught.value.code, "one of those" in caught.value.remedy) == ("too_many_retentions", True)
        eight.create_organization("org_b", "enterprise", 407, by=admin)
        with pytest.raises(Rejected, match="408 days would be one more"):
            eight.set_plan("org_b", "enterprise", 408, by=admin)

    def test_a_length_in_force_may_be_used_again(self, eight, admin) -> None:
        """Eight lengths serve any number of organizations."""
        assert eight.create_organization("org_b", "enterprise", 404, by=admin).policy == "enterprise-404d"

    def test_the_last_user_of_a_length_may_change_it(self, eight, admin) -> None:
        """Giving one up makes room for another, also in one step."""
        assert eight.set_plan("org_404", "enterprise", 500, by=admin).retention_days == 500

    def test_two_that_come_together_are_judged_one_after_the_other(self, registry, second, admin) -> None:
        """Racing processes never bring a ninth length into force."""
        for days in range(401, 407):
            registry.create_organization(f"org_{days}", "enterprise", days, by=admin)
        outcomes = []

        def create(process, days) -> None:
            try:
                outcomes.append(process.create_organization(f"org_{days}", "enterprise", days, by=admin))
            except Rejected as error:
                outcomes.append(error.code)

        threads = [
            threading.Thread(target=create, args=(process, days))
            for process, days in ((registry, 800), (second, 900), (registry, 1000), (second, 1100))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count("too_many_retentions") == 3
        assert len({organization.retention_days for organization in registry.organizations()}) == 8
