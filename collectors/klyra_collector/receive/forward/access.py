"""Who may send over Forward, and with which emit key: a Forward peer has none of its own.

Whoever proves the shared key and a user gets that user's key; whoever has no user gets the default key, if there is
one. Every endpoint of the collector takes a key with scope `emit`; here the operator holds it for the peer.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from klyra_audit.errors import Paused
from klyra_audit.forward.errors import HandshakeFailed
from klyra_collector.secret_reference import read_secret

if TYPE_CHECKING:
    from klyra_audit.forward.handshake import Helo, Ping
    from klyra_collector.config import ForwardSettings


class ForwardUnbound(Paused):
    """The configuration does not say which key Forward peers send with, or lets anyone on the network send."""

    code = "forward_unbound"


@dataclass(frozen=True, slots=True)
class Binding:
    """A peer as the configuration knows it.

    Attributes:
        source: the user's name, or "default": what metrics and messages call the peer.
        key_text: the emit key that its messages are sealed with.
        password: the user's; empty for the default.
    """

    source: str
    key_text: str = field(repr=False)
    password: str = field(default="", repr=False)


DEFAULT_SOURCE = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may send.

    Attributes:
        hostname: our name for ourselves in the handshake.
        shared_key: None for no handshake.
        users: by name.
        default: of peers without a user; None if there must be one.
    """

    hostname: str
    shared_key: str | None = field(repr=False)
    users: dict[str, Binding]
    default: Binding | None

    @property
    def with_users(self) -> bool:
        """Whether the handshake asks for a user."""
        return bool(self.users)

    def check(self, ping: Ping, helo: Helo) -> Binding:
        """Return the peer that has proven who it is; `HandshakeFailed` for any other."""
        ping.check_key(helo, self.shared_key or "", self.hostname)
        if not self.with_users or (not ping.user and self.default is not None):
            return self.unnamed()
        binding = self.users.get(ping.user.decode(errors="replace"))
        ping.check_password(helo, None if binding is None else binding.password)
        if binding is None:  # not reached: nobody knows the password drawn for an unknown user
            raise HandshakeFailed("User or password differs.")
        return binding

    def unnamed(self) -> Binding:
        """Return what peers without a user send with."""
        if self.default is None:
            raise HandshakeFailed("A user is required here.", remedy="Give the sender a user and a password.")
        return self.default


def load_access(settings: ForwardSettings, own_hostname: str) -> Access:
    """Return who may send, with the secrets that the configuration refers to.

    Raises:
        ForwardUnbound: no key, users without a shared key, or an open port that nobody has asked for.
        SecretUnavailable: a reference leads nowhere.
    """
    _check_bound(settings)
    users = {
        client.user: Binding(
            client.user,
            read_secret(client.key, "forward.clients.key"),
            read_secret(client.password, "forward.clients.password"),
        )
        for client in settings.clients
    }
    default = None
    if settings.key is not None:
        default = Binding(DEFAULT_SOURCE, read_secret(settings.key, "forward.key"))
    shared_key = None if settings.shared_key is None else read_secret(settings.shared_key, "forward.shared_key")
    return Access(
        hostname=settings.hostname or own_hostname,
        shared_key=shared_key,
        users=users,
        default=default,
    )


def _check_bound(settings: ForwardSettings) -> None:
    if settings.clients and settings.shared_key is None:
        raise ForwardUnbound("forward.clients needs forward.shared_key.", remedy="Set it to env:NAME or file:PATH.")
    if len({client.user for client in settings.clients}) < len(settings.clients):
        raise ForwardUnbound("forward.clients names a user twice.", remedy="Give each user one entry.")
    if not settings.clients and settings.key is None:
        raise ForwardUnbound(
            "Nothing says which emit key Forward peers send with.",
            remedy="Set forward.key, or forward.clients with a user, a password and a key each.",
        )
    if not (_proves_itself(settings) or settings.open or _is_private(settings)):
        raise ForwardUnbound(
            f"Anyone who reaches {settings.listen} could write audit entries.",
            remedy="Set forward.shared_key or forward.tls.client_ca; or forward.open = true in a network of its own.",
        )


def _proves_itself(settings: ForwardSettings) -> bool:
    """Say whether a peer has to prove anything before it may send."""
    return settings.shared_key is not None or (settings.tls is not None and settings.tls.client_ca is not None)


def _is_private(settings: ForwardSettings) -> bool:
    """Say whether nobody but this machine's own programs can connect."""
    if settings.socket_path is not None:
        return True
    try:
        return ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        return settings.host == "localhost"
