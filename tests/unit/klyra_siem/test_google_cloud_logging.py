"""Google Cloud Logging: every request is read by Google's own protocol buffers."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from klyra_siem import google_cloud_logging
from klyra_siem.destination import Payload
from klyra_siem.errors import BadDestination
from klyra_siem.google_cloud_logging import LIMITS, create, log_entry
from klyra_siem.google_cloud_logging_answers import of_answer
from klyra_siem.outcome import Action
from support.siem import google as far
from support.siem.cloud import DAY_NS, PlainFormat, entry, options, send
from support.siem.cloud_server import CloudServer, Fault, Reply, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_siem.destination import SealedEntry
    from klyra_siem.google_cloud_logging import GoogleCloudLogging

pytest.importorskip("google.auth", reason="for want of google-auth")
pytest.importorskip("google.cloud.logging_v2", reason="for want of google-cloud-logging")

NOW = 1_700_000_000.0
JSON = {"content-type": "application/json"}
RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3.5s"}


@pytest.fixture(scope="module")
def account() -> far.ServiceAccount:
    """A service account."""
    return far.ServiceAccount()


@dataclass
class Google:
    """A project, and who writes to it."""

    account: far.ServiceAccount
    logs: far.CloudLogging
    server: CloudServer

    @contextlib.contextmanager
    def destination(self, settings: dict[str, str | None] | None = None, **members) -> Iterator[GoogleCloudLogging]:
        """Give a destination; settings that are None are left out."""
        chosen = {"project": far.PROJECT, "credentials": self.account.key_file()} | (settings or {})
        chosen = {name: value for name, value in chosen.items() if value is not None}
        with contextlib.closing(create(options(self.server.url, chosen, **members))) as made:
            yield made


@pytest.fixture
def google(account) -> Iterator[Google]:
    """Google Cloud Logging."""
    logs = far.CloudLogging(account)
    with serving(logs) as server:
        yield Google(account, logs, server)


def refused(status: int, code: str, message: str = "said", *details: dict[str, object], **headers: str) -> Fault:
    """Return a refusal."""
    reply = far.refusal(status, message, *details, code=code)
    return Fault(reply=Reply(reply.status, reply.body, {**reply.headers, **headers}))


class TestSending:
    """What arrives."""

    @pytest.mark.parametrize("compression", ["gzip", "none"])
    def test_entries_arrive(self, google, compression) -> None:
        """Google's protocol buffers read what was meant."""
        entries = [entry(0, name="漢字 🔑"), entry(1, status="failure")]
        with google.destination(compression=compression) as made:
            outcome = send(made, entries)
        assert (outcome.action, outcome.status) == (Action.DELIVERED, "200")
        first, second = google.logs.written
        assert (first["insertId"], first["severity"]) == (entries[0].entry_id, "NOTICE")
        assert first["labels"] == {"organization_id": "org_startup", "event_type": "moderation.created"}
        assert first["jsonPayload"] == json.loads(PlainFormat().encode(entries[0]))
        assert second["severity"] == "WARNING"
        assert google.server.requests[0].headers.get("content-encoding") == {"gzip": "gzip"}.get(compression)

    def test_a_text_format(self, google) -> None:
        """CEF and LEEF are lines, in `textPayload`."""
        with google.destination(record=PlainFormat("cef", "text")) as made:
            send(made, [entry()])
        assert google.logs.written[0]["textPayload"].startswith("CEF:0|Klyra|")

    def test_the_request_is_that_of_googles_client(self, google) -> None:
        """google-cloud-logging sends the same entry to the same place, in the same words."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import logging as client_library

        one = entry()
        with google.destination() as made:
            send(made, [one])
        ours = google.server.requests[0]
        client = client_library.Client(
            project=far.PROJECT,
            credentials=AnonymousCredentials(),
            _use_grpc=False,
            client_options={"api_endpoint": google.server.url},
        )
        wanted = json.loads(log_entry(one, PlainFormat()))
        logger = client.logger(
            "klyra.com/audit", resource=client_library.Resource("global", {"project_id": far.PROJECT})
        )
        with contextlib.suppress(Exception):  # it has no credentials
            logger.log_struct(
                wanted["jsonPayload"],
                insert_id=wanted["insertId"],
                timestamp=wanted["timestamp"],
                severity=wanted["severity"],
                labels=wanted["labels"],
            )
        client.close()
        theirs = google.server.requests[-1]
        assert (ours.method, ours.path) == (theirs.method, theirs.path.partition("?")[0])
        assert theirs.headers["content-type"] == ours.headers["content-type"]
        read = [far.parsed(request.content) for request in (ours, theirs)]
        for request in read:
            for name in ("logName", "resource"):
                request["entries"][0].setdefault(name, request.get(name))
        assert read[0]["entries"] == read[1]["entries"]
        assert read[0]["partialSuccess"] is True

    def test_the_same_bytes_again(self, google) -> None:
        """A retry has the same ids and times: that is what duplicates are removed by."""
        entries = [entry(number) for number in range(3)]
        with google.destination() as made:
            assert made.encode(entries) == made.encode(entries)

    def test_nanoseconds_arrive(self, google) -> None:
        """No digit of a time is lost, or two attempts would be two entries."""
        with google.destination() as made:
            send(made, [entry(timestamp="2026-06-15T14:30:45.123456789Z")])
        assert google.logs.written[0]["jsonPayload"]["timestamp"] == "2026-06-15T14:30:45.123456789Z"
        assert len(google.logs.written[0]["timestamp"]) == len("2026-06-15T14:30:45.123456789Z")

    @pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**63 - 1])
    def test_whole_numbers_that_a_double_does_not_hold(self, google, number) -> None:
        """Every number of a `jsonPayload` becomes a double; larger ones are texts."""

        class Numbers(PlainFormat):
            def encode(self, _: SealedEntry) -> bytes:
                return json.dumps({"large": [number], "small": 2**53, "is": True}).encode()

        with google.destination(record=Numbers()) as made:
            send(made, [entry()])
        assert google.logs.written[0]["jsonPayload"] == {"large": [str(number)], "small": float(2**53), "is": True}

    def test_measured_exactly(self, google) -> None:
        """What is measured is the length of the entry and its comma."""
        with google.destination(compression="none") as made:
            one = entry()
            short, long = (len(made.encode([one] * count).content) for count in (1, 11))
            assert long - short == 10 * made.measure(one)
        assert LIMITS.encoded_bytes < far.MAX_BODY_BYTES
        assert LIMITS.entry_bytes < far.MAX_ENTRY_BYTES

    def test_a_probe_writes_nothing(self, google) -> None:
        """`dryRun` checks rights and project."""
        with google.destination() as made:
            assert made.probe().action is Action.DELIVERED
            google.logs.has_role = False
            assert made.probe().action is Action.PAUSE
        assert (google.logs.written, google.logs.checked) == ([], 1)


class TestPartialSuccess:
    """Entries that are refused while others are written."""

    def test_only_the_refused_ones_are_named(self, google) -> None:
        """All others are written, and are not sent again."""
        entries = [entry(number) for number in range(5)]
        google.logs.poison = {entries[1].entry_id, entries[3].entry_id}
        with google.destination() as made:
            outcome = send(made, entries)
        assert (outcome.action, outcome.status, outcome.refused) == (Action.DELIVERED, "partial_success", (1, 3))
        assert outcome.reason == "Log entry cannot be read"
        assert far.insert_ids(google.logs.written) == [entries[number].entry_id for number in (0, 2, 4)]

    def test_when_none_is_written_there_is_no_list(self, google) -> None:
        """The batch is halved; an entry refused alone is a dead letter."""
        one = entry()
        google.logs.poison = {one.entry_id}
        with google.destination() as made:
            outcome = send(made, [one])
        assert (outcome.action, outcome.refused) == (Action.BISECT, ())

    def test_too_far_in_the_future(self, google) -> None:
        """More than a day ahead is refused, whatever is beside it is not."""
        with google.destination() as made:
            assert send(made, [entry(0, ago_ns=-2 * DAY_NS), entry(1)]).refused == (0,)
        assert LIMITS.newest_seconds == 86400

    def test_too_long(self, google) -> None:
        """So is what is longer than 256 KB."""

        class Long(PlainFormat):
            def encode(self, entry: SealedEntry) -> bytes:
                return json.dumps({"x": "x" * (far.MAX_ENTRY_BYTES if entry.index else 1)}).encode()

        with google.destination(record=Long()) as made:
            assert made.measure(entry(1)) > LIMITS.entry_bytes
            assert send(made, [entry(0), entry(1)]).refused == (1,)

    @pytest.mark.parametrize("listed", [{"5": {}}, {"x": {}}, {"-1": {}}, {"0": {}, "²": {}}])
    def test_a_list_of_entries_that_were_not_sent(self, listed) -> None:
        """It is not believed: the halves go again, and queries remove what was there already."""
        kind = "type.googleapis.com/google.logging.v2.WriteLogEntriesPartialErrors"
        reply = far.refusal(400, "bad", {"@type": kind, "logEntryErrors": listed})
        outcome = of_answer(400, JSON, reply.body, 5, NOW)
        assert (outcome.action, outcome.refused) == (Action.BISECT, ())

    def test_a_list_in_a_refusal_of_another_status(self) -> None:
        """Rights can be refused for an entry too; the list decides, not the status."""
        kind = "type.googleapis.com/google.logging.v2.WriteLogEntriesPartialErrors"
        reply = far.refusal(403, "denied", {"@type": kind, "logEntryErrors": {"2": {"code": 7}}})
        outcome = of_answer(403, JSON, reply.body, 3, NOW)
        assert (outcome.action, outcome.refused, outcome.reason) == (Action.DELIVERED, (2,), "denied")


class TestFailures:
    """What goes wrong."""

    @pytest.mark.parametrize(
        ("fault", "action", "status", "wait"),
        [
            (refused(429, "RESOURCE_EXHAUSTED"), Action.RETRY, "RESOURCE_EXHAUSTED", None),
            (refused(429, "RESOURCE_EXHAUSTED", "quota", RETRY_INFO), Action.RETRY, "RESOURCE_EXHAUSTED", 3.5),
            (refused(503, "UNAVAILABLE", **{"Retry-After": "9"}), Action.RETRY, "UNAVAILABLE", 9.0),
            (refused(500, "INTERNAL"), Action.RETRY, "INTERNAL", None),
            (refused(504, "DEADLINE_EXCEEDED"), Action.RETRY, "DEADLINE_EXCEEDED", None),
            (refused(409, "ABORTED"), Action.RETRY, "ABORTED", None),
            (refused(499, "CANCELLED"), Action.RETRY, "CANCELLED", None),
            (refused(400, "INVALID_ARGUMENT"), Action.BISECT, "INVALID_ARGUMENT", None),
            (refused(400, "FAILED_PRECONDITION", "billing"), Action.PAUSE, "FAILED_PRECONDITION", None),
            (refused(403, "PERMISSION_DENIED"), Action.PAUSE, "PERMISSION_DENIED", None),
            (refused(404, "NOT_FOUND"), Action.PAUSE, "NOT_FOUND", None),
            (Fault(reply=Reply(404, b"<!DOCTYPE html>")), Action.PAUSE, "404", None),
            (Fault(reply=Reply(502, b"<html>")), Action.RETRY, "502", None),
            (Fault(reply=Reply(413)), Action.BISECT, "413", None),
            (Fault(reply=Reply(204)), Action.PAUSE, "204", None),
            (Fault(reply=Reply(200, b"<h1>Sign in</h1>", {"Content-Type": "text/html"})), Action.PAUSE, "200", None),
            (Fault(reply=Reply(200, b"[]", far.JSON)), Action.PAUSE, "200", None),
            (Fault(reply=Reply(400, b'{"error": "plain"}', far.JSON)), Action.BISECT, "400", None),
            (Fault(reset=True), Action.RETRY, "no_answer", None),
            (Fault(truncated=True), Action.RETRY, "no_answer", None),
            (Fault(reply_lost=True), Action.RETRY, "no_answer", None),
        ],
    )
    def test_outcome(self, google, fault, action, status, wait) -> None:
        """Nothing that the network or Google does is an exception."""
        google.server.plan(fault)
        with google.destination() as made:
            outcome = send(made, [entry()])
            assert (outcome.action, outcome.status, outcome.retry_after) == (action, status, wait)
            assert send(made, [entry()]).action is Action.DELIVERED

    def test_an_answer_that_is_lost_leaves_a_duplicate_that_queries_hide(self, google) -> None:
        """Stored twice, which a sink to BigQuery shows; a query shows it once."""
        google.server.plan(Fault(reply_lost=True))
        one = [entry()]
        with google.destination() as made:
            assert [send(made, one).action for _ in range(2)] == [Action.RETRY, Action.DELIVERED]
        assert far.insert_ids(google.logs.written) == [one[0].entry_id] * 2
        assert far.insert_ids(google.logs.queried()) == [one[0].entry_id]

    def test_a_slow_answer(self, google) -> None:
        """Behind the timeout nobody knows what was taken."""
        google.server.plan(Fault(delay_seconds=0.5))
        with google.destination(timeout_seconds=0.1) as made:
            assert send(made, [entry()]).status == "no_answer"

    def test_bytes_of_somebody_else(self, google) -> None:
        """A payload that no `encode` of this module made is sent as it is."""
        with google.destination() as made:
            assert made.send(Payload(b"{}")).action is Action.PAUSE


class TestTokens:
    """google-auth."""

    def test_a_service_account_signs_its_token_itself(self, google) -> None:
        """No token service is asked; one token is used for many requests."""
        with google.destination() as made:
            for number in range(3):
                assert send(made, [entry(number)]).action is Action.DELIVERED
        assert len({request.headers["authorization"] for request in google.server.requests}) == 1

    def test_a_refused_token_is_replaced_at_once(self, google) -> None:
        """A 401 costs one more request with the same bytes."""
        google.server.plan(refused(401, "UNAUTHENTICATED"))
        with google.destination() as made:
            assert send(made, [entry()]).action is Action.DELIVERED
        assert google.server.requests[0].body == google.server.requests[1].body

    def test_nobody_sees_key_or_token(self, google, caplog) -> None:
        """Google repeats the token that it refuses; neither outcome nor log does."""
        caplog.set_level(logging.DEBUG)
        other = far.ServiceAccount()
        with google.destination({"credentials": other.key_file()}) as made:
            outcome = send(made, [entry()])
            told = repr(made) + repr(outcome) + caplog.text
        assert (outcome.action, outcome.status) == (Action.PAUSE, "UNAUTHENTICATED")
        assert outcome.reason.endswith("[hidden]")
        tokens = [request.headers["authorization"].removeprefix("Bearer ") for request in google.server.requests]
        key = json.loads(other.key_file())["private_key"]
        assert not [secret for secret in (*tokens, key, key.splitlines()[1], other.key_id) if secret in told]

    def test_what_the_machine_is_given(self, google, monkeypatch, tmp_path) -> None:
        """Without a key in the configuration google-auth looks where it always does."""
        file = tmp_path / "key.json"
        file.write_text(google.account.key_file())
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        with google.destination({"credentials": None}) as made:
            assert send(made, [entry()]).action is Action.DELIVERED

    @pytest.mark.parametrize(
        ("failure", "action"),
        [(None, Action.DELIVERED), (Reply(403, b"{}", far.JSON), Action.PAUSE)],
    )
    def test_the_machines_own_account(self, google, monkeypatch, tmp_path, failure, action) -> None:
        """On a machine of Google's its metadata server is asked, over our own connections, for this scope."""
        from google.auth.compute_engine import _metadata

        google.logs.tokens.add("token-of-a-machine")
        with serving(far.Machine("token-of-a-machine", failure)) as machine:
            host = machine.url.removeprefix("http://")
            monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
            monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
            monkeypatch.setenv("GCE_METADATA_IP", host)
            monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", host)
            with google.destination({"credentials": None}) as made:
                assert send(made, [entry()]).action is action
            assert machine.service.scopes[:1] == [far.SCOPE]

    def test_an_issuer_out_of_reach(self, google, monkeypatch, tmp_path) -> None:
        """That passes."""
        file, subject = tmp_path / "pool.json", tmp_path / "subject"
        subject.write_text("token-of-a-cluster")
        pool = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q"
        given = {
            "type": "external_account",
            "audience": pool,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": "http://127.0.0.1:1/token",
            "credential_source": {"file": str(subject)},
        }
        file.write_text(json.dumps(given))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        with google.destination({"credentials": None}) as made:
            assert (send(made, [entry()]).action, google.server.requests) == (Action.RETRY, [])

    def test_nothing_is_given(self, google, monkeypatch, tmp_path) -> None:
        """A file that is not there is an operator's matter."""
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent"))
        with google.destination({"credentials": None}) as made:
            outcome = send(made, [entry()])
        assert (outcome.action, outcome.status) == (Action.PAUSE, "credentials")

    def test_a_quota_of_another_project(self, google) -> None:
        """It is named in a header."""
        with google.destination({"quota_project": "billing-project"}) as made:
            send(made, [entry()])
        assert google.server.requests[0].headers["x-goog-user-project"] == "billing-project"


