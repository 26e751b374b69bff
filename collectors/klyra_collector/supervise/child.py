"""A supervised process: `python -m klyra_collector.supervise.child ROLE FD`.

FD is a socket to the supervisor. Its first line is the settings; ours back is what became ready, or why it could
not. When the supervisor dies the socket closes, and so do we.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, cast

import orjson
import structlog

from klyra_audit.errors import Halted, KlyraError, Paused
from klyra_collector.config import Settings
from klyra_collector.logs import configure_logs
from klyra_collector.supervise.roles import run_role

if TYPE_CHECKING:
    from klyra_collector.supervise.roles import Role

EXIT_HALTED = 3
EXIT_FAILED = 1

_log = structlog.get_logger(__name__)


def main(arguments: list[str]) -> int:
    """Run one role under a supervisor; return the exit status."""
    role, descriptor = cast("Role", arguments[0]), int(arguments[1])
    configure_logs(role)
    supervisor = socket.socket(fileno=descriptor)
    with supervisor.makefile("rb") as lines:
        settings = Settings(**orjson.loads(lines.readline()))
    threading.Thread(target=_die_with, args=(supervisor,), daemon=True).start()
    try:
        run_role(role, settings, lambda addresses: _say(supervisor, {"ready": addresses}))
    except KlyraError as error:
        _log.error("stopped", role=role, code=error.code, reason=str(error))
        _say(supervisor, {"failed": str(error)})
        return EXIT_HALTED if isinstance(error, Halted | Paused) else EXIT_FAILED
    return 0


def _say(supervisor: socket.socket, message: dict[str, object]) -> None:
    supervisor.sendall(orjson.dumps(message) + b"\n")


def _die_with(supervisor: socket.socket) -> None:
    """Stop cleanly when the supervisor is gone: its end of the socket closes however it died."""
    while supervisor.recv(1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
