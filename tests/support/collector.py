"""A real collector process with its registry, and requests to it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from klyra_audit.catalog import Catalog
from klyra_audit.event import Actor
from klyra_collector.data_directory import DataDirectory
from klyra_collector.registry import Registry
from support.sealing import read_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_collector.seal.reader import SealedRecord

ACME, OTHER = "org_acme", "org_other"
OPERATOR = Actor.system("tests")
TESTS = Path(__file__).parents[1]
_START_SECONDS = 30


@dataclass
class Running:
    """A collector that answers.

    Attributes:
        root: its data directory.
        url: its OTLP/HTTP address.
        keys: emit keys by organization.
        addresses: of everything it listens on, by the names of `run.json`.
    """

    root: Path
    url: str
    keys: dict[str, str]
    process: subprocess.Popen = field(repr=False)
    addresses: dict[str, str] = field(default_factory=dict)

    def post(self, path: str, content: bytes, *, key: str | None = None, **headers: str) -> httpx.Response:
        """Post a body; the key is ACME's unless another is given, the content type protobuf."""
        sent = {"Content-Type": "application/x-protobuf"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        if key != "":
            sent["Authorization"] = f"Bearer {key or self.keys[ACME]}"
        return httpx.post(f"{self.url}{path}", content=content, headers=sent, timeout=30)

    def sealed(self, start: int = 0) -> list[SealedRecord]:
        """Return every committed record from index `start` on."""
        return read_all(self.root, start)

    def terminate(self) -> int:
        """Stop cleanly; return the exit status."""
        self.process.terminate()
        return self.process.wait(20)

    def kill(self) -> None:
        """Stop as a crash does."""
        self.process.kill()
        self.process.wait(20)


def make_keys(root: Path) -> dict[str, str]:
    """Register two organizations in a data directory and return an emit key of each, and one for many."""
    root.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(Registry.open(DataDirectory(root).registry_url, Catalog.load())) as registry:
        registry.create_organization(ACME, "startup", by=OPERATOR)
        registry.create_organization(OTHER, "business", by=OPERATOR)
        keys = {
            organization_id: registry.create_key(
                organization_id=organization_id, scopes={"emit"}, label="tests", by=OPERATOR
            ).secret_text
            for organization_id in (ACME, OTHER)
        }
        many = registry.create_key(organization_id=None, scopes={"emit"}, label="many", by=OPERATOR)
        reader = registry.create_key(organization_id=ACME, scopes={"read"}, label="reader", by=OPERATOR)
        bound = registry.create_key(
            organization_id=ACME, scopes={"emit"}, label="bound", emitter_ids=("api-1",), by=OPERATOR
        )
    return keys | {"many": many.secret_text, "reader": reader.secret_text, "bound": bound.secret_text}


def start(
    root: Path, keys: dict[str, str], *, program: Sequence[str] = ("klyra_collector",), **settings: str
) -> Running:
    """Start a collector on a data directory, on a free port, and wait until it answers.

    The settings are variables without their prefix, such as ``INTAKE__MAX_REQUEST_BYTES="1000"``. The program is a
    module and its first arguments.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KLYRA_")}
    environment |= {"KLYRA_OTLP__HTTP__LISTEN": "127.0.0.1:0", "KLYRA_OTLP__GRPC__LISTEN": "127.0.0.1:0"}
    environment |= {f"KLYRA_{name}": value for name, value in settings.items()}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, "-m", *program, "serve", "--role", "collector", "--data", str(root)]
    with (root / "collector.log").open("ab") as log:
        position = log.tell()
        process = subprocess.Popen(command, env=environment, stderr=log, stdin=subprocess.DEVNULL)
    addresses = _await_addresses(root, position, process)
    return Running(root, addresses["otlp_http"], keys, process, addresses)


def _await_addresses(root: Path, position: int, process: subprocess.Popen) -> dict[str, str]:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        for line in (root / "collector.log").read_text()[position:].splitlines():
            if line.startswith("collector is ready "):
                return json.loads(line.removeprefix("collector is ready ").replace("'", '"'))
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"the collector did not start: {(root / 'collector.log').read_text()}")