class TestSettings:
    """What the configuration may say."""

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"project": None}, "project"),
            ({"project": "Bad Name"}, "project"),
            ({"log": ""}, "log"),
            ({"credentials": "not json"}, "key of a service account"),
            ({"credentials": '{"type": "external_account"}'}, "key of a service account"),
            ({"credentials": "[]"}, "key of a service account"),
            ({"logs": "x"}, "logs"),
            ({"retention_days": "30"}, "retention_days"),
        ],
    )
    def test_what_is_wrong_is_named(self, account, settings, named) -> None:
        """The option is named; the key is not repeated."""
        chosen = {"project": far.PROJECT, "credentials": account.key_file()} | settings
        chosen = {name: value for name, value in chosen.items() if value is not None}
        with pytest.raises(BadDestination) as caught:
            create(options(google_cloud_logging.ENDPOINT, chosen))
        told = str(caught.value) + caught.value.remedy
        assert (caught.value.code, named in told, "PRIVATE KEY" in told) == ("bad_destination", True, False)

    def test_a_bucket_that_keeps_more_or_less(self, account) -> None:
        """The window of time follows from it: outside of it Google says that all is well and stores nothing."""
        chosen = {"project": far.PROJECT, "credentials": account.key_file(), "retention_days": 400}
        with contextlib.closing(create(options(google_cloud_logging.ENDPOINT, chosen))) as made:
            assert made.limits.oldest_seconds == 400 * 86400
        assert LIMITS.oldest_seconds == 30 * 86400
