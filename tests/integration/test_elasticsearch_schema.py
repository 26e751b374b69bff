"""What set-up sends, held against Elastic's own description of every request of 9.x."""

from __future__ import annotations

import copy

import pytest

from klyra_collector.store.elasticsearch.connection import Flavor
from klyra_collector.store.elasticsearch.definitions import Retained, definitions, keys
from support import elasticsearch_schema
from support.elasticsearch_schema import Schema

POLICIES = [Retained("startup", 30), Retained("enterprise-730d", 730)]
# Settings of indexes that a serverless cluster takes, as its documentation lists them ("Serverless index settings").
SERVERLESS_SETTINGS = {"mode", "codec", "refresh_interval", "mapping", "sort"}


@pytest.fixture(scope="module")
def schema(require_peer) -> Schema:
    """The description."""
    file = elasticsearch_schema.description()
    require_peer("elasticsearch_schema", file)
    return Schema(file)


@pytest.mark.parametrize("flavor", Flavor)
def test_every_request_of_set_up_is_known(schema, flavor) -> None:
    """Its address, each member of its body, and every word of a closed set."""
    for definition in definitions(POLICIES, flavor, ["org_acme"]):
        assert schema.problems("PUT", definition.path, definition.body) == [], definition.name
    for key in keys(flavor).values():
        assert schema.problems("POST", "/_security/api_key", key) == []


def test_a_serverless_cluster_has_every_request_and_setting(schema) -> None:
    """It has no lifecycle policies, and decides about shards itself."""
    wanted = definitions(POLICIES, Flavor.SERVERLESS, ["org_acme"])
    assert all(schema.is_in_serverless("PUT", definition.path) for definition in wanted)
    assert not schema.is_in_serverless("PUT", "/_ilm/policy/klyra-audit-startup")
    settings = [
        definition.body["template"].get("settings", {})
        for definition in wanted
        if definition.body is not None and "template" in definition.body
    ]
    used = {name for each in settings for name in each.get("index", {})}
    assert used == SERVERLESS_SETTINGS


@pytest.mark.parametrize(
    ("kind", "members", "value", "problem"),
    [
        ("lifecycle policy", ["policy", "phases", "hot", "actions", "rollover", "max_agee"], "22h", "max_agee"),
        ("lifecycle policy", ["policy", "phases", "cool"], {}, "cool"),
        ("index template", ["index_pattern"], ["a"], "index_pattern"),
        ("index template", ["priority"], {"a": 1}, "priority"),
        ("component template", ["template", "mappings", "dynamic"], "strictly", "strictly"),
    ],
)
def test_what_is_wrong_is_found(schema, kind, members, value, problem) -> None:
    """The description has teeth: what passes has been looked at."""
    definition = next(item for item in definitions(POLICIES) if item.kind == kind)
    body = copy.deepcopy(dict(definition.body))
    place = body
    for name in members[:-1]:
        place = place.setdefault(name, {})
    place[members[-1]] = value
    (found,) = schema.problems("PUT", definition.path, body)
    assert problem in found
