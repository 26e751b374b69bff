"""Verification and rebuilding against a real server: what somebody did there is called by its name."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest
from typer.testing import CliRunner

from klyra_collector.cli import ledger as ledger_command
from klyra_collector.cli import verify as verify_command
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.shards import year_of
from klyra_collector.store.elasticsearch.connection import connect, parse
from klyra_collector.store.elasticsearch.definitions import Retained, definitions
from klyra_collector.store.elasticsearch.setup import apply, plan
from klyra_collector.verify import elasticsearch_client, elasticsearch_copy
from support import elasticsearch
from support.elasticsearch_copies import stored_of_ledger
from support.records import BUSINESS, bad, record, submission
from support.sealing import SetClock, open_ledger, read_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.elasticsearch import Node

YEAR = str(year_of(SystemClock().wall_us()))  # commands ask the real clock
STREAM = "klyra-audit-business"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node of its own: verification looks at everything that is there."""
    if elasticsearch.front() is None:
        pytest.skip("for want of elasticsearch_front")
    with elasticsearch.guarded() as node:
        yield node


@pytest.fixture(scope="module")
def data(node, tmp_path_factory) -> Path:
    """A stopped ledger, all of which the cluster has; not to be changed."""
    folder = tmp_path_factory.mktemp("ledger")
    clock = SetClock(SystemClock().wall_us() - 600_000_000)
    ledger = open_ledger(folder / "data", clock)
    user = {"type": "user", "id": "usr_1", "name": None}
    for number in range(150):
        address = {"client_ip": f"2001:db8::{number}", "note": "café", "a.b": {"c": [1, None, True]}}
        ledger.commit([submission(record(), record(BUSINESS, resource=user, metadata=address), bad())])
        clock.pass_seconds(1)
    ledger.sign()
    ledger.close()
    (folder / "klyra.policy").write_text(f"log {ledger.vkey}\nquorum none\n")
    (folder / "password").write_text(node.password)
    with connect(parse(f"{node.store_url}?user=elastic&password=file:{folder / 'password'}")) as client:
        apply(client, plan(client, definitions([Retained("business", 90)])), lambda _: None)
    write(node, folder / "data")
    return folder / "data"


def write(node: Node, data: Path) -> None:
    """Create every document of a ledger."""
    lines = []
    for stored in stored_of_ledger(data):
        lines += [{"create": {"_index": stored.index, "_id": stored.id}}, stored.source]
    content = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    headers = {"Content-Type": "application/x-ndjson"}
    answer = node.request("POST", "_bulk?refresh=true", content=content, headers=headers).json()
    assert not answer["errors"], [item for item in answer["items"] if item["create"]["status"] != 201][:2]


