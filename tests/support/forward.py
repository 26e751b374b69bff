"""Forward messages as senders of every kind write them, and a peer that speaks them over a socket."""

from __future__ import annotations

import gzip
import json
import socket
from typing import TYPE_CHECKING, Any, Self

import msgpack
import zstandard

from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from klyra_audit.forward.encoding import event_time
from klyra_audit.forward.handshake import Helo, Ping, Pong
from support import collector

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from support.collector import Running

SHARED_KEY, USER, PASSWORD = "the shared key", "billing", "a password"
TAG = "app.audit"
NANOSECONDS = 1_781_000_000_123_456_789
TIME = event_time(NANOSECONDS)


def entry(number: int = 0, **members: Any) -> list[Any]:
    """Return an entry that maps to a valid event; `members` replace its own."""
    record = {
        "event_name": "user.removed",
        "klyra.actor.id": "usr_1",
        "klyra.resource.id": f"usr_{number}",
        "message": f"number {number}",
    }
    return [TIME, record | members]


def packed(entries: Sequence[Any]) -> bytes:
    """Return entries one behind the other."""
    return b"".join(map(msgpack.packb, entries))


def message(entries: Sequence[Any], tag: Any = TAG, **options: Any) -> bytes:
    """Return one message of mode Message for each entry, one behind the other."""
    return b"".join(msgpack.packb([tag, *item, *([options] if options else [])]) for item in entries)


def forward(entries: Sequence[Any], tag: Any = TAG, **options: Any) -> bytes:
    """Return a message of mode Forward."""
    return msgpack.packb([tag, list(entries), *([options] if options else [])])


def packed_forward(entries: Sequence[Any], tag: Any = TAG, **options: Any) -> bytes:
    """Return a message of mode PackedForward."""
    return msgpack.packb([tag, packed(entries), *([options] if options else [])])


def packed_text(entries: Sequence[Any], tag: str = TAG, **options: Any) -> bytes:
    """Return a message of mode PackedForward as old senders wrote it: the bytes as a str."""
    head = b"\x93" if options else b"\x92"
    content = packed(entries)
    text = b"\xdb" + len(content).to_bytes(4, "big") + content
    return head + msgpack.packb(tag) + text + (msgpack.packb(options) if options else b"")


def gzipped(entries: Sequence[Any], tag: Any = TAG, **options: Any) -> bytes:
    """Return a message of mode CompressedPackedForward, each entry a gzip member of its own."""
    content = b"".join(gzip.compress(msgpack.packb(item), mtime=0) for item in entries)
    return msgpack.packb([tag, content, {"compressed": "gzip"} | options])


def zstandard_compressed(entries: Sequence[Any], tag: Any = TAG, **options: Any) -> bytes:
    """Return a message of mode CompressedPackedForward, each entry a zstd frame of its own."""
    content = b"".join(zstandard.compress(msgpack.packb(item)) for item in entries)
    return msgpack.packb([tag, content, {"compressed": "zstd"} | options])


MODES = (message, forward, packed_forward, packed_text, gzipped, zstandard_compressed)


def start(root: Path, keys: dict[str, str], **settings: Any) -> Running:
    """Start a collector that receives Forward with ACME's key; settings of the section without `FORWARD__`.

    What is neither text nor number is written as JSON. `KEY=""` leaves the default key out.
    """
    chosen = {"LISTEN": "127.0.0.1:0", "KEY": secret(root, "key", keys[collector.ACME])} | settings
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in chosen.items()}
    return collector.start(root, keys, **{f"FORWARD__{name}": text for name, text in texts.items() if text})


def secret(root: Path, name: str, text: str) -> str:
    """Return a reference to a file that holds a secret."""
    path = root / f"secret-{name}"
    path.write_text(text + "\n")
    return f"file:{path}"


def address(running: Running) -> str:
    """Return where a collector receives Forward: its newest start message says so."""
    ready = [line for line in log(running).splitlines() if line.startswith("collector is ready ")][-1]
    return json.loads(ready.removeprefix("collector is ready ").replace("'", '"'))["forward"]


def log(running: Running) -> str:
    """Return what a collector has logged so far."""
    return (running.root / "collector.log").read_text()


def events(running: Running, start: int = 0) -> list[dict[str, Any]]:
    """Return the documents of the events sealed from index `start` on, but for the product's own."""
    sealed = [sections.join(item.body.sections) for item in running.sealed(start) if item.leaf.kind == Kind.EVENT]
    own = {"access.denied", "organization.created", "api_key.created", "api_key.revoked"}
    return [item for item in sealed if item["event_type"] not in own and item["actor"]["id"] != "tests"]


def quarantined(running: Running, start: int = 0) -> list[dict[str, Any]]:
    """Return what is said of the inputs quarantined from index `start` on."""
    return [json.loads(item.body.sections.core) for item in running.sealed(start) if item.leaf.kind == Kind.QUARANTINE]


class Wire:
    """A peer that sends any bytes and shows what comes back."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, content: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(content)

    def receive(self) -> bytes:
        """Return what came, b"" once the other side has closed."""
        try:
            return self.socket.recv(65536)
        except ConnectionResetError:
            return b""

    def answer(self) -> Any:
        """Return the next value the other side sent; `EOFError` once it has closed."""
        while True:
            try:
                return self.unpacker.unpack()
            except msgpack.OutOfData:
                received = self.receive()
                if not received:
                    raise EOFError from None
                self.unpacker.feed(received)

    def rest(self) -> bytes:
        """Return everything until the other side closes."""
        received = b""
        while piece := self.receive():
            received += piece
        return received

    def greet(self, shared_key: str, hostname: str = "client", user: str = "", password: str = "") -> Pong:
        """Go through the handshake as far as the server lets us."""
        helo = Helo.decode(msgpack.packb(self.answer()))
        ping = Ping.answer(helo, hostname=hostname, shared_key=shared_key, user=user, password=password)
        self.send(ping.encode())
        return Pong.decode(msgpack.packb(self.answer()))
