"""Documents that the cluster refuses, and documents there that are none of ours: a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest
from structlog.testing import capture_logs

from klyra_audit.errors import Paused
from klyra_audit.format.leaf import Kind
from klyra_collector.store.elasticsearch.bulk import MappingRefuses
from klyra_collector.store.elasticsearch.connection import request
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.store.elasticsearch.documents import record_of
from support.elasticsearch_faults import REFERENCE, identity, own_ledger, places, seal
from support.elasticsearch_following import following, prepared
from support.entries import ACME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.elasticsearch import Node
    from support.elasticsearch_following import Keys
    from support.entries import MemoryLedger


@pytest.fixture(scope="module")
def keys(cluster: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """Clients of each key."""
    with prepared(cluster, tmp_path_factory.mktemp("keys")) as made:
        yield made


@pytest.fixture
def log(request: pytest.FixtureRequest) -> str:
    """The shard of one test."""
    return f"strangers/{request.node.name}/2026"


@pytest.fixture
def ledger(log: str, keys: Keys) -> Iterator[MemoryLedger]:
    """A ledger of one shard of its own."""
    with own_ledger(keys, log) as ledger:
        yield ledger


class TestMapping:
    """An index that an older set-up has made."""

    @pytest.fixture
    def older(self, keys: Keys) -> Iterator[Callable[[dict[str, Any]], str]]:
        """Make the stream of a policy with another mapping, or change it; it goes afterwards."""
        stream = "klyra-audit-enterprise-777d"

        def make(change: dict[str, Any]) -> str:
            entries = request(keys.administrator, "GET", "/_component_template/klyra-audit-entries")
            mappings = entries["component_templates"][0]["component_template"]["template"]["mappings"]
            properties = {name: each for name, each in (mappings["properties"] | change).items() if each is not None}
            template = {"mappings": mappings | {"properties": properties}, "settings": {"number_of_replicas": 0}}
            body = {"index_patterns": [stream], "data_stream": {}, "priority": 900, "template": template}
            request(keys.administrator, "PUT", "/_index_template/tests-older", body)
            if change:
                request(keys.administrator, "PUT", f"/_data_stream/{stream}")
            else:
                request(keys.administrator, "POST", f"/{stream}/_rollover")
            return stream

        yield make
        request(keys.administrator, "DELETE", f"/_data_stream/{stream}")
        request(keys.administrator, "DELETE", "/_index_template/tests-older")

    @pytest.mark.parametrize(
        ("change", "kind"),
        [
            ({"metadata_other": None}, "strict_dynamic_mapping_exception"),
            ({"metadata_other": {"type": "long"}}, "document_parsing_exception"),
        ],
    )
    def test_one_document_that_it_refuses(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, older, change: dict[str, Any], kind: str
    ) -> None:
        """It goes to the dead letters, and the others on; mended, what is missing is written from the ledger."""
        older(change)
        for number in range(5):
            metadata = {"unknown": {"a": 1}} if number == 2 else {}
            seal(ledger, log, number, retention_days=777, metadata=metadata)
        with capture_logs() as logs, following(keys, ledger, tmp_path) as follow:
            follow.follow()
            assert load(tmp_path).applied == {log: 5}
        assert places(keys, log) == [0, 1, 3, 4]
        (letter,) = map(orjson.loads, (tmp_path / "elasticsearch.dead.ndjson").read_bytes().splitlines())
        assert (letter["index"], letter["entry_id"], letter["status"]) == (2, identity(log, 2), "400")
        assert [line["index"] for line in logs if line["event"] == "elasticsearch.dead_letter"] == [2]
        (tmp_path / "elasticsearch.dead.ndjson").unlink()
        (tmp_path / "store.json").unlink()
        older({})
        with following(keys, ledger, tmp_path) as follow:
            follow.follow()
        assert places(keys, log) == [0, 1, 2, 3, 4]

    def test_all_documents_that_it_refuses(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, older
    ) -> None:
        """That is no document's fault: the follower pauses, and buries none."""
        older({"status": {"type": "long"}})
        for number in range(12):
            seal(ledger, log, number, retention_days=777)
        with following(keys, ledger, tmp_path) as follow, pytest.raises(MappingRefuses) as caught:
            follow.follow()
        assert isinstance(caught.value, Paused)
        assert caught.value.code == "elasticsearch_mapping_refuses"
        assert "setup elasticsearch" in caught.value.remedy
        assert load(tmp_path).applied == {}
        assert not list(tmp_path.glob("*.dead.ndjson"))


