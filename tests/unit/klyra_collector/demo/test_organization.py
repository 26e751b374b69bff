"""The example organization."""

from __future__ import annotations

import pytest

from klyra_audit import Actor
from klyra_audit.catalog import Catalog
from klyra_collector.demo.organization import ORGANIZATION_ID, VISITOR, prepare_organization, sign_in_link
from klyra_collector.registry import Registry
from klyra_collector.registry.errors import KeyRefused, SignInRefused

OPERATOR = Actor.system("tests")


@pytest.fixture
def registry(tmp_path):
    """A registry in which nothing is yet."""
    with Registry.open(f"sqlite:///{tmp_path / 'registry.sqlite'}", Catalog.load()) as opened:
        yield opened


def test_the_first_run_makes_an_enterprise_organization_and_two_keys(registry) -> None:
    """The service may emit, the reader may read, export and verify, and neither more."""
    keys = prepare_organization(registry, by=OPERATOR)
    organization = registry.organization(ORGANIZATION_ID)
    assert (organization.plan, organization.retention_days >= 365) == ("enterprise", True)
    assert registry.authenticate(keys.emit).scopes == {"emit"}
    assert registry.authenticate(keys.read).scopes == {"read", "export", "verify"}


def test_the_next_run_replaces_the_keys_of_the_last_and_leaves_others(registry) -> None:
    """A key is shown once, so each run has its own; what a user made is not the demo's to revoke."""
    first = prepare_organization(registry, by=OPERATOR)
    own = registry.create_key(organization_id=ORGANIZATION_ID, scopes={"read"}, label="mine", by=OPERATOR)
    second = prepare_organization(registry, by=OPERATOR)
    for secret in (first.emit, first.read):
        with pytest.raises(KeyRefused) as caught:
            registry.authenticate(secret)
        assert caught.value.reason == "revoked"
    for secret in (second.emit, second.read, own.secret_text):
        registry.authenticate(secret)


def test_the_link_signs_in_once(registry) -> None:
    """The token in the link opens one session of the organization, for a visitor who cannot change anything."""
    prepare_organization(registry, by=OPERATOR)
    link = sign_in_link(registry, "http://127.0.0.1:8080", by=OPERATOR)
    address, _, token = link.partition("/#sign-in=")
    assert address == "http://127.0.0.1:8080"
    session, _ = registry.redeem_sign_in(token)
    assert (session.organization_id, session.actor) == (ORGANIZATION_ID, VISITOR)
    assert session.scopes == {"read", "export", "verify"}
    with pytest.raises(SignInRefused):
        registry.redeem_sign_in(token)


def test_secrets_are_not_in_the_representation(registry) -> None:
    """Keys that end in a log by mistake would have to be revoked."""
    keys = prepare_organization(registry, by=OPERATOR)
    assert "klyra_sk_" not in repr(keys)
