"""The processes beside the collector's own: the example moderation service and its traffic."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from klyra_audit import resources
from klyra_collector.demo.organization import ORGANIZATION_ID
from klyra_collector.supervise.supervisor import ExtraProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SERVICE: Final = "moderation-service"
TRAFFIC: Final = "example-traffic"

_SETTINGS = "KLYRA_"


def moderation_service(*, listen: str, endpoint: str, emit_key: str, spool: Path) -> ExtraProcess:
    """Return the example service.

    Args:
        listen: `host:port` for it.
        endpoint: URL of the collector's OTLP/HTTP port.
        emit_key: what it records with.
        spool: where its events are until they are sealed.
    """
    environment = _environment() | {
        "KLYRA_AUDIT_ENDPOINT": endpoint,
        "KLYRA_AUDIT_API_KEY": emit_key,
        "KLYRA_AUDIT_ORGANIZATION_ID": ORGANIZATION_ID,
        "KLYRA_AUDIT_SPOOL": str(spool),
    }
    return _guarded(SERVICE, environment, "moderation_service", "--listen", listen)


def example_traffic(*, service: str) -> ExtraProcess:
    """Return the traffic, which waits until the service at this URL answers."""
    return _guarded(TRAFFIC, _environment(), "klyra_collector.demo.traffic", "--service", service)


def _guarded(name: str, environment: Mapping[str, str], module: str, *arguments: str) -> ExtraProcess:
    guard = (sys.executable, "-m", "klyra_collector.demo.guarded", str(os.getpid()))
    return ExtraProcess(name, (*guard, module, *arguments), environment)


def _environment() -> dict[str, str]:
    """Return ours without our settings, and with the examples where Python finds them."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    search_path = [str(resources.folder("examples")), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(search_path)}
