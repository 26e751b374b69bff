"""`klyra-audit setup kibana`, as somebody at the command line sees it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from klyra_collector.cli.setup import app
from support import kibana
from support.kibana_server import FakeKibana, serving


@pytest.fixture
def server():
    """A running Kibana of our own."""
    with serving(FakeKibana()) as running:
        yield running


def run(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, ["kibana", *arguments])


def test_everything_is_brought_in_and_a_second_run_changes_no_rule(server) -> None:
    """Standard output carries the answer alone."""
    first, second = run(server.address, "--roles"), run(server.address, "--roles")
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert first.stdout == second.stdout == "ready   14 objects brought in, 0 kept\n"
    assert (first.stderr.count("made    rule"), second.stderr.count("kept    rule")) == (8, 8)
    assert sorted(server.roles) == ["klyra_audit_analyst", "klyra_audit_viewer", "klyra_audit_watcher"]


def test_rules_and_roles_can_be_left_out(server) -> None:
    """Who may not make them can bring the dashboards in."""
    assert run(server.address, "--no-rules").exit_code == 0
    assert (server.rules["default"], server.roles) == ({}, {})


def test_one_organization_in_a_space_of_its_own(server) -> None:
    """The space is made."""
    done = run(server.address, "--space", "acme", "--organization", "org_acme", "--roles")
    assert (done.exit_code, "made    space acme" in done.stderr) == (0, True)
    assert (len(server.objects["acme"]), list(server.roles)) == (9, ["klyra_audit_organization_acme"])


def test_what_somebody_made_of_it_can_be_kept(server) -> None:
    """Each object that was left alone is named."""
    run(server.address)
    kept = run(server.address, "--keep")
    assert (kept.exit_code, kept.stdout) == (0, "ready   0 objects brought in, 14 kept\n")
    assert "kept    klyra_audit-overview" in kept.stderr


def test_success_false_is_a_failure(server) -> None:
    """HTTP said 200; the exit status says 1, and no rule is made."""
    server.refused["klyra_audit-overview"] = {"type": "unknown", "message": "mapping set to strict"}
    failed = run(server.address)
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert "klyra_audit-overview (unknown mapping set to strict)" in failed.stderr
    assert server.rules["default"] == {}


def test_a_dry_run_sends_nothing(server) -> None:
    """It lists what would be brought in."""
    told = run(server.address, "--dry-run", "--roles")
    assert (told.exit_code, server.asked) == (0, [])
    assert len(told.stdout.splitlines()) == 14 + 8 + 3


def test_printing_gives_the_file() -> None:
    """The very file that is shipped; no address is needed."""
    printed = run("--print")
    assert printed.exit_code == 0
    assert [json.loads(line) for line in printed.stdout.splitlines()] == kibana.objects()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 1, "No Kibana is named."),
        (("https://kibana.example",), 1, "not of the form kibana+https"),
        (("kibana+http://127.0.0.1:1",), 2, "does not answer"),
        (("kibana+http://127.0.0.1:1", "--space", "Acme!"), 1, "no name of a space"),
        (("kibana+http://127.0.0.1:1", "--organization", "*"), 1, "no id of an organization"),
    ],
)
def test_what_cannot_be_done_says_why(arguments: tuple[str, ...], status: int, said: str) -> None:
    """1 for what was asked wrongly, 2 for what could not be done."""
    failed = run(*arguments)
    assert (failed.exit_code, failed.stdout, said in failed.stderr) == (status, "", True)


def test_a_kibana_that_is_too_old_gets_nothing(server) -> None:
    """It could not read the objects."""
    server.number = "8.18.0"
    failed = run(server.address)
    assert (failed.exit_code, server.asked) == (2, [])
