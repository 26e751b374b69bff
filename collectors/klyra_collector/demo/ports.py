"""Choose ports that are free, so that the demo starts beside whatever else runs."""

from __future__ import annotations

import contextlib
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import BaseModel

from klyra_audit.errors import Paused
from klyra_collector.config import Listener

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_collector.config import Settings

Section = TypeVar("Section", bound=BaseModel)

_TRIED: Final = 20  # neighbours of a taken port, before any port will do
_MAX_PORT: Final = 65535


class CannotListen(Paused):
    """A host that this machine cannot listen on."""

    code = "cannot_listen"


def listeners(settings: Settings) -> dict[str, Listener]:
    """Return every place that the settings have servers listen on, by the setting's name."""
    return dict(_listeners(settings, ""))


def with_listeners(settings: Settings, chosen: Mapping[str, Listener]) -> Settings:
    """Return settings that listen where `chosen` says; names are those of `listeners`."""
    return _replaced(settings, "", chosen)


def choose(wanted: Mapping[str, Listener]) -> dict[str, Listener]:
    """Return a free place for each name: the one wanted, else the nearest free port above it, else any.

    All of them are held until the last is chosen, so they differ from each other. Another program can still take
    one before a server of ours does; that server then says so.

    Raises:
        CannotListen: a host is not one of this machine's.
    """
    with ExitStack() as held:
        return {name: _choose(name, listener, held) for name, listener in wanted.items()}


def _choose(name: str, wanted: Listener, held: ExitStack) -> Listener:
    for port in range(wanted.port, min(wanted.port + _TRIED, _MAX_PORT + 1)) if wanted.port else ():
        with contextlib.suppress(OSError):
            return _at(wanted, held.enter_context(_bound(wanted.host, port)))
    try:
        return _at(wanted, held.enter_context(_bound(wanted.host, 0)))
    except OSError as error:
        raise CannotListen(
            f"Cannot listen on {wanted.host}, on any port, for {name}: {error.strerror}.",
            remedy="Name a host of this machine there, such as 127.0.0.1.",
        ) from error


def _at(wanted: Listener, bound: socket.socket) -> Listener:
    """Return the wanted host with the port of a socket."""
    return Listener(listen=f"{wanted.listen.rpartition(':')[0]}:{bound.getsockname()[1]}")


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens as a server would."""
    with contextlib.ExitStack() as undo:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen()
        undo.pop_all()
        return bound


def _listeners(section: BaseModel, prefix: str) -> list[tuple[str, Listener]]:
    found: list[tuple[str, Listener]] = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Listener):
            found.append((f"{prefix}{name}.listen", value))
        elif isinstance(value, BaseModel):
            found += _listeners(value, f"{prefix}{name}.")
    return found


def _replaced(section: Section, prefix: str, chosen: Mapping[str, Listener]) -> Section:
    members: dict[str, BaseModel] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Listener):
            members[name] = chosen.get(f"{prefix}{name}.listen", value)
        elif isinstance(value, BaseModel):
            members[name] = _replaced(value, f"{prefix}{name}.", chosen)
    return section.model_copy(update=members)
