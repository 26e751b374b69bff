"""What the follower itself has written to a real server, where everything has happened, verifies and is rebuilt."""

from __future__ import annotations

import contextlib
import shutil
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest
from typer.testing import CliRunner

from klyra_audit.format import note
from klyra_audit.format import policy as policies
from klyra_audit.format.control import ShardOpen
from klyra_collector.cli import ledger as ledger_command
from klyra_collector.cli import ledger_rebuild
from klyra_collector.cli import verify as verify_command
from klyra_collector.data_directory import DataDirectory
from klyra_collector.elasticsearch_settings import ElasticsearchSettings
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.store.elasticsearch import ledger_index
from klyra_collector.store.elasticsearch.assembly import Surroundings, following
from klyra_collector.store.elasticsearch.connection import request
from klyra_collector.store.follower import Follower
from klyra_collector.store.rows import erased_sections
from klyra_collector.verify import Options, Verdict, elasticsearch_copy, verify_target
from klyra_collector.verify.copies_elasticsearch import verify_alone, verify_with_ledger
from klyra_collector.verify.elasticsearch_address import ElasticsearchAddress
from klyra_collector.verify.elasticsearch_client import ElasticsearchClient
from klyra_collector.verify.elasticsearch_copy import ElasticsearchCopy
from support import elasticsearch
from support.baseline import ENTERPRISE, baseline
from support.elasticsearch_following import keyed_urls, prepared
from support.forge import SECOND_US
from support.sealing import SetClock, read_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from klyra_collector.seal.reader import SealedRecord
    from klyra_collector.verify import Report
    from support.elasticsearch import Node
    from support.forge import Forge

V = Verdict
GOOD = {V.OK, V.EXPIRED_OK, V.REDACTED_OK}
ENTRIES = "klyra-audit-*,-klyra-audit-ledger,-klyra-audit-health,-klyra-audit-quarantine*"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node of its own: verification looks at everything that is there."""
    if elasticsearch.front() is None:
        pytest.skip("for want of elasticsearch_front")
    with elasticsearch.guarded() as node:
        yield node


@pytest.fixture(scope="module")
def forge() -> Forge:
    """Two shards with holds, extensions, expiries, erasures, witnesses, and ids that were sealed again.

    Not to be changed.
    """
    forge = baseline()
    cores = [orjson.loads(body.sections.core) for frames in forge.shards[0].bodies.values() for body in frames]
    taken = [core["id"] for core in cores if core.get("organization_id") == ENTERPRISE]
    for id_ in (taken[-1], "log_twice00000", "log_twice00000"):
        forge.newest.event(ENTERPRISE, id=id_)
    forge.newest.heads()
    forge.newest.publish()
    return forge


@pytest.fixture(scope="module")
def data(node: Node, forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on disk, followed to its end by the product's own store; not to be changed."""
    folder = tmp_path_factory.mktemp("followed")
    data = forge.write(folder / "data")
    around = Surroundings(
        data=DataDirectory(data), destinations=(), witnessed_s=lambda: None, wall_us=lambda: forge.newest.now_us
    )
    with prepared(node, folder) as keys:
        write, read, sweep = keyed_urls(keys.administrator, node, folder)
        settings = ElasticsearchSettings(write_url=write, sweep_url=sweep)
        with following(read, settings, around) as store, closing(LedgerReader(data / "ledger")) as reader:
            follower = Follower(reader, store)
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(ledger_index, "FLUSH_SECONDS", 0.0)  # nobody waits for a quiet moment
                while follower.step():
                    pass
                store.shrink()
        request(keys.administrator, "POST", "/klyra-audit-*/_refresh")
    return data


@pytest.fixture
def copy(node: Node, data: Path) -> Iterator[ElasticsearchCopy]:
    """The entries there, by a key that may only read."""
    address = ElasticsearchAddress.parse(node.store_url)
    key = (data.parent / "reader").read_text()
    with ElasticsearchCopy(ElasticsearchClient(address, f"ApiKey {key}", sleep=lambda _seconds: None)) as copy:
        yield copy


@pytest.fixture
def options(forge: Forge, data: Path) -> Options:
    """Pinned, at the baseline's own time."""
    return Options(
        policy=forge.policy(),
        patience=0.0,
        now_us=forge.newest.now_us + SECOND_US,
        org_salt=(data / "keys" / "org-salt").read_bytes(),
    )


