"""An organization with streams of its own looks at them directly, and at nothing else: a real server with security."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from klyra_collector.kibana_objects import wanted
from klyra_collector.store.elasticsearch.connection import ClusterRefuses, connect, parse, request
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.store.elasticsearch.reader import ElasticsearchReader
from klyra_collector.store.searching import Filters, Search
from support.elasticsearch_following import following, prepared
from support.entries import TODAY, MemoryLedger, document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from elasticsearch import Elasticsearch

    from support.elasticsearch import Node
    from support.elasticsearch_following import Keys

OWN, OTHER, SHARED = "org_Own", "org_other_own", "org_shared"
LOG = "dedicated/1/2026"


@pytest.fixture(scope="module")
def keys(cluster: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """Clients of each key, in a cluster with the streams of two organizations' own."""
    with prepared(cluster, tmp_path_factory.mktemp("keys"), dedicated=[OWN, OTHER]) as made:
        yield made


@pytest.fixture(scope="module")
def cursors(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten entries of each organization, followed; where the cursor is."""
    folder = tmp_path_factory.mktemp("dedicated") / "cursors"
    ledger = MemoryLedger(LOG)
    for number, organization_id in enumerate((OWN, OTHER, SHARED) * 10):
        event = document(number, organization_id=organization_id) | {"id": f"log_dedicated{number:017}"}
        ledger.seal(event, origin=LOG, retention_days=(30, 90)[number % 2])
    with following(keys, ledger, folder, dedicated=[OWN, OTHER]) as store:
        while load(store.cursors).searchable.get(LOG) != ledger.committed(LOG):
            store.follow()
            keys.refresh()
            store.store.shrink()
    return folder


@pytest.fixture(scope="module")
def insider(cluster: Node, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elasticsearch]:
    """A client of somebody of the organization, with the role that set-up makes for it."""
    ((name, role),) = [one for one in wanted("own", OWN).roles.items() if "organization" in one[0]]
    rights = {"cluster": role["elasticsearch"]["cluster"], "indices": role["elasticsearch"]["indices"]}
    request(keys.administrator, "PUT", f"/_security/role/{name}", rights)
    user = {"password": "of somebody there", "roles": [name]}
    request(keys.administrator, "PUT", "/_security/user/insider", user)
    password = tmp_path_factory.mktemp("insider") / "password"
    password.write_text(user["password"])
    with connect(parse(f"{cluster.store_url}?user=insider&password=file:{password}")) as client:
        yield client


@pytest.mark.usefixtures("cursors")
def test_entries_are_in_streams_of_their_organizations(keys: Keys) -> None:
    """Those of each plan apart; whoever has none shares."""
    found: dict[str, set[str]] = {}
    for hit in keys.documents(LOG):
        stream = hit["_index"].removeprefix(".ds-").rsplit("-", 2)[0]
        found.setdefault(hit["_source"]["organization_id"], set()).add(stream)
    assert found == {
        OWN: {"klyra-audit-startup-at-org_own", "klyra-audit-business-at-org_own"},
        OTHER: {"klyra-audit-startup-at-org_other_own", "klyra-audit-business-at-org_other_own"},
        SHARED: {"klyra-audit-startup", "klyra-audit-business"},
    }


@pytest.mark.usefixtures("cursors")
@pytest.mark.parametrize("pattern", ["klyra-audit-*", "*", "klyra-audit-startup*", "klyra-audit-*-at-*"])
def test_whoever_is_of_the_organization_sees_its_own_entries_alone(insider: Elasticsearch, pattern: str) -> None:
    """Whatever pattern is searched, only its own streams answer."""
    answer = request(insider, "POST", f"/{pattern}/_search", {"size": 100})
    assert {hit["_source"]["organization_id"] for hit in answer["hits"]["hits"]} == {OWN}


@pytest.mark.usefixtures("cursors")
@pytest.mark.parametrize(
    "name",
    [
        "klyra-audit-startup",
        "klyra-audit-startup-at-org_other_own",
        "klyra-audit-ledger",
        "klyra-audit-health",
        "klyra-audit-held",
        "klyra-audit-quarantine-startup",
    ],
)
def test_nothing_else_can_be_named(insider: Elasticsearch, name: str) -> None:
    """Everybody else's entries, the ledger, health and quarantine are refused."""
    with pytest.raises(ClusterRefuses):
        request(insider, "POST", f"/{name}/_search", {"size": 1})


def test_nothing_can_be_changed(insider: Elasticsearch) -> None:
    """Who looks only looks."""
    with pytest.raises(ClusterRefuses):
        request(insider, "POST", "/klyra-audit-startup-at-org_own/_doc", {"@timestamp": 0})


def test_our_own_answers_are_the_same_as_of_shared_streams(keys: Keys, cursors: Path) -> None:
    """Every organization finds its ten entries, wherever they are."""
    reader = ElasticsearchReader(keys.reader, cursors)
    for organization_id in (OWN, OTHER, SHARED):
        search = Search(organization_id=organization_id, filters=Filters(), today=TODAY)
        assert len(reader.search(search, 100)) == 10
