"""Ports that stay free for a while: whoever is stopped and started again needs the same one."""

from __future__ import annotations

import contextlib
import random
import socket

# Below those that systems give to outgoing connections, so that nobody is given one while its server is away.
_FIRST, _LAST = 15_000, 30_000
_ATTEMPTS = 1000


def free_port() -> int:
    """Return a port that nothing listens on now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on now."""
    chance = random.SystemRandom()
    found: list[int] = []
    with contextlib.ExitStack() as opened:
        for _ in range(_ATTEMPTS):
            if len(found) == count:
                break
            probe = opened.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", chance.randint(_FIRST, _LAST)))
                found.append(probe.getsockname()[1])
    assert len(found) == count, "no ports are free"
    return found
