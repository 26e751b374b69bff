"""Our Forward client against servers that misbehave."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
import pytest

from klyra_audit.errors import Paused, RetryLater
from klyra_audit.forward.framing import Framer
from klyra_audit.forward.handshake import Helo, Ping, Pong
from klyra_audit.transports.forward import ForwardClient
from support.forward import NANOSECONDS, SHARED_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENTRIES = [(NANOSECONDS, {"a": 1})]


class Peer:
    """The other end of one connection, as a script speaks it."""

    def __init__(self, connected: socket.socket) -> None:
        self.connected = connected
        self._framer = Framer()

    def send(self, value) -> None:
        """Send a value."""
        self.connected.sendall(msgpack.packb(value))

    def receive(self):
        """Return the next message; `EOFError` once the client has closed."""
        while True:
            for raw in self._framer.messages():
                return raw
            received = self.connected.recv(65536)
            if not received:
                raise EOFError
            self._framer.feed(received)

    def acknowledge(self) -> None:
        """Take a message and acknowledge it."""
        self.send({"ack": msgpack.unpackb(self.receive())[2]["chunk"]})


@contextlib.contextmanager
def scripted(*scripts: Callable[[Peer], None]) -> Iterator[str]:
    """Serve one connection after the other by scripts; give the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for script in scripts:
                connected, _ = listening.accept()
                with connected, contextlib.suppress(EOFError, OSError):
                    script(Peer(connected))

        thread = threading.Thread(target=serve)
        thread.start()
        host, port = listening.getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            thread.join(20)
            assert not thread.is_alive()


def close(peer: Peer) -> None:
    """Take a message and close without an acknowledgement."""
    peer.receive()


def acknowledge_another(peer: Peer) -> None:
    """Acknowledge a chunk that nobody sent."""
    peer.receive()
    peer.send({"ack": "another"})
    peer.receive()


def talk_nonsense(peer: Peer) -> None:
    """Answer with no acknowledgement."""
    peer.receive()
    peer.connected.sendall(b"\xc1")
    peer.receive()


def send_too_much(peer: Peer) -> None:
    """Announce an answer of a megabyte."""
    peer.receive()
    peer.connected.sendall(b"\xc6\x00\x10\x00\x00")
    peer.receive()


def wait(peer: Peer) -> None:
    """Take a message and say nothing until the client is gone."""
    peer.receive()
    peer.receive()


@pytest.mark.parametrize("script", [close, acknowledge_another, talk_nonsense, send_too_much, wait])
def test_without_an_acknowledgement_the_same_may_be_sent_again(script) -> None:
    """Whatever the server does instead, `send` says so, and the next `send` begins anew."""
    with scripted(script, Peer.acknowledge) as address, ForwardClient(address, timeout=1) as client:
        with pytest.raises(RetryLater) as caught:
            client.send("t", ENTRIES)
        assert (caught.value.code, bool(caught.value.remedy)) == ("no_answer", True)
        assert address in str(caught.value)
        client.send("t", ENTRIES)


def test_nobody_there_is_worth_another_try() -> None:
    """A refused connection is `RetryLater`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with ForwardClient(f"127.0.0.1:{port}", timeout=1) as client, pytest.raises(RetryLater):
        client.send("t", ENTRIES)


def test_a_connection_that_was_closed_meanwhile_is_opened_again() -> None:
    """A server that ended an idle connection costs the next `send` nothing."""
    closed = threading.Event()

    def acknowledge_then_close(peer: Peer) -> None:
        peer.acknowledge()
        peer.connected.close()
        closed.set()

    with scripted(acknowledge_then_close, Peer.acknowledge) as address, ForwardClient(address) as client:
        client.send("t", ENTRIES)
        assert closed.wait(10)
        client.send("t", ENTRIES)


def test_one_connection_serves_many_chunks() -> None:
    """Each chunk has the name that its caller chose, or one made of its content."""
    names: list[str] = []

    def acknowledge_three(peer: Peer) -> None:
        for _ in range(3):
            message = msgpack.unpackb(peer.receive())
            names.append(message[2]["chunk"])
            assert message[2]["size"] == 1
            peer.send({"ack": names[-1]})

    with scripted(acknowledge_three) as address, ForwardClient(address) as client:
        client.send("t", ENTRIES, chunk="mine")
        client.send("t", ENTRIES)
        client.send("t", ENTRIES)
    assert names[0] == "mine"
    assert names[1] == names[2] != "mine"


def test_an_application_with_many_open_files() -> None:
    """A descriptor beyond 1023, which select(2) cannot look at, is one like any other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1500
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))

    def acknowledge_twice(peer: Peer) -> None:
        peer.acknowledge()
        peer.acknowledge()

    with contextlib.ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        nothing = opened.enter_context(Path("/dev/null").open("rb"))
        for _ in range(1100):
            opened.callback(os.close, os.dup(nothing.fileno()))
        address = opened.enter_context(scripted(acknowledge_twice))
        client = opened.enter_context(ForwardClient(address))
        client.send("t", ENTRIES)
        client.send("t", ENTRIES)


def refuse(peer: Peer) -> None:
    """Refuse whatever the client proves."""
    peer.send(["HELO", {"nonce": b"n", "auth": b"", "keepalive": True}])
    peer.receive()
    peer.send(["PONG", False, "no", "", ""])


def know_no_key(peer: Peer) -> None:
    """Accept a client without knowing the shared key."""
    helo = Helo.draw(with_users=False)
    peer.connected.sendall(helo.encode())
    ping = Ping.decode(peer.receive())
    peer.connected.sendall(Pong.accepting(ping, helo, hostname="server", shared_key="guess").encode())
    peer.receive()


def greet_otherwise(peer: Peer) -> None:
    """Speak another protocol."""
    peer.send("220 mail")
    peer.receive()


@pytest.mark.parametrize("script", [refuse, know_no_key, greet_otherwise])
def test_a_failed_handshake_needs_an_operator(script) -> None:
    """Nothing is sent to a server that refuses, or that proves nothing itself."""
    with scripted(script) as address, ForwardClient(address, shared_key=SHARED_KEY) as client:
        with pytest.raises(Paused) as caught:
            client.send("t", ENTRIES)
        assert caught.value.code == "handshake_failed"


def test_a_server_that_asks_for_a_handshake_is_not_taken_for_one_that_answers() -> None:
    """Without a shared key the client says what is missing."""

    def ask(peer: Peer) -> None:
        peer.connected.sendall(Helo.draw(with_users=True).encode())
        peer.receive()
        peer.receive()

    with scripted(ask) as address, ForwardClient(address, timeout=5) as client:
        with pytest.raises((Paused, RetryLater)) as caught:
            client.send("t", ENTRIES)
        assert isinstance(caught.value, Paused)
        assert "shared key" in str(caught.value)
