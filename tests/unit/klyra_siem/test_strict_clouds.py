"""The stand-ins of the clouds refuse what the clouds refuse: a request that they take is one that a cloud takes."""

from __future__ import annotations

import copy
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from klyra_siem.cloudwatch_signing import Keys, signed_headers
from support.siem import azure, google, moto
from support.siem.cloud import PlainFormat, entry
from support.siem.cloud_server import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

for library in ("moto", "google.cloud.logging_v2"):
    pytest.importorskip(library, reason=f"for want of {library}")

NOW_MS = int(time.time() * 1000)
URL = "http://127.0.0.1:1/"


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    """One moto."""
    with moto.running() as url:
        yield url


def amazon(
    strict: moto.StrictMoto,
    members: dict[str, Any],
    operation: str = "PutLogEvents",
    age_seconds: float = 0.0,
    **headers: str,
) -> dict[str, Any]:
    """Return what the proxy answers to a signed request; `headers` replace those of a good one afterwards."""
    content = json.dumps(members).encode()
    named = {"Content-Type": moto.CONTENT_TYPE, "X-Amz-Target": f"Logs_20140328.{operation}"}
    keys = Keys(moto.KEY_ID, moto.SECRET, None)
    signed = signed_headers(keys, moto.REGION, URL, named, content, time.time() - age_seconds)
    lower = {name.lower(): value for name, value in signed.items()} | headers
    return json.loads(strict(Request(method="POST", path="/", headers=lower, body=content)).body)