@pytest.fixture
def verdicts(copy: ElasticsearchCopy, data: Path, options: Options) -> Callable[[], dict[Verdict, int]]:
    """Return what is wrong with the entries there, which is the same with the ledger and without it."""

    def run() -> dict[Verdict, int]:
        alone = ElasticsearchCopy(copy._client)  # a later moment
        found = wrong(verify_alone(alone, options))
        assert wrong(verify_with_ledger(ElasticsearchCopy(copy._client), data, options)) == found
        return found

    return run


def wrong(report: Report) -> dict[Verdict, int]:
    """Return how much of what is wrong, in all shards."""
    counts: dict[Verdict, int] = {}
    for shard in report.shards:
        for verdict, count in shard.counts.items():
            if count and verdict not in GOOD:
                counts[verdict] = counts.get(verdict, 0) + count
    return counts


def bad(report: Report) -> list[object]:
    """Return what is wrong."""
    return [finding for shard in report.shards for finding in shard.findings if finding.verdict not in GOOD]


class TestAllIsWell:
    """Nobody has touched anything."""

    def test_with_the_ledger(self, copy: ElasticsearchCopy, data: Path, options: Options) -> None:
        """Nothing is wrong with what the follower wrote, held, extended, erased and deleted."""
        report = verify_with_ledger(copy, data, options)
        assert not bad(report)
        assert report.exit_status == 0
        copied, kept = report.shards[2:4], report.shards[4:]
        assert [shard.directory for shard in copied] == ["elasticsearch 2025", "elasticsearch 2026"]
        assert [shard.directory for shard in kept] == ["klyra-audit-ledger 2025", "klyra-audit-ledger 2026"]
        assert all(shard.counts[V.EXPIRED_OK] > 0 for shard in copied)
        assert sum(shard.counts[V.REDACTED_OK] for shard in copied) > 0
        assert not [note for shard in copied for note in shard.notes]  # it is at the end of both

    def test_alone(self, copy: ElasticsearchCopy, options: Options) -> None:
        """Nothing is wrong with the copy of the ledger, either."""
        report = verify_alone(copy, options)
        assert not bad(report)
        assert report.exit_status == 0
        assert report.is_witnessed

    def test_the_command(self, node: Node, forge: Forge, data: Path, tmp_path: Path, monkeypatch) -> None:
        """It says the same, with a key that may only read."""
        monkeypatch.setattr(elasticsearch_copy, "REFRESH_SECONDS", 0.0)
        (tmp_path / "klyra.policy").write_text(policies.render(forge.policy()))
        url = f"{node.store_url}?api_key=file:{data.parent / 'reader'}"
        given = ["--policy", str(tmp_path / "klyra.policy"), "--json", "--max-witness-age", "1e12"]
        for more in (["--ledger", str(data)], ["--org-salt", str(data / "keys" / "org-salt")]):
            result = CliRunner().invoke(verify_command.app, [url, *given, *more])
            assert result.exit_code == 0, result.output
            shards = orjson.loads(result.stdout)["shards"]
            assert [shard["directory"] for shard in shards if shard["directory"].startswith("elasticsearch")]

    @pytest.mark.usefixtures("data")
    def test_every_kind_of_change_is_there(self, node: Node) -> None:
        """The follower has moved documents under a hold, to more days, and written others again without a person."""
        hits = node.request("POST", f"{ENTRIES}/_search?size=1000", json={"_source": ["klyra"]}).json()["hits"]["hits"]
        assert any("klyra-audit-held" in hit["_index"] for hit in hits)
        assert any(hit["_source"]["klyra"].get("c") for hit in hits)
        assert {hit["_source"]["klyra"]["policy"] for hit in hits} >= {"startup", "business", "enterprise"}
        assert sum("shown_from" in hit["_source"]["klyra"] for hit in hits) == 2
        quarantined = node.request("POST", "klyra-audit-quarantine*/_count").json()
        assert quarantined["count"] > 0


