"""The Kibana files as they are shipped, and the tool that makes them."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

from klyra_audit import resources

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))  # the generator is a tool, not a part of the product

Json = dict[str, Any]


def shipped(name: str) -> bytes:
    """Return a file as an installed product has it."""
    return resources.folder("dashboards").joinpath("kibana", name).read_bytes()


def objects() -> list[Json]:
    """Return the saved objects."""
    return [json.loads(line) for line in shipped("klyra-audit.ndjson").splitlines()]


def dashboards() -> list[Json]:
    """Return the dashboards among them."""
    return [each for each in objects() if each["type"] == "dashboard"]


def package() -> dict[str, bytes]:
    """Return the members of the integration package, by their path inside its folder."""
    with zipfile.ZipFile(io.BytesIO(shipped("klyra-audit-integration.zip"))) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
