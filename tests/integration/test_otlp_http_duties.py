"""What an OTLP/HTTP server owes its clients beyond taking their events: encodings, answers, bounded patience."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import zlib
from contextlib import closing

import httpx
import pytest
import zstandard
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus

from klyra_audit import ids
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from support import collector, otlp
from support.collector import ACME
from support.otlp import MAPPED

LOGS = "/v1/logs"
PROTOBUF, JSON = "application/x-protobuf", "application/json"
HEADER_SECONDS, BODY_SECONDS, IDLE_SECONDS = 1.0, 1.5, 2.0
CONNECTIONS = 20


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One collector for all tests of this file, as impatient as tests are."""
    root = tmp_path_factory.mktemp("data")
    settings = {
        "HEADER_SECONDS": HEADER_SECONDS,
        "BODY_SECONDS": BODY_SECONDS,
        "IDLE_SECONDS": IDLE_SECONDS,
        "MAX_CONNECTIONS": CONNECTIONS,
    }
    http = {f"OTLP__HTTP__{name}": str(value) for name, value in settings.items()}
    started = collector.start(root, collector.make_keys(root), INTAKE__MAX_REQUEST_BYTES="2000000", **http)
    yield started
    assert started.terminate() == 0


@pytest.fixture
def since(running):
    """Return the events and quarantined inputs sealed since the test began."""
    before = len(running.sealed())

    def records() -> list:
        found = running.sealed(before)
        return [item for item in found if item.leaf.kind == Kind.QUARANTINE or is_of_a_test(item)]

    return records


def is_of_a_test(item) -> bool:
    """Recognise the events that these tests send; the product has some of its own."""
    names = (b'"moderation.created"', b'"user.removed"')
    return item.leaf.kind == Kind.EVENT and any(name in item.body.sections.core for name in names)


def own(*events) -> bytes:
    """Return a request in our own form from a boot of its own."""
    return otlp.own_form(*events, boot=str(ids.new_uuid7()))


def connect(running) -> socket.socket:
    """Return a connection."""
    host, port = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def head(running, length: int | None, *more: str) -> bytes:
    """Return the headers of a request."""
    lines = [f"POST {LOGS} HTTP/1.1", "Host: x", f"Authorization: Bearer {running.keys[ACME]}"]
    lines += [f"Content-Type: {PROTOBUF}", *more]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def answers(client: socket.socket, count: int) -> list[bytes]:
    """Return the first lines of this many answers."""
    received = b""
    while received.count(b"HTTP/1.1 ") < count or not received.endswith(b"\r\n\r\n"):
        chunk = client.recv(65536)
        if not chunk:
            break
        received += chunk
    return [b"HTTP/1.1 " + part.split(b"\r\n")[0] for part in received.split(b"HTTP/1.1 ")[1:]]


class TestEncodings:
    """Content-Encoding."""

    @pytest.mark.parametrize(
        ("encoding", "compress"),
        [("gzip", gzip.compress), ("zstd", zstandard.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress)],
    )
    def test_each_is_read(self, running, since, encoding, compress) -> None:
        """Sealed like the plain one."""
        assert running.post(LOGS, compress(own(otlp.prepared())), Content_Encoding=encoding).status_code == 200
        assert len(since()) == 1

    def test_an_unknown_one_is_415_and_those_that_are_read_are_named(self, running) -> None:
        """The answer helps the exporter's operator."""
        answer = running.post(LOGS, b"x", Content_Encoding="br")
        assert answer.status_code == 415
        assert "gzip, zstd, deflate" in RpcStatus.FromString(answer.content).message

    def test_a_broken_one_is_400_with_a_status_in_the_requests_encoding(self, running) -> None:
        """Truncated gzip, asked for in JSON, is explained in JSON."""
        body = gzip.compress(b'{"resourceLogs": []}')[:-4]
        answer = running.post(LOGS, body, Content_Encoding="gzip", Content_Type=JSON)
        assert (answer.status_code, answer.json()["code"]) == (400, 3)
        assert answer.json()["details"][0]["@type"].endswith("google.rpc.BadRequest")

    @pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress, zlib.compress])
    def test_a_bomb_is_413(self, running, compress) -> None:
        """A small body that inflates beyond the limit is refused like a large one."""
        encoding = {gzip.compress: "gzip", zstandard.compress: "zstd", zlib.compress: "deflate"}[compress]
        answer = running.post(LOGS, compress(bytes(100_000_000)), Content_Encoding=encoding)
        assert (answer.status_code, RpcStatus.FromString(answer.content).code) == (413, 8)


