"""Where servers listen: a port, or a Unix socket that only who may open its file can reach."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from klyra_audit.errors import Paused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_collector.config import Listener

UNIX = "unix:"

_PROBE_SECONDS = 1.0


class PortTaken(Paused):
    """Another program listens where a server of ours is configured to."""

    code = "port_taken"


def listen(listener: Listener, setting: str) -> socket.socket:
    """Return a bound socket.

    Raises:
        PortTaken: names the address and the setting.
    """
    try:
        path = listener.socket_path
        bound = _bind_port(listener) if path is None else _bind_path(path, listener.mode, setting)
    except OSError as error:
        raise taken(listener.listen, error.strerror or str(error), setting) from error
    bound.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return bound


def address_of(listening: socket.socket) -> str:
    """Return `host:port`, an IPv6 host in brackets, or `unix:/path`."""
    if listening.family == socket.AF_UNIX:
        return UNIX + str(listening.getsockname())
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.contextmanager
def unlinked_at_end(listening: socket.socket) -> Iterator[socket.socket]:
    """Close a bound socket when the block ends, and remove its file if it has one."""
    path = Path(listening.getsockname()) if listening.family == socket.AF_UNIX else None
    with contextlib.closing(listening):
        yield listening
    if path is not None:
        path.unlink(missing_ok=True)


def clear_stale(path: Path, setting: str) -> None:
    """Remove the socket file of a program that is gone.

    Raises:
        PortTaken: somebody answers there, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise taken(UNIX + str(path), "there is a file that is not a socket", setting)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise taken(UNIX + str(path), error.strerror or str(error), setting) from error
    raise taken(UNIX + str(path), "another program answers there", setting)


def _bind_port(listener: Listener) -> socket.socket:
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((listener.host, listener.port))
    except OSError:
        bound.close()
        raise
    return bound


def _bind_path(path: Path, mode: int, setting: str) -> socket.socket:
    clear_stale(path, setting)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Nobody else may connect between bind and chmod.
        previous = os.umask(0o177)
        try:
            bound.bind(str(path))
        finally:
            os.umask(previous)
        path.chmod(mode)
    except OSError:
        bound.close()
        raise
    return bound


def taken(where: str, reason: str, setting: str) -> PortTaken:
    """Return the error of a server that cannot listen at `where`."""
    return PortTaken(
        f"Cannot listen on {where}: {reason}.",
        remedy=f"Stop what listens there, or set {setting} (KLYRA_{setting.upper().replace('.', '__')}).",
    )
