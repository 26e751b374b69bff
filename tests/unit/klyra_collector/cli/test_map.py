"""`klyra-audit map`: samples of other programs' records, and what the collector would make of them."""

from __future__ import annotations

import json

import orjson
import pytest
from typer.testing import CliRunner

from klyra_collector.cli.map import app
from klyra_collector.receive.opening import RequestOpener
from klyra_collector.receive.senders import Sender
from klyra_collector.receive.wire_json import decode_json
from support import otlp
from support.otlp import MAPPED

FORWARD = {
    "tag": "shop.audit",
    "time": 1_781_000_000.5,
    "record": {"user.id": "u-17", "klyra": {"resource": {"id": "r"}}},
}
CONFIGURATION = """
[mapping.constants]
"resource.id" = "everything"
[[mapping.event_types]]
match = "login.*"
event_type = "user.removed"
[forward.event_types]
"shop.**" = "user.removed"
"""


@pytest.fixture
def sample(tmp_path):
    """A function that writes a sample and returns its path."""

    def write(content: object) -> str:
        path = tmp_path / "sample.json"
        path.write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))
        return str(path)

    return write


@pytest.fixture
def configured(tmp_path, data):
    """The configuration file in the working directory."""
    (tmp_path / "klyra-audit.toml").write_text(CONFIGURATION)


def test_a_request_is_explained_and_valid(run, sample) -> None:
    """A table of what gave each member, what was kept, the event, and the verdict."""
    status, out, err = run(app, sample(otlp.foreign_json(MAPPED)), "--explain", "--organization", "org_acme")
    assert (status, err) == (0, "")
    rows = {tuple(line.split()[:2]) for line in out.splitlines()}
    assert {("actor.id", "audit.actor.id"), ("metadata.client_ip", "audit.source.id")} <= rows
    assert "Kept in metadata.attributes: big, blob, nested, ratio" in out
    assert '"organization_id": "org_acme"' in out
    assert out.endswith("Valid.\n")


def test_the_answer_for_programs_is_what_the_collector_seals(run, sample) -> None:
    """The document is the one that the pipeline's own opener makes of the same request."""
    content = otlp.foreign_json(MAPPED, resource={"service.name": "shop"})
    status, out, _ = run(app, sample(content), "--json", "--organization", "org_acme")
    (found,) = json.loads(out)
    opener = RequestOpener(Sender("key_example", "org_acme", ()), content, otlp.NOW_US, otlp.TABLE)
    assert found["document"] == opener.open(decode_json(content)[0], 0).document
    assert (status, found["valid"], found["fault"], found["mapped"]) == (0, True, None, True)
    assert {"target": "actor.id", "from": "audit.actor.id", "value": "usr_1"} in found["assignments"]
    assert found["kept"]["metadata.resource"] == ["service.name"]


def test_a_single_log_record_is_enough(run, sample) -> None:
    """As somebody copies it out of a request."""
    (resource_logs,) = orjson.loads(otlp.foreign_json(MAPPED))["resourceLogs"]
    status, out, _ = run(app, sample(resource_logs["scopeLogs"][0]["logRecords"][0]))
    assert (status, orjson.loads(out)["event_type"]) == (0, "user.removed")


def test_a_forward_record_takes_its_type_from_the_tag(run, sample, configured) -> None:
    """By the configuration's own table, and its time from the sample."""
    status, out, _ = run(app, sample(FORWARD))
    document = orjson.loads(out)
    assert (status, document["event_type"], document["metadata"]["tag"]) == (0, "user.removed", "shop.audit")
    assert document["timestamp"] == "2026-06-09T10:13:20.500Z"


def test_the_configuration_is_applied(run, sample, configured) -> None:
    """Constants and rules are told as what gave a member."""
    record = {"eventName": "login.sso", "attributes": [{"key": "user.id", "value": {"stringValue": "u"}}]}
    status, out, _ = run(app, sample(record), "--json")
    given = {row["target"]: row["from"] for row in json.loads(out)[0]["assignments"]}
    assert status == 0
    assert (given["resource.id"], given["event_type"]) == ("mapping.constants", "mapping.event_types.0")


