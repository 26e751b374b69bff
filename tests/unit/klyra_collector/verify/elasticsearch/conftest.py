"""A cluster in memory with all of the baseline, and verification of it."""

from __future__ import annotations

import copy as copying

import pytest

from klyra_collector.verify import Options
from klyra_collector.verify.copies_elasticsearch import verify_alone, verify_with_ledger
from klyra_collector.verify.elasticsearch_address import ElasticsearchAddress
from klyra_collector.verify.elasticsearch_client import ElasticsearchClient
from klyra_collector.verify.elasticsearch_copy import ElasticsearchCopy
from support.baseline import baseline
from support.elasticsearch_copies import stored_of
from support.elasticsearch_reading import ReadingElasticsearch, reading
from support.forge import SECOND_US


@pytest.fixture(scope="module")
def forge():
    """The baseline in memory; not to be changed."""
    return baseline()


@pytest.fixture(scope="module")
def data(forge, tmp_path_factory):
    """The baseline on disk; not to be changed."""
    return forge.write(tmp_path_factory.mktemp("pristine") / "data")


@pytest.fixture(scope="module")
def stored(forge, data):
    """What the cluster holds of it; not to be changed."""
    return stored_of(forge, data)


@pytest.fixture
def server(stored):
    """A cluster with it, to be changed."""
    with reading(ReadingElasticsearch(copying.deepcopy(stored))) as server:
        yield server


@pytest.fixture
def verify(forge, data, server):
    """Verify with the ledger, or alone, pinned, at the baseline's own time."""

    def run(ledger=data, *, alone=False, **options):
        own = {
            "policy": forge.policy(),
            "patience": 0.0,
            "now_us": forge.newest.now_us + SECOND_US,
            "org_salt": (data / "keys" / "org-salt").read_bytes(),
        }
        address = ElasticsearchAddress.parse(server.url)
        with ElasticsearchCopy(ElasticsearchClient(address, sleep=lambda _seconds: None)) as found:
            if alone:
                return verify_alone(found, Options(**(own | options)))
            return verify_with_ledger(found, ledger, Options(**(own | options)))

    return run
