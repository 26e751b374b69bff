"""The stand-ins for Splunk, Datadog and Sumo Logic refuse what the real ones refuse."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from support.siem import datadog, splunk, sumo_logic
from support.siem.cloud_server import Reply, Request
from support.siem.datadog import API_KEY, StrictIntake
from support.siem.splunk import TOKEN, StrictHec
from support.siem.sumo_logic import StrictSource

CHANNEL = "0d2e8f0a-3c1b-4f6e-9a57-2b7c9d3e1f00"
EVENT = b'{"event":{"a":1},"fields":{"event_id":"1"}}'


def request(path: str, body: bytes = b"", method: str = "POST", **headers: str) -> Request:
    """Return a request; `_` in the names of headers stands for `-`."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method=method, path=path, headers=given, body=body)


class TestSplunk:
    """Codes and statuses of the HTTP Event Collector."""

    def said(self, hec: StrictHec, body: bytes = EVENT, path: str = "/services/collector/event", **headers: str) -> Any:
        """Return what the collector says, its status as `status`."""
        headers = {"authorization": f"Splunk {TOKEN}"} | headers
        given = {name: value for name, value in headers.items() if value}
        reply = hec(request(path, body, **given))
        return json.loads(reply.body) | {"status": reply.status}

    @pytest.mark.parametrize(
        ("headers", "code"),
        [
            ({"authorization": ""}, 2),
            ({"authorization": f"Bearer {TOKEN}"}, 3),
            ({"authorization": "Splunk another"}, 4),
            ({"x_splunk_request_channel": "no guid"}, 11),
            ({"content_encoding": "zstd"}, 6),
            ({"content_encoding": "gzip"}, 6),
        ],
    )
    def test_headers(self, headers: dict[str, str], code: int) -> None:
        """Token, channel and encoding are looked at."""
        said = self.said(StrictHec(), **headers)
        assert (said["code"], said["status"]) == (code, splunk.CODES[code][0])

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"", 5),
            (b"\n", 5),
            (b"{", 6),
            (b"[]", 6),
            (b'{"event":1,"unknown":2}', 6),
            (b'{"event":1,"time":"now"}', 6),
            (b'{"event":1,"index":"elsewhere"}', 7),
            (b'{"time":1}', 12),
            (b'{"event":""}', 13),
            (b'{"event":1,"fields":{"a":{"b":1}}}', 15),
            (b'{"event":1,"fields":[1]}', 15),
        ],
    )
    def test_bodies(self, body: bytes, code: int) -> None:
        """Each mistake has its code; nothing of it is in."""
        hec = StrictHec()
        assert self.said(hec, body)["code"] == code
        assert hec.indexed == []

    def test_processing_stops_at_a_bad_event(self) -> None:
        """Those before it are in, those behind it are not; the reply says where."""
        hec = StrictHec()
        said = self.said(hec, EVENT + EVENT + b'{"time":1}' + EVENT)
        assert (said["code"], said["invalid-event-number"], len(hec.indexed)) == (12, 2, 2)

    def test_other_ways_to_say_the_token(self) -> None:
        """A token in the query is not allowed unless it is switched on."""
        assert self.said(StrictHec(), path="/services/collector/event?token=x", authorization="")["code"] == 16

    def test_acknowledgement(self) -> None:
        """A channel is wanted, ids count from 0 for each, `true` is said once."""
        hec = StrictHec(acknowledges=True, falses=1)
        ask = {"path": f"/services/collector/ack?channel={CHANNEL}", "body": b'{"acks":[0,1]}'}
        assert self.said(hec)["code"] == 10
        assert self.said(hec, x_splunk_request_channel=CHANNEL, cookie="AWSALB=0")["ackId"] == 0
        answers = [self.said(hec, **ask)["acks"] for _ in range(3)]
        assert answers == [{"0": False, "1": False}, {"0": True, "1": False}, {"0": False, "1": False}]
        assert self.said(hec, x_splunk_request_channel=CHANNEL)["ackId"] == 1
        assert self.said(StrictHec(), **ask)["code"] == 14

    def test_paths_and_methods(self) -> None:
        """Health needs no token and takes GET; everything else takes POST."""
        hec = StrictHec()
        assert json.loads(hec(request("/services/collector/health", method="GET")).body)["code"] == 17
        for path, method in (("/services/collector/event", "GET"), ("/services/collector/ack", "GET"), ("/", "POST")):
            assert hec(request(path, EVENT, method, authorization=f"Splunk {TOKEN}")).status == 404


