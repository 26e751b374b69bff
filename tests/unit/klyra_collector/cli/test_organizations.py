"""`klyra-audit org`."""

from __future__ import annotations

import json
import os

import pytest

from klyra_collector.cli.organizations import app
from klyra_collector.seal.lock import LedgerLock


@pytest.fixture
def made(run):
    """org_acme, on the Business plan."""
    assert run(app, "create", "org_acme", "--plan", "business")[0] == 0


def test_create_prints_the_id_and_nothing_else(run, registry_of) -> None:
    """The explanation goes to standard error, and the change is sealed at once where it can be."""
    status, out, err = run(app, "create", "org_acme", "--plan", "enterprise", "--retention-days", "730")
    assert (status, out) == (0, "org_acme\n")
    assert "enterprise plan: entries are kept for 730 days" in err
    assert registry_of().organization("org_acme").policy == "enterprise-730d"
    assert registry_of().pending_commands(1) == []


def test_create_makes_a_private_data_directory(run, data) -> None:
    """On a first start there is none."""
    run(app, "create", "org_acme", "--plan", "startup")
    assert data.stat().st_mode & 0o777 == 0o700


def test_the_option_wins_over_the_variable(run, tmp_path, data) -> None:
    """--data names the directory for one command."""
    run(app, "create", "org_acme", "--plan", "startup", "--data", str(tmp_path / "other"))
    assert (tmp_path / "other" / "registry.sqlite").is_file()
    assert (tmp_path / "other" / "ledger").is_dir()
    assert not data.exists()


def test_set_plan_prints_the_policy(run, made, registry_of) -> None:
    """And says for how long entries are kept from now on."""
    status, out, err = run(app, "set-plan", "org_acme", "--plan", "startup")
    assert (status, out) == (0, "startup\n")
    assert "30 days" in err
    assert registry_of().organization("org_acme").plan == "startup"
    assert registry_of().pending_commands(1) == []


def test_list_is_a_table_for_people(run, made) -> None:
    """One line for each organization under its headings."""
    status, out, err = run(app, "list")
    headings, row = out.splitlines()
    assert (status, err) == (0, "")
    assert headings.split() == ["ORGANIZATION", "PLAN", "POLICY", "DAYS", "CREATED"]
    assert row.split()[:4] == ["org_acme", "business", "business", "90"]


def test_list_is_json_for_programs(run, made) -> None:
    """With whole numbers and RFC 3339 times."""
    (row,) = json.loads(run(app, "list", "--json")[1])
    assert row.pop("created_at").endswith("Z")
    assert row == {
        "organization_id": "org_acme",
        "plan": "business",
        "policy": "business",
        "retention_days": 90,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "org_acme", "--plan", "startup"), "org_acme exists already. Change its plan"),
        (("create", "acme", "--plan", "startup"), "acme cannot name an organization. Use org_"),
        (("create", "org_b", "--plan", "gold"), "There is no plan gold. Choose one of startup"),
        (("set-plan", "org_acme", "--plan", "startup", "--retention-days", "60"), "not 60. Leave the retention out"),
        (("set-plan", "org_b", "--plan", "startup"), "There is no organization org_b. Register it"),
    ],
)
def test_what_is_refused_exits_with_1(run, made, arguments, message) -> None:
    """The reason and the remedy go to standard error, and nothing to standard output."""
    status, out, err = run(app, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("Error: ")
    assert message in err


@pytest.mark.parametrize("arguments", [("list",), ("set-plan", "org_acme", "--plan", "startup")])
def test_a_directory_without_a_registry_exits_with_2(run, data, arguments) -> None:
    """It is not made by looking into it."""
    status, out, err = run(app, *arguments)
    assert (status, out) == (2, "")
    assert "no registry in" in err
    assert "--data" in err
    assert not data.exists()


def test_a_registry_that_cannot_be_opened_exits_with_2(run, data) -> None:
    """With the reason."""
    data.mkdir()
    (data / "registry.sqlite").write_bytes(b"no database, but long enough to be read as one " * 100)
    status, out, err = run(app, "create", "org_acme", "--plan", "startup")
    assert (status, out) == (2, "")
    assert "not a database" in err


def test_a_bad_configuration_exits_with_2(run, monkeypatch) -> None:
    """A setting that is misspelt is no refusal of the request."""
    monkeypatch.setenv("KLYRA_REGISTRI__URL", "sqlite:///x")
    status, out, err = run(app, "list")
    assert (status, out) == (2, "")
    assert "KLYRA_REGISTRI__URL names no setting" in err


def test_bad_usage_exits_with_2(run) -> None:
    """An option left out is no refusal."""
    assert run(app, "create", "org_acme")[:2] == (2, "")


def test_a_change_beside_a_running_collector_is_left_to_it(run, made, registry_of, data) -> None:
    """The command neither waits nor complains: the collector drains the outbox."""
    with LedgerLock(data / "ledger"):
        status, out, err = run(app, "set-plan", "org_acme", "--plan", "startup")
    assert (status, out) == (0, "startup\n")
    assert "sealed" not in err
    assert len(registry_of().pending_commands(10)) == 2


def test_a_change_that_cannot_be_sealed_yet_is_made_all_the_same(run, made, registry_of, data) -> None:
    """It waits in the outbox, and the command says so."""
    (leaves,) = data.glob("ledger/*/leaves")
    leaves.write_bytes(b"")
    status, out, err = run(app, "set-plan", "org_acme", "--plan", "startup")
    assert (status, out) == (0, "startup\n")
    assert "will be sealed when the collector runs" in err
    assert len(registry_of().pending_commands(10)) == 2


@pytest.mark.parametrize(("login", "name"), [("ada", "ada"), (None, f"uid {os.getuid()}")])
def test_the_log_is_told_who_used_the_command_line(run, made, registry_of, data, monkeypatch, login, name) -> None:
    """By the login, and without one by the user's number."""
    monkeypatch.setattr("getpass.getuser", lambda: {"known": login}["known" if login else "unknown"])
    with LedgerLock(data / "ledger"):
        run(app, "set-plan", "org_acme", "--plan", "startup")
    (document,) = (c.payload["document"] for c in registry_of().pending_commands(10) if c.kind == "event")
    assert document["actor"] == {"type": "system", "id": "klyra-audit", "name": f"{name} at the command line"}


def test_a_registry_elsewhere_is_used_where_it_is_configured(run, data, tmp_path, monkeypatch) -> None:
    """The same variable as the server's."""
    monkeypatch.setenv("KLYRA_REGISTRY__URL", f"sqlite:///{tmp_path}/elsewhere.sqlite")
    assert run(app, "create", "org_acme", "--plan", "startup")[0] == 0
    assert (tmp_path / "elsewhere.sqlite").is_file()
    assert not (data / "registry.sqlite").exists()


@pytest.mark.parametrize("command", ["create", "set-plan", "list"])
def test_help_teaches_with_an_example(run, command) -> None:
    """One that could be typed as it stands."""
    status, out, _ = run(app, command, "--help")
    assert status == 0
    assert f"klyra-audit org {command}" in out
