"""`/v1/quarantine`: lists, counts, one input with its bytes, and replays that are told about."""

from __future__ import annotations

import base64
import hashlib
import uuid

import httpx
import pytest

from klyra_audit import ids
from klyra_audit.format.quarantined import KeptInput, quarantine_reference
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from support.api import assert_problem, unavailable
from support.entries import TODAY_US, document

OTHER = "org_other"
LIST, SUMMARY, REPLAY = "/v1/quarantine", "/v1/quarantine/summary", "/v1/quarantine/replay"


def packed(text: str = "x", key_id: str | None = "key_1") -> bytes:
    """Return the bytes kept of an input."""
    return KeptInput("otlp-json", key_id, f'{{"body":"{text}"}}'.encode()).pack()


@pytest.fixture
def filled(fresh):
    """Return the API over five inputs of Acme, a microsecond apart, and one of another organization."""
    api = fresh
    api.inputs = [
        api.ledger.quarantine(raw=packed(str(number)), pointer=f"/p{number % 2}", ingest_us=TODAY_US + number)
        for number in range(5)
    ]
    api.ledger.quarantine(organization_id=OTHER)
    api.seal(document(0), document(1, organization_id=OTHER))
    return api


def names(filled, *numbers: int) -> list[str]:
    """Return what inputs are called."""
    return [quarantine_reference(filled.inputs[number].leaf_bytes) for number in numbers]


def listed(answer: httpx.Response) -> list[str]:
    """Return the names in an answer."""
    assert answer.status_code in (200, 202), answer.text
    return [item["id"] for item in answer.json()["data"]]


