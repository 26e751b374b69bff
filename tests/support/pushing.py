"""Many clients that push as fast as they are let, over OTLP/HTTP, OTLP/gRPC and Forward, and note every answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import grpc
import grpc.aio
import httpx
import msgpack
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from klyra_audit import ids
from support import forward, otlp
from support.collector import ACME, OTHER
from support.otlp import MAPPED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.collector import Running

EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
ANSWER_SECONDS = 60.0
_LONGEST_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request.

    Attributes:
        accepted: its records are durable.
        said: the code, such as `200`, `503` or `UNAVAILABLE`.
        retry_after: seconds until it may come again; None where nothing is said.
    """

    accepted: bool
    said: str
    retry_after: float | None = None


class Client(Protocol):
    """One way to send records to a collector."""

    def request(self, record_ids: Sequence[str]) -> bytes:
        """Return a request with a record for each id."""
        ...

    async def send(self, request: bytes) -> Answer:
        """Send a request; return what the collector says."""
        ...

    async def close(self) -> None:
        """Let the connection go."""
        ...


@dataclass
class Noted:
    """What happened to all clients of one group.

    Attributes:
        acknowledged: how often each record was, which is once.
        answers: how often each was given.
        longest_seconds: that an accepted request took.
        refused_without_delay: refusals that did not say when to come again.
    """

    acknowledged: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    longest_seconds: float = 0.0
    refused_without_delay: int = 0

    def note(self, record_ids: Sequence[str], answer: Answer, seconds: float) -> None:
        """Add one answer."""
        self.answers[answer.said] += 1
        if answer.accepted:
            self.acknowledged.update(record_ids)
            self.longest_seconds = max(self.longest_seconds, seconds)
        elif answer.retry_after is None:
            self.refused_without_delay += 1


class HttpClient:
    """OTLP/HTTP, a connection of its own."""

    def __init__(self, running: Running, organization_id: str) -> None:
        headers = {"Content-Type": "application/x-protobuf", "Authorization": f"Bearer {running.keys[organization_id]}"}
        self._client = httpx.AsyncClient(base_url=running.url, headers=headers, timeout=ANSWER_SECONDS)

    def request(self, record_ids: Sequence[str]) -> bytes:
        """See `Client`."""
        return otlp_request(record_ids)

    async def send(self, request: bytes) -> Answer:
        """See `Client`."""
        answer = await self._client.post("/v1/logs", content=request)
        after = answer.headers.get("retry-after")
        return Answer(answer.status_code == 200, str(answer.status_code), after and float(after))

    async def close(self) -> None:
        """See `Client`."""
        await self._client.aclose()


class GrpcClient:
    """OTLP/gRPC, a connection of its own."""

    def __init__(self, running: Running, organization_id: str) -> None:
        own = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(running.addresses["otlp_grpc"], own)
        self._export = self._channel.unary_unary(EXPORT, response_deserializer=ExportLogsServiceResponse.FromString)
        self._metadata = [("authorization", f"Bearer {running.keys[organization_id]}")]

    def request(self, record_ids: Sequence[str]) -> bytes:
        """See `Client`."""
        return otlp_request(record_ids)

    async def send(self, request: bytes) -> Answer:
        """See `Client`."""
        try:
            await self._export(request, metadata=self._metadata, timeout=ANSWER_SECONDS)
        except grpc.aio.AioRpcError as error:
            return Answer(accepted=False, said=error.code().name, retry_after=_retry_delay(error))
        return Answer(accepted=True, said="OK")

    async def close(self) -> None:
        """See `Client`."""
        await self._channel.close()


class ForwardClient:
    """Forward with chunks; where none is acknowledged the connection is closed, which says to come again."""

    def __init__(self, running: Running, _organization_id: str) -> None:
        host, _, port = forward.address(running).rpartition(":")
        self._place = (host, int(port))
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def request(self, record_ids: Sequence[str]) -> bytes:
        """See `Client`."""
        entries = [forward.entry(**{"audit.record.id": ident}) for ident in record_ids]
        return forward.forward(entries, chunk=record_ids[0])

    async def send(self, request: bytes) -> Answer:
        """See `Client`."""
        if self._connection is None:
            self._connection = await asyncio.open_connection(*self._place)
        reader, writer = self._connection
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(4096), ANSWER_SECONDS)
        if answer:
            assert msgpack.unpackb(answer) == {"ack": msgpack.unpackb(request)[2]["chunk"]}
            return Answer(accepted=True, said="ack")
        await self.close()
        return Answer(accepted=False, said="closed", retry_after=0.1)

    async def close(self) -> None:
        """See `Client`."""
        if self._connection is not None:
            self._connection[1].close()
            self._connection = None


def otlp_request(record_ids: Sequence[str]) -> bytes:
    """Return an OTLP request with a valid record for each id."""
    return otlp.foreign(
        *(MAPPED | {"attributes": MAPPED["attributes"] | {"audit.record.id": ident}} for ident in record_ids)
    )


def clients(running: Running, *, http: int, grpc_: int, forward_: int, small: int) -> dict[str, list[Client]]:
    """Return clients by group: ACME's by protocol, and a few of another organization's, `small`."""
    return {
        "http": [HttpClient(running, ACME) for _ in range(http)],
        "grpc_": [GrpcClient(running, ACME) for _ in range(grpc_)],
        "forward_": [ForwardClient(running, ACME) for _ in range(forward_)],
        "small": [HttpClient(running, OTHER) for _ in range(small)],
    }


async def push(pushing: dict[str, list[Client]], noted: dict[str, Noted], records: int, stop: asyncio.Event) -> None:
    """Let every client push until `stop`, each request until it is accepted; note what happens, by group."""
    work = [_push(client, noted[group], records, stop) for group, members in pushing.items() for client in members]
    try:
        await asyncio.gather(*work)
    finally:
        await asyncio.gather(*(client.close() for members in pushing.values() for client in members))


async def _push(client: Client, noted: Noted, records: int, stop: asyncio.Event) -> None:
    while not stop.is_set():
        record_ids = [str(ids.new_uuid7()) for _ in range(records)]
        request = client.request(record_ids)
        accepted = False
        while not accepted:
            began = time.monotonic()
            answer = await client.send(request)
            noted.note(record_ids, answer, time.monotonic() - began)
            accepted = answer.accepted
            if not accepted:
                await asyncio.sleep(min(answer.retry_after or 0, _LONGEST_PAUSE))


def _retry_delay(error: grpc.aio.AioRpcError) -> float | None:
    for name, value in error.trailing_metadata() or ():
        if name == "google.rpc.retryinfo-bin":
            delay = RetryInfo.FromString(value).retry_delay
            return delay.seconds + delay.nanos / 1e9
    return None
