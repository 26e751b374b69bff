"""`klyra-audit emitter`."""

from __future__ import annotations

import json

import pytest

from klyra_audit.event import Actor
from klyra_audit.format.leaf import Kind
from klyra_audit.format.note import SigningKey
from klyra_collector.cli.emitters import app
from support.sealing import read_all

KEY = SigningKey.from_seed("billing", b"\x07" * 32).vkey
OTHER_KEY = SigningKey.from_seed("billing", b"\x08" * 32).vkey


@pytest.fixture(autouse=True)
def acme(data, registry_of):
    """org_acme, on the Business plan."""
    data.mkdir()
    registry_of().create_organization("org_acme", "business", by=Actor.user("usr_admin"))


def emitter_documents(data) -> list[dict]:
    """Return the KEY documents of emitters."""
    return [
        record.control
        for record in read_all(data)
        if record.leaf.kind == Kind.KEY and record.control["emitter_id"] == "billing"
    ]


def test_add_prints_the_key_and_seals_it(run, data) -> None:
    """Without a collector the command seals it itself, and says where."""
    status, out, err = run(app, "add", "billing", "--org", "org_acme", "--key", KEY)
    assert (status, out) == (0, f"{KEY}\n")
    assert "Sealed as record" in err
    (document,) = emitter_documents(data)
    assert (document["vkey"], document["boot"], document["revoked_after_seq"]) == (KEY, None, None)


@pytest.mark.parametrize("owner", [[], ["--org", "org_acme", "--shared"]])
def test_add_wants_one_owner(run, owner) -> None:
    """An organization or many, not neither and not both."""
    assert run(app, "add", "billing", "--key", KEY, *owner)[0] == 2


def test_a_refused_key(run) -> None:
    """Exit 1 and the reason on standard error."""
    status, out, err = run(app, "add", "billing", "--shared", "--key", "billing+00000000+AQID")
    assert (status, out) == (1, "")
    assert "Error:" in err


def test_list(run) -> None:
    """As a table and as JSON, revoked ones too."""
    run(app, "add", "billing", "--org", "org_acme", "--key", KEY)
    run(app, "add", "billing", "--shared", "--key", OTHER_KEY)
    run(app, "revoke", "billing", "--key", KEY, "--untrusted-from", "8")
    rows = json.loads(run(app, "list", "--json")[1])
    assert [(row["vkey"], row["status"], row["revoked_after_seq"]) for row in rows] == [
        (KEY, "revoked", 7),
        (OTHER_KEY, "active", None),
    ]
    assert [row["vkey"] for row in json.loads(run(app, "list", "--org", "org_acme", "--json")[1])] == [KEY]
    assert [row["vkey"] for row in json.loads(run(app, "list", "--shared", "--json")[1])] == [OTHER_KEY]
    table = run(app, "list")[1].splitlines()
    assert table[0].split() == [
        "EMITTER",
        "ORGANIZATION",
        "STATUS",
        "CREATED",
        "REVOKED",
        "BELIEVED",
        "UP",
        "TO",
        "KEY",
    ]
    assert len(table) == 3
    assert run(app, "list", "--shared", "--org", "org_acme")[0] == 2


def test_revoke_the_only_key(run, data) -> None:
    """It need not be named; the ledger says up to where it is believed; a second time changes nothing."""
    run(app, "add", "billing", "--org", "org_acme", "--key", KEY)
    status, out, err = run(app, "revoke", "billing", "--untrusted-from", "8")
    assert (status, out) == (0, f"{KEY}\n")
    assert "Sealed as record" in err
    assert [document["revoked_after_seq"] for document in emitter_documents(data)] == [None, 7]
    status, out, err = run(app, "revoke", "billing", "--key", KEY)
    assert (status, out) == (0, f"{KEY}\n")
    assert "revoked before" in err


@pytest.mark.parametrize(("keys", "reason"), [([], "no key in force"), ([KEY, OTHER_KEY], "2 keys in force")])
def test_revoke_wants_to_know_which(run, keys, reason) -> None:
    """With several keys, or none, nothing is revoked."""
    for key in keys:
        run(app, "add", "billing", "--shared", "--key", key)
    status, out, err = run(app, "revoke", "billing")
    assert (status, out) == (1, "")
    assert reason in err
