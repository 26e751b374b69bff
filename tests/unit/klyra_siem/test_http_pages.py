"""The pages about Splunk, Datadog and Sumo Logic say what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from klyra_siem import datadog, splunk, sumo_logic
from klyra_siem.datadog import SITES
from klyra_siem.errors import BadDestination
from support.siem.cloud import options
from support.siem.sumo_logic import PATH

PAGES = Path(__file__).resolve().parents[3] / "docs" / "destinations"
KINDS = {"splunk": splunk, "datadog": datadog, "sumo-logic": sumo_logic}
VALUES = {
    "env:SPLUNK_TOKEN": "a-token-of-splunk",
    "env:DATADOG_API_KEY": "a-key-of-datadog",
    "env:SUMO_URL": f"https://collectors.sumologic.com{PATH}",
}


def example(kind: str) -> tuple[str, dict[str, object]]:
    """Return the endpoint and the options of a page's example, what it refers to in their place."""
    [block] = re.findall(r"^ *```toml\n(.*?)^ *```", (PAGES / f"{kind}.md").read_text(), re.MULTILINE | re.DOTALL)
    [destination] = tomllib.loads(block)["destination"]
    assert destination["kind"] == kind
    settings = {name: VALUES.get(value, value) for name, value in destination["options"].items()}
    return VALUES.get(destination["endpoint"], destination["endpoint"]), settings


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_can_be_used(kind: str) -> None:
    """What one copies from the page makes a destination."""
    endpoint, settings = example(kind)
    KINDS[kind].create(options(endpoint, settings)).close()


@pytest.mark.parametrize("kind", KINDS)
def test_five_steps(kind: str) -> None:
    """From nothing to the first event."""
    steps = (PAGES / f"{kind}.md").read_text().partition("## To the first event")[2].partition("\n## ")[0]
    assert re.findall(r"^(\d)\. ", steps, re.MULTILINE) == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_explained(kind: str) -> None:
    """The page's table has the options that there are, and no other."""
    endpoint, settings = example(kind)
    with pytest.raises(BadDestination) as caught:
        KINDS[kind].create(options(endpoint, settings | {"frobnicate": "x"}))
    known = set(caught.value.remedy.removeprefix("Known are: ").removesuffix(".").split(", "))
    table = (PAGES / f"{kind}.md").read_text().partition("\n## Options\n")[2].partition("\n\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == known


@pytest.mark.parametrize("kind", KINDS)
def test_limits_and_gaps_are_explained(kind: str) -> None:
    """Each page says what the vendor allows, and how to recognise a duplicate and a gap."""
    text = (PAGES / f"{kind}.md").read_text()
    assert {"## Limits", "## What a duplicate or gap looks like there"} <= set(
        re.findall(r"^## .*$", text, re.MULTILINE)
    )
    limits = KINDS[kind].LIMITS
    assert f"{limits.encoded_bytes:,}" in text
    assert f"{limits.entries:,}" in text
    assert limits.entry_bytes is None or f"{limits.entry_bytes:,}" in text


def test_every_site_is_listed() -> None:
    """One finds the intake of one's own site."""
    hosts = re.findall(
        r"^\| \S+ \| `https://http-intake\.logs\.(.*)` \|$", (PAGES / "datadog.md").read_text(), re.MULTILINE
    )
    assert sorted(hosts) == sorted(SITES)
