"""`klyra-audit destination add|remove|list --org`: what an organization could set up by itself."""

from __future__ import annotations

import contextlib
import json

import pytest

from klyra_audit.catalog import Catalog
from klyra_collector.cli import destinations
from klyra_collector.data_directory import DataDirectory
from klyra_collector.registry import Registry
from klyra_collector.self_service.secret_box import SecretBox
from support.api import OPERATOR

BOX = SecretBox(b"\x07" * 32)
TOKEN = "t0ken-that-nobody-may-see"
ADD = [
    *("add", "splunk", "--org", "org_ours", "--kind", "splunk", "--secret", "token=env:FAR_TOKEN"),
    *("--endpoint", "https://http-inputs-acme.splunkcloud.com"),
]


@pytest.fixture
def registry(data, monkeypatch):
    """A registry with organizations of two plans, and a token in a variable; nothing runs."""
    monkeypatch.setenv("FAR_TOKEN", TOKEN)
    data.mkdir(exist_ok=True)
    with contextlib.closing(Registry.open(DataDirectory(data).registry_url, Catalog.load())) as made:
        made.create_organization("org_ours", "enterprise", by=OPERATOR)
        made.create_organization("org_small", "startup", by=OPERATOR)
        made.destinations.publish_sealing_key(BOX.public)
        yield made


def test_one_is_set_up_shown_and_removed(run, registry) -> None:
    """Its id is the answer; its token is read now and sealed; each change is an entry of the organization."""
    status, output, _ = run(destinations.app, *ADD, "--option", "acknowledge=false", "--option", "index=klyra")
    destination_id = output.strip()
    assert status == 0
    [stored] = registry.destinations.all("org_ours")
    assert (stored.destination_id, stored.spec.options) == (destination_id, {"acknowledge": False, "index": "klyra"})
    assert BOX.open(stored.spec.secrets["token"], destination_id, "token") == TOKEN
    _, output, _ = run(destinations.app, "list", "--org", "org_ours", "--json")
    [row] = json.loads(output)
    assert (row["id"], row["state"], row["secrets"]) == (destination_id, "starting", {"token": {"is_set": True}})
    registry.destinations.report(
        destination_id, {"state": "paused", "error": "403/4: Invalid token", "error_us": 10**15}
    )
    _, output, _ = run(destinations.app, "list", "--org", "org_ours")
    assert "splunk: last error 2001-09-09T01:46:40.000Z: 403/4: Invalid token" in output
    assert TOKEN not in output
    told = run(destinations.app, "remove", destination_id, "--org", "org_ours")
    assert told[:2] == (0, f"{destination_id} is removed.\n")
    assert registry.destinations.all() == []


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--option", "acknowledge"], 1, "--option is no NAME=VALUE"),
        (["--option", "acknowledge=perhaps"], 1, "acknowledge is no boolean"),
        (["--option", "colour=red"], 1, "has no 'colour' among its options"),
        (["--kind", "splonk"], 1, "There is no kind 'splonk'"),
        (["--endpoint", "https://splunk.internal:8088"], 1, "self_service.allowed_hosts"),
        (["--org", "org_small"], 1, "The plan of org_small, startup, has no destinations"),
        (["--org", "org_nobody"], 1, "org_nobody"),
        (["--secret", "token=env:ABSENT_TOKEN"], 2, "ABSENT_TOKEN"),
        (["--secret", "token=the-token-itself"], 1, "env:NAME or file:PATH"),
    ],
)
def test_what_cannot_be_set_up(run, registry, words, status, said) -> None:
    """With what to do; nothing is kept, and no secret repeated."""
    ended, output, error = run(destinations.app, *ADD, *words)
    assert (ended, output) == (status, "")
    assert said in " ".join(error.split())
    assert TOKEN not in error
    assert "the-token-itself" not in error
    assert registry.destinations.all() == []


def test_before_a_follower_has_run(run, data, monkeypatch) -> None:
    """Exit 2: nobody could open the secret."""
    monkeypatch.setenv("FAR_TOKEN", TOKEN)
    data.mkdir(exist_ok=True)
    with contextlib.closing(Registry.open(DataDirectory(data).registry_url, Catalog.load())) as made:
        made.create_organization("org_ours", "enterprise", by=OPERATOR)
    status, _, error = run(destinations.app, *ADD)
    assert (status, "The follower has not run yet" in error) == (2, True)


def test_a_secret_endpoint_is_a_reference(run, registry, monkeypatch) -> None:
    """It is read and sealed, and shown masked."""
    monkeypatch.setenv("SUMO_URL", "https://endpoint4.collection.sumologic.com/receiver/v1/http/ZaVnC4dhaV3_path==")
    status, _, error = run(
        destinations.app, "add", "sumo", "--org", "org_ours", "--kind", "sumo-logic", "--endpoint", "env:SUMO_URL"
    )
    assert (status, "ZaVnC4" in error) == (0, False)
    [stored] = registry.destinations.all("org_ours")
    assert stored.spec.endpoint == "https://endpoint4.collection.sumologic.com/…"


def test_removing_what_is_not_there(run, registry) -> None:
    """Exit 1."""
    status, _, error = run(destinations.app, "remove", "dst-none", "--org", "org_ours")
    assert (status, "There is no such destination" in error) == (1, True)