class TestDatadog:
    """Statuses of the intake, and what it spoils without saying so."""

    def reply(self, intake: StrictIntake, logs: object, **headers: str) -> Reply:
        """Return what the intake says."""
        given = {"dd_api_key": API_KEY, "content_type": "application/json"} | headers
        body = logs if isinstance(logs, bytes) else json.dumps(logs).encode()
        return intake(request(datadog.PATH, body, **{name: value for name, value in given.items() if value}))

    @pytest.mark.parametrize(
        ("logs", "headers", "status"),
        [
            ([], {}, 202),
            ({"message": "one"}, {}, 202),
            ([{"message": "x"}], {"dd_api_key": ""}, 401),
            ([{"message": "x"}], {"dd_api_key": "another"}, 403),
            ([{"message": "x"}], {"content_type": "text/plain"}, 400),
            ([{"message": "x"}], {"content_encoding": "gzip"}, 400),
            ([{"message": "x"}], {"content_encoding": "br"}, 400),
            (b"[{", {}, 400),
            ([{"nothing": "x"}], {}, 400),
            ([{"message": {"a": 1}}], {}, 400),
            ([{"message": "x", "ddtags": ["a"]}], {}, 400),
            ([{"message": "x"}] * 1001, {}, 413),
            ([{"message": "x" * 900_000}] * 6, {}, 413),
        ],
    )
    def test_statuses(self, logs: object, headers: dict[str, str], status: int) -> None:
        """Each documented one."""
        assert self.reply(StrictIntake(), logs, **headers).status == status

    def test_bytes_count_before_compression(self) -> None:
        """A small request may be too large."""
        body = gzip.compress(json.dumps([{"message": "x" * 900_000}] * 6).encode())
        assert self.reply(StrictIntake(), body, content_encoding="gzip").status == 413

    def test_what_is_spoilt(self) -> None:
        """Too old, too new, too long: 202 all the same."""
        intake = StrictIntake(now=1_000_000.0)
        times = (1_000_000.0 - 18 * 3600 - 1, 1_000_000.0 + 2 * 3600 + 1, 1_000_000.0)
        logs = [{"message": "x", "timestamp": int(time * 1000)} for time in times]
        assert self.reply(intake, [*logs, {"message": "x" * 1_000_001}]).status == 202
        assert (len(intake.indexed), len(intake.not_indexed), len(intake.cut_off)) == (1, 2, 1)

    def test_complaints(self) -> None:
        """Tags, names, numbers and depth of attributes have limits."""
        deep: dict[str, Any] = {}
        for _ in range(10):
            deep = {"a": deep}
        log = {"message": "x", "ddtags": "9bad", "n" * 50: 1, "deep": deep, "many": {f"m{n}": n for n in range(256)}}
        intake = StrictIntake()
        self.reply(intake, [log])
        assert len(intake.complaints) == 4


class TestSumoLogic:
    """Statuses of a source, and what it spoils without saying so."""

    @pytest.mark.parametrize(
        ("path", "method", "body", "headers", "status"),
        [
            (sumo_logic.PATH, "POST", b"line\n", {}, 200),
            (sumo_logic.PATH, "POST", b"", {}, 200),
            ("/receiver/v1/http/another", "POST", b"line\n", {}, 401),
            (sumo_logic.PATH, "PUT", b"line\n", {}, 405),
            (sumo_logic.PATH, "POST", b"\xff\n", {}, 400),
            (sumo_logic.PATH, "POST", b"line\n", {"content_encoding": "gzip"}, 400),
            (sumo_logic.PATH, "POST", b"line\n", {"content_encoding": "br"}, 400),
            (sumo_logic.PATH, "POST", b"x" * 1_000_001, {}, 413),
            (sumo_logic.PATH, "POST", gzip.compress(b"x" * 1_000_001), {"content_encoding": "gzip"}, 413),
        ],
    )
    def test_statuses(self, path: str, method: str, body: bytes, headers: dict[str, str], status: int) -> None:
        """Each documented one."""
        assert StrictSource()(request(path, body, method, **headers)).status == status

    @pytest.mark.parametrize(
        "fields", ["no pair", "k=" + "v" * 201, ",".join(f"k{number}=v" for number in range(31)), "a=b=c"]
    )
    def test_bad_fields(self, fields: str) -> None:
        """A 200 whose body says so; the line is in, without fields."""
        source = StrictSource()
        reply = source(request(sumo_logic.PATH, b"line\n", x_sumo_fields=fields))
        assert (reply.status, json.loads(reply.body)["code"]) == (200, "bad.http.header.fields")
        assert (source.lines, source.headers) == (["line"], [{"x-sumo-fields": ""}])

    def test_what_is_spoilt(self) -> None:
        """A long line is sliced, a line without a time at its beginning is filed somewhere: 200 all the same."""
        source = StrictSource()
        source(request(sumo_logic.PATH, b"x" * 65_537 + b"\n" + b"a line from 2026-01-01T00:00:00.000Z\n"))
        assert (len(source.sliced), len(source.lines), len(source.complaints)) == (1, 1, 1)
