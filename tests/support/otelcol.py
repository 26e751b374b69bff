"""A real OpenTelemetry Collector, built by `make peers`, between tests and what they test."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support import peers

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST = Path(__file__).parents[2] / "tools" / "peers" / "otelcol.yaml"
ABSENT = "for want of otelcol"

_START_SECONDS = 30


def program() -> Path | None:
    """Return where `make peers` put it, None if it is not there."""
    digest = hashlib.sha256(MANIFEST.read_bytes()).hexdigest()[:16]
    path = peers.cache() / "otelcol" / digest / "otelcol"
    return path if path.is_file() else None


@contextlib.contextmanager
def running(folder: Path, configuration: str, ports: list[int]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a collector of this YAML until the block ends; skips the test where there is none.

    Args:
        folder: for its configuration and its log, `otelcol.log`.
        configuration: YAML; its receivers listen on `ports`.
        ports: those that must answer before the block begins.
    """
    path = program()
    if path is None:
        pytest.skip(ABSENT)
    file, log_file = folder / "otelcol.yaml", folder / "otelcol.log"
    file.write_text(configuration)
    with log_file.open("ab") as log:
        process = subprocess.Popen([path, "--config", file], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        for port in ports:
            _await_port(process, port, log_file)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, log_file: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError(f"the OpenTelemetry Collector did not start: {log_file.read_text()}")
