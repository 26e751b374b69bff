"""TLS and mutual TLS on both OTLP servers, and certificates that change while they run."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509

from klyra_audit import ids
from support import collector, otlp
from support.certificates import Authority, Files
from support.collector import ACME, Running

EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"


@dataclass
class Secured:
    """A collector with certificates that a test can change.

    Attributes:
        ours, others: authorities; the collector's certificate and its clients' are of `ours`.
        clients: file with the authorities whose clients may connect.
    """

    running: Running
    ours: Authority
    others: Authority
    clients: Path

    @property
    def port(self) -> int:
        """Return where OTLP/HTTP listens."""
        return int(self.running.url.rpartition(":")[2])

    def context(self, client: Files | None, authority: Authority | None = None) -> ssl.SSLContext:
        """Return what a client connects with."""
        context = ssl.create_default_context(cafile=str((authority or self.ours).certificate))
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        return context

    def post(self, client: Files | None, authority: Authority | None = None) -> int:
        """Post an event over HTTP; return the status."""
        headers = {"Authorization": f"Bearer {self.running.keys[ACME]}", "Content-Type": "application/x-protobuf"}
        with httpx.Client(verify=self.context(client, authority)) as session:
            return session.post(f"{self.running.url}/v1/logs", content=event(), headers=headers).status_code

    def call(self, client: Files | None, authority: Authority | None = None) -> None:
        """Send an event over gRPC; raise what a client sees."""
        pair = (None, None) if client is None else (client.key.read_bytes(), client.certificate.read_bytes())
        credentials = grpc.ssl_channel_credentials((authority or self.ours).certificate.read_bytes(), *pair)
        metadata = [("authorization", f"Bearer {self.running.keys[ACME]}")]
        with grpc.secure_channel(self.running.addresses["otlp_grpc"], credentials) as channel:
            channel.unary_unary(EXPORT)(event(), metadata=metadata, timeout=10)

    def served(self, client: Files) -> str:
        """Return the name in the certificate that a new connection gets."""
        with (
            socket.create_connection(("127.0.0.1", self.port)) as plain,
            self.context(client).wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            certificate = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
        return certificate.subject.rfc4514_string()

    def metric(self, name: str, client: Files) -> dict[str, float]:
        """Return a metric's values by listener."""
        with httpx.Client(verify=self.context(client)) as session:
            lines = session.get(f"{self.running.url}/metrics").text.splitlines()
        found = [line.removeprefix(name + '{listener="').split('"} ') for line in lines if line.startswith(name + "{")]
        return {listener: float(value) for listener, value in found}


def event() -> bytes:
    """Return a request of one event from a boot of its own."""
    return otlp.own_form(otlp.prepared(), boot=str(ids.new_uuid7()))


