"""A whole server on which organizations set destinations up for themselves, and a Splunk for them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from klyra_audit.catalog import Catalog
from klyra_collector.data_directory import DataDirectory
from klyra_collector.registry import Registry
from support import otlp
from support.collector import OPERATOR
from support.siem.cloud_server import serving
from support.siem.splunk import TOKEN, StrictHec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.siem.cloud_server import CloudServer

OURS, OTHERS, SMALL = "org_ours", "org_others", "org_small"
PATIENCE_SECONDS = 30


@dataclass
class Far:
    """Splunk, for which somebody has a token."""

    hec: StrictHec
    server: CloudServer

    def wish(self, **members: Any) -> dict[str, Any]:
        """Return what an administrator posts."""
        return {
            "name": "splunk",
            "kind": "splunk",
            "endpoint": self.server.url,
            "options": {"acknowledge": False},
            "secrets": {"token": TOKEN},
        } | members


@dataclass
class Server:
    """A whole server on a data directory."""

    root: Path
    addresses: dict[str, str]
    keys: dict[str, str]
    process: subprocess.Popen[bytes]

    def call(self, method: str, path: str, body: Any = None, *, key: str = OURS) -> httpx.Response:
        """Call the API with the key of an organization's administrator."""
        headers = {"Authorization": f"Bearer {self.keys[key]}"}
        return httpx.request(method, self.addresses["api"] + path, headers=headers, json=body, timeout=60)

    def emit(self, organization_id: str, count: int, first: int) -> None:
        """Have events of an organization sealed."""
        headers = {
            "Authorization": f"Bearer {self.keys['emit ' + organization_id]}",
            "Content-Type": "application/x-protobuf",
        }
        events = [otlp.prepared(organization_id) for _ in range(count)]
        content = otlp.own_form(*events, first=first)
        assert httpx.post(f"{self.addresses['otlp_http']}/v1/logs", content=content, headers=headers).is_success

    def entries(self, event_type: str) -> list[dict[str, Any]]:
        """Return our organization's entries of a type, oldest first."""
        answer = self.call("GET", f"/v1/audit-logs?event_types={event_type}&order=asc")
        return list(answer.json()["data"])


@contextlib.contextmanager
def server_on(root: Path, keys: dict[str, str]) -> Iterator[Server]:
    """Run a server until the block ends, unless it is dead by then."""
    listeners = ("OTLP__HTTP", "OTLP__GRPC", "FORWARD", "API")
    environment = os.environ | {f"KLYRA_{name}__LISTEN": "127.0.0.1:0" for name in listeners}
    environment |= {
        "KLYRA_SELF_SERVICE__ALLOWED_HOSTS": '["127.0.0.1", "*.splunkcloud.com"]',
        "KLYRA_SELF_SERVICE__LOOK_SECONDS": "0.2",
    }
    command = [sys.executable, "-m", "klyra_collector", "serve", "--data", str(root)]
    (root / "run.json").unlink(missing_ok=True)
    with (root.parent / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        await_that(lambda: (root / "run.json").exists() or process.poll() is not None, root)
        yield Server(root, json.loads((root / "run.json").read_text()), keys, process)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(40)


def await_that(condition: Callable[[], Any], root: Path) -> Any:
    """Wait until it holds; show the log if it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, (root.parent / "server.log").read_text()[-4000:]
        time.sleep(0.05)
    return found


def registered(root: Path) -> dict[str, str]:
    """Register three organizations; return an administrator's and an emitter's key of each."""
    root.mkdir()
    made = {}
    with contextlib.closing(Registry.open(DataDirectory(root).registry_url, Catalog.load())) as registry:
        for organization_id, plan in ((OURS, "enterprise"), (OTHERS, "enterprise"), (SMALL, "business")):
            registry.create_organization(organization_id, plan, by=OPERATOR)
            for name, scopes in ((organization_id, {"admin", "read"}), (f"emit {organization_id}", {"emit"})):
                issued = registry.create_key(organization_id=organization_id, scopes=scopes, by=OPERATOR)
                made[name] = issued.secret_text
    return made


@contextlib.contextmanager
def splunk() -> Iterator[Far]:
    """Run a strict Splunk."""
    hec = StrictHec()
    with serving(hec) as made:
        yield Far(hec, made)