@pytest.fixture(autouse=True)
def _refreshed(monkeypatch) -> None:
    """Tests refresh themselves."""
    monkeypatch.setattr(elasticsearch_copy, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(elasticsearch_copy, "COPY_SECONDS", 0)


@pytest.fixture
def url(node, data) -> str:
    """Where the copy is."""
    return f"{node.store_url}/?user=elastic&password=file:{data.parent / 'password'}"


@pytest.fixture
def verify(url, data) -> Callable[..., tuple[int, dict[str, int]]]:
    """Run the command; return its exit status and what is wrong by verdict."""

    def run(*more: str, **_: Any) -> tuple[int, dict[str, int]]:
        salt = str(data / "keys" / "org-salt")
        arguments = [url, "--policy", str(data.parent / "klyra.policy"), "--org-salt", salt, "--json", *more]
        result = CliRunner().invoke(verify_command.app, arguments)
        report = orjson.loads(result.stdout)
        assert "shards" in report, report
        counts: dict[str, int] = {}
        for shard in report["shards"]:
            for verdict, count in shard["counts"].items():
                if verdict not in ("OK", "EXPIRED_OK", "REDACTED_OK"):
                    counts[verdict] = counts.get(verdict, 0) + count
        return result.exit_code, {verdict: count for verdict, count in counts.items() if count}

    return run


@pytest.fixture
def found(node) -> Callable[[int], dict[str, Any]]:
    """Look up the document of a record."""

    def look(index: int) -> dict[str, Any]:
        query = {"query": {"term": {"klyra.index": index}}, "seq_no_primary_term": True}
        (hit,) = node.request("POST", f"{STREAM}/_search", json=query).json()["hits"]["hits"]
        return hit

    return look


def replace(node: Node, hit: dict[str, Any], source: dict[str, Any]) -> None:
    """Write over a document where it stands, as an administrator could."""
    current = node.request("GET", path_of(hit)).json()
    version = f"if_seq_no={current['_seq_no']}&if_primary_term={current['_primary_term']}"
    node.request("PUT", f"{path_of(hit)}?refresh=true&{version}", json=source).raise_for_status()


def path_of(hit: dict[str, Any]) -> str:
    """Return the path of a document in its own index."""
    return f"{hit['_index']}/_doc/{quote(hit['_id'], safe='')}"


def test_all_is_well(verify, data) -> None:
    """With the ledger, and with the copy of it."""
    assert verify("--ledger", str(data)) == (0, {})
    assert verify() == (0, {})


def test_in_small_pages(verify, monkeypatch) -> None:
    """The answers of many pages are the documents of one search."""
    monkeypatch.setattr(elasticsearch_client, "PAGE", 7)
    assert verify() == (0, {})


def test_an_edited_document(verify, node, found) -> None:
    """ALTERED."""
    hit = found(100)
    replace(node, hit, hit["_source"] | {"status": "failure"})
    try:
        assert verify() == (1, {"ALTERED": 1})
    finally:
        replace(node, hit, hit["_source"])


def test_a_deleted_document_and_a_rollover(verify, node, found) -> None:
    """MISSING, OK when it is written again, DUPLICATE when the other one stands in the index before."""
    hit = found(101)
    node.request("DELETE", f"{path_of(hit)}?refresh=true").raise_for_status()
    assert verify() == (1, {"MISSING": 1})
    again = f"{STREAM}/_create/{quote(hit['_id'], safe='')}?refresh=true"
    node.request("PUT", again, json=hit["_source"]).raise_for_status()
    assert verify() == (0, {})
    node.request("POST", f"{STREAM}/_rollover").raise_for_status()
    doubled = node.request("PUT", again, json=hit["_source"])
    doubled.raise_for_status()
    assert verify() == (1, {"DUPLICATE": 1})
    node.request("DELETE", f"{path_of(doubled.json())}?refresh=true").raise_for_status()
    assert verify() == (0, {})


def test_somebody_else_s_document(verify, node, found) -> None:
    """EXTRA: with a place in the ledger that it does not have, or with none at all."""
    source = found(102)["_source"]
    made_up = source | {"id": "log_made_up", "klyra": source["klyra"] | {"index": 5000}}
    strange = {"@timestamp": "2026-01-01T00:00:00Z"}
    written = [
        node.request("POST", f"{STREAM}/_doc?refresh=true", json=document).json() for document in (made_up, strange)
    ]
    try:
        assert verify() == (1, {"EXTRA": 2})
    finally:
        for each in written:
            node.request("DELETE", f"{path_of(each)}?refresh=true").raise_for_status()


def test_an_entry_that_no_search_finds(verify, node, found) -> None:
    """ALTERED: somebody had the index leave out what is long, wrote it again, and put the mapping back."""
    hit = found(100)
    mapping = f"{hit['_index']}/_mapping"

    def leave_out_above(characters: int | None) -> None:
        field = {"type": "keyword"} | ({} if characters is None else {"ignore_above": characters})
        node.request("PUT", mapping, json={"properties": {"organization_id": field}}).raise_for_status()

    leave_out_above(1)
    try:
        assert verify() == (1, {"ALTERED": 1}), "the mapping"
        replace(node, hit, hit["_source"])
        assert verify() == (1, {"ALTERED": 2}), "the mapping and the entry"
        leave_out_above(None)
        assert verify() == (1, {"ALTERED": 1}), "the entry"
    finally:
        leave_out_above(None)
        replace(node, hit, hit["_source"])
    assert verify() == (0, {})


def test_an_entry_in_the_stream_of_somebody_else(verify, node, found) -> None:
    """A leak is told, though the entry itself is as it was sealed."""
    hit = found(103)
    leaked = node.request(
        "PUT", f"{STREAM}-at-org_other/_create/{quote(hit['_id'], safe='')}?refresh=true", json=hit["_source"]
    )
    leaked.raise_for_status()
    try:
        assert verify() in ((1, {"DUPLICATE": 1}), (1, {"DUPLICATE": 1, "ALTERED": 1}))
        node.request("DELETE", f"{path_of(hit)}?refresh=true").raise_for_status()
        assert verify() == (1, {"ALTERED": 1})
    finally:
        node.request("DELETE", f"{path_of(leaked.json())}?refresh=true").raise_for_status()
        node.request("PUT", f"{STREAM}/_create/{quote(hit['_id'], safe='')}?refresh=true", json=hit["_source"])
    assert verify() == (0, {})


def test_quarantined_input_that_was_deleted(verify, node, data) -> None:
    """MISSING, with the ledger and without it."""
    (hit, *_) = node.request("POST", "klyra-audit-quarantine-business/_search").json()["hits"]["hits"]
    node.request("DELETE", f"{path_of(hit)}?refresh=true").raise_for_status()
    try:
        assert verify() == verify("--ledger", str(data)) == (1, {"MISSING": 1})
    finally:
        again = f"klyra-audit-quarantine-business/_create/{quote(hit['_id'], safe='')}?refresh=true"
        node.request("PUT", again, json=hit["_source"]).raise_for_status()


def test_a_reader_s_key_is_enough(verify, node, data) -> None:
    """Verification reads, and nothing else."""
    privileges = {"indices": [{"names": ["klyra-audit-*"], "privileges": ["read", "view_index_metadata"]}]}
    body = {"name": "auditor", "role_descriptors": {"auditor": {"cluster": [], **privileges}}}
    key = node.request("POST", "_security/api_key", json=body).json()
    (data.parent / "key").write_text(key["encoded"])
    target = f"{node.store_url}/?api_key=file:{data.parent / 'key'}"
    arguments = [target, "--policy", str(data.parent / "klyra.policy"), "--org-salt", str(data / "keys" / "org-salt")]
    result = CliRunner().invoke(verify_command.app, arguments)
    assert result.exit_code == 0, result.output


def test_a_wrong_password(node, data) -> None:
    """Nothing could be checked."""
    (data.parent / "wrong").write_text("wrong")
    target = f"{node.store_url}/?user=elastic&password=file:{data.parent / 'wrong'}"
    result = CliRunner().invoke(verify_command.app, [target])
    assert result.exit_code == 2
    assert "refuses" in result.stderr


def test_rebuild(url, data, tmp_path, monkeypatch) -> None:
    """Every record with its content is what it was."""
    (tmp_path / "new").mkdir()
    shutil.copytree(data / "keys", tmp_path / "new" / "keys")
    monkeypatch.setenv("KLYRA_DATA", str(tmp_path / "new"))
    monkeypatch.chdir(tmp_path)
    arguments = ["rebuild", "--from", url, "--policy", str(data.parent / "klyra.policy"), "--reason", "lost", "--yes"]
    checkpoint = ["--checkpoint", str(data / "ledger" / YEAR / "checkpoint")]
    result = CliRunner().invoke(ledger_command.app, [*arguments, *checkpoint])
    assert result.exit_code == 0, result.output
    assert read_shard(tmp_path / "new", YEAR) == read_shard(data, YEAR)
    assert read_shard(tmp_path / "new", f"{YEAR}-2")[0].control["reason"] == "disaster"
