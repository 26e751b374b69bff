"""Choose ports that are free, so that the demo starts beside whatever else runs.

An address is `host:port`, an IPv6 host in brackets, as settings have it.
"""

from __future__ import annotations

import contextlib
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import BaseModel

from klyra_audit.errors import Paused

if TYPE_CHECKING:
    from collections.abc import Mapping

Section = TypeVar("Section", bound=BaseModel)

_LISTEN: Final = "listen"  # what every setting is called that says where a server listens
_TRIED: Final = 20  # neighbours of a taken port, before any port will do
_MAX_PORT: Final = 65535
_UNIX: Final = "unix:"


class CannotListen(Paused):
    """A host that this machine cannot listen on."""

    code = "cannot_listen"


def addresses(section: BaseModel, prefix: str = "") -> dict[str, str]:
    """Return every address with a port that servers are to listen on, by the setting's name, such as `api.listen`."""
    found: dict[str, str] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if name == _LISTEN and not value.startswith(_UNIX):
            found[prefix + name] = value
        elif isinstance(value, BaseModel):
            found |= addresses(value, f"{prefix}{name}.")
    return found


def with_addresses(section: Section, chosen: Mapping[str, str], prefix: str = "") -> Section:
    """Return settings whose servers listen where `chosen` says; its names are those of `addresses`."""
    members: dict[str, object] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if name == _LISTEN:
            members[name] = chosen.get(prefix + name, value)
        elif isinstance(value, BaseModel):
            members[name] = with_addresses(value, chosen, f"{prefix}{name}.")
    return section.model_copy(update=members)


def choose(wanted: Mapping[str, str]) -> dict[str, str]:
    """Return a free address for each name: the one wanted, else the nearest free port above it, else any.

    All of them are held until the last is chosen, so they differ from each other. Another program can still take
    one before a server of ours does; that server then says so.

    Raises:
        CannotListen: a host is not one of this machine's.
    """
    with ExitStack() as held:
        return {name: _choose(name, address, held) for name, address in wanted.items()}


def port_of(address: str) -> int:
    """Return an address's port."""
    return int(address.rpartition(":")[2])


def _choose(name: str, wanted: str, held: ExitStack) -> str:
    host, port = wanted.rpartition(":")[0], port_of(wanted)
    for candidate in range(port, min(port + _TRIED, _MAX_PORT + 1)) if port else ():
        with contextlib.suppress(OSError):
            held.enter_context(_bound(host, candidate))
            return f"{host}:{candidate}"
    try:
        anywhere = held.enter_context(_bound(host, 0))
    except OSError as error:
        raise CannotListen(
            f"Cannot listen on {host}, on any port, for {name}: {error.strerror}.",
            remedy="Name a host of this machine there, such as 127.0.0.1.",
        ) from error
    return f"{host}:{anywhere.getsockname()[1]}"


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens as a server would."""
    with ExitStack() as undo:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host.strip("[]"), port))
        bound.listen()
        undo.pop_all()
        return bound
