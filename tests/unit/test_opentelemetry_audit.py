"""The page about the OpenTelemetry audit draft names only what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from klyra_collector.config import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "opentelemetry-audit.md"
NAMED_TEST = re.compile(r"`((?:unit|integration)/[\w/]+\.py)(?:::(\w+))?`")


def rows() -> list[list[str]]:
    """Return the cells of the table's rows: what the draft asks, whether it is met, where, and the test or reason."""
    table = PAGE.read_text().partition("| The draft | Met |")[2].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table if line.startswith("|")]
    return [row for row in cells if not row[0].startswith("**")]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_every_row_is_shown_or_explained(row) -> None:
    """What is met names tests that exist; what is not, or only in part, gives a reason or a test."""
    requirement, met, where, shown = row
    assert requirement
    assert met in {"yes", "no", "part"}
    named = NAMED_TEST.findall(shown)
    assert named or met != "yes"
    assert shown
    for path, name in named:
        text = (ROOT / "tests" / path).read_text()
        assert not name or re.search(rf"^\s*(?:async )?def {name}\(", text, re.MULTILINE), name
    for module in re.findall(r"`([\w/]+\.py)`", where):
        homes = [ROOT / "collectors" / "klyra_collector", ROOT / "plugins" / "klyra_audit"]
        assert any((home / module).is_file() for home in homes), module


def test_its_configuration_is_valid() -> None:
    """Every key that the page shows how to register is understood."""
    [example] = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    registered = Settings(**tomllib.loads(example)).signing_processor
    assert [bool(item.certificate) for item in registered] == [True, False, False]


def test_the_table_is_read() -> None:
    """The rows above are not none."""
    assert len(rows()) > 40