class TestMoto:
    """CloudWatch Logs."""

    @pytest.fixture
    def strict(self, upstream) -> Iterator[moto.StrictMoto]:
        """The proxy, with a group and a stream."""
        with moto.cloudwatch(upstream) as (_, made):
            made.ask("CreateLogStream", {"logGroupName": moto.GROUP, "logStreamName": "s"})
            yield made

    def put(self, strict: moto.StrictMoto, *events: dict[str, Any], **changed: Any) -> str:
        """Return the type of an error, "" for none."""
        members = {"logGroupName": moto.GROUP, "logStreamName": "s", "logEvents": list(events)} | changed
        return amazon(strict, members).get("__type", "")

    @pytest.mark.parametrize(
        "events",
        [
            [],
            [{"timestamp": NOW_MS, "message": ""}],
            [{"timestamp": NOW_MS, "message": "x"}] * 10_001,
            [{"timestamp": NOW_MS, "message": "x" * 200_000}] * 6,
            [{"timestamp": NOW_MS, "message": "x" * 1_048_576}],
            [{"timestamp": NOW_MS, "message": "x"}, {"timestamp": NOW_MS - 1, "message": "x"}],
            [{"timestamp": NOW_MS - 86_400_001, "message": "x"}, {"timestamp": NOW_MS, "message": "x"}],
            [{"timestamp": str(NOW_MS), "message": "x"}],
        ],
    )
    def test_a_batch_that_breaks_a_rule(self, strict, events) -> None:
        """Count, sizes, order, span and types are AWS's."""
        assert self.put(strict, *events) in {"InvalidParameterException", "SerializationException"}

    def test_a_batch_at_every_limit(self, strict) -> None:
        """What is just allowed is taken."""
        event = {"timestamp": NOW_MS, "message": "x" * (1_048_576 // 10_000 - 26)}
        assert self.put(strict, *[event] * 10_000) == ""
        assert self.put(strict, {**event, "timestamp": NOW_MS - 86_400_000}, event) == ""

    def test_ranges_of_rejected_events_are_those_of_aws(self, strict) -> None:
        """For one old event AWS says 1, where moto says 0; for two new ones the first, where moto says the last."""
        ages = (-15 * 24, 0, 3, 4)
        events = [{"timestamp": NOW_MS + hours * 3_600_000, "message": "x"} for hours in ages]
        answer = amazon(strict, {"logGroupName": moto.GROUP, "logStreamName": "s", "logEvents": events})
        assert answer["rejectedLogEventsInfo"] == {"tooOldLogEventEndIndex": 1, "tooNewLogEventStartIndex": 2}

    @pytest.mark.parametrize(
        ("changed", "kind"),
        [
            ({"logStreamName": "a:b"}, "InvalidParameterException"),
            ({"logGroupName": "a b"}, "InvalidParameterException"),
            ({"sequenceToken": "1"}, "SerializationException"),
            ({"logStreamName": "absent"}, "ResourceNotFoundException"),
        ],
    )
    def test_members(self, strict, changed, kind) -> None:
        """Names and members are those of the interface; what is not there is not found."""
        assert self.put(strict, {"timestamp": NOW_MS, "message": "x"}, **changed) == kind

    @pytest.mark.parametrize(
        ("headers", "kind"),
        [
            ({"authorization": ""}, "MissingAuthenticationTokenException"),
            ({"x-amz-target": "Logs_20140328.CreateLogStream"}, "InvalidSignatureException"),
            ({"x-amz-security-token": "x"}, "UnrecognizedClientException"),
            ({"content-encoding": "gzip"}, "SerializationException"),
        ],
    )
    def test_headers(self, strict, headers, kind) -> None:
        """A header that was changed after signing is noticed."""
        members = {"logGroupName": moto.GROUP, "logStreamName": "s", "logEvents": []}
        assert amazon(strict, members, **headers)["__type"] == kind

    def test_an_old_signature(self, strict) -> None:
        """It is good for 15 minutes."""
        members = {"logGroupName": moto.GROUP}
        assert amazon(strict, members, "CreateLogGroup", 1000.0)["__type"] == "InvalidSignatureException"

    def test_an_operation_that_we_do_not_need(self, strict) -> None:
        """Nothing else is let through."""
        assert amazon(strict, {"logGroupName": moto.GROUP}, "DeleteLogGroup")["__type"] == "SerializationException"


class TestAzure:
    """The Logs Ingestion API."""

    @pytest.mark.parametrize(
        "changed",
        [
            {"id": "x"},
            {"Unknown": "x"},
            {"LogIndex": "1"},
            {"LogIndex": True},
            {"EventId": 5},
            {"TimeGenerated": None},
            {"Col-umn": "x"},
        ],
    )
    def test_a_row_that_breaks_a_rule(self, changed) -> None:
        """Names and types are those of the table."""
        from klyra_siem.azure_monitor_rows import row

        good = json.loads(row(entry(), PlainFormat()))
        assert azure.problem_of(good) is None
        bad = {name: value for name, value in (good | changed).items() if value is not None}
        assert azure.problem_of(bad)

    @pytest.mark.parametrize(
        ("changed", "status"),
        [
            ({}, 204),
            ({"method": "PUT"}, 404),
            ({"path": "/dataCollectionRules/dcr-other/streams/Custom-KlyraAudit?api-version=2023-01-01"}, 404),
            ({"path": f"/dataCollectionRules/{azure.RULE}/streams/Custom-Other?api-version=2023-01-01"}, 400),
            ({"path": f"/dataCollectionRules/{azure.RULE}/streams/{azure.STREAM}"}, 404),
            ({"body": b"{}"}, 400),
            ({"body": b"[1]"}, 400),
            ({"body": b"["}, 400),
            ({"body": b'[{"TimeGenerated": "yesterday"}]'}, 400),
            ({"body": b" " * (1024 * 1024 + 1)}, 413),
        ],
    )
    def test_requests(self, changed, status) -> None:
        """Method, place, size and form."""
        issuer = azure.Issuer(issued={"token": time.time() + 60})
        good = {
            "method": "POST",
            "path": f"/dataCollectionRules/{azure.RULE}/streams/{azure.STREAM}?api-version=2023-01-01",
            "headers": {"authorization": "Bearer token", "content-type": "application/json"},
            "body": b"[]",
        }
        assert azure.Ingestion(issuer)(Request(**(good | changed))).status == status

    @pytest.mark.parametrize("header", ["Bearer other", "Basic token", ""])
    def test_whoever_has_no_token(self, header) -> None:
        """Comes no further, whatever it asks for."""
        request = Request(method="POST", path="/", headers={"authorization": header}, body=b"")
        assert azure.Ingestion(azure.Issuer())(request).status == 401


class TestGoogle:
    """`entries.write`."""

    GOOD: dict[str, Any] = {  # noqa: RUF012 - copied by whoever changes it
        "logName": google.LOG_NAME,
        "resource": {"type": "global", "labels": {"project_id": google.PROJECT}},
        "partialSuccess": True,
        "entries": [
            {
                "insertId": "a",
                "timestamp": "2026-11-22T00:00:00.123456789Z",
                "severity": "NOTICE",
                "jsonPayload": {"a": 1},
                "labels": {"k": "v"},
            }
        ],
    }

    def answer(self, change: Callable[[dict[str, Any]], object]) -> int:
        """Return the status of the answer to a good request that was changed."""
        body = copy.deepcopy(self.GOOD)
        change(body)
        logs = google.CloudLogging(google.ServiceAccount(), tokens={"token"})
        headers = {"authorization": "Bearer token", "content-type": "application/json"}
        content = json.dumps(body).encode()
        return logs(Request(method="POST", path="/v2/entries:write", headers=headers, body=content)).status

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            (lambda body: body.update(), 200),
            (lambda body: body["entries"][0].update(insertID="b"), 400),
            (lambda body: body["entries"][0].update(severity="LOUD"), 400),
            (lambda body: body["entries"][0].update(timestamp="22/11/2026"), 400),
            (lambda body: body["entries"][0].update(textPayload="x"), 400),
            (lambda body: body["entries"][0].update(labels={"k": 1}), 400),
            (lambda body: body.update(dryrun=True), 400),
            (lambda body: body.update(logName="projects/other-project/logs/x"), 404),
        ],
    )
    def test_requests(self, change, status) -> None:
        """Google's own protocol buffers find what is wrong."""
        assert self.answer(change) == status

    def test_a_token_of_somebody_else(self) -> None:
        """A signature of another key does not let in."""
        ours, theirs = google.ServiceAccount(), google.ServiceAccount()
        head = "e30.e30."
        assert (ours.claims(head + "AAAA"), theirs.claims("nothing")) == (None, None)
