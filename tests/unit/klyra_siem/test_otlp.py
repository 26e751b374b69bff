"""The OTLP destination against real HTTP and gRPC servers."""

from __future__ import annotations

import contextlib
import gzip
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from klyra_audit.format import canonical, sections
from klyra_audit.format.frame import BodyFrame
from klyra_siem import otlp_records
from klyra_siem.destination import SealedEntry, TlsOptions
from klyra_siem.errors import BadDestination
from klyra_siem.otlp import LIMITS, create
from klyra_siem.outcome import Action
from support import sink as sinks
from support.certificates import Authority
from support.delivering import options
from support.ports import free_ports
from support.records import BUSINESS, STARTUP, record
from support.sink import PROTOBUF, Answer, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klyra_siem.destination import Destination

JSON = "application/json"


def entry(number: int = 0, organization_id: str = "org_startup", redacted: tuple[str, ...] = ()) -> SealedEntry:
    """Return a sealed entry, without some of its sections."""
    item = record(BUSINESS if organization_id == BUSINESS.organization_id else STARTUP)
    parts = item.sections
    if "actor" in redacted:
        parts = sections.Sections(parts.core, None, parts.target)
    document = sections.join(parts)
    return SealedEntry(
        origin="klyra-audit.test/c1/2026",
        index=number,
        leaf=bytes(112),
        ingest_us=1_782_000_000_000_000,
        filed_ns=1_782_000_000_000_000_000,
        document=document,
        encoded=canonical.encode(document),
        body=BodyFrame(number, parts, item.salts, item.commitments),
        redacted=redacted,
    )


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A receiver over HTTP."""
    with sinks.listening() as made:
        yield made


@contextlib.contextmanager
def destination(endpoint: str, **members: object) -> Iterator[Destination]:
    """Give an OTLP destination."""
    with contextlib.closing(create(options(endpoint, **members))) as made:
        yield made


def send(endpoint: str, *entries: SealedEntry, **members: object):
    """Send entries; return the outcome."""
    with destination(endpoint, **members) as made:
        return made.send(made.encode(entries or (entry(),)))


class GrpcSink:
    """A receiver over gRPC that answers as it is told."""

    def __init__(self) -> None:
        self.requests: list[ExportLogsServiceRequest] = []
        self.metadata: dict[str, Any] = {}
        self.answer: Callable[[grpc.ServicerContext], ExportLogsServiceResponse] = lambda _: ExportLogsServiceResponse()

    def export(self, request: ExportLogsServiceRequest, context: grpc.ServicerContext) -> ExportLogsServiceResponse:
        """Take a request."""
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        return self.answer(context)


@pytest.fixture
def grpc_sink() -> Iterator[tuple[str, GrpcSink]]:
    """A receiver over gRPC, with its endpoint."""
    made = GrpcSink()
    with grpc_server(made) as endpoint:
        yield endpoint, made


@contextlib.contextmanager
def grpc_server(made: GrpcSink, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """Serve a receiver over gRPC; give its endpoint."""
    handler = grpc.unary_unary_rpc_method_handler(
        made.export,
        request_deserializer=ExportLogsServiceRequest.FromString,
        response_serializer=ExportLogsServiceResponse.SerializeToString,
    )
    service = "opentelemetry.proto.collector.logs.v1.LogsService"
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": handler})])
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"grpc{'s' if credentials else ''}://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


class TestRecords:
    """What a record says."""

    def test_one_resource_an_organization(self) -> None:
        """Tenants are apart; each one's entries keep their order."""
        listed = [entry(0), entry(1, "org_business"), entry(2)]
        request = ExportLogsServiceRequest.FromString(otlp_records.encode(listed, None))
        found = [sinks.attributes_of(item.resource.attributes) for item in request.resource_logs]
        assert found == [
            {"service.name": "klyra-audit", "klyra.organization.id": name} for name in ("org_startup", "org_business")
        ]
        assert [item["klyra.index"] for item in sinks.records_of(request)] == [0, 2, 1]

    def test_a_record_is_never_longer_than_measured(self) -> None:
        """Batches are cut by a bound, so that no request is too large."""
        for item in (entry(), entry(redacted=("actor",))):
            assert len(otlp_records.encode([item], None)) <= otlp_records.measure(item)

    def test_what_was_erased_is_nowhere(self) -> None:
        """A redacted entry carries no name, address or id of the person, and says what is missing."""
        encoded = otlp_records.encode([entry(redacted=("actor",))], None)
        [item] = sinks.records_of(ExportLogsServiceRequest.FromString(encoded))
        assert (item["klyra.redacted"], len(item["klyra.commitments"])) == ("actor", 96)
        assert "audit.actor.id" not in item
        assert "audit.source.id" not in item
        assert item["audit.actor.type"] == "service"
        for personal in (b"key_1", b"198.51.100.7", b"Production", b"tests/1"):
            assert personal not in encoded