class TestList:
    """`GET /v1/quarantine`."""

    def test_newest_first_page_by_page(self, filled) -> None:
        """A cursor goes on where the page before ended, and belongs to its filters alone."""
        with filled.client("read") as client:
            first = client.get(LIST, params={"limit": 2})
            assert listed(first) == names(filled, 4, 3)
            cursor = first.json()["next_cursor"]
            second = client.get(LIST, params={"limit": 3, "cursor": cursor})
            assert (listed(second), second.json()["has_more"]) == (names(filled, 2, 1, 0), False)
            other = client.get(LIST, params={"cursor": cursor, "pointer": "/p1"})
            assert_problem(other, 400, "invalid_cursor", parameter="cursor")

    def test_a_record_has_everything_a_person_asks(self, filled) -> None:
        """Times as text, the day on which it goes, and where it stands in the ledger."""
        with filled.client("read") as client:
            item = client.get(LIST, params={"limit": 1}).json()["data"][0]
        record = filled.inputs[4]
        assert item == {
            "id": names(filled, 4)[0],
            "received_at": "2026-03-10T12:00:00.000Z",
            "source": {"key": "key_1", "encoding": "otlp-json"},
            "pointer": "/p0",
            "reason": "is not JSON",
            "size": len(packed("4")),
            "sha256": hashlib.sha256(packed("4")).hexdigest(),
            "log": record.origin,
            "index": record.index,
            "expires_on": "2026-04-10",
            "state": "waiting",
            "entry_id": None,
        }

    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ({"pointer": "/p1"}, [3, 1]),
            ({"sources": "key_9"}, []),
            ({"encodings": "otlp-json,forward", "order": "asc"}, [0, 1, 2, 3, 4]),
            ({"start_time": "2026-03-10T12:00:00.000003Z"}, [4, 3]),
            ({"end_time": "2026-03-10T12:00:00.000001Z"}, [1, 0]),
            ({"end_time": "2026-03-10T12:00:00Z", "state": "waiting"}, [4, 3, 2, 1, 0]),
            ({"state": "replayed"}, []),
        ],
    )
    def test_filters(self, filled, asked, expected) -> None:
        """Times are those of receipt, the end inclusive at its precision."""
        with filled.client("read") as client:
            answer = client.get(LIST, params=asked)
        assert listed(answer) == names(filled, *expected)
        assert answer.headers["klyra-filters"].startswith('{"quarantine":')

    @pytest.mark.parametrize(
        ("asked", "parameter"),
        [
            ({"state": "lost"}, "state"),
            ({"encodings": "xml"}, "encodings"),
            ({"limit": 0}, "limit"),
            ({"start_time": "yesterday"}, "start_time"),
            ({"pointer": "x" * 1025}, "pointer"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, filled, asked, parameter) -> None:
        """As everywhere in the API."""
        with filled.client("read") as client:
            assert_problem(client.get(LIST, params=asked), 400, "invalid_parameter", parameter=parameter)

    def test_the_operator_names_whose(self, filled) -> None:
        """An organization, or its own name; each look is an entry of that organization."""
        filled.ledger.quarantine(organization_id=OPERATOR_ORGANIZATION_ID)
        filled.seal()
        with filled.client("read", organization_id=None) as client:
            assert_problem(client.get(LIST), 400, "organization_missing")
            assert len(listed(client.get(LIST, params={"organization_id": OTHER}))) == 1
            assert len(listed(client.get(LIST, params={"organization_id": OPERATOR_ORGANIZATION_ID}))) == 1
        [told] = filled.recorded("operator.accessed", OTHER)
        assert told["metadata"]["call"] == "GET /v1/quarantine"

    def test_it_needs_a_key_that_may_read(self, filled) -> None:
        """Nothing without a key, nothing with another scope."""
        assert_problem(httpx.get(filled.url + LIST), 401, "not_authenticated")
        with filled.client("export") as client:
            for path in (LIST, SUMMARY, f"{LIST}/qtn_1"):
                assert_problem(client.get(path), 403, "scope_missing")

    def test_what_cannot_be_recorded_is_not_answered(self, filled, monkeypatch) -> None:
        """A look that leaves no trace does not happen."""
        monkeypatch.setattr(filled.registry, "note_read", unavailable)
        with filled.client("read") as client:
            for path in (LIST, SUMMARY, f"{LIST}/{names(filled, 0)[0]}"):
                assert client.get(path).status_code == 503


class TestOne:
    """`GET /v1/quarantine/{id}`."""

    def test_with_its_bytes(self, filled) -> None:
        """Those that were sealed, and the same as text."""
        [name] = names(filled, 2)
        with filled.client("read") as client:
            found = client.get(f"{LIST}/{name}").json()
        assert (base64.b64decode(found["raw"]), found["bytes"]) == (packed("2"), "intact")
        assert found["preview"] == '{\n  "body": "2"\n}'
        assert base64.b64decode(found["leaf"]) == filled.inputs[2].leaf_bytes

    @pytest.mark.parametrize(("raw", "state"), [(None, "missing"), (packed("9"), "altered")])
    def test_bytes_that_are_not_there_or_are_others(self, filled, raw, state) -> None:
        """It says so, and what it can."""
        record = filled.inputs[2]
        filled.ledger.kept[record.origin, record.index] = raw
        with filled.client("read") as client:
            found = client.get(f"{LIST}/{names(filled, 2)[0]}").json()
        assert (found["bytes"], found["raw"] is None) == (state, raw is None)

    def test_anothers_is_not_there(self, filled) -> None:
        """It cannot be told apart from one that does not exist, nor from one whose time is over."""
        [name] = names(filled, 2)
        with filled.client("read", organization_id=OTHER) as client:
            problems = [client.get(f"{LIST}/{one}") for one in (name, "qtn_none", "x" * 300)]
        filled.clock.now_us += 40 * 86_400_000_000
        with filled.client("read") as client:
            problems.append(client.get(f"{LIST}/{name}"))
        assert len({str(assert_problem(answer, 404, "not_found")) for answer in problems}) == 1


class TestSummary:
    """`GET /v1/quarantine/summary`."""

    def test_counts(self, filled) -> None:
        """By source and by reason, with totals."""
        with filled.client("read") as client:
            found = client.get(SUMMARY).json()
            filtered = client.get(SUMMARY, params={"pointer": "/p1"}).json()
        assert (found["records"], found["waiting"]) == (5, 5)
        assert found["sources"] == [
            {
                "key": "key_1",
                "encoding": "otlp-json",
                "records": 5,
                "waiting": 5,
                "newest_at": "2026-03-10T12:00:00.000Z",
            }
        ]
        assert [(item["pointer"], item["records"]) for item in found["reasons"]] == [("/p0", 3), ("/p1", 2)]
        assert filtered["records"] == 2

    def test_metrics_show_what_waits(self, filled) -> None:
        """Of all organizations, with the age of the oldest."""
        filled.clock.now_us += 60_000_000
        text = httpx.get(filled.url + "/metrics").text
        assert "klyra_quarantine_waiting 6.0" in text
        assert "klyra_quarantine_oldest_waiting_seconds 60.0" in text


class TestReplay:
    """`POST /v1/quarantine/replay`; no collector runs here, so what it would seal is sealed by hand."""

    def commands(self, filled):
        """Return the replays that were asked for."""
        return [command for command in filled.registry.pending_commands(99) if command.kind == "replay"]

    def test_what_is_not_sealed_in_time_is_pending(self, filled) -> None:
        """202 with the id of the entry that will tell; the command says who asked and from where."""
        with filled.client("admin") as client:
            answer = client.post(REPLAY, json={"ids": names(filled, 1)})
        assert answer.status_code == 202
        [outcome] = answer.json()["data"]
        [command] = self.commands(filled)
        assert outcome["told_by"] == ids.log_id(uuid.UUID(command.command_id))
        assert (outcome["status"], outcome["entry_id"]) == ("pending", None)
        assert command.payload["actor"]["type"] == "api_key"
        assert command.payload["from"] == {"client_ip": "127.0.0.1", "user_agent": "tests/1"}
        place = {"log": filled.inputs[1].origin, "index": filled.inputs[1].index, "reference": names(filled, 1)[0]}
        assert place.items() <= command.payload.items()

    @pytest.mark.parametrize(
        ("asked", "expected", "more"),
        [
            ({"pointer": "/p0"}, [0, 2, 4], False),
            ({"all": True, "limit": 2}, [0, 1], True),
            ({"sources": ["key_1"], "end_time": "2026-03-10T12:00:00.000001Z"}, [0, 1], False),
            ({"sources": ["key_9"]}, [], False),
        ],
    )
    def test_filters_choose_what_waits_oldest_first(self, filled, asked, expected, more) -> None:
        """Never more than the limit, and it says whether there are more."""
        with filled.client("admin") as client:
            answer = client.post(REPLAY, json=asked)
        assert (listed(answer), answer.json()["has_more"]) == (names(filled, *expected), more)

    @pytest.mark.parametrize(
        ("status", "metadata", "expected"),
        [
            ("success", {"entry_id": "log_00000001"}, ("replayed", "log_00000001", None, None)),
            (
                "failure",
                {"code": "invalid_event", "pointer": "/id", "reason": "is bad"},
                ("refused", None, "/id", "is bad"),
            ),
        ],
    )
    def test_the_entry_about_it_is_the_answer(self, filled, monkeypatch, status, metadata, expected) -> None:
        """As soon as the store has it."""
        whole = filled.registry.record_replays

        def sealed(organization_id, inputs, by, origin):
            commands = whole(organization_id, inputs, by, origin)
            resource = {"type": "quarantine", "id": names(filled, 1)[0], "name": None}
            told = {"event_type": "quarantine.replayed", "resource": resource, "status": status, "metadata": metadata}
            filled.seal(document(9, **told, id=ids.log_id(uuid.UUID(commands[0]))))
            return commands

        monkeypatch.setattr(filled.registry, "record_replays", sealed)
        with filled.client("admin") as client:
            answer = client.post(REPLAY, json={"ids": names(filled, 1)})
        [outcome] = answer.json()["data"]
        assert answer.status_code == 200
        assert tuple(outcome[name] for name in ("status", "entry_id", "pointer", "reason")) == expected

    def test_what_was_replayed_is_a_repeat_however_long_ago(self, filled) -> None:
        """Nothing is asked of the collector."""
        resource = {"type": "quarantine", "id": names(filled, 1)[0], "name": None}
        told = {"event_type": "quarantine.replayed", "resource": resource, "metadata": {"entry_id": "log_00000001"}}
        filled.seal(document(9, **told))
        with filled.client("admin") as client:
            answer = client.post(REPLAY, json={"ids": [*names(filled, 1), "qtn_none"]})
        statuses = {item["id"]: (item["status"], item["entry_id"]) for item in answer.json()["data"]}
        assert statuses == {names(filled, 1)[0]: ("repeat", "log_00000001"), "qtn_none": ("not_found", None)}
        assert self.commands(filled) == []

    def test_a_command_that_the_seal_refuses_says_why(self, filled, monkeypatch) -> None:
        """It is a fault of ours; the caller learns of it at once."""
        whole = filled.registry.record_replays

        def refused(*arguments):
            commands = whole(*arguments)
            filled.registry.mark_refused(commands[0], "it is broken")
            return commands

        monkeypatch.setattr(filled.registry, "record_replays", refused)
        with filled.client("admin") as client:
            [outcome] = client.post(REPLAY, json={"ids": names(filled, 1)}).json()["data"]
        assert (outcome["status"], outcome["code"]) == ("refused", "command_refused")
        assert "it is broken" in outcome["reason"]

    @pytest.mark.parametrize(
        "asked", [{}, {"limit": 5}, {"ids": ["qtn_1"], "all": True}, {"ids": ["qtn_1"], "pointer": "/p"}, {"ids": []}]
    )
    def test_what_to_replay_must_be_said_one_way(self, filled, asked) -> None:
        """Nothing is replayed because a filter was forgotten."""
        with filled.client("admin") as client:
            answer = client.post(REPLAY, json=asked)
        assert_problem(answer, 400, "invalid_parameter")
        assert self.commands(filled) == []

    def test_it_needs_the_scope_admin(self, filled) -> None:
        """Who may read may not put anything into the log."""
        with filled.client("read", "export", "verify") as client:
            assert_problem(client.post(REPLAY, json={"all": True}), 403, "scope_missing", scopes=["admin"])

    def test_nobody_replays_anothers(self, filled) -> None:
        """They are not there."""
        with filled.client("admin", organization_id=OTHER) as client:
            answer = client.post(REPLAY, json={"ids": names(filled, 1)})
        assert [item["status"] for item in answer.json()["data"]] == ["not_found"]
        assert self.commands(filled) == []


def test_the_calls_are_documented(filled) -> None:
    """`/openapi.json` has them with their parameters."""
    paths = httpx.get(filled.url + "/openapi.json").json()["paths"]
    named = {parameter["name"] for parameter in paths[LIST]["get"]["parameters"]}
    assert {"pointer", "sources", "encodings", "state", "cursor"} <= named
    assert "requestBody" in paths[REPLAY]["post"]
    assert {SUMMARY, LIST + "/{reference}"} <= set(paths)
