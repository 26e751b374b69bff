"""`klyra-audit key`."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
import typer

from klyra_audit.errors import Rejected
from klyra_audit.event import Actor
from klyra_collector.cli.administration import duration
from klyra_collector.cli.keys import app


@pytest.fixture(autouse=True)
def acme(data, registry_of):
    """org_acme, on the Business plan."""
    data.mkdir()
    registry_of().create_organization("org_acme", "business", by=Actor.user("usr_admin"))


@pytest.fixture
def secret(run) -> str:
    """A key of org_acme that may read."""
    return run(app, "create", "--org", "org_acme", "--scope", "read")[1].strip()


def key_id(secret: str) -> str:
    """Return the public id of a key."""
    return f"key_{secret.split('_')[2]}"


def test_create_prints_the_key_and_nothing_else(run, registry_of) -> None:
    """What it may do goes to standard error, without the secret."""
    status, out, err = run(app, "create", "--org", "org_acme", "--scope", "read,export", "--label", "Audit")
    key = registry_of().authenticate(out.removesuffix("\n"))
    assert (status, registry_of().pending_commands(1)) == (0, [])
    assert (key.organization_id, key.scopes, key.label) == ("org_acme", {"read", "export"}, "Audit")
    assert f"{key.key_id} of org_acme may read, export." in err
    assert out.strip() not in err


def test_the_operators_key_belongs_to_no_organization(run, registry_of) -> None:
    """It is asked for by name, never by leaving the organization out."""
    _, out, err = run(app, "create", "--operator", "--scope", "emit", "--scope", "verify")
    key = registry_of().authenticate(out.strip())
    assert (key.organization_id, key.scopes) == (None, {"emit", "verify"})
    assert "of the operator" in err


def test_roles_emitters_and_expiry(run, registry_of) -> None:
    """A role is a name for scopes, emitters may be several, and a key may be made to end."""
    options = ("--role", "viewer", "--scope", "emit", "--emitter", "one", "--emitter", "two", "--expires-days", "30")
    key = registry_of().authenticate(run(app, "create", "--org", "org_acme", *options)[1].strip())
    assert (key.scopes, key.emitter_ids) == ({"emit", "read"}, ("one", "two"))
    assert key.expires_at - key.created_at == pytest.approx(30 * 86_400_000_000, rel=0.01)


def test_list_never_shows_a_secret(run, secret) -> None:
    """As a table and as JSON it has what there is to know beside it."""
    out = run(app, "list")[1]
    headings, row = out.splitlines()
    assert headings.split()[:4] == ["KEY", "ORGANIZATION", "LABEL", "SCOPES"]
    assert row.split()[:6] == [key_id(secret), "org_acme", "-", "read", "-", "active"]
    (row,) = json.loads(run(app, "list", "--json")[1])
    assert row.pop("created_at").endswith("Z")
    assert row == {
        "key_id": key_id(secret),
        "organization_id": "org_acme",
        "label": "",
        "scopes": ["read"],
        "emitter_ids": [],
        "status": "active",
        "last_used_at": None,
        "expires_at": None,
        "revoked_at": None,
    }


def test_list_can_be_narrowed(run, secret) -> None:
    """To one organization or to the operator."""
    operators = run(app, "create", "--operator", "--scope", "verify")[1].strip()
    listed = {
        option: [row["key_id"] for row in json.loads(run(app, "list", "--json", *option)[1])]
        for option in [(), ("--org", "org_acme"), ("--operator",)]
    }
    assert listed == {
        (): [key_id(secret), key_id(operators)],
        ("--org", "org_acme"): [key_id(secret)],
        ("--operator",): [key_id(operators)],
    }


def test_rotate_prints_the_new_key(run, registry_of, secret) -> None:
    """The old one works for the overlap, a week unless said otherwise."""
    status, out, err = run(app, "rotate", key_id(secret))
    registry = registry_of()
    assert status == 0
    # When a key was last used is written in the background, so it may differ between two looks.
    new, old = (replace(registry.authenticate(text), last_used_at=None) for text in (out.strip(), secret))
    assert new == old
    assert "7 days" in err
    assert registry.pending_commands(1) == []


def test_rotate_without_overlap_ends_the_old_key(run, registry_of, secret) -> None:
    """For a key that may have leaked."""
    run(app, "rotate", key_id(secret), "--overlap", "0")
    with pytest.raises(Rejected, match="expired"):
        registry_of().authenticate(secret)


def test_revoke_prints_the_id(run, registry_of, secret) -> None:
    """And the key is refused from then on; revoking again is no failure."""
    assert run(app, "revoke", key_id(secret))[:2] == (0, f"{key_id(secret)}\n")
    assert run(app, "revoke", key_id(secret))[0] == 0
    with pytest.raises(Rejected, match="revoked"):
        registry_of().authenticate(secret)
    assert json.loads(run(app, "list", "--json")[1])[0]["status"] == "revoked"
    assert registry_of().pending_commands(1) == []


def test_an_expired_key_is_listed_as_such(run, secret, monkeypatch) -> None:
    """By the clock of the listing."""
    run(app, "create", "--org", "org_acme", "--scope", "read", "--expires-days", "1")
    monkeypatch.setattr("klyra_collector.cli.keys.wall_us", lambda: 2_000_000_000_000_000)
    assert [row["status"] for row in json.loads(run(app, "list", "--json")[1])] == ["active", "expired"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "--org", "org_b", "--scope", "read"), "There is no organization org_b. Register it"),
        (("create", "--org", "org_acme", "--scope", "write"), "There is no scope write. Choose one or more"),
        (("create", "--org", "org_acme", "--role", "owner"), "There is no role owner. Choose one of viewer"),
        (("rotate", "key_x"), "There is no key key_x. List the keys"),
        (("revoke", "key_x"), "There is no key key_x. List the keys"),
    ],
)
def test_what_is_refused_exits_with_1(run, arguments, message) -> None:
    """The reason and the remedy go to standard error, and nothing to standard output."""
    status, out, err = run(app, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("Error: ")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "--scope", "read"), "either --org ORG_ID or --operator"),
        (("create", "--org", "org_acme", "--operator", "--scope", "read"), "either --org ORG_ID or --operator"),
        (("list", "--org", "org_acme", "--operator"), "either --org ORG_ID or --operator"),
        (("create", "--org", "org_acme"), "--scope or --role"),
        (("create", "--org", "org_acme", "--scope", "read", "--expires-days", "0"), "--expires-days"),
        (("rotate", "key_x", "--overlap", "soon"), "soon is not a length of time"),
    ],
)
def test_bad_usage_exits_with_2(run, arguments, message) -> None:
    """Nothing is guessed about whose key it shall be, what it may do, or for how long."""
    status, out, err = run(app, *arguments)
    assert (status, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("7d", timedelta(days=7)),
        ("12h", timedelta(hours=12)),
        ("30m", timedelta(minutes=30)),
        ("45s", timedelta(seconds=45)),
        ("0", timedelta(0)),
    ],
)
def test_lengths_of_time(text, length) -> None:
    """A number and a unit, or nothing at all."""
    assert duration(text) == length


@pytest.mark.parametrize("text", ["", "7", "7 d", "-1d", "7days", "1d12h", "00"])
def test_other_lengths_of_time_are_refused(text) -> None:
    """Rather than guessed at."""
    with pytest.raises(typer.BadParameter, match="not a length of time"):
        duration(text)


@pytest.mark.parametrize("command", ["create", "list", "rotate", "revoke"])
def test_help_teaches_with_an_example(run, command) -> None:
    """One that could be typed as it stands."""
    status, out, _ = run(app, command, "--help")
    assert status == 0
    assert f"klyra-audit key {command}" in out
