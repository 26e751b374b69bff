"""The collector over HTTP: what each input gets for an answer, and what is in the ledger afterwards."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import orjson
import pytest
from google.rpc.status_pb2 import Status as RpcStatus
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from klyra_audit import timestamps
from klyra_audit.format import canonical, sections
from klyra_audit.format.leaf import Kind, Leaf
from support import collector, otlp
from support.collector import ACME, OTHER
from support.otlp import MAPPED

LOGS, AUDIT = "/v1/logs", "/v1/audit"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One collector for all tests of this file."""
    root = tmp_path_factory.mktemp("data")
    started = collector.start(root, collector.make_keys(root), INTAKE__MAX_REQUEST_BYTES="30000000")
    yield started
    assert started.terminate() == 0


@pytest.fixture
def since(running):
    """Return the events and quarantined inputs sealed since the test began."""
    before = len(running.sealed())
    return lambda: [item for item in running.sealed(before) if not is_own_doing(item)]


def is_own_doing(record) -> bool:
    """Say whether a record is the product's own, sealed at a time of its choosing."""
    if record.leaf.kind == Kind.EVENT and b'"access.denied"' in record.body.sections.core:
        return True
    is_control = record.leaf.kind not in (Kind.EVENT, Kind.QUARANTINE)
    return is_control or (
        record.leaf.kind == Kind.EVENT and b'"/actor/id":"tests"' in (record.body.sections.actor or b"")
    )


def fresh_boot() -> str:
    """Return a boot no other test uses."""
    from klyra_audit import ids

    return str(ids.new_uuid7())


def own(*events, first=0) -> bytes:
    """Return a request in our own form from a boot of its own."""
    return otlp.own_form(*events, first=first, boot=fresh_boot())


def events_of(records):
    """Return the documents of sealed events."""
    return [sections.join(item.body.sections) for item in records if item.leaf.kind == Kind.EVENT]


def quarantine_of(records):
    """Return (pointer, reason) of quarantined records."""
    cores = [json.loads(item.body.sections.core) for item in records if item.leaf.kind == Kind.QUARANTINE]
    return [(core["pointer"], core["reason"]) for core in cores]


