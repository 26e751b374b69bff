"""Damaged requests over real connections: whatever comes, the collector answers, goes on, and loses nothing by it."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from typing import TYPE_CHECKING

import grpc
import httpx
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings, strategies

from support import collector, damage, forward, otlp
from support.collector import ACME
from support.otlp import MAPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.collector import Running

EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
ANSWER_SECONDS = 20
EXAMPLES, MANY_EXAMPLES = 100, 5_000
# 503 would be taken for "come again": for what can never be read that is an endless loop.
HTTP_ANSWERS = {200, 400, 409, 413, 415}
GRPC_ANSWERS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
}
PROTOBUF = [
    otlp.own_form(otlp.prepared(), otlp.prepared()),
    otlp.own_form(otlp.invalid()),
    otlp.foreign(MAPPED, {"body": "unmapped"}, resource={"service.name": "tests", "deep": {"a": [1, {"b": None}]}}),
]
JSON = [otlp.foreign_json(MAPPED, resource={"service.name": "tests"}), otlp.foreign_json(MAPPED, MAPPED)]
FORWARD = [make([forward.entry(1), forward.entry(2)], chunk="a chunk") for make in forward.MODES]
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "identity": lambda body: body,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.compress,
}


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    """One collector for all; at the end it must have stopped cleanly and have met nothing unforeseen."""
    root = tmp_path_factory.mktemp("data")
    started = forward.start(root, collector.make_keys(root))
    yield started
    assert started.terminate() == 0
    assert "Traceback" not in forward.log(started)
    assert '"level": "error"' not in forward.log(started)
    assert started.sealed()


def examples(count: int) -> settings:
    """Return how hypothesis is to go on: the collector is the same for all examples, which do not depend on it."""
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


def over_http(running: Running, path: str, content_type: str, body: bytes, encoding: str) -> None:
    """Send a body; assert that the answer is one that ends the matter."""
    answer = running.post(path, body, Content_Type=content_type, Content_Encoding=encoding)
    assert answer.status_code in HTTP_ANSWERS, (answer.status_code, answer.text)


def over_grpc(running: Running, body: bytes) -> None:
    """The same over gRPC."""
    with grpc.insecure_channel(running.addresses["otlp_grpc"]) as channel:
        metadata = [("authorization", f"Bearer {running.keys[ACME]}")]
        try:
            channel.unary_unary(EXPORT)(body, metadata=metadata, timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            assert error.code() in GRPC_ANSWERS, error


def over_forward(running: Running, content: bytes) -> None:
    """Send bytes and nothing more; assert that the connection is ended, with an acknowledgement or without."""
    with forward.Wire(forward.address(running)) as wire:
        wire.socket.settimeout(ANSWER_SECONDS)
        try:
            wire.send(content)
            wire.socket.shutdown(socket.SHUT_WR)
        except OSError:  # it has ended the connection already
            return
        wire.rest()


def fuzz(running: Running, count: int) -> None:
    """Send damaged requests of every kind."""
    chosen = examples(count)
    encodings = strategies.sampled_from(sorted(COMPRESSIONS))

    @chosen
    @given(damage.damaged(PROTOBUF), encodings, strategies.sampled_from(["/v1/logs", "/v1/audit"]))
    def protobuf(body: bytes, encoding: str, path: str) -> None:
        over_http(running, path, "application/x-protobuf", COMPRESSIONS[encoding](body), encoding)

    @chosen
    @given(damage.damaged(JSON), encodings)
    def damaged_json(body: bytes, encoding: str) -> None:
        over_http(running, "/v1/logs", "application/json", COMPRESSIONS[encoding](body), encoding)

    @chosen
    @given(damage.otlp_documents(), strategies.sampled_from(["/v1/logs", "/v1/audit"]))
    def made_up_json(document: object, path: str) -> None:
        body = json.dumps(document).encode("utf-8", "surrogatepass")
        over_http(running, path, "application/json", body, "identity")

    @chosen
    @given(strategies.sampled_from(PROTOBUF), encodings, strategies.data())
    def compressed(body: bytes, encoding: str, data: strategies.DataObject) -> None:
        sent = data.draw(damage.damaged([COMPRESSIONS[encoding](body)]))
        over_http(running, "/v1/logs", "application/x-protobuf", sent, encoding)

    @chosen
    @given(damage.damaged(PROTOBUF))
    def remote_call(body: bytes) -> None:
        over_grpc(running, body)

    @chosen
    @given(damage.damaged(FORWARD))
    def messages(content: bytes) -> None:
        over_forward(running, content)

    for one in (protobuf, damaged_json, made_up_json, compressed, remote_call, messages):
        one()


def test_damaged_requests_are_answered(running) -> None:
    """No crash, no hang, no 5xx in any encoding, compression or protocol; valid ones go on being sealed."""
    fuzz(running, EXAMPLES)
    assert running.post("/v1/audit", otlp.own_form(otlp.prepared(), boot=otlp.BOOT[:-1] + "1")).status_code == 200


@pytest.mark.soak
def test_many_damaged_requests_are_answered(running) -> None:
    """The same with many more."""
    fuzz(running, MANY_EXAMPLES)
    assert httpx.get(f"{running.url}/healthz").status_code == 200
