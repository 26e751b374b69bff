"""A key management service: a process of its own that signs over a Unix socket, and the hook that asks it.

Run as a program it takes the socket's path, a seed in hex and how it behaves: `well`, `hangs`, `lies` or `refuses`. A
file `<socket>.behaviour` changes that while it runs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_MAX_MESSAGE = 4096  # what AWS KMS takes as RAW


class SocketKey:
    """What `ledger.signer` names: asks the service for its public key once, then for each signature."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.public_key = self._ask(b"public")

    def sign(self, message: bytes) -> bytes:
        """See `Signer`."""
        return self._ask(b"sign" + message)

    def _ask(self, request: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(self._path)
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answer:
                return answer.read()


def from_environment() -> SocketKey:
    """Return the key of the service at `TEST_KMS_SOCKET`."""
    return SocketKey(os.environ["TEST_KMS_SOCKET"])


def outgoing_from_environment() -> SocketKey:
    """Return the key of the service at `TEST_OUTGOING_KMS_SOCKET`."""
    return SocketKey(os.environ["TEST_OUTGOING_KMS_SOCKET"])


class Service:
    """The running process."""

    def __init__(self, folder: Path, seed: bytes) -> None:
        self.socket = folder / f"kms-{seed[:2].hex()}"
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.socket), seed.hex()], stdin=subprocess.DEVNULL
        )
        while not self.socket.exists():
            assert self._process.poll() is None
            time.sleep(0.01)

    def behave(self, how: str) -> None:
        """Change how it answers from now on."""
        Path(f"{self.socket}.behaviour").write_text(how)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def running(folder: Path, seed: bytes):
    """Yield a service with the key of a seed."""
    service = Service(folder, seed)
    try:
        yield service
    finally:
        service.stop()


def _serve(path: str, seed: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    behaviour = Path(f"{path}.behaviour")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(f"{path}.new")
        listening.listen()
        Path(f"{path}.new").rename(path)
        waiting = []
        while True:
            connection, _ = listening.accept()
            request = connection.makefile("rb").read(_MAX_MESSAGE + 4)
            how = behaviour.read_text() if behaviour.exists() else "well"
            if request == b"public":
                connection.sendall(key.public_key().public_bytes_raw())
            elif how == "well":
                connection.sendall(key.sign(request.removeprefix(b"sign")))
            elif how == "lies":
                connection.sendall(key.sign(b"something else"))
            elif how == "hangs":
                waiting.append(connection)
                continue
            connection.close()


if __name__ == "__main__":
    _serve(sys.argv[1], bytes.fromhex(sys.argv[2]))