class TestHttp:
    """OTLP over HTTP."""

    def test_taken(self, sink) -> None:
        """An empty answer of an OTLP receiver is a confirmation."""
        outcome = send(sink.url, headers={"Authorization": "Bearer x"})
        assert (outcome.action, outcome.status) == (Action.DELIVERED, "200")
        sent = sink.headers[0]
        assert (sent["authorization"], sent["content-type"], sent["content-encoding"]) == ("Bearer x", PROTOBUF, "gzip")
        assert sent["user-agent"] == "klyra-audit/test"
        gzip.decompress(sink.requests[0])

    def test_the_same_entries_are_the_same_bytes(self) -> None:
        """A batch that goes again is recognised by whoever compares bytes."""
        listed = [entry()]
        with destination("http://127.0.0.1:1/") as made:
            assert made.encode(listed) == made.encode(listed)

    def test_a_probe_delivers_nothing(self, sink) -> None:
        """An empty request says whether we are let in."""
        with destination(sink.url) as made:
            assert made.probe().action is Action.DELIVERED
        assert sink.records() == []

    @pytest.mark.parametrize(
        ("headers", "body", "action"),
        [
            ({"Content-Type": JSON}, b"{}", Action.DELIVERED),
            ({"Content-Type": JSON}, b'{"partialSuccess":{"rejectedLogRecords":"2"}}', Action.BISECT),
            ({"Content-Type": JSON}, b"nonsense", Action.PAUSE),
            ({"Content-Type": JSON}, b"[]", Action.PAUSE),
            ({"Content-Type": "text/html"}, b"<h1>Sign in</h1>", Action.PAUSE),
            ({}, b"\xff\xff", Action.PAUSE),
        ],
    )
    def test_what_a_success_says(self, sink, headers, body, action) -> None:
        """Only an OTLP receiver's answer confirms: a proxy's page with status 200 does not."""
        sink.planned.append(Answer(200, headers, body))
        assert send(sink.url).action is action

    @pytest.mark.parametrize(
        ("headers", "body", "reason"),
        [
            ({"Content-Type": JSON}, b'{"code":3,"message":"bad name"}', "bad name"),
            ({"Content-Type": JSON}, b"nonsense", "nonsense"),
            ({"Content-Type": "text/plain"}, b"no\nway", "no way"),
            ({}, b"\x08\x03", "Bad Request"),
        ],
    )
    def test_what_a_refusal_says(self, sink, headers, body, reason) -> None:
        """The destination's own words are passed on."""
        sink.planned.append(Answer(400, headers, body))
        outcome = send(sink.url)
        assert (outcome.action, outcome.reason) == (Action.BISECT, reason)

    def test_nobody_there(self) -> None:
        """A refused connection is tried again."""
        [port] = free_ports(1)
        assert send(f"http://127.0.0.1:{port}/v1/logs").status == "no_answer"

    def test_limits_fit_a_collector(self) -> None:
        """What a Collector takes by default over gRPC is 4 MiB."""
        assert LIMITS.encoded_bytes < 4 * 1024 * 1024

    def test_a_url_of_another_kind(self) -> None:
        """A wrong scheme is an operator's matter."""
        with pytest.raises(BadDestination) as caught:
            create(options("ftp://127.0.0.1"))
        assert (caught.value.code, "grpc://HOST:4317" in caught.value.remedy) == ("bad_destination", True)

    @pytest.mark.parametrize("scheme", ["https", "grpcs"])
    def test_absent_certificate_files(self, tmp_path, scheme) -> None:
        """A file that is not there stops the start."""
        with pytest.raises(BadDestination) as caught:
            create(options(f"{scheme}://127.0.0.1:1", tls=TlsOptions(ca_file=tmp_path / "absent")))
        assert caught.value.remedy == "Check ca_file, certificate_file and key_file."