def test_several_may_stand_one_a_line_on_standard_input(data) -> None:
    """The valid ones are printed, the others named, and the exit status says that there were any."""
    lines = [otlp.foreign_json(MAPPED), b"", orjson.dumps(FORWARD)]
    result = CliRunner().invoke(app, ["-", "--organization", "org_acme"], input=b"\n".join(lines))
    status, out, err = result.exit_code, result.stdout, result.stderr
    assert (status, orjson.loads(out)["event_type"]) == (1, "user.removed")
    assert "Record 2 would be quarantined: /event_type" in err


def test_a_record_that_cannot_be_mapped_says_what_it_has(run, sample) -> None:
    """The pointer, the reason, and the names that a setting could use."""
    sent = {"eventName": "user.removed", "body": {"kvlistValue": {"values": [{"key": "who", "value": {}}]}}}
    status, out, _ = run(app, sample(sent), "--explain")
    assert status == 1
    assert "The record brings along: record:event_name, body:who" in out
    assert "Would be quarantined: /actor/id: the record names no actor" in out


def test_a_record_that_breaks_its_schema_shows_the_event(run, sample) -> None:
    """Mapped, but refused: pointer, reason and code for programs."""
    wrong = MAPPED | {"event_name": "nothing.known"}
    status, out, _ = run(app, sample(otlp.foreign_json(wrong)), "--json")
    (found,) = json.loads(out)
    assert (status, found["fault"]["pointer"], found["fault"]["code"]) == (1, "/event_type", "unknown_event_type")
    assert (found["document"]["event_type"], found["valid"]) == ("nothing.known", False)


def test_control_characters_do_not_reach_the_terminal(run, sample) -> None:
    """What somebody put into a name is shown harmless, and not at any length."""
    hostile = MAPPED | {"attributes": MAPPED["attributes"] | {"user_agent.original": "\x1b[2J" + "x" * 500}}
    _, out, _ = run(app, sample(otlp.foreign_json(hostile)), "--explain")
    assert "\x1b" not in out
    assert "\ufffd[2Jxxx" in out


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"{", "neither JSON nor JSON lines"),
        (b'{"resourceLogs": []}', "without records"),
        (b'{"a": 1}', "something else than"),
        (b"[1]", "no JSON object on line 1"),
        (b'{"tag": "a", "record": {}}\n[]', "no JSON object on line 2"),
        (b'{"resourceLogs": 1}', "resourceLogs"),
    ],
)
def test_what_is_no_sample_is_refused(run, sample, content, match) -> None:
    """Exit 2, and why."""
    status, out, err = run(app, sample(content))
    assert (status, out) == (2, "")
    assert match in err


def test_a_missing_file_and_a_bad_configuration_are_refused(run, sample, tmp_path) -> None:
    """Exit 2, and the file or setting by its name."""
    status, _, err = run(app, "nowhere.json")
    assert (status, "nowhere.json" in err) == (2, True)
    (tmp_path / "klyra-audit.toml").write_text('[[mapping.event_types]]\nmatch = "a"\nevent_type = "no.such"\n')
    status, _, err = run(app, sample(FORWARD))
    assert (status, "mapping.event_types.0.event_type" in err) == (2, True)


def test_config_check_knows_the_catalog(run, tmp_path) -> None:
    """A rule for an event type that does not exist is found before anything starts."""
    from klyra_collector.cli.settings import app as config

    path = tmp_path / "a.toml"
    path.write_text('[[mapping.event_types]]\nmatch = "a"\nevent_type = "no.such"\n')
    status, _, err = run(config, "check", "--config", str(path))
    assert (status, "mapping.event_types.0.event_type" in err) == (1, True)