class TestStrangers:
    """Somebody else writes into our streams."""

    def test_a_document_under_our_id(self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path) -> None:
        """Ours stands beside it, and is found by its place."""
        record = seal(ledger, log, 0)
        path = quote(f"{ACME}:{identity(log, 0)}", safe="")
        foreign = {"@timestamp": "2026-03-10T11:00:00Z", "id": "x"}
        made = request(keys.administrator, "PUT", f"/klyra-audit-startup/_create/{path}", foreign)
        try:
            with following(keys, ledger, tmp_path) as follow:
                follow.follow()
            (hit,) = keys.documents(log)
            assert record_of(hit["_source"]).leaf_bytes == record.leaf_bytes
        finally:
            request(keys.administrator, "DELETE", f"/{made['_index']}/_doc/{path}?refresh=true")

    @pytest.mark.parametrize("member", ["index", "log", "leaf", "expire_day"])
    def test_a_document_that_is_none_of_ours(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, member: str
    ) -> None:
        """Whatever it lacks, the follower writes, moves, deletes and sweeps what it should, and nothing more."""
        record = seal(ledger, log, 0)
        klyra = {"log": log, "index": 9_000, "leaf": "AAAA", "expire_day": 1, "org_ref": REFERENCE, "org_seq": 0}
        del klyra[member]
        foreign = {"@timestamp": "2026-03-10T11:00:00Z", "organization_id": ACME, "klyra": klyra}
        made = request(keys.administrator, "POST", "/klyra-audit-startup/_doc?refresh=true", foreign)
        try:
            with following(keys, ledger, tmp_path) as follow:
                follow.follow()
                content = {"org_ref": REFERENCE, "first_seq": 0, "last_seq": 0, "retention_days": 90}
                ledger.control(Kind.EXTEND, {"type": "extend", **content}, origin=log)
                window = {"hold_id": "hold_1", "org_ref": REFERENCE, "from_us": 0, "to_us": 1, "selection_c": None}
                ledger.control(Kind.HOLD, {"type": "hold", **window}, origin=log)
                follow.follow()
                follow.store.shrink()
            ours = [hit for hit in keys.documents(log) if hit["_source"]["klyra"].get("index") == 0]
            assert [record_of(hit["_source"]).leaf_bytes for hit in ours] == [record.leaf_bytes]
            assert "klyra-audit-business" in ours[0]["_index"]
        finally:
            query = {"query": {"term": {"_id": made["_id"]}}}
            for hit in request(keys.administrator, "POST", "/klyra-audit-*/_search", query)["hits"]["hits"]:
                request(keys.administrator, "DELETE", f"/{hit['_index']}/_doc/{hit['_id']}?refresh=true")

    @pytest.mark.parametrize("index", [1, 9_000])
    def test_a_document_that_leads_an_erasure_astray(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, index: int
    ) -> None:
        """What an ERASURE names is for the ledger to say, not for a document that claims a place there."""
        secret = {"type": "user", "id": "usr_secret", "name": "Secret"}
        seal(ledger, log, 0, actor=secret)
        other = seal(ledger, log, 1, actor=secret, organization_id="org_other")
        klyra = {"log": log, "index": index, "org_ref": REFERENCE, "org_seq": 0}
        foreign = {"@timestamp": "2026-03-10T11:00:00Z", "organization_id": ACME, "klyra": klyra}
        made = request(keys.administrator, "POST", "/klyra-audit-startup/_doc?refresh=true", foreign)
        try:
            with following(keys, ledger, tmp_path) as follow:
                follow.store._parts.present._until[log] = 0
                follow.follow()
                named = {"org_ref": REFERENCE, "actor": [[0, 0]], "target": [], "basis": "x", "requested_day": 1}
                ledger.control(Kind.ERASURE, {"type": "erasure", **named}, origin=log)
                follow.follow()
        finally:
            request(keys.administrator, "DELETE", f"/{made['_index']}/_doc/{made['_id']}?refresh=true")
        first, second = keys.documents(log)
        assert b"ecret" not in orjson.dumps(first)
        body = record_of(second["_source"]).body
        assert body is not None
        assert body.sections == other.body.sections

    @pytest.mark.parametrize("has_ours", [True, False])
    def test_a_document_in_the_place_of_one_that_is_erased(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, *, has_ours: bool
    ) -> None:
        """It goes, whatever it holds; ours is written again without what was erased, and without ours there is none."""
        secret = {"type": "user", "id": "usr_secret", "name": "Secret"}
        seal(ledger, log, 0, actor=secret)
        klyra = {"log": log, "index": 0, "org_ref": REFERENCE, "org_seq": 0}
        foreign = {"@timestamp": "2026-03-10T11:00:00Z", "organization_id": ACME, "actor": secret, "klyra": klyra}
        with following(keys, ledger, tmp_path) as follow:
            follow.follow()
            if not has_ours:
                for hit in keys.documents(log):
                    request(keys.administrator, "DELETE", f"/{hit['_index']}/_doc/{hit['_id']}?refresh=true")
            request(keys.administrator, "POST", "/klyra-audit-startup/_doc?refresh=true", foreign)
            named = {"org_ref": REFERENCE, "actor": [[0, 0]], "target": [], "basis": "x", "requested_day": 1}
            ledger.control(Kind.ERASURE, {"type": "erasure", **named}, origin=log)
            follow.follow()
        hits = keys.documents(log)
        assert len(hits) == has_ours
        assert b"ecret" not in orjson.dumps(hits)
