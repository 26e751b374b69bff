"""The command line against a running serve: emit, query, export, status, and the offline drain."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from support.collector import ACME
from support.sealing import read_all
from support.serving import serve


def klyra(*arguments: str, stdin: str | None = None, **variables: str) -> subprocess.CompletedProcess:
    """Run a command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KLYRA_")}
    return subprocess.run(
        [sys.executable, "-m", "klyra_collector", *arguments],
        env=environment | variables,
        input=stdin or "",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A running serve, as (data directory, key)."""
    root = tmp_path_factory.mktemp("data")
    assert klyra("org", "create", ACME, "--plan", "business", "--data", str(root)).returncode == 0
    made = klyra("key", "create", "--org", ACME, "--scope", "emit,read,export", "--data", str(root))
    with serve(root):
        yield str(root), made.stdout.strip()


def emit(served, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess:
    """Emit to the running serve."""
    data, key = served
    return klyra("emit", *arguments, "--org", ACME, "--data", data, stdin=stdin, KLYRA_KEY=key)


def query(served, *arguments: str) -> list[dict]:
    """Return the entries that a query finds."""
    data, key = served
    found = klyra("query", "--json", *arguments, "--data", data, KLYRA_KEY=key)
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def await_entry(served, record_id: str) -> dict:
    """Wait until the follower has brought an entry."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for entry in query(served, "--type", "user.added"):
            if entry["id"] == record_id:
                return entry
        time.sleep(0.1)
    raise AssertionError(f"{record_id} does not appear")


def test_run_json_says_where_everything_answers(served) -> None:
    """Each address can be connected to."""
    running = json.loads((Path(served[0]) / "run.json").read_text())
    for name in ("api", "otlp_http", "otlp_grpc"):
        host, port = running[name].removeprefix("http://").split(":")
        socket.create_connection((host, int(port)), timeout=5).close()


def test_an_emitted_event_is_found(served) -> None:
    """Emit prints the receipt alone, query finds the entry."""
    sent = emit(served, "user.added", "--actor", "user:usr_1", "--resource", "user:usr_2", "--metadata", '{"role":"a"}')
    assert (sent.returncode, sent.stderr) == (0, "")
    receipt = json.loads(sent.stdout)
    entry = await_entry(served, receipt["record_id"])
    assert (entry["actor"]["id"], entry["resource"]["id"], entry["metadata"]) == ("usr_1", "usr_2", {"role": "a"})


def test_lines_are_emitted_and_a_bad_one_does_not_stop_the_rest(served) -> None:
    """Exit 1 says that something was refused; the others have receipts."""
    good = {"event_type": "user.added", "actor": {"type": "user", "id": "u"}, "resource": {"type": "user", "id": "v"}}
    lines = [good, good | {"actor": {"type": "robot", "id": "r"}}, good]
    sent = emit(served, "-", stdin="\n".join(map(json.dumps, lines)))
    assert (sent.returncode, len(sent.stdout.splitlines())) == (1, 2)
    assert "/actor/type" in sent.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (("user.added", "--actor", "usr_1", "--resource", "user:u"), None, "--actor must be TYPE:ID"),
        (("-",), "not json", "no event"),
        (("-",), '{"event_type": "user.added"}', "no event"),
        (("user.added", "--actor", "user:a", "--resource", "user:b", "--url", "http://127.0.0.1:9"), None, "answer"),
    ],
)
def test_what_cannot_be_emitted_says_why(served, arguments, stdin, said) -> None:
    """Exit 2 with the reason on standard error."""
    sent = emit(served, *arguments, stdin=stdin)
    assert (sent.returncode, sent.stdout) == (2, "")
    assert said in sent.stderr


def test_entries_are_found_by_address(served, tmp_path) -> None:
    """One address, or a block, as the README has it; the export asks the same way."""
    data, key = served
    metadata = '{"client_ip":"198.51.100.123","role":"a"}'
    sent = emit(served, "user.added", "--actor", "user:usr_1", "--resource", "user:usr_9", "--metadata", metadata)
    entry = await_entry(served, json.loads(sent.stdout)["record_id"])
    for address in ("198.51.100.123", "198.51.100.0/24"):
        assert query(served, "--client-ip", address) == [entry]
    assert query(served, "--client-ip", "203.0.113.0/24") == []
    path = tmp_path / "out.json"
    done = klyra("export", str(path), "--client-ip", "198.51.100.0/24", "--data", data, KLYRA_KEY=key)
    assert (done.returncode, json.loads(path.read_text())) == (0, [entry]), done.stderr


def test_query_prints_a_table_for_people(served) -> None:
    """One heading, one line an entry."""
    data, key = served
    found = klyra("query", "--type", "api_key.created", "--data", data, KLYRA_KEY=key)
    heading, line, *_ = found.stdout.splitlines()
    assert heading.startswith("TIME")
    assert "api_key.created" in line