class TestSomebodyWasThere:
    """Whoever may write to the cluster changes a document; it is called by its name, and put back."""

    @pytest.fixture
    def victim(self, node: Node, forge: Forge) -> dict[str, Any]:
        """An entry of the newest shard."""
        query = {"size": 1, "query": {"term": {"klyra.log": forge.newest.origin}}, "sort": ["klyra.index"]}
        (hit,) = node.request("POST", f"{ENTRIES}/_search", json=query).json()["hits"]["hits"]
        return hit

    def test_an_edited_document(self, node: Node, victim: dict[str, Any], verdicts) -> None:
        """ALTERED."""
        with replaced(node, victim, victim["_source"] | {"status": "pending"}):
            assert verdicts() == {V.ALTERED: 1}
        assert verdicts() == {}

    def test_a_deleted_document(self, node: Node, victim: dict[str, Any], verdicts) -> None:
        """MISSING."""
        with deleted(node, victim):
            assert verdicts() == {V.MISSING: 1}
        assert verdicts() == {}

    def test_a_longer_life(self, node: Node, victim: dict[str, Any], verdicts) -> None:
        """ALTERED: nobody may say that an entry is kept for longer without an EXTEND record."""
        source = victim["_source"]
        longer = source | {"klyra": source["klyra"] | {"expire_day": source["klyra"]["expire_day"] + 100}}
        with replaced(node, victim, longer):
            assert verdicts() == {V.ALTERED: 1}

    def test_a_hidden_document(self, node: Node, victim: dict[str, Any], verdicts) -> None:
        """ALTERED: nothing but an earlier entry of its id keeps one from being shown."""
        source = victim["_source"]
        with replaced(node, victim, source | {"klyra": source["klyra"] | {"shown_from": 60_000}}):
            assert verdicts() == {V.ALTERED: 1}

    def test_a_foreign_document(self, node: Node, victim: dict[str, Any], verdicts) -> None:
        """EXTRA: one that names a place nobody has sealed, one of another collector, one of no collector."""
        source = victim["_source"]
        beyond = source | {"klyra": source["klyra"] | {"index": 90_000}}
        other = source | {"klyra": source["klyra"] | {"log": "other.test/collector-9/2026"}}
        with added(node, [beyond, other, {"@timestamp": "2026-01-01T00:00:00Z"}]):
            assert verdicts() == {V.EXTRA: 3}
        assert verdicts() == {}

    def test_a_second_document_of_an_entry(self, node: Node, victim: dict[str, Any], verdicts) -> None:
        """DUPLICATE: under another id, too, which is not the entry's."""
        with added(node, [victim["_source"]]):
            assert verdicts() == {V.DUPLICATE: 1}


def content_of(record: SealedRecord) -> object:
    """Return what a record says; how long an erased section was is not known any more."""
    if record.body is None:
        return record
    erased = dict.fromkeys(erased_sections(record.body), b"erased")
    return replace(record, body=replace(record.body, sections=replace(record.body.sections, **erased)))


def cosign(shard: Path, forge: Forge) -> None:
    """Have the witnesses see a shard's checkpoint, as they do within minutes."""
    encoded = (shard / "checkpoint").read_bytes()
    seconds = forge.newest.now_us // SECOND_US
    seen = note.append_lines(encoded, [witness.line(encoded, seconds) for witness in forge.witnesses])
    (shard / "checkpoint").write_bytes(seen)
    (shard / "state" / "witnessed").write_bytes(seen)


@contextlib.contextmanager
def replaced(node: Node, hit: dict[str, Any], source: dict[str, Any]) -> Iterator[None]:
    """Have another document in the place of one."""
    put(node, hit, source)
    try:
        yield
    finally:
        put(node, hit, hit["_source"])


@contextlib.contextmanager
def deleted(node: Node, hit: dict[str, Any]) -> Iterator[None]:
    """Have a document away."""
    node.request("DELETE", f"{path_of(hit)}?refresh=true").raise_for_status()
    try:
        yield
    finally:
        stream = hit["_index"].removeprefix(".ds-").rpartition("-2")[0]
        path = f"{stream}/_create/{quote(hit['_id'], safe='')}?refresh=true"
        node.request("PUT", path, json=hit["_source"]).raise_for_status()


@contextlib.contextmanager
def added(node: Node, sources: list[dict[str, Any]]) -> Iterator[None]:
    """Have more documents."""
    written = [node.request("POST", "klyra-audit-business/_doc?refresh=true", json=source).json() for source in sources]
    try:
        yield
    finally:
        for each in written:
            node.request("DELETE", f"{path_of(each)}?refresh=true").raise_for_status()


def put(node: Node, hit: dict[str, Any], source: dict[str, Any]) -> None:
    """Write over a document where it stands, as an administrator could."""
    current = node.request("GET", path_of(hit)).json()
    version = f"if_seq_no={current['_seq_no']}&if_primary_term={current['_primary_term']}"
    node.request("PUT", f"{path_of(hit)}?refresh=true&{version}", json=source).raise_for_status()


def path_of(hit: dict[str, Any]) -> str:
    """Return the path of a document in its own index."""
    return f"{hit['_index']}/_doc/{quote(hit['_id'], safe='')}"