class TestAccepted:
    """What is sealed."""

    def test_own_form_gets_receipts_that_commit_to_it(self, running, since) -> None:
        """Receipts come in record order, and each leaf commits to its event."""
        events = [otlp.prepared(), otlp.prepared(status="failure")]
        answer = running.post(AUDIT, own(*events))
        assert answer.status_code == 200
        for event, receipt, number in zip(events, answer.json()["receipts"], range(2), strict=True):
            leaf = Leaf.unpack(base64.b64decode(receipt["leaf"]))
            assert (leaf.commit, leaf.emitter_seq, receipt["record_id"]) == (event.commit, number, event.record_id)
            assert receipt["integrity_hash"] == hashlib.sha256(event.encoded).hexdigest()
            assert receipt["sink_timestamp"] == str(leaf.ingest_us * 1000)
            assert running.sealed(receipt["index"])[0].leaf_bytes == leaf.pack()
        assert events_of(since()) == [event.document for event in events]

    @pytest.mark.parametrize("encoding", ["identity", "gzip"])
    def test_logs_answers_success_and_seals(self, running, since, encoding) -> None:
        """/v1/logs answers an unset partial success, plain and compressed."""
        body = own(otlp.prepared())
        content = gzip.compress(body) if encoding == "gzip" else body
        answer = running.post(LOGS, content, Content_Encoding=encoding)
        response = ExportLogsServiceResponse.FromString(answer.content)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-protobuf")
        assert not response.HasField("partial_success")
        assert len(events_of(since())) == 1

    @pytest.mark.parametrize("path", [LOGS, AUDIT])
    def test_foreign_records_are_mapped_in_both_encodings(self, running, since, path) -> None:
        """The same foreign record as protobuf and as JSON is the same event: the second is a repeat."""
        attributes = MAPPED["attributes"] | {"audit.record.id": fresh_boot()}
        record = MAPPED | {"observed": MAPPED["time"], "attributes": attributes}
        assert running.post(path, otlp.foreign(record)).status_code == 200
        answer = running.post(path, otlp.foreign_json(record), Content_Type="application/json; charset=utf-8")
        assert answer.status_code == 200
        (document,) = events_of(since())
        assert (document["event_type"], document["resource"]["id"]) == ("user.removed", "usr_2")
        assert since()[-1].body.sections.target is not None

    def test_a_resent_request_without_ids_is_recognised(self, running, since) -> None:
        """Records without an id get the same one when the same request comes again."""
        attributes = {key: value for key, value in MAPPED["attributes"].items() if key != "audit.record.id"}
        record = MAPPED | {"time": MAPPED["time"] + 5, "attributes": attributes}
        body = otlp.foreign(record, record | {"body": "another"})
        for _ in range(2):
            assert running.post(LOGS, body).status_code == 200
        assert len(events_of(since())) == 2

    def test_a_repeat_gets_the_first_receipt(self, running, since) -> None:
        """The same batch again is acknowledged with the same receipts and sealed once."""
        body = own(otlp.prepared(), otlp.prepared())
        first, second = (running.post(AUDIT, body).json() for _ in range(2))
        assert [item.pop("duplicate") for item in first["receipts"] + second["receipts"]] == [False] * 2 + [True] * 2
        assert first == second
        assert len(events_of(since())) == 2

    def test_an_empty_request_succeeds(self, running, since) -> None:
        """OTLP clients may send nothing."""
        assert running.post(LOGS, b"").status_code == 200
        assert running.post(LOGS, b"{}", Content_Type="application/json").json() == {}
        assert running.post(AUDIT, b"").json()["receipts"] == []
        assert since() == []

    def test_an_old_timestamp_is_accepted(self, running, since) -> None:
        """An event may be reported late; its timestamp expires nothing."""
        assert running.post(AUDIT, own(otlp.prepared(timestamp="1999-12-31T23:59:59Z"))).status_code == 200
        assert len(events_of(since())) == 1

    def test_a_key_for_many_emits_for_the_organization_it_names(self, running, since) -> None:
        """The operator's emit key seals into the chain of the document's organization."""
        answer = running.post(AUDIT, own(otlp.prepared(OTHER)), key=running.keys["many"])
        assert answer.status_code == 200
        assert events_of(since())[0]["organization_id"] == OTHER

    def test_catalog_marks_split_where_the_emitter_split(self, running, since) -> None:
        """Personal data that the catalog marks goes to the target section, by the emitter's own list."""
        event = otlp.prepared(
            event_type="user.invited",
            resource={"type": "user", "id": "usr_2", "name": None},
            metadata={"email": "zoe@example.org"},
        )
        assert event.sections is not None
        assert running.post(AUDIT, own(event)).status_code == 200
        assert b"zoe@example.org" in since()[-1].body.sections.target


BAD_DOCUMENTS = [
    ("a float", b'{"a":0.5}', "", "floating-point"),
    ("duplicate keys", b'{"a":1,"a":2}', "", "twice"),
    ("a lone surrogate", b'{"a":"\\ud800"}', "", "surrogate"),
    ("white space", b'{"a": 1}', "", "canonical"),
    ("deep nesting", b'{"a":' * 9 + b"{}" + b"}" * 9, "/a/a/a/a/a/a/a/a", "nested"),
    ("no JSON", b"hello", "", "not JSON"),
    ("nothing", b"", "", "not JSON"),
    ("a large integer", b'{"a":9007199254740992}', "/a", "2^53"),
]