class TestAnswers:
    """Status codes and bodies."""

    @pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
    def test_every_error_has_a_status_in_the_requests_encoding(self, running, content_type) -> None:
        """So clients can log what is wrong."""
        asked = [
            (401, running.post(LOGS, b"", key="wrong", Content_Type=content_type)),
            (400, running.post(LOGS, b"\xff{", Content_Type=content_type)),
            (413, running.post(LOGS, bytes(2_000_001), Content_Type=content_type)),
            (415, running.post(LOGS, b"x", Content_Encoding="br", Content_Type=content_type)),
            (404, running.post("/v1/traces", b"", Content_Type=content_type)),
            (405, httpx.put(f"{running.url}{LOGS}", headers={"Content-Type": content_type})),
        ]
        for expected, answer in asked:
            assert (answer.status_code, answer.headers["content-type"]) == (expected, content_type)
            if content_type == JSON:
                assert answer.json()["message"]
            else:
                assert RpcStatus.FromString(answer.content).message

    def test_405_says_what_is_allowed(self, running) -> None:
        """As HTTP asks."""
        assert httpx.get(f"{running.url}{LOGS}").headers["allow"] == "POST"

    @pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
    def test_another_content_type_is_415(self, running, content_type) -> None:
        """A missing one, too."""
        headers = {"Authorization": f"Bearer {running.keys[ACME]}"} | (
            {"Content-Type": content_type} if content_type else {}
        )
        answer = httpx.post(f"{running.url}{LOGS}", content=b"x", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (415, 3)

    def test_bad_data_has_its_violation_in_the_details(self, running) -> None:
        """As the specification asks of 400."""
        status = RpcStatus.FromString(running.post(LOGS, b"\xff").content)
        violations = BadRequest()
        assert status.details[0].Unpack(violations)
        assert "protobuf" in violations.field_violations[0].description

    def test_overload_says_when_in_header_and_details(self, tmp_path) -> None:
        """Clients look for either."""
        started = collector.start(tmp_path, collector.make_keys(tmp_path), INTAKE__MAX_INFLIGHT_BYTES="100")
        try:
            answer = started.post(LOGS, own(otlp.prepared()))
            retry = RetryInfo()
            assert RpcStatus.FromString(answer.content).details[0].Unpack(retry)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, str(retry.retry_delay.seconds))
            again = started.post(LOGS, otlp.foreign_json(MAPPED), Content_Type=JSON)
            assert again.json()["details"][0]["retryDelay"] == f"{again.headers['retry-after']}s"
        finally:
            assert started.terminate() == 0

    def test_an_empty_body_is_an_empty_request_in_every_encoding(self, running, since) -> None:
        """Success, with nothing sealed."""
        for content_type, encoding in ((PROTOBUF, ""), (JSON, ""), (PROTOBUF, "gzip"), (JSON, "zstd")):
            headers = {"Content_Encoding": encoding} if encoding else {}
            assert running.post(LOGS, b"", Content_Type=content_type, **headers).status_code == 200
        assert since() == []


