"""The pages about the clouds say what the modules take."""

from __future__ import annotations

import contextlib
import re
import tomllib
from pathlib import Path

import pytest

from klyra_siem import azure_monitor, cloudwatch, google_cloud_logging
from klyra_siem.azure_monitor_rows import COLUMNS
from support.siem import google
from support.siem.cloud import options

PAGES = Path(__file__).resolve().parents[3] / "docs" / "destinations"
FACTORIES = {
    "azure-monitor": azure_monitor.create,
    "cloudwatch": cloudwatch.create,
    "google-cloud-logging": google_cloud_logging.create,
}


@pytest.mark.parametrize("kind", sorted(FACTORIES))
def test_the_example_makes_a_destination(kind) -> None:
    """What a newcomer copies is taken, once its references are resolved."""
    [block] = re.findall(r"^ *```toml\n(.*?)^ *```", (PAGES / f"{kind}.md").read_text(), re.MULTILINE | re.DOTALL)
    [settings] = tomllib.loads(re.sub(r"^ {3}", "", block, flags=re.MULTILINE))["destination"]
    assert settings["kind"] == kind
    chosen = settings["options"]
    if "credentials" in chosen:
        chosen["credentials"] = google.ServiceAccount().key_file()
    with contextlib.closing(FACTORIES[kind](options(settings["endpoint"], chosen))) as made:
        assert made.limits.encoded_bytes > 0


@pytest.mark.parametrize("kind", sorted(FACTORIES))
def test_every_option_is_explained(kind) -> None:
    """The table of options holds those that the module asks for, and no other."""
    module = Path(FACTORIES[kind].__code__.co_filename).read_text()
    asked = set(re.findall(r"settings\.(?:text|optional|flag|number)\(\s*\"(\w+)\"", module))
    table = (PAGES / f"{kind}.md").read_text().partition("## Options")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == asked


def test_every_column_of_azure_is_explained() -> None:
    """Whoever makes the table finds each column with its type."""
    rows = re.findall(
        r"^\| `(\w+)` \| (datetime|string|long) \|", (PAGES / "azure-monitor.md").read_text(), re.MULTILINE
    )
    assert dict(rows) == dict(COLUMNS)