class TestGrpc:
    """OTLP over gRPC."""

    @pytest.mark.parametrize("compression", ["gzip", "none"])
    def test_taken(self, grpc_sink, compression) -> None:
        """An empty response is a confirmation; headers travel as metadata."""
        endpoint, far = grpc_sink
        outcome = send(endpoint, compression=compression, headers={"Authorization": "Bearer x"})
        assert (outcome.action, outcome.status) == (Action.DELIVERED, "OK")
        assert far.metadata["authorization"] == "Bearer x"
        assert far.metadata["user-agent"].startswith("klyra-audit/test")
        assert len(sinks.records_of(far.requests[0])) == 1

    def test_a_probe_delivers_nothing(self, grpc_sink) -> None:
        """An empty request says whether we are let in."""
        endpoint, far = grpc_sink
        with destination(endpoint) as made:
            assert made.probe().action is Action.DELIVERED
        assert sinks.records_of(far.requests[0]) == []

    def test_partial_success(self, grpc_sink) -> None:
        """Refused records are looked for."""
        endpoint, far = grpc_sink
        response = ExportLogsServiceResponse()
        response.partial_success.rejected_log_records = 1
        far.answer = lambda _: response
        assert send(endpoint).action is Action.BISECT

    @pytest.mark.parametrize(
        ("code", "action"),
        [
            (grpc.StatusCode.UNAVAILABLE, Action.RETRY),
            (grpc.StatusCode.UNAUTHENTICATED, Action.PAUSE),
            (grpc.StatusCode.INVALID_ARGUMENT, Action.BISECT),
        ],
    )
    def test_a_refusal(self, grpc_sink, code, action) -> None:
        """The code decides; the details are passed on."""
        endpoint, far = grpc_sink
        far.answer = lambda context: context.abort(code, "said so")
        outcome = send(endpoint)
        assert (outcome.action, outcome.status, outcome.reason) == (action, code.name, "said so")

    def test_what_is_repeated_is_hidden(self, grpc_sink) -> None:
        """A receiver that quotes the token it was sent is quoted without it."""
        endpoint, far = grpc_sink
        secret = "Bearer a-token-that-nobody-may-see"
        far.answer = lambda context: context.abort(grpc.StatusCode.UNAUTHENTICATED, f"no {secret[7:]}")
        outcome = send(endpoint, headers={"Authorization": secret})
        assert (outcome.action, outcome.reason) == (Action.PAUSE, "no [hidden]")

    @pytest.mark.parametrize("value", ["a-secret\nX: 1", "a-secret\u2028"])
    def test_metadata_that_cannot_be_sent(self, grpc_sink, value) -> None:
        """It is an operator's matter, and not quoted."""
        endpoint, far = grpc_sink
        outcome = send(endpoint, headers={"Authorization": value})
        assert (outcome.action, outcome.status) == (Action.PAUSE, "bad_header")
        assert "a-secret" not in repr(outcome)
        assert far.requests == []

    def test_retry_info(self, grpc_sink) -> None:
        """A delay in the status's details is what we wait."""
        endpoint, far = grpc_sink
        detail = Packed()
        detail.Pack(RetryInfo(retry_delay=Duration(seconds=7, nanos=500_000_000)))
        status = Status(code=8, message="quota", details=[detail])

        def refuse(context: grpc.ServicerContext) -> ExportLogsServiceResponse:
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota")

        far.answer = refuse
        outcome = send(endpoint)
        assert (outcome.action, outcome.retry_after) == (Action.RETRY, 7.5)

    def test_nobody_there(self) -> None:
        """A refused connection is tried again."""
        [port] = free_ports(1)
        outcome = send(f"grpc://127.0.0.1:{port}")
        assert (outcome.action, outcome.status) == (Action.RETRY, "UNAVAILABLE")


class TestTls:
    """Certificates on both sides."""

    @pytest.fixture
    def authority(self, tmp_path) -> Authority:
        """Who signs both sides' certificates."""
        return Authority(tmp_path)

    @pytest.fixture(params=["https", "grpcs"])
    def endpoint(self, request, authority) -> Iterator[str]:
        """A receiver that wants a certificate of the authority from us."""
        files = authority.issue("receiver")
        if request.param == "grpcs":
            pair = (files.key.read_bytes(), files.certificate.read_bytes())
            ca = authority.certificate.read_bytes()
            credentials = grpc.ssl_server_credentials([pair], ca, require_client_auth=True)
            with grpc_server(GrpcSink(), credentials) as endpoint:
                yield endpoint
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        context.load_verify_locations(authority.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        with sinks.listening(tls=context) as sink:
            yield sink.url

    def test_both_prove_who_they_are(self, authority, endpoint) -> None:
        """With the authority's certificate on our side the entries are taken."""
        ours = authority.issue("collector")
        tls = TlsOptions(ca_file=authority.certificate, certificate_file=ours.certificate, key_file=ours.key)
        assert send(endpoint, tls=tls).action is Action.DELIVERED

    def test_without_a_certificate_nothing_is_sent(self, authority, endpoint) -> None:
        """A receiver that does not let us in is tried again: certificates are renewed."""
        assert send(endpoint, tls=TlsOptions(ca_file=authority.certificate)).action is Action.RETRY

    def test_an_unknown_authority_gets_nothing(self, tmp_path, authority, endpoint) -> None:
        """Entries go to nobody who cannot prove its name."""
        other = Authority(tmp_path, "other")
        ours = authority.issue("collector")
        tls = TlsOptions(ca_file=other.certificate, certificate_file=ours.certificate, key_file=ours.key)
        assert send(endpoint, tls=tls).action is Action.RETRY
