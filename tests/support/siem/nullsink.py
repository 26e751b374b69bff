"""`nullsink`: an HTTP Event Collector that somebody else wrote, for load tests; it takes everything and counts."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

from support.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_SECONDS = 10


@dataclass(frozen=True)
class Nullsink:
    """One that runs.

    Attributes:
        url: without a slash at its end.
    """

    url: str

    def stats(self) -> dict[str, int]:
        """Return what it has counted: `docs`, `requests`, `bytes`, `wire_bytes`, `failed`."""
        return httpx.get(f"{self.url}/stats").json()


@contextlib.contextmanager
def running(*options: str) -> Iterator[Nullsink]:
    """Run one until the block ends; skips the test where there is none.

    The variable NULLSINK names the program where it is not on the PATH.
    """
    program = os.environ.get("NULLSINK") or shutil.which("nullsink")
    if program is None:
        pytest.skip("NULLSINK names no program, and the PATH has none")
    [port] = free_ports(1)
    made = Nullsink(f"http://127.0.0.1:{port}")
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([program, "-listen", f"127.0.0.1:{port}", *options], **quiet)
    try:
        _await_answer(made, process)
        yield made
    finally:
        process.terminate()
        process.wait(_START_SECONDS)


def _await_answer(made: Nullsink, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            made.stats()
            return
        time.sleep(0.02)
    raise AssertionError("nullsink did not start")
