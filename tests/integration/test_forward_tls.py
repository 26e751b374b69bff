"""Forward over TLS: with and without client certificates, and with a certificate that is replaced."""

from __future__ import annotations

import ssl
import time
from uuid import uuid4

import pytest

from klyra_audit.errors import KlyraError, Paused
from klyra_audit.transports.forward import ForwardClient
from support import collector, fluent_js, forward
from support.certificates import Authority
from support.forward import NANOSECONDS, PASSWORD, SHARED_KEY, USER, Wire, entry
from support.ports import free_ports


@pytest.fixture
def authority(tmp_path) -> Authority:
    """Who signs."""
    return Authority(tmp_path)


@pytest.fixture
def secured(tmp_path, authority):
    """Start collectors on TLS; settings of `forward.tls` are arguments."""
    started = []
    root = tmp_path / "data"

    def start(**settings: str):
        files = authority.issue("server")
        tls = {"certificate": str(files.certificate), "key": str(files.key)} | settings
        started.append(forward.start(root, collector.make_keys(root), TLS=tls))
        return started[-1]

    yield start
    for running in started:
        assert running.terminate() == 0


def trusting(authority: Authority, client: object = None) -> ssl.SSLContext:
    """Return a client's side that trusts the authority, with a certificate of its own if one is given."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    return context


def entries(count: int = 2) -> list:
    """Return entries that no other test sends."""
    return [(NANOSECONDS, entry(number, run=uuid4().hex)[1]) for number in range(count)]


def test_our_client_sends_over_tls(secured, authority) -> None:
    """A certificate that is trusted is enough; one that is not needs an operator; plain TCP gets nothing."""
    running = secured()
    address = forward.address(running)
    with ForwardClient(address, tls=trusting(authority)) as client:
        client.send("app.audit", entries())
    assert len(forward.events(running)) == 2
    with ForwardClient(address, tls=ssl.create_default_context()) as client:
        with pytest.raises(Paused) as caught:
            client.send("app.audit", entries())
        assert caught.value.code == "certificate_refused"
    with Wire(address) as wire:
        wire.send(forward.forward([entry()], chunk="c"))
        assert b"chunk" not in wire.rest()
    assert len(forward.events(running)) == 2


def test_with_an_authority_clients_need_a_certificate(secured, authority, tmp_path) -> None:
    """A client without one, or with one of another authority, cannot send."""
    running = secured(client_ca=str(authority.certificate))
    address = forward.address(running)
    other = Authority(tmp_path, "other")
    for context in (trusting(authority), trusting(authority, other.issue("stranger"))):
        with ForwardClient(address, tls=context) as client, pytest.raises(KlyraError):
            client.send("app.audit", entries())
    with ForwardClient(address, tls=trusting(authority, authority.issue("client"))) as client:
        client.send("app.audit", entries())
    assert len(forward.events(running)) == 2


def test_a_certificate_is_replaced_without_a_restart(secured, authority) -> None:
    """New connections are greeted with the new one; half of a new one changes nothing."""
    running = secured()
    address = forward.address(running)
    first = seen(address)
    authority.issue("unrelated", file="half").key.replace(authority.issue("server").key)
    time.sleep(2.5)
    authority.issue("server")
    deadline = time.monotonic() + 20
    while (now := seen(address)) == first and time.monotonic() < deadline:
        time.sleep(0.1)
    assert now != first
    assert "certificate_reloaded" in forward.log(running)


def seen(address: str) -> str:
    """Return the certificate that a server shows."""
    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)))


@pytest.mark.parametrize("missing", ["certificate", "key", "client_ca"])
def test_a_file_that_is_not_there_stops_the_start(secured, tmp_path, missing) -> None:
    """The message names the section."""
    with pytest.raises(AssertionError, match=r"certificates of forward\.tls cannot be used"):
        secured(**{missing: str(tmp_path / "nothing.pem")})


class TestJavascript:
    """@fluent-org/logger over TLS, both ways."""

    @pytest.fixture(autouse=True)
    def javascript(self, require_peer) -> None:
        """Need it."""
        require_peer(fluent_js.NAME, fluent_js.modules())

    @pytest.mark.parametrize("mode", ["Message", "CompressedPackedForward"])
    def test_its_client_is_acknowledged(self, secured, authority, mode) -> None:
        """It trusts the authority, and its chunks are acknowledged."""
        running = secured()
        records = [record for _, record in entries()]
        said = fluent_js.emit(forward.address(running), mode, records, ca=str(authority.certificate))
        assert said == [{"acknowledged": True}] * 2
        assert len(forward.events(running)) == 2

    def test_its_server_acknowledges_our_client(self, authority) -> None:
        """Over TLS with shared key and user."""
        files = authority.issue("server")
        [port] = free_ports(1)
        options = {"key": str(files.key), "certificate": str(files.certificate), "sharedKey": SHARED_KEY}
        proofs = {"shared_key": SHARED_KEY, "username": USER, "password": PASSWORD}
        sent = entries()
        with (
            fluent_js.serving(port, users={USER: PASSWORD}, **options) as server,
            ForwardClient(server.address, tls=trusting(authority), **proofs) as client,
        ):
            client.send("app.audit", sent, compressed="gzip")
            assert [item["record"] for item in server.entries(2)] == [record for _, record in sent]
