"""What happens in the example organization."""

from __future__ import annotations

import ipaddress
import re
import threading
from collections import Counter
from contextlib import closing
from itertools import islice
from random import Random

import httpx
import pytest

from klyra_audit.catalog import Catalog
from klyra_collector.demo import cast
from klyra_collector.demo.client import ServiceClient
from klyra_collector.demo.script import Script
from support.moderation import Notebook, running_service

DOCUMENTATION = [
    ipaddress.ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]
SCENES = 400


def play(seed: int, *, scenes: int = 0, meddle=lambda _url, _documents: None) -> tuple[list[dict], list[str]]:
    """Play the opening and some of daily life; return the documents of the entries and the surprises."""
    notebook = Notebook()
    surprises: list[str] = []
    with running_service(notebook) as url, closing(ServiceClient(url, threading.Event())) as service:
        script = Script(service, Random(seed), surprises.append)  # noqa: S311 - a story, not a secret
        for _ in script.opening():
            pass
        meddle(url, notebook.documents)
        for _ in islice(script.daily_life(), scenes):
            pass
    return notebook.documents, surprises


def gist(document: dict) -> str:
    """Return an entry without what differs from run to run: ids and times."""
    parts = (document["event_type"], document["status"], document["actor"]["name"], document["metadata"])
    return re.sub(r"\b(wh|key|mod)_[0-9a-f]{12}\b|'duration_ms': \d+", "…", repr(parts))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_opening_has_every_type_and_a_page_full_of_entries(seed) -> None:
    """Whatever the seed, all 15 types of the product appear at once, failures among them."""
    documents, surprises = play(seed)
    product = {*Catalog.load().names("moderation"), *Catalog.load().names("administrative")}
    assert len(product) == 15
    assert {document["event_type"] for document in documents} == product
    assert 55 <= len(documents) <= 70
    assert Counter(document["status"] for document in documents)["failure"] >= 2
    assert not surprises


def test_the_same_seed_makes_the_same_requests() -> None:
    """A run can be repeated; another seed is another story."""
    first, again, other = (list(map(gist, play(seed, scenes=60)[0])) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_daily_life_goes_on_without_surprises() -> None:
    """Hundreds of scenes later everything is still as the script expects, and all kinds of things have happened."""
    documents, surprises = play(1, scenes=SCENES)
    assert not surprises
    late = Counter(document["event_type"] for document in documents[70:])
    assert late["moderation.created"] > 100
    assert late.keys() >= {"moderation.appealed", "moderation.overridden", "user.added", "user.removed"}


def test_everybody_comes_from_an_address_for_documentation() -> None:
    """No address of the example can be somebody's."""
    origins = [*cast.OWNER_ORIGINS]
    origins += [
        origin for group in (cast.PEOPLE, cast.VISITORS, cast.PROGRAMS) for one in group for origin in one.origins
    ]
    for origin in origins:
        assert any(ipaddress.ip_address(origin.client_ip) in network for network in DOCUMENTATION)


def test_others_may_use_the_service_as_well() -> None:
    """When somebody else deletes a webhook of the script's, it is reported and the script goes on."""

    def meddle(url: str, documents: list[dict]) -> None:
        made = {document["resource"]["id"] for document in documents if document["event_type"] == "webhook.created"}
        for webhook_id in made:
            httpx.delete(f"{url}/v1/webhooks/{webhook_id}", headers={"X-User-Id": cast.OWNER_ID})

    documents, surprises = play(1, scenes=SCENES, meddle=meddle)
    assert any("/v1/webhooks/" in surprise and "404" in surprise for surprise in surprises)
    assert len(documents) > SCENES
