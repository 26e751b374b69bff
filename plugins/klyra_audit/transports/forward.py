"""Fluent Forward to a collector: every chunk is acknowledged before `send` returns."""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from klyra_audit.errors import Paused, RetryLater
from klyra_audit.forward import encoding
from klyra_audit.forward.errors import HandshakeFailed, MessageTooLarge, NotForward
from klyra_audit.forward.framing import Framer
from klyra_audit.forward.handshake import MAX_HANDSHAKE_BYTES, Helo, Ping, Pong

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klyra_audit.errors import KlyraError

DEFAULT_TIMEOUT = 30.0

_READ_BYTES = 4096
_UNIX = "unix:"


@dataclass(frozen=True, slots=True)
class ForwardCredentials:
    """What the handshake proves; no handshake without a shared key.

    Attributes:
        shared_key: known to both sides; None if the collector asks for none.
        user: empty if the collector knows none.
        password: the user's.
        hostname: our name for ourselves, which must differ from the collector's.
    """

    shared_key: str | None
    user: str
    password: str
    hostname: str


class ForwardClient:
    """Sends entries to one collector over one kept-alive connection. Thread-safe.

    Args:
        address: `host:port`, or `unix:/path`.
        shared_key: None for no handshake.
        username: empty or None for none.
        password: the user's.
        tls: None for plain TCP.
        timeout: seconds to connect, and seconds to wait for each answer.
        hostname: our name in the handshake; None takes this machine's.
    """

    def __init__(
        self,
        address: str,
        *,
        shared_key: str | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        hostname: str | None = None,
    ) -> None:
        self._address = address
        self._path = address.removeprefix(_UNIX) if address.startswith(_UNIX) else None
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), 0 if self._path is not None else int(port)
        name = hostname or f"{socket.gethostname()}-klyra-audit"
        self._credentials = ForwardCredentials(shared_key, username or "", password or "", name)
        self._tls = tls
        self._timeout = timeout
        self._lock = threading.Lock()
        self._link: _Link | None = None

    def send(
        self,
        tag: str,
        entries: Sequence[tuple[int, Mapping[str, Any]]],
        *,
        compressed: Literal["gzip", "zstd"] | None = None,
        chunk: str | None = None,
    ) -> None:
        """Return once the collector has acknowledged the entries; after an error they may be sent again.

        Args:
            tag: what the collector may choose the event type by.
            entries: nanoseconds since 1970 and record each.
            compressed: how the entries are compressed, None for not at all.
            chunk: the chunk's name, by which the collector knows it again; None makes one of tag and entries, so
                that entries of the same times and contents are the same entries.

        Raises:
            RetryLater: no acknowledgement came.
            Paused: the collector refuses the shared key, the user or the certificate.
            MissingExtra: the extra `forward` is not installed.
        """
        packed, count = encoding.pack_entries(entries)
        name = chunk or encoding.chunk_id(tag, packed)
        message = encoding.packed_forward(tag, packed, count, name, compressed)
        with self._lock:
            try:
                self._connected().exchange(message, name)
            except BaseException as error:
                # An answer that comes later must not be taken for the next chunk's.
                self._drop()
                explained = self._explained(error)
                if explained is None:
                    raise
                raise explained from error

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._drop()

    def after_fork(self) -> None:
        """In a forked child: use a connection of its own. The parent's stays open, since its descriptor does."""
        self._lock = threading.Lock()
        self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connected(self) -> _Link:
        if self._link is not None and self._link.is_stale():
            self._drop()
        if self._link is None:
            plain = self._dial()
            try:
                connected = plain if self._tls is None else self._tls.wrap_socket(plain, server_hostname=self._host)
            except BaseException:
                plain.close()
                raise
            self._link = _Link(connected)
            if self._credentials.shared_key is not None:
                self._link.greet(self._credentials, self._credentials.shared_key)
        return self._link

    def _dial(self) -> socket.socket:
        if self._path is None:
            plain = socket.create_connection((self._host, self._port), self._timeout)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return plain
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            plain.settimeout(self._timeout)
            plain.connect(self._path)
        except BaseException:
            plain.close()
            raise
        return plain

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _explained(self, error: BaseException) -> KlyraError | None:
        """Return what the caller does next, None for what needs no explanation."""
        where = self._address
        if isinstance(error, ssl.SSLCertVerificationError):
            return Paused(
                f"The certificate of {where} is not trusted: {error.verify_message}.",
                remedy="Trust its issuer, or ask it by the name in its certificate.",
                code="certificate_refused",
            )
        if isinstance(error, HandshakeFailed):
            return Paused(f"The handshake with {where} failed: {error}", code=error.code)
        if isinstance(error, OSError | NotForward | MessageTooLarge):
            return RetryLater(
                f"The collector at {where} did not acknowledge: {str(error) or type(error).__name__}.",
                remedy="Check that it runs and that the address is right; the same entries may be sent again.",
                code="no_answer",
            )
        return None


class _Link:
    """One connection."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._framer = Framer(MAX_HANDSHAKE_BYTES)

    def is_stale(self) -> bool:
        """Say whether the collector has closed it, or said something that nobody asked for."""
        # Not select(2), which knows the first 1024 descriptors of a process alone.
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            return bool(selector.select(0))

    def greet(self, credentials: ForwardCredentials, shared_key: str) -> None:
        """Go through the handshake."""
        helo = Helo.decode(self._answer())
        ping = Ping.answer(
            helo,
            hostname=credentials.hostname,
            shared_key=shared_key,
            user=credentials.user,
            password=credentials.password,
        )
        self._socket.sendall(ping.encode())
        Pong.decode(self._answer()).check(ping, helo, shared_key)

    def exchange(self, message: bytes, chunk: str) -> None:
        """Send a message and wait for the acknowledgement of its chunk."""
        self._socket.sendall(message)
        raw = self._answer()
        if raw[:6] == b"\x92\xa4HELO":
            raise HandshakeFailed("The collector asks for a handshake.", remedy="Give the client the shared key.")
        if encoding.acknowledged(raw) != chunk:
            raise NotForward("Another chunk was acknowledged.")

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _answer(self) -> bytes:
        while True:
            for message in self._framer.messages():
                return message
            received = self._socket.recv(_READ_BYTES)
            if not received:
                raise ConnectionResetError("it closed the connection")
            self._framer.feed(received)