class TestNoPoison:
    """Records on which a client could choke for ever, or drop everything beside them."""

    def test_bad_records_are_quarantined_beside_good_ones(self, running, since) -> None:
        """NUL, NaN, half a surrogate pair, what is not UTF-8, deep values, wrong types: 200, and all are kept."""
        good = {"eventName": "user.removed", "attributes": self.attributes()}
        deep: dict = {"intValue": 1}
        for _ in range(100):
            deep = {"arrayValue": {"values": [deep]}}
        bad = [{"intValue": "99999999999999999999"}, {"stringValue": "MARK"}, {"stringValue": "HALF"}, deep, 5]
        listed = [good, *(good | {"attributes": [{"key": "a", "value": value}]} for value in bad)]
        body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": listed}]}]}).encode()
        body = body.replace(b"MARK", b"\xff").replace(b"HALF", b"\\udc00")
        answer = running.post(LOGS, body, Content_Type=JSON)
        assert answer.status_code == 200
        assert "5 of 6 records were quarantined" in answer.json()["partialSuccess"]["errorMessage"]
        assert sorted(item.leaf.kind for item in since()) == [Kind.EVENT, *[Kind.QUARANTINE] * 5]

    def test_strange_values_are_only_values(self, running, since) -> None:
        """NaN, infinity, U+0000 and 2^63-1 have a place in the entry or in quarantine; sent again they are repeats."""
        strange = {"nan": float("nan"), "infinite": float("-inf"), "large": 2**63 - 1, "blob": b"\xff"}
        ident = str(ids.new_uuid7())
        record = MAPPED | {"attributes": MAPPED["attributes"] | strange | {"audit.record.id": ident}}
        for _ in range(2):
            assert running.post(LOGS, otlp.foreign(record)).status_code == 200
        [sealed] = since()
        found = sections.join(sealed.body.sections)["metadata"]["attributes"]
        assert (found["nan"], found["infinite"], found["large"]) == ("NaN", "-Infinity", str(2**63 - 1))

    def test_attributes_lost_on_the_way_are_counted(self, running, since) -> None:
        """A record that says so is sealed with the number, and a metric alarms."""
        record = {"eventName": "user.removed", "attributes": self.attributes(), "droppedAttributesCount": 3}
        body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}).encode()
        assert running.post(LOGS, body, Content_Type=JSON).status_code == 200
        [sealed] = since()
        assert sections.join(sealed.body.sections)["metadata"]["dropped_attributes_count"] == 3
        assert "klyra_attributes_lost_upstream_total 3.0" in httpx.get(f"{running.url}/metrics").text

    def attributes(self) -> list:
        """Return the attributes of a good record with an id of its own."""
        values = MAPPED["attributes"] | {"audit.record.id": str(ids.new_uuid7())}
        return [{"key": key, "value": otlp.json_value(value)} for key, value in values.items()]


class TestConnections:
    """What HTTP/1.1 allows, over raw sockets."""

    def test_pipelined_requests_are_answered_in_order(self, running, since) -> None:
        """Five at once, the third of them bad."""
        bodies = [own(otlp.prepared()), own(otlp.prepared()), b"\xff", own(otlp.prepared()), own(otlp.prepared())]
        with closing(connect(running)) as client:
            client.sendall(b"".join(head(running, len(body)) + body for body in bodies))
            received = b""
            while received.count(b"HTTP/1.1") < 5:
                received += client.recv(65536)
        codes = [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]]
        assert codes == [b"200", b"200", b"400", b"200", b"200"]
        assert len(since()) == 4

    def test_a_client_is_told_to_continue(self, running, since) -> None:
        """Who sends Expect waits for the interim answer before the body."""
        body = own(otlp.prepared())
        with closing(connect(running)) as client:
            client.sendall(head(running, len(body), "Expect: 100-continue"))
            assert client.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n")
            client.sendall(body)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        assert len(since()) == 1

    def test_who_expects_to_continue_without_a_key_is_refused_at_once(self, running) -> None:
        """The body need not be sent at all."""
        with closing(connect(running)) as client:
            client.sendall(head(running, 10**9, "Expect: 100-continue").replace(b"Bearer ", b"Bearer x"))
            assert client.recv(1000).startswith(b"HTTP/1.1 401 ")

    def test_a_chunked_body_is_read(self, running, since) -> None:
        """In pieces of any size."""
        body = own(otlp.prepared())
        chunks = [body[start : start + 7] for start in range(0, len(body), 7)]
        framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        with closing(connect(running)) as client:
            client.sendall(head(running, None, "Transfer-Encoding: chunked") + framed)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        assert len(since()) == 1

    def test_a_chunked_body_over_the_limit_is_413_before_its_end(self, running) -> None:
        """However long it goes on."""
        with closing(connect(running)) as client:
            client.sendall(head(running, None, "Transfer-Encoding: chunked"))
            chunk = b"186a0\r\n" + bytes(100_000) + b"\r\n"
            for _ in range(25):
                client.sendall(chunk)
            assert client.recv(1000).startswith(b"HTTP/1.1 413 ")

    def test_a_connection_is_kept_for_the_next_request(self, running, since) -> None:
        """Many on one connection."""
        with httpx.Client() as client:
            headers = {"Authorization": f"Bearer {running.keys[ACME]}", "Content-Type": PROTOBUF}
            for _ in range(30):
                answer = client.post(f"{running.url}{LOGS}", content=own(otlp.prepared()), headers=headers)
                assert answer.status_code == 200
        assert len(since()) == 30