@pytest.mark.parametrize("suffix", ["json", "ndjson", "csv"])
def test_an_export_is_a_whole_file(served, tmp_path, suffix) -> None:
    """The name decides the format, and the file holds the entries."""
    data, key = served
    path = tmp_path / f"out.{suffix}"
    done = klyra("export", str(path), "--type", "retention.changed", "--data", data, KLYRA_KEY=key)
    assert (done.returncode, done.stdout.strip()) == (0, str(path)), done.stderr
    assert not path.with_name(f"{path.name}.part").exists()
    text = path.read_text()
    if suffix == "csv":
        rows = list(csv.DictReader(text.splitlines()))
    else:
        rows = json.loads(text) if suffix == "json" else [json.loads(line) for line in text.splitlines()]
    assert [row["event_type"] for row in rows] == ["retention.changed"]


def test_an_export_without_a_known_name_asks_for_the_format(served, tmp_path) -> None:
    """It does not guess."""
    data, key = served
    done = klyra("export", str(tmp_path / "out.txt"), "--data", data, KLYRA_KEY=key)
    assert done.returncode == 2
    assert "--format" in done.stderr


@pytest.mark.parametrize("command", [("query",), ("export", "x.json")])
def test_a_refused_question_says_what_the_api_says(served, command) -> None:
    """Exit 1 with the problem's words."""
    data, key = served
    asked = klyra(*command, "--client-ip", "nowhere", "--data", data, KLYRA_KEY=key)
    assert asked.returncode == 1
    assert "client_ip" in asked.stderr


def test_status_shows_what_runs(served) -> None:
    """Addresses, processes, the ledger, and that nobody witnesses it."""
    data, _ = served
    shown = klyra("status", "--data", data)
    assert shown.returncode == 0
    assert "running" in shown.stdout
    assert "UNWITNESSED" in shown.stdout
    report = json.loads(klyra("status", "--json", "--data", data).stdout)
    assert set(report["alive"]) == {"supervisor", "collector", "follower", "api"}


def test_without_a_server_the_commands_say_how_to_start_one(tmp_path) -> None:
    """Exit 2, naming serve."""
    asked = klyra("query", "--data", str(tmp_path), KLYRA_KEY="k")
    assert asked.returncode == 2
    assert "klyra-audit serve" in asked.stderr
    assert klyra("status", "--data", str(tmp_path)).returncode == 2


def test_status_takes_the_configuration_that_serve_was_given(tmp_path) -> None:
    """Its data directory and its store; one that cannot be used is named."""
    config, root = tmp_path / "our.toml", tmp_path / "data"
    klyra("org", "create", ACME, "--plan", "startup", "--data", str(root))
    config.write_text(f"data = '{root}'\n[store]\nurl = 'elasticsearch+http://127.0.0.1:9'\n")
    shown = klyra("status", "--config", str(config))
    assert (shown.returncode, f"{root}: stopped" in shown.stdout) == (1, True)
    assert "ALARM      store: The cluster does not answer" in shown.stdout
    config.write_text("nothing = 1")
    refused = klyra("status", "--config", str(config))
    assert (refused.returncode, refused.stdout, "nothing" in refused.stderr) == (2, "", True)


def test_changes_are_sealed_while_nothing_runs(tmp_path) -> None:
    """Org and key create drain the outbox themselves, once, and leave a ledger that status reads as stopped."""
    root = str(tmp_path)
    klyra("org", "create", ACME, "--plan", "startup", "--data", root)
    klyra("key", "create", "--org", ACME, "--scope", "read", "--data", root)
    events = [
        sections.join(item.body.sections)["event_type"] for item in read_all(tmp_path) if item.leaf.kind == Kind.EVENT
    ]
    assert events == ["retention.changed", "api_key.created"]
    assert "stopped" in klyra("status", "--data", root).stdout


def test_help_and_version_need_no_command() -> None:
    """The first thing a newcomer types teaches."""
    assert "klyra-audit demo" in klyra("--help").stdout
    assert klyra("--version").stdout.startswith("klyra-audit ")
    assert klyra().stdout == klyra("--help").stdout


def test_an_unknown_command_suggests_one() -> None:
    """Exit 2 and the nearest name."""
    asked = klyra("verfy")
    assert asked.returncode == 2
    assert "Did you mean verify?" in asked.stderr


def test_config_is_checked_and_shown(tmp_path) -> None:
    """Check says yes or names the setting; show prints everything."""
    path = tmp_path / "a.toml"
    path.write_text("[api]\nlisten = '127.0.0.1:1'\n")
    assert klyra("config", "check", "--config", str(path)).returncode == 0
    assert json.loads(klyra("config", "show", "--config", str(path)).stdout)["api"]["listen"] == "127.0.0.1:1"
    path.write_text("nothing = 1")
    refused = klyra("config", "check", "--config", str(path))
    assert refused.returncode == 1
    assert "nothing" in refused.stderr


def test_the_api_tells_how_far_its_store_is_behind(served) -> None:
    """Operators scrape the follower's lag from the api."""
    data, _ = served
    report = json.loads(klyra("status", "--json", "--data", data).stdout)
    text = httpx.get(f"{report['api']}/metrics", timeout=10).text
    assert "klyra_" in text
    assert "lag" in text
