"""Secrets of destinations stand in the configuration by reference alone, and what is said of mistakes holds none."""

from __future__ import annotations

import contextlib
import gzip
import re
from pathlib import Path

import pytest

from klyra_collector.config import BadConfiguration, Settings
from klyra_collector.fanout.assembly import build_destination
from klyra_collector.fanout.trial import trial_entry

PAGES = Path(__file__).resolve().parents[3] / "docs" / "destinations"
SECRET = "a-secret-that-nobody-may-see"
SUMO = f"https://collectors.sumologic.com/receiver/v1/http/{SECRET}"


def load(folder: Path, *lines: str) -> Settings:
    """Return the settings of a file with one destination."""
    path = folder / "klyra-audit.toml"
    path.write_text("\n".join(("[[destination]]", 'name = "far"', *lines, "")))
    return Settings.load(path)


@pytest.mark.parametrize(
    "option", ["token", "api_key", "client_secret", "secret", "session_token", "password", "shared_key", "credentials"]
)
@pytest.mark.parametrize("value", [f'"{SECRET}"', "12345", "true"])
def test_a_secret_option_is_a_reference(tmp_path, option: str, value: str) -> None:
    """The value itself is refused, and not repeated."""
    lines = ('kind = "splunk"', 'endpoint = "https://splunk.example.com:8088"', "[destination.options]")
    with pytest.raises(BadConfiguration, match=option) as caught:
        load(tmp_path, *lines, f"{option} = {value}")
    assert SECRET not in str(caught.value) + caught.value.remedy
    [one] = load(tmp_path, *lines, f'{option} = "env:A_SECRET"').destination
    assert one.options == {option: "env:A_SECRET"}


@pytest.mark.parametrize("option", ["index", "tokens", "access_key_id", "key_file"])
def test_other_options_are_values(tmp_path, option: str) -> None:
    """What a name only resembles is not a secret."""
    lines = ('endpoint = "https://far.example.com"', "[destination.options]", f'{option} = "plain"')
    [one] = load(tmp_path, *lines).destination
    assert one.options == {option: "plain"}


def test_a_secret_url_is_a_reference(tmp_path) -> None:
    """Sumo Logic's URL is the key: written out it would stand in logs, lists and metrics."""
    with pytest.raises(BadConfiguration, match="env:NAME") as caught:
        load(tmp_path, 'kind = "sumo-logic"', f'endpoint = "{SUMO}"')
    assert SECRET not in str(caught.value) + caught.value.remedy
    [one] = load(tmp_path, 'kind = "sumo-logic"', 'endpoint = "env:SUMO_URL"').destination
    assert one.endpoint == "env:SUMO_URL"


@pytest.mark.parametrize(
    "kind", ["splunk", "datadog", "sumo-logic", "cloudwatch", "azure-monitor", "google-cloud-logging"]
)
def test_the_examples_of_the_pages_are_configuration(tmp_path, kind: str) -> None:
    """What one copies from a vendor's page can be loaded as it stands."""
    text = (PAGES / f"{kind}.md").read_text()
    [block] = re.findall(r"^ *```toml\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    path = tmp_path / "klyra-audit.toml"
    path.write_text(block)
    [one] = Settings.load(path).destination
    assert one.kind == kind


def test_what_only_looks_like_a_reference_stays_as_it_is(tmp_path, monkeypatch) -> None:
    """A tag of Datadog's may be `env:production`; only secrets are looked up."""
    monkeypatch.setenv("production", "of the machine")
    monkeypatch.setenv("A_SECRET", SECRET)
    lines = ('kind = "datadog"', 'endpoint = "https://http-intake.logs.datadoghq.eu"', "[destination.options]")
    [one] = load(tmp_path, *lines, 'api_key = "env:A_SECRET"', 'tags = "env:production"').destination
    with contextlib.closing(build_destination(one, None)) as made:
        assert b"env:production" in gzip.decompress(made.encode([trial_entry("far", 1)]).content)


def test_a_configured_name_is_no_organizations(tmp_path) -> None:
    """Files and metrics of the two must not be mistaken for one another."""
    path = tmp_path / "klyra-audit.toml"
    path.write_text('[[destination]]\nname = "dst-far"\nendpoint = "https://otel.example.com/v1/logs"\n')
    with pytest.raises(BadConfiguration, match="must not begin with dst-"):
        Settings.load(path)