class TestRebuild:
    """The ledger is lost, and only its keys are left."""

    @pytest.fixture
    def lost(self, data: Path, tmp_path: Path) -> Path:
        """The data directory of a new machine."""
        (tmp_path / "data").mkdir()
        shutil.copytree(data / "keys", tmp_path / "data" / "keys")
        (tmp_path / "data" / "keys").chmod(0o700)
        (tmp_path / "data" / "keys" / "org-salt").chmod(0o600)
        return tmp_path / "data"

    @pytest.fixture
    def rebuild(self, node: Node, forge: Forge, data: Path, lost: Path, tmp_path: Path, monkeypatch):
        """Run the command at the baseline's own time."""
        monkeypatch.setattr(elasticsearch_copy, "REFRESH_SECONDS", 0.0)
        monkeypatch.setattr(ledger_rebuild, "SystemClock", lambda: SetClock(forge.newest.now_us + SECOND_US))
        monkeypatch.setenv("KLYRA_DATA", str(lost))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "klyra.policy").write_text(policies.render(forge.policy()))
        witnessed = str(data / "ledger" / forge.newest.shard / "state" / "witnessed")
        url = f"{node.store_url}?api_key=file:{data.parent / 'reader'}"
        arguments = ["rebuild", "--from", url, "--policy", str(tmp_path / "klyra.policy"), "--reason", "lost", "--yes"]
        return lambda *more: CliRunner().invoke(
            ledger_command.app, [*arguments, "--checkpoint", witnessed, "--data", str(lost), *more]
        )

    def test_everything_comes_back(self, rebuild, data: Path, lost: Path, forge: Forge, options: Options) -> None:
        """Byte for byte where bytes were signed; the new shard is linked to the last, and all of it verifies."""
        result = rebuild()
        assert result.exit_code == 0, result.output
        for shard in ("2025", "2026"):
            for name in ("leaves", "control/frames", "hashes/0"):
                path = f"ledger/{shard}/{name}"
                assert (lost / path).read_bytes() == (data / path).read_bytes()
            assert list(map(content_of, read_shard(lost, shard))) == list(map(content_of, read_shard(data, shard)))
        opened = ShardOpen.of_document(read_shard(lost, "2026-2")[0].control)
        assert (opened.previous_origin, opened.previous_size) == (forge.newest.origin, forge.newest.size)
        assert opened.reason == "disaster"
        vkey = result.stdout.strip().splitlines()[-1]
        pinned = policies.parse(f"{policies.render(forge.policy())}log {vkey}\n".encode())
        cosign(lost / "ledger" / "2026-2", forge)
        report = verify_target(lost, replace(options, policy=pinned))
        original = verify_target(data, options)
        assert [shard.directory for shard in report.shards] == ["ledger/2025", "ledger/2026", "ledger/2026-2"]
        assert not bad(report)
        assert [shard.counts for shard in report.shards[:2]] == [shard.counts for shard in original.shards]

    def test_a_copy_that_was_cut_off(self, rebuild, node: Node, lost: Path, forge: Forge) -> None:
        """The witnessed checkpoint tells: nothing is put in place unless the loss is accepted."""
        query = {"size": 100, "query": {"bool": {"filter": [{"term": {"log": forge.newest.origin}}]}}}
        query["query"]["bool"]["must_not"] = [{"term": {"kind": "bundle"}}]
        query["query"]["bool"]["filter"].append({"range": {"size": {"gt": 256}}})
        hits = node.request("POST", "klyra-audit-ledger/_search", json=query).json()["hits"]["hits"]
        assert hits
        for hit in hits:
            node.request("DELETE", f"{path_of(hit)}?refresh=true").raise_for_status()
        try:
            result = rebuild()
        finally:
            for hit in hits:
                path = f"klyra-audit-ledger/_create/{quote(hit['_id'], safe='')}?refresh=true"
                node.request("PUT", path, json=hit["_source"]).raise_for_status()
        assert result.exit_code == 1, result.output
        assert "--accept-loss" in result.stderr
        assert not (lost / "ledger" / "2026").exists()

    def test_a_copy_that_was_changed(self, rebuild, node: Node, lost: Path, forge: Forge) -> None:
        """What is not what was signed is not put in place at all."""
        query = {"size": 1, "query": {"bool": {"filter": [{"term": {"log": forge.newest.origin}}]}}}
        query["query"]["bool"]["filter"].append({"term": {"kind": "bundle"}})
        (hit,) = node.request("POST", "klyra-audit-ledger/_search", json=query).json()["hits"]["hits"]
        leaves = hit["_source"]["leaves"]
        changed = f"{leaves[:400]}{'A' if leaves[400] != 'A' else 'B'}{leaves[401:]}"
        with replaced(node, hit, hit["_source"] | {"leaves": changed}):
            result = rebuild("--accept-loss")
        assert result.exit_code == 2, result.output
        assert "not what was signed" in result.stderr
        assert not (lost / "ledger" / "2026").exists()