class TestInvalidEvents:
    """Each bad input: the place is named, it is quarantined durably, and what stands beside it is sealed."""

    def invalid(self):
        """Return (what, event, pointer, part of the reason)."""
        future = timestamps.from_microseconds(time.time_ns() // 1000 + 20 * 60 * 1_000_000)
        return [
            *((what, otlp.raw_event(body), pointer, reason) for what, body, pointer, reason in BAD_DOCUMENTS),
            ("unknown type", otlp.invalid(event_type="moderation.unknown"), "/event_type", "catalog"),
            ("schema violation", otlp.invalid(action="read"), "/action", "create"),
            ("NUL", otlp.invalid(metadata={"content_type": "a\0b"}), "/metadata/content_type", "U+0000"),
            ("control", otlp.invalid(resource={"type": "moderation", "id": "a\nb", "name": None}), "/resource/id", ""),
            ("future", otlp.invalid(timestamp=future), "/timestamp", "future"),
            ("foreign organization", otlp.invalid(OTHER), "/organization_id", "organization"),
        ]

    def test_logs_quarantines_them_and_seals_the_rest(self, running, since) -> None:
        """The batch is acknowledged with a warning, rejected_log_records stays 0, valid neighbours are sealed."""
        cases = self.invalid()
        batch = [otlp.prepared(), *(event for _, event, _, _ in cases), otlp.prepared()]
        answer = running.post(LOGS, own(*batch))
        partial = ExportLogsServiceResponse.FromString(answer.content).partial_success
        assert (answer.status_code, partial.rejected_log_records) == (200, 0)
        assert partial.error_message.startswith(f"{len(cases)} of {len(batch)} records were quarantined.")
        assert len(events_of(since())) == 2
        for (what, _, pointer, reason), (said_pointer, said_reason) in zip(cases, quarantine_of(since()), strict=True):
            assert said_pointer == pointer, what
            assert reason in said_reason, what

    def test_audit_refuses_the_batch_and_names_each(self, running, since) -> None:
        """Nothing of a strict batch is sealed, and every offending record is named by position, id and pointer."""
        cases = self.invalid()
        events = [otlp.prepared(), *(event for _, event, _, _ in cases)]
        answer = running.post(AUDIT, own(*events))
        assert answer.status_code == 400
        assert (answer.json()["status"], answer.json()["code"]) == ("rejected_schema_invalid", "batch_refused")
        named = [(item["position"], item["pointer"]) for item in answer.json()["records"]]
        assert named == [(number, pointer) for number, (_, _, pointer, _) in enumerate(cases, 1)]
        assert [item["record_id"] for item in answer.json()["records"]] == [event.record_id for event in events[1:]]
        assert since() == []

    def test_a_10_mb_user_agent_is_quarantined_whole(self, running, since) -> None:
        """A huge value is kept as it came, and its neighbour is sealed."""
        huge = otlp.raw_event(b'{"metadata":{"user_agent":"' + b"x" * 10_000_000 + b'"}}')
        assert running.post(LOGS, own(huge, otlp.prepared())).status_code == 200
        assert len(events_of(since())) == 1
        (quarantined,) = [item for item in since() if item.leaf.kind == Kind.QUARANTINE]
        assert json.loads(quarantined.body.sections.core)["size"] > 10_000_000

    def test_quarantined_records_keep_their_place_in_the_sequence(self, running, since) -> None:
        """An invalid event leaves no gap in its emitter's sequence."""
        running.post(LOGS, own(otlp.prepared(), otlp.invalid(action="read"), otlp.prepared()))
        placed = [item.leaf.emitter_seq for item in since() if item.leaf.kind in (Kind.EVENT, Kind.QUARANTINE)]
        assert placed == [0, 1, 2]

    def test_a_resent_bad_batch_is_quarantined_once(self, running, since) -> None:
        """Retries do not multiply the quarantine."""
        body = own(otlp.invalid(action="read"))
        for _ in range(3):
            running.post(LOGS, body)
        assert len(quarantine_of(since())) == 1

    def test_a_foreign_record_that_cannot_be_mapped_is_quarantined(self, running, since) -> None:
        """So is a record of another client without an actor, and one with a key twice."""
        record = {"event_name": "user.added", "attributes": {"ratia": 1, "ratio": 2}}
        running.post(LOGS, otlp.foreign(record))
        running.post(LOGS, otlp.foreign(record).replace(b"ratia", b"ratio"))
        assert [pointer for pointer, _ in quarantine_of(since())] == ["/actor/id", ""]
        assert "twice" in quarantine_of(since())[1][1]

    def test_an_id_used_again_with_other_content_conflicts(self, running, since) -> None:
        """409 on /v1/audit with nothing sealed; quarantined on /v1/logs with a warning."""
        event = otlp.prepared()
        running.post(AUDIT, own(event))
        other = otlp.prepared(id=event.record_id, status="failure")
        answer = running.post(AUDIT, own(otlp.prepared(), other))
        assert answer.status_code == 409
        assert answer.json()["records"] == [
            {
                "position": 1,
                "record_id": event.record_id,
                "pointer": "/id",
                "reason": "was sealed before with other content",
                "code": "id_conflict",
            }
        ]
        assert len(events_of(since())) == 1
        answer = running.post(LOGS, own(otlp.prepared(), other))
        assert "sealed before" in ExportLogsServiceResponse.FromString(answer.content).partial_success.error_message
        assert len(events_of(since())) == 2
        assert [pointer for pointer, _ in quarantine_of(since())] == ["/id"]

    def test_another_organizations_event_is_forbidden_on_audit(self, running, since) -> None:
        """A key seals for its own organization alone: 403."""
        answer = running.post(AUDIT, own(otlp.prepared(OTHER)))
        assert (answer.status_code, answer.json()["status"]) == (403, "rejected_authz")
        assert since() == []

    def test_a_key_bound_to_emitters_speaks_for_no_other(self, running, since) -> None:
        """emitter_ids of the key are the only ones it may use."""
        key = running.keys["bound"]
        allowed = otlp.own_form(otlp.prepared(), emitter_id="api-1", boot=fresh_boot())
        refused = otlp.own_form(otlp.prepared(), emitter_id="api-2", boot=fresh_boot())
        assert running.post(AUDIT, allowed, key=key).status_code == 200
        assert running.post(AUDIT, refused, key=key).status_code == 403
        assert len(events_of(since())) == 1

    @pytest.mark.parametrize(
        ("emitter_id", "boot", "first"), [("a b", None, 0), ("api-1", "no uuid", 0), ("api-1", None, 2**32 - 1)]
    )
    def test_a_place_that_no_leaf_can_hold_is_refused(self, running, since, emitter_id, boot, first) -> None:
        """Emitter id, boot and sequence have a form."""
        body = otlp.own_form(otlp.prepared(), emitter_id=emitter_id, boot=boot or fresh_boot(), first=first)
        answer = running.post(AUDIT, body)
        assert answer.status_code == 400
        assert "klyra.emitter" in answer.json()["records"][0]["reason"]
        assert since() == []


class TestRefusedRequests:
    """Requests of which nothing is taken."""

    @pytest.mark.parametrize("path", [LOGS, AUDIT])
    @pytest.mark.parametrize(
        ("content", "headers", "status"),
        [
            (b"\xff\xff\xff", {}, 400),
            (b"{", {"Content_Type": "application/json"}, 400),
            (b'{"resourceLogs": 5}', {"Content_Type": "application/json"}, 400),
            (b"x", {"Content_Type": "text/plain"}, 415),
            (b"x", {"Content_Encoding": "br"}, 415),
            (b"not gzip", {"Content_Encoding": "gzip"}, 400),
            (gzip.compress(b"x" * 100)[:-20], {"Content_Encoding": "gzip"}, 400),
            (b"x" * 30_000_001, {}, 413),
            (gzip.compress(bytes(40_000_000)), {"Content_Encoding": "gzip"}, 413),
        ],
        ids=["protobuf", "json", "shape", "type", "encoding", "gzip", "torn gzip", "size", "gzip bomb"],
    )
    def test_a_bad_request_gets_a_clear_answer(self, running, since, path, content, headers, status) -> None:
        """The status is permanent, the body says what to do, nothing is sealed."""
        answer = running.post(path, content, **headers)
        assert answer.status_code == status
        if path == AUDIT:
            assert answer.json()["reason"].endswith(".")
        elif "Content_Type" in headers:
            assert answer.json()["message"]
        else:
            assert RpcStatus.FromString(answer.content).message
        assert since() == []

    @pytest.mark.parametrize("path", [LOGS, AUDIT])
    @pytest.mark.parametrize("key", ["", "nonsense", "klyra_sk_aaaaaaaaaaaa_" + "a" * 43 + "_aaaaaa"])
    def test_a_wrong_or_missing_key_is_401(self, running, path, key) -> None:
        """Nothing is read from the body, and the answer says what is wrong with the key."""
        answer = running.post(path, own(otlp.prepared()), key=key)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")

    def test_a_refused_key_becomes_an_entry(self, running) -> None:
        """Stock clients drop what gets a 401, so the log itself says that something was refused."""
        key = running.keys[ACME]
        wrong = key[:-1] + ("0" if key[-1] != "0" else "1")
        running.post("/v1/logs", b"", key=wrong)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if any(item["event_type"] == "access.denied" for item in events_of(running.sealed())):
                return
            time.sleep(0.1)
        pytest.fail("no access.denied entry appeared")

    def test_a_key_without_the_scope_is_403(self, running, since) -> None:
        """A read key does not emit."""
        answer = running.post(AUDIT, own(otlp.prepared()), key=running.keys["reader"])
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
        assert since() == []

    def test_only_post_is_answered(self, running) -> None:
        """Other methods are 405."""
        assert httpx.get(f"{running.url}{LOGS}").status_code == 405

    def test_a_client_that_goes_away_leaves_nothing(self, running, since) -> None:
        """Half a request seals nothing and holds no memory."""
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            head = f"POST {LOGS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {running.keys[ACME]}\r\n"
            client.sendall(f"{head}Content-Type: application/x-protobuf\r\nContent-Length: 1000\r\n\r\nabc".encode())
        assert running.post(LOGS, own(otlp.prepared())).status_code == 200
        assert len(events_of(since())) == 1


class TestOverload:
    """Too much at once."""

    def test_what_does_not_fit_is_retryable_and_what_is_acknowledged_is_sealed(self, tmp_path) -> None:
        """Under a small bound on memory some requests get 503 with Retry-After; acknowledged = sealed."""
        started = collector.start(tmp_path, collector.make_keys(tmp_path), INTAKE__MAX_INFLIGHT_BYTES="300000")
        boot, lock, acknowledged, statuses = fresh_boot(), threading.Lock(), set(), []
        batches = [[otlp.prepared() for _ in range(40)] for _ in range(40)]

        def send(number: int) -> None:
            body = otlp.own_form(*batches[number], first=40 * number, boot=boot)
            answer = started.post(LOGS, body)
            with lock:
                statuses.append(answer.status_code)
                if answer.status_code == 200:
                    acknowledged.update(event.record_id for event in batches[number])
                else:
                    assert int(answer.headers["retry-after"]) >= 1

        with ThreadPoolExecutor(40) as threads:
            list(threads.map(send, range(40)))
        assert set(statuses) <= {200, 503}
        assert 200 in statuses
        assert 503 in statuses
        sealed = {document["id"] for document in events_of(started.sealed()) if "moderation" in document["event_type"]}
        assert sealed == acknowledged
        for number in range(40):
            send(number)
        assert len(acknowledged) == 1600
        assert started.terminate() == 0

    def test_announcing_much_keeps_nobody_out(self, tmp_path) -> None:
        """A client that announces a large body and sends little of it holds only what it sent."""
        started = collector.start(tmp_path, collector.make_keys(tmp_path), INTAKE__MAX_INFLIGHT_BYTES="300000")
        host, port = started.url.removeprefix("http://").split(":")
        head = f"POST {LOGS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {started.keys[ACME]}\r\n"
        head += "Content-Type: application/x-protobuf\r\nContent-Length: 290000\r\n\r\nabc"
        slow = [socket.create_connection((host, int(port))) for _ in range(5)]
        try:
            for client in slow:
                client.sendall(head.encode())
            time.sleep(0.3)
            assert started.post(LOGS, own(otlp.prepared())).status_code == 200
        finally:
            for client in slow:
                client.close()
            assert started.terminate() == 0


class TestOperation:
    """Health and metrics."""

    def test_health_readiness_and_metrics_answer(self, running) -> None:
        """What operators scrape is there."""
        assert httpx.get(f"{running.url}/healthz").text == "ok\n"
        assert httpx.get(f"{running.url}/readyz").status_code == 200
        text = httpx.get(f"{running.url}/metrics").text
        for name in (
            "klyra_events_accepted_total",
            "klyra_events_sealed_total",
            "klyra_events_quarantined_total",
            "klyra_events_duplicated_total",
            "klyra_oldest_unsealed_seconds",
            "klyra_checkpoint_age_seconds",
        ):
            assert f"\n{name} " in text

    def test_a_checkpoint_follows_within_seconds(self, running) -> None:
        """Everything sealed is under a signed checkpoint a moment later."""
        running.post(LOGS, own(otlp.prepared()))
        size = len(running.sealed())
        deadline = time.monotonic() + 10
        checkpoint = running.root / "ledger" / "2026" / "checkpoint"
        while time.monotonic() < deadline:
            (path,) = (running.root / "ledger").glob("*/checkpoint")
            if int(path.read_text().split("\n")[1]) >= size:
                return
            time.sleep(0.1)
        pytest.fail(f"{checkpoint} does not reach {size}")


def test_canonical_bytes_travel_unchanged(running, since) -> None:
    """What is sealed are the very bytes that the emitter sent."""
    event = otlp.prepared()
    running.post(AUDIT, own(event))
    assert canonical.encode(events_of(since())[0]) == event.encoded
    assert orjson.loads(event.encoded) == event.document