def wait_for(condition) -> None:
    """Wait until it holds; the files are looked at every few seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def secured(tmp_path):
    """A collector that wants client certificates on both protocols."""
    folder = tmp_path / "tls"
    folder.mkdir()
    ours, others = Authority(folder, "ours"), Authority(folder, "others")
    server, clients = ours.issue("first", "server"), folder / "clients.pem"
    clients.write_bytes(ours.certificate.read_bytes())
    settings = {
        f"OTLP__{protocol}__TLS__{name}": str(path)
        for protocol in ("HTTP", "GRPC")
        for name, path in (("CERTIFICATE", server.certificate), ("KEY", server.key), ("CLIENT_CA", clients))
    }
    root = tmp_path / "data"
    running = collector.start(root, collector.make_keys(root), **settings)
    yield Secured(running, ours, others, clients)
    assert running.terminate() == 0


def test_only_clients_of_the_authority_get_in(secured) -> None:
    """With its certificate and a key events are taken; without one, or with another's, there is no connection."""
    client, stranger = secured.ours.issue("client"), secured.others.issue("stranger")
    assert secured.running.url.startswith("https://")
    assert secured.post(client) == 200
    secured.call(client)
    for refused in (None, stranger):
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            secured.post(refused)
        with pytest.raises(grpc.RpcError) as caught:
            secured.call(refused)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_client_certificate_stands_for_no_key(secured) -> None:
    """Both are needed."""
    client = secured.ours.issue("client")
    secured.running.keys[ACME] = "wrong"
    assert secured.post(client) == 401
    with pytest.raises(grpc.RpcError) as caught:
        secured.call(client)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_old_versions_of_tls_are_refused(secured) -> None:
    """Nothing older than 1.2 is spoken."""
    context = secured.context(secured.ours.issue("client"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that they are old is the point
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", secured.port)) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")


def test_a_new_certificate_is_served_without_dropping_a_connection(secured) -> None:
    """New handshakes get it within seconds; a connection that stands goes on."""
    client = secured.ours.issue("client")
    headers = {"Authorization": f"Bearer {secured.running.keys[ACME]}", "Content-Type": "application/x-protobuf"}
    before = secured.metric("klyra_tls_certificate_expires_seconds", client)
    assert set(before) == {"otlp.http.tls", "otlp.grpc.tls"}
    with socket.create_connection(("127.0.0.1", secured.port)) as plain:
        standing = secured.context(client).wrap_socket(plain, server_hostname="localhost")
        assert secured.served(client) == "CN=first"
        secured.ours.issue("second", "server")
        wait_for(lambda: secured.served(client) == "CN=second")
        body = event()
        lines = [f"{name}: {value}" for name, value in (headers | {"Content-Length": len(body)}).items()]
        standing.sendall("\r\n".join(["POST /v1/logs HTTP/1.1", "Host: x", *lines, "", ""]).encode() + body)
        assert standing.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert secured.post(client) == 200
    secured.call(client)


def test_an_authority_that_is_taken_out_lets_nobody_in_any_more(secured) -> None:
    """Its clients get no new connection; those of the one that took its place do."""
    client, other = secured.ours.issue("client"), secured.others.issue("other")
    secured.clients.write_bytes(secured.others.certificate.read_bytes())

    def gets_in() -> bool:
        with contextlib.suppress(httpx.TransportError, ssl.SSLError):
            return secured.post(other) == 200
        return False

    wait_for(gets_in)
    with pytest.raises((httpx.TransportError, ssl.SSLError)):
        secured.post(client)

    def is_called() -> bool:
        with contextlib.suppress(grpc.RpcError):
            secured.call(other)
            return True
        return False

    wait_for(is_called)
    with pytest.raises(grpc.RpcError):
        secured.call(client)


@pytest.mark.parametrize("change", ["garbage", "another key", "missing"])
def test_a_certificate_that_cannot_be_used_changes_nothing_and_alarms(secured, change) -> None:
    """The old one is served, a metric says so, and the next good one ends the alarm."""
    client = secured.ours.issue("client")
    key = secured.ours.certificate.parent / "server.key"
    if change == "garbage":
        key.write_text("no key")
    elif change == "another key":
        key.write_bytes(client.key.read_bytes())
    else:
        key.unlink()
    failed = dict.fromkeys(("otlp.http.tls", "otlp.grpc.tls"), 1.0)
    wait_for(lambda: secured.metric("klyra_tls_reload_failed", client) == failed)
    assert (secured.served(client), secured.post(client)) == ("CN=first", 200)
    secured.call(client)
    secured.ours.issue("second", "server")
    wait_for(lambda: secured.metric("klyra_tls_reload_failed", client) == dict.fromkeys(failed, 0.0))
    assert secured.served(client) == "CN=second"


@pytest.mark.parametrize("protocol", ["HTTP", "GRPC"])
def test_a_start_with_certificates_that_cannot_be_used_is_refused(tmp_path, protocol) -> None:
    """The message names the section and what to give."""
    files = Authority(tmp_path).issue("server")
    files.key.write_text("no key")
    root = tmp_path / "data"
    settings = {
        f"OTLP__{protocol}__TLS__CERTIFICATE": str(files.certificate),
        f"OTLP__{protocol}__TLS__KEY": str(files.key),
    }
    with pytest.raises(AssertionError, match=rf"otlp\.{protocol.lower()}\.tls cannot be used"):
        collector.start(root, collector.make_keys(root), **settings)
