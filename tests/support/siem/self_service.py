"""A whole server on which organizations set destinations up for themselves, and a Splunk for them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from klyra_audit.catalog import Catalog
from klyra_collector.data_directory import DataDirectory
from klyra_collector.registry import Registry
from support import otlp
from support.collector import OPERATOR
from support.serving import serve
from support.siem.cloud_server import serving
from support.siem.splunk import TOKEN, StrictHec

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from support.siem.cloud_server import CloudServer

OURS, OTHERS, SMALL = "org_ours", "org_others", "org_small"


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
    settings = {
        "SELF_SERVICE__ALLOWED_HOSTS": '["127.0.0.1", "*.splunkcloud.com"]',
        "SELF_SERVICE__LOOK_SECONDS": "0.2",
    }
    with serve(root, **settings) as (process, addresses):
        yield Server(root, addresses, keys, process)


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
