"""Choose ports that are free, so that the demo starts beside whatever else runs."""

from __future__ import annotations

import contextlib
import errno
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.errors import Paused

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRIED: Final = 20  # neighbours of a taken port, before any port will do
_MAX_PORT: Final = 65535


class CannotListen(Paused):
    """A host that this machine cannot listen on."""

    code = "cannot_listen"


@dataclass(frozen=True, slots=True)
class Place:
    """A host and a port; port 0 asks for any."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def choose(wanted: Mapping[str, Place]) -> dict[str, Place]:
    """Return a free place for each name: the one wanted, else the nearest free port above it, else any.

    All of them are held until the last is chosen, so they differ from each other. Another program can still take
    one before a server of ours does; that server then says so.

    Raises:
        CannotListen: a host is not one of this machine's.
    """
    with ExitStack() as held:
        return {name: _choose(name, place, held) for name, place in wanted.items()}


def _choose(name: str, wanted: Place, held: ExitStack) -> Place:
    nearby = range(wanted.port, min(wanted.port + _TRIED, _MAX_PORT + 1)) if wanted.port else ()
    for port in (*nearby, 0):
        try:
            bound = _bind(Place(wanted.host, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                continue
            raise CannotListen(
                f"Cannot listen on {wanted} for {name}: {error.strerror}.",
                remedy="Name a host of this machine, such as 127.0.0.1.",
            ) from error
        held.enter_context(bound)
        return Place(wanted.host, bound.getsockname()[1])
    raise CannotListen(f"No port of {wanted.host} is free for {name}.", remedy="Close a program that listens there.")


def _bind(place: Place) -> socket.socket:
    """Return a listening socket, bound as a server binds."""
    with contextlib.ExitStack() as undo:
        family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        bound = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((place.host, place.port))
        bound.listen()
        undo.pop_all()
        return bound
