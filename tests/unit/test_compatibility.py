"""The table of clients that the receivers were tested with names the versions that the tests run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "collectors" / "klyra_collector" / "receive" / "README.md"


def stated() -> dict[str, str]:
    """Return client → version, as the table has them."""
    rows = re.findall(r"^\| ([^|]*[^| ]) \| (\d[\w.]*) \|", TABLE.read_text(), re.MULTILINE)
    return dict(rows)


def found(file: str, pattern: str) -> str:
    """Return what a file of the checkout pins."""
    return re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)[1]


def packages(folder: str, name: str) -> str:
    """Return the version of a Node package that a test program uses."""
    return json.loads((ROOT / "tests/integration" / folder / "package.json").read_text())["dependencies"][name]


PINNED = {
    "OpenTelemetry Collector": lambda: found("tools/peers/otelcol.yaml", r"receiver/otlpreceiver v([\d.]+)"),
    "OpenTelemetry SDK for Python": lambda: found("constraints.txt", r"^opentelemetry-sdk==(.*)$"),
    "OpenTelemetry SDK for Node": lambda: packages("opentelemetry_js", "@opentelemetry/sdk-logs"),
    "telemetrygen (SDK for Go)": lambda: found("tools/peers/telemetrygen.sh", r"^version=v(.*)$"),
    "@fluent-org/logger": lambda: packages("fluent", "@fluent-org/logger"),
    "fluent-logger": lambda: found("constraints.txt", r"^fluent-logger==(.*)$"),
}


def test_every_client_of_the_table_is_pinned() -> None:
    """No client stands in it that the tests do not run, and none is left out."""
    assert stated().keys() == PINNED.keys()


@pytest.mark.parametrize("client", PINNED)
def test_the_table_names_the_version_that_is_tested(client) -> None:
    """What is pinned for the tests is what the table says."""
    assert stated()[client] == PINNED[client]()
