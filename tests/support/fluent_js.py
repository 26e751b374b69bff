"""@fluent-org/logger, a Forward client and server for Node that others wrote; our scripts around it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from support import peers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCES = peers.INTEGRATION / "fluent"
NAME = "@fluent-org/logger and Node"


def modules() -> Path | None:
    """Return where `make peers` installed it, None if it is not there or there is no Node."""
    digest = hashlib.sha256((SOURCES / "package-lock.json").read_bytes()).hexdigest()[:16]
    folder = peers.cache() / "fluent_logger_js" / digest / "node_modules"
    return folder if folder.is_dir() and shutil.which("node") else None


def emit(address: str, mode: str, records: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    """Send records, each a chunk of its own; return what its client says of each."""
    return _emit(address, {"mode": mode, "records": records} | options)


def emit_numbered(address: str, mode: str, record: dict[str, Any], count: int, **options: Any) -> list[dict[str, Any]]:
    """Send a record many times, each with a `run` and an id of its own; return what its client says of each."""
    return _emit(address, {"mode": mode, "record": record, "count": count} | options)


def _emit(address: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    host, _, port = address.rpartition(":")
    chosen = {"host": host, "port": int(port), "tag": "app.audit"} | options
    done = subprocess.run(
        _command("client.js", chosen), env=_environment(), capture_output=True, text=True, check=True, timeout=60
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@dataclass
class Server:
    """Its server, running.

    Attributes:
        address: where it listens.
    """

    address: str
    process: subprocess.Popen = field(repr=False)

    def entries(self, count: int) -> list[dict[str, Any]]:
        """Return the next entries it got: {tag, time, record} each."""
        return [json.loads(self.process.stdout.readline()) for _ in range(count)]


@contextlib.contextmanager
def serving(port: int, **options: Any) -> Iterator[Server]:
    """Run its server until the block ends."""
    process = subprocess.Popen(
        _command("server.js", {"port": port} | options),
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert json.loads(process.stdout.readline()) == {"port": port}
        yield Server(f"127.0.0.1:{port}", process)
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def _command(script: str, chosen: dict[str, Any]) -> list[str]:
    return ["node", str(SOURCES / script), json.dumps(chosen)]


def _environment() -> dict[str, str]:
    return dict(os.environ) | {"NODE_PATH": str(modules())}
