"""Which way an address leads, and what is said of one that leads nowhere."""

from __future__ import annotations

import sys
from contextlib import closing

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from klyra_audit.errors import Paused
from klyra_audit.forward.errors import MissingExtra as ForwardMissingExtra
from klyra_audit.receipt import ReceiptMismatch
from klyra_audit.transports.addresses import AddressUnusable, transport_to
from klyra_audit.transports.client_tls import ClientTls, TlsUnusable
from klyra_audit.transports.forward_emitter import ForwardTransport
from klyra_audit.transports.otlp_grpc import RETRY_INFO, STATUS_DETAILS, MissingExtra, OtlpGrpcTransport, retry_delay
from klyra_audit.transports.otlp_http import OtlpHttpTransport
from klyra_audit.transports.partial_success import warning_of
from klyra_audit.transports.refusal import RefusedWhole


def way(address: str, **options):
    """Return the transport of an address."""
    return transport_to(address, api_key="k", timeout=1, **options)


@pytest.mark.parametrize(
    ("address", "kind", "where"),
    [
        ("http://127.0.0.1:4318", OtlpHttpTransport, "http://127.0.0.1:4318"),
        ("https://collector.example/behind/", OtlpHttpTransport, "https://collector.example/behind/"),
        ("http+unix:///run/klyra/http", OtlpHttpTransport, "http://localhost"),
        ("grpc://collector.example", OtlpGrpcTransport, "collector.example:4317"),
        ("grpcs://[::1]:99/", OtlpGrpcTransport, "[::1]:99"),
        ("grpc+unix:///run/klyra/grpc", OtlpGrpcTransport, "unix:/run/klyra/grpc"),
        ("forward://collector.example", ForwardTransport, "collector.example:24224"),
        ("forwards://[::1]:99", ForwardTransport, "[::1]:99"),
        ("forward+unix:///run/klyra/forward", ForwardTransport, "unix:/run/klyra/forward"),
    ],
)
def test_an_address_names_the_way(address, kind, where) -> None:
    """With the protocol's own port where none is given."""
    with closing(way(address)) as transport:
        assert type(transport) is kind
        found = {
            OtlpHttpTransport: lambda: str(transport._client.base_url),
            OtlpGrpcTransport: lambda: transport._target,
            ForwardTransport: lambda: transport._client._address,
        }[kind]()
        assert found.rstrip("/") == where.rstrip("/")


def test_tls_goes_with_the_names_that_end_in_s() -> None:
    """And with no other."""
    for address in ("grpc://a", "grpcs://a"):
        with closing(way(address)) as transport:
            assert (transport._credentials is not None) == address.startswith("grpcs")
    for address in ("forward://a", "forwards://a"):
        with closing(way(address)) as transport:
            assert (transport._client._tls is not None) == address.startswith("forwards")


@pytest.mark.parametrize(
    ("address", "receipts_from"),
    [
        ("", ""),
        ("collector.example:4318", ""),
        ("ftp://collector.example", ""),
        ("https", ""),
        ("grpc://", ""),
        ("grpc://collector.example:port", ""),
        ("grpc://collector.example:70000", ""),
        ("grpc://collector.example/path", ""),
        ("grpc+tcp://collector.example", ""),
        ("grpcs+unix:///run/klyra", ""),
        ("grpc+unix://host/run/klyra", ""),
        ("forward://user@collector.example", ""),
        ("forward://collector.example?shared_key=x", ""),
        ("http://[::1", ""),
        ("http://collector.example", "http://collector.example"),
        ("forward://collector.example", "http://collector.example"),
        ("grpc://collector.example", "grpc://collector.example"),
        ("grpc://collector.example", "collector.example"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused(address, receipts_from) -> None:
    """At once, with the forms that there are."""
    with pytest.raises(AddressUnusable) as caught:
        way(address, receipts_from=receipts_from)
    assert (caught.value.code, bool(caught.value.remedy), isinstance(caught.value, Paused)) == (
        "bad_address",
        True,
        True,
    )


@pytest.mark.parametrize(
    ("missing", "package", "kind", "error"),
    [
        ("grpc", "grpcio", "grpc", MissingExtra),
        ("google.rpc.error_details_pb2", "googleapis-common-protos", "grpc", MissingExtra),
        ("msgpack", "msgpack", "forward", ForwardMissingExtra),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch, missing, package, kind, error) -> None:
    """At once; the base install stays small."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(error, match=package) as caught:
        way(f"{kind}://collector.example")
    assert (caught.value.code, f"klyra-audit[{kind}]" in caught.value.remedy) == ("missing_extra", True)


@pytest.mark.parametrize("address", ["https://a", "grpcs://a", "forwards://a"])
def test_a_certificate_file_that_cannot_be_used_is_said_at_once(tmp_path, address) -> None:
    """Not when the first event is sent."""
    with pytest.raises(TlsUnusable) as caught:
        way(address, tls=ClientTls(ca=tmp_path / "missing.pem"))
    assert (caught.value.code, bool(caught.value.remedy)) == ("tls_unusable", True)


class TestTrailers:
    """When a server asks to come again."""

    INFO = RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000))

    def status(self, *details) -> bytes:
        """Return a status with details."""
        status = Status(code=14)
        for detail in details:
            status.details.add().Pack(detail)
        return status.SerializeToString()

    def test_either_trailer_is_read(self) -> None:
        """Among other details, and beside what cannot be read."""
        info = self.INFO.SerializeToString()
        assert retry_delay([("other", "x"), (RETRY_INFO, info)]) == 2.5
        assert retry_delay([(STATUS_DETAILS, self.status(BadRequest(), self.INFO))]) == 2.5
        assert retry_delay([(STATUS_DETAILS, b"\xff"), (RETRY_INFO, info)]) == 2.5

    def test_none_is_none(self) -> None:
        """A delay is never made up."""
        assert retry_delay([]) is None
        assert retry_delay([(STATUS_DETAILS, self.status(BadRequest()))]) is None

    def test_a_delay_in_the_past_is_none_to_wait_for(self) -> None:
        """At once."""
        past = RetryInfo(retry_delay=Duration(seconds=-5))
        assert retry_delay([(RETRY_INFO, past.SerializeToString())]) == 0


class TestPartialSuccess:
    """What goes with an answer of success."""

    def answer(self, rejected: int, message: str) -> bytes:
        """Return an answer."""
        response = ExportLogsServiceResponse()
        response.partial_success.rejected_log_records = rejected
        response.partial_success.error_message = message
        return response.SerializeToString()

    def test_a_warning_is_one(self) -> None:
        """Everything was taken."""
        decode = ExportLogsServiceResponse.FromString
        assert (warning_of(decode, b""), warning_of(decode, self.answer(0, "careful"))) == ("", "careful")

    def test_what_was_rejected_is_not_acknowledged(self) -> None:
        """Whatever the status says."""
        with pytest.raises(RefusedWhole) as caught:
            warning_of(ExportLogsServiceResponse.FromString, self.answer(1, ""))
        assert (caught.value.code, bool(caught.value.remedy)) == ("refused_whole", True)

    def test_something_else_is_no_acknowledgement(self) -> None:
        """It is not OTLP."""
        with pytest.raises(ReceiptMismatch) as caught:
            warning_of(ExportLogsServiceResponse.FromString, b"<html>")
        assert (caught.value.code, bool(caught.value.remedy)) == ("receipt_mismatch", True)
