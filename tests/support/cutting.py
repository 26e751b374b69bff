"""A proxy on loopback that ends a connection at the worst moment: what was asked is done, nobody knows yet."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_RESET = struct.pack("ii", 1, 0)  # linger for 0 seconds: close sends a reset
_READ_BYTES = 65536


class Proxy:
    """Carries bytes of any protocol between clients and one address.

    Attributes:
        address: `host:port` of its own.
        cut: asked before anything of the far side is carried back; True resets the client's connection instead.
        cuts: how often that was done.
    """

    def __init__(self, upstream: str, port: int = 0) -> None:
        host, _, far_port = upstream.rpartition(":")
        self._upstream = (host, int(far_port))
        self._listening = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.cut: Callable[[], bool] = lambda: False
        self.cuts = 0
        self._threads[0].start()

    def close(self) -> None:
        """End everything."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._upstream)
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            for work in (self._carry, self._carry_back):
                thread = threading.Thread(target=work, args=(client, server), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := client.recv(_READ_BYTES):
                server.sendall(received)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _carry_back(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := server.recv(_READ_BYTES):
                if self.cut():
                    self.cuts += 1
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    break
                client.sendall(received)
        with contextlib.suppress(OSError):
            if self._is_cut(client):
                # Only a close sends the reset, and only once no other thread reads: end its reading first.
                client.shutdown(socket.SHUT_RD)
            client.close()

    @staticmethod
    def _is_cut(client: socket.socket) -> bool:
        return client.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET)) == _RESET


@contextlib.contextmanager
def proxy(upstream: str, port: int = 0) -> Iterator[Proxy]:
    """Give a proxy to an address, `host:port`, on a port that is free unless one is given."""
    made = Proxy(upstream, port)
    try:
        yield made
    finally:
        made.close()