class TestPatience:
    """Clients that are slow, silent, or too many."""

    def closed_after(self, client: socket.socket, dribble: bytes = b"") -> float:
        """Return after how many seconds the connection is ended, while a byte is sent now and then."""
        begun = time.monotonic()
        client.settimeout(0.2)
        while time.monotonic() < begun + 15:
            try:
                if dribble:
                    client.sendall(dribble)
                if not client.recv(1000):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        return time.monotonic() - begun

    @pytest.mark.parametrize(
        ("first", "dribble"),
        [(b"", b""), (b"POST /v1/l", b""), (b"POST / HTTP/1.1\r\n", b"A: b\r\n"), (b"\r\n", b"\r\n")],
    )
    def test_headers_that_do_not_come_are_not_waited_for(self, running, first, dribble) -> None:
        """Silent from the start, half a line, a header a moment, empty lines: ended within the time for headers."""
        with closing(connect(running)) as client:
            client.sendall(first)
            assert self.closed_after(client, dribble) < HEADER_SECONDS + 5

    def test_a_body_that_does_not_come_is_answered_and_the_connection_ended(self, running, since) -> None:
        """503, which clients retry; and whoever dribbles on is not listened to."""
        body = own(otlp.prepared())
        with closing(connect(running)) as client:
            client.sendall(head(running, len(body)) + body[:-10])
            answer = client.recv(1000)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1" in answer.lower()
            assert b"connection: close" in answer.lower()
            assert self.closed_after(client, b"x") < 10
        assert since() == []

    def test_an_idle_connection_is_ended(self, running) -> None:
        """Some time after its last answer; also when it goes on sending a body nobody reads."""
        with closing(connect(running)) as client:
            client.sendall(head(running, 10**9).replace(b"Bearer ", b"Bearer x"))
            assert client.recv(1000).startswith(b"HTTP/1.1 401 ")
            assert self.closed_after(client, b"x" * 10) < IDLE_SECONDS + 5

    def test_silent_connections_do_not_keep_others_out(self, running, since) -> None:
        """When all are taken, the one that has been silent longest makes room."""
        silent = [connect(running) for _ in range(CONNECTIONS * 2)]
        try:
            assert running.post(LOGS, own(otlp.prepared())).status_code == 200
        finally:
            for client in silent:
                client.close()
        assert len(since()) == 1

    def test_many_clients_at_once_are_all_answered(self, running, since) -> None:
        """As many as there may be connections."""
        statuses: list[int] = []

        def send() -> None:
            statuses.extend(running.post(LOGS, own(otlp.prepared())).status_code for _ in range(5))

        threads = [threading.Thread(target=send) for _ in range(CONNECTIONS // 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * (CONNECTIONS // 2 * 5)
        assert len(since()) == len(statuses)
