"""OpenTelemetry's own SDK and OTLP exporters for Node; our script around them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from support import peers

if TYPE_CHECKING:
    from pathlib import Path

SOURCES = peers.INTEGRATION / "opentelemetry_js"
NAME = "OpenTelemetry's SDK for Node"


def modules() -> Path | None:
    """Return where `make peers` installed it, None if it is not there or there is no Node."""
    digest = hashlib.sha256((SOURCES / "package-lock.json").read_bytes()).hexdigest()[:16]
    folder = peers.cache() / "opentelemetry_js" / digest / "node_modules"
    return folder if folder.is_dir() and shutil.which("node") else None


def send(url: str, protocol: str, key: str, count: int, record: dict[str, Any]) -> None:
    """Emit a record many times, each with a `run` of its own, and wait until its exporter is done.

    Args:
        url: of OTLP/HTTP; host:port for gRPC.
        protocol: of the exporter: `proto` or `http` (JSON), or `grpc`.
        key: an emit key.
        count: how many.
        record: `event_name` and `attributes`.
    """
    chosen = {"url": url, "protocol": protocol, "key": key, "count": count}
    chosen |= {"eventName": record["event_name"], "attributes": record["attributes"]}
    command = ["node", str(SOURCES / "client.js"), json.dumps(chosen)]
    environment = dict(os.environ) | {"NODE_PATH": str(modules())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"sent": count}
