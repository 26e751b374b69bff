"""The handshake of Forward: both sides prove that they know the shared key, and a client who it is.

    server  ["HELO", {nonce, auth, keepalive}]
    client  ["PING", hostname, salt, hex(salt hostname nonce key), user, hex(auth user password)]
    server  ["PONG", accepted, reason, hostname, hex(salt hostname nonce key)]

`hex` is SHA-512 in hexadecimal (fluentd wiki, "Forward Protocol Specification v1"). What is compared is compared in
constant time. Neither side takes a peer of its own name: that would be its own digest sent back to it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Any, Final

from klyra_audit.forward import library
from klyra_audit.forward.errors import HandshakeFailed

MAX_HANDSHAKE_BYTES: Final = 16 * 1024

_SALT_BYTES: Final = 16
_PING_LENGTH: Final = 6
_PONG_LENGTH: Final = 5
_REFUSAL_LENGTH: Final = 3


@dataclass(frozen=True, slots=True)
class Helo:
    """What the server offers.

    Attributes:
        nonce: drawn for this connection.
        auth: salt for the password; empty if no user is asked for.
    """

    nonce: bytes
    auth: bytes

    @classmethod
    def draw(cls, *, with_users: bool) -> Helo:
        """Return an offer that nobody can foresee."""
        return cls(secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_SALT_BYTES) if with_users else b"")

    def encode(self) -> bytes:
        """Return the message."""
        return _pack(["HELO", {"nonce": self.nonce, "auth": self.auth, "keepalive": True}])

    @classmethod
    def decode(cls, raw: bytes) -> Helo:
        """Return a server's offer; `HandshakeFailed` if it is none."""
        parts = _parts(raw, b"HELO", 2)
        options = parts[1]
        if not isinstance(options, dict):
            raise _no_handshake("HELO")
        nonce, auth = options.get(b"nonce"), options.get(b"auth", b"")
        if not isinstance(nonce, bytes) or not isinstance(auth, bytes):
            raise _no_handshake("HELO")
        return cls(nonce, auth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """What the client answers.

    Attributes:
        hostname: the client's name for itself.
        salt: drawn by the client, for both digests of the shared key.
        key_digest: hexadecimal.
        user: empty if it has none.
        password_digest: hexadecimal, empty if it has no user.
    """

    hostname: bytes
    salt: bytes
    key_digest: bytes
    user: bytes = b""
    password_digest: bytes = b""

    @classmethod
    def answer(cls, helo: Helo, *, hostname: str, shared_key: str, user: str = "", password: str = "") -> Ping:
        """Return the answer to a server's offer."""
        salt = secrets.token_bytes(_SALT_BYTES)
        name = hostname.encode()
        digest = password_digest(helo.auth, user.encode(), password) if helo.auth else b""
        return cls(
            hostname=name,
            salt=salt,
            key_digest=key_digest(salt, name, helo.nonce, shared_key),
            user=user.encode() if helo.auth else b"",
            password_digest=digest,
        )

    def encode(self) -> bytes:
        """Return the message."""
        texts = [self.key_digest.decode(), self.user.decode(), self.password_digest.decode()]
        return _pack(["PING", self.hostname.decode(), self.salt, *texts])

    @classmethod
    def decode(cls, raw: bytes) -> Ping:
        """Return a client's answer; `HandshakeFailed` if it is none."""
        parts = _parts(raw, b"PING", _PING_LENGTH)
        if not all(isinstance(part, bytes) for part in parts):
            raise _no_handshake("PING")
        hostname, salt, digest, user, password = parts[1:]
        return cls(hostname=hostname, salt=salt, key_digest=digest, user=user, password_digest=password)

    def check_key(self, helo: Helo, shared_key: str, own_hostname: str) -> None:
        """Raise `HandshakeFailed` unless the client knows the shared key and has another name than we."""
        if self.hostname == own_hostname.encode():
            raise HandshakeFailed(
                "The client has this server's own hostname.", remedy="Give client and server different hostnames."
            )
        expected = key_digest(self.salt, self.hostname, helo.nonce, shared_key)
        if not hmac.compare_digest(expected, self.key_digest):
            raise HandshakeFailed("The shared key differs.", remedy="Give both sides the same shared key.")

    def check_password(self, helo: Helo, password: str | None) -> None:
        """Raise `HandshakeFailed` unless the client knows its user's password; None is that of no known user."""
        # An unknown user costs the same time as a wrong password, and gets the same answer.
        expected = password_digest(helo.auth, self.user, password if password is not None else secrets.token_hex())
        if not hmac.compare_digest(expected, self.password_digest):
            raise HandshakeFailed("User or password differs.", remedy="Check both against this server's clients.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """How it ended.

    Attributes:
        accepted: whether the server takes messages now.
        reason: why not.
        hostname: the server's name for itself.
        key_digest: hexadecimal; proves to the client that the server knows the shared key.
    """

    accepted: bool
    reason: bytes = b""
    hostname: bytes = b""
    key_digest: bytes = b""

    @classmethod
    def accepting(cls, ping: Ping, helo: Helo, *, hostname: str, shared_key: str) -> Pong:
        """Return the answer to a client that has proven itself."""
        name = hostname.encode()
        return cls(accepted=True, hostname=name, key_digest=key_digest(ping.salt, name, helo.nonce, shared_key))

    @classmethod
    def refusing(cls, reason: str) -> Pong:
        """Return the answer to any other."""
        return cls(accepted=False, reason=reason.encode())

    def encode(self) -> bytes:
        """Return the message."""
        return _pack(["PONG", self.accepted, self.reason.decode(), self.hostname.decode(), self.key_digest.decode()])

    @classmethod
    def decode(cls, raw: bytes) -> Pong:
        """Return a server's answer; `HandshakeFailed` if it is none."""
        parts = _parts(raw, b"PONG", _REFUSAL_LENGTH, _PONG_LENGTH)
        accepted, *texts = parts[1:]
        texts += [b""] * (_PONG_LENGTH - len(parts))
        if not isinstance(accepted, bool) or not all(isinstance(text, bytes) for text in texts):
            raise _no_handshake("PONG")
        return cls(accepted=accepted, reason=texts[0], hostname=texts[1], key_digest=texts[2])

    def check(self, ping: Ping, helo: Helo, shared_key: str) -> None:
        """Raise `HandshakeFailed` unless the server has accepted us and knows the shared key itself."""
        if not self.accepted:
            reason = self.reason.decode(errors="replace")[:200]
            raise HandshakeFailed(f"The server refuses: {reason}", remedy="Check shared key, user and password.")
        expected = key_digest(ping.salt, self.hostname, helo.nonce, shared_key)
        if self.hostname == ping.hostname or not hmac.compare_digest(expected, self.key_digest):
            raise HandshakeFailed("The server does not know the shared key.", remedy="Check which server answers.")


def key_digest(salt: bytes, hostname: bytes, nonce: bytes, shared_key: str) -> bytes:
    """Return what proves knowledge of the shared key, in hexadecimal."""
    return hashlib.sha512(salt + hostname + nonce + shared_key.encode()).hexdigest().encode()


def password_digest(auth: bytes, user: bytes, password: str) -> bytes:
    """Return what proves knowledge of a password, in hexadecimal."""
    return hashlib.sha512(auth + user + password.encode()).hexdigest().encode()


def _pack(message: list[Any]) -> bytes:
    packed: bytes = library.msgpack().packb(message)
    return packed


def _parts(raw: bytes, name: bytes, *lengths: int) -> list[Any]:
    """Return the parts of a message of the handshake, its texts as bytes."""
    try:
        parts = library.msgpack().unpackb(raw, raw=True)
    except (ValueError, TypeError) as error:
        raise _no_handshake(name.decode()) from error
    if not isinstance(parts, list) or len(parts) not in lengths or parts[0] != name:
        raise _no_handshake(name.decode())
    return parts


def _no_handshake(name: str) -> HandshakeFailed:
    return HandshakeFailed(
        f"The peer sent something else than {name}.", remedy="Turn the handshake on (or off) at both sides."
    )
