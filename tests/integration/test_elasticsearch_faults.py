"""Whatever is wrong with a real Elasticsearch: nothing is lost, the follower goes on by itself, and people are told."""

from __future__ import annotations

import contextlib
import threading
from base64 import b64encode
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from structlog.testing import capture_logs

from klyra_audit.errors import Halted, Paused, RetryLater
from klyra_audit.format.control import Kind
from klyra_collector.cli.status_store import store_is_well, store_lines, store_report
from klyra_collector.config import Settings
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.store import follower as follower_module
from klyra_collector.store.elasticsearch import connection
from klyra_collector.store.elasticsearch.asking import AnswerIncomplete
from klyra_collector.store.elasticsearch.bulk import ElasticsearchBusy, Line, WriterRefused
from klyra_collector.store.elasticsearch.connection import (
    ClusterRefuses,
    ClusterUnsuitable,
    IndexClosed,
    connect,
    parse,
    request,
)
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.store.elasticsearch.documents import record_of
from klyra_collector.store.elasticsearch.reader import ElasticsearchReader
from klyra_collector.store.searching import Filters, Search
from klyra_collector.store.summarizing import Shape
from klyra_collector.supervise.elasticsearch import follow_into_elasticsearch
from klyra_collector.verify import CannotVerify
from klyra_collector.verify.elasticsearch_address import ElasticsearchAddress
from klyra_collector.verify.elasticsearch_client import ElasticsearchClient
from klyra_collector.verify.elasticsearch_copy import ElasticsearchCopy
from support.certificates import Authority
from support.elasticsearch import Node
from support.elasticsearch_faults import REFERENCE, own_ledger, places, running, seal, told, until
from support.elasticsearch_following import following, keyed_urls, prepared
from support.elasticsearch_relay import Answer, relaying
from support.entries import ACME, TODAY_US, MemoryLedger, organization_reference
from support.sealing import SetClock, open_ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.elasticsearch_following import Keys
    from support.elasticsearch_relay import Relay

YEAR_US = 365 * 86_400 * 1_000_000


@pytest.fixture(scope="module")
def relay(cluster: Node) -> Iterator[Relay]:
    """What stands between us and the server; whatever a test has told it is forgotten afterwards."""
    with relaying(cluster.url) as relay:
        yield relay


@pytest.fixture(autouse=True)
def _well_again(relay: Relay) -> Iterator[None]:
    yield
    relay.is_down = relay.loses_answers = False
    relay.delay, relay.bend = 0.0, lambda _: None


@pytest.fixture(scope="module")
def keys(cluster: Node, relay: Relay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """Clients of each key, that ask through the relay; the administrator asks the server itself."""
    folder = tmp_path_factory.mktemp("keys")
    with prepared(cluster, folder) as direct, prepared(Node(relay.url, cluster.password), folder) as made:
        yield replace(made, administrator=direct.administrator)


@pytest.fixture
def log(request: pytest.FixtureRequest) -> str:
    """The shard of one test."""
    return f"faults/{request.node.name}/2026"


@pytest.fixture
def ledger(log: str, keys: Keys, _well_again: None) -> Iterator[MemoryLedger]:
    """A ledger of one shard of its own."""
    with own_ledger(keys, log) as ledger:
        yield ledger


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever waits for an operator looks again at once."""
    monkeypatch.setattr(follower_module, "_PAUSED_SECONDS", 0.2)


@contextlib.contextmanager
def blocked(keys: Keys, pattern: str, block: str) -> Iterator[None]:
    """Put a block on indexes."""
    path = f"/{pattern}/_settings?expand_wildcards=all"
    request(keys.administrator, "PUT", path, {f"index.blocks.{block}": True})
    try:
        yield
    finally:
        request(keys.administrator, "PUT", path, {f"index.blocks.{block}": None})


class TestGoesOnByItself:
    """The server cannot take anything for a while."""

    def test_down_and_back(self, keys: Keys, relay: Relay, ledger: MemoryLedger, log: str, tmp_path: Path) -> None:
        """The cursor waits, the log says why, and once the server is back everything is there once."""
        for number in range(20):
            seal(ledger, log, number)
        with following(keys, ledger, tmp_path, batch=6, sleep=lambda _: None) as follow:
            follow.follower.step()
            assert load(tmp_path).applied == {log: 6}
            relay.is_down = True
            with pytest.raises(RetryLater) as caught:
                follow.follower.step()
            assert caught.value.code in ("elasticsearch_busy", "cluster_unreachable")
            assert load(tmp_path).applied == {log: 6}
            with running(follow) as logs:
                until(lambda: any(line["event"] == "store.waiting" for line in list(logs)))
                assert follow.store.cursor(log) == 6
                relay.is_down = False
                until(lambda: follow.store.cursor(log) == 20)
        assert places(keys, log) == list(range(20))

    def test_answers_that_get_lost(
        self, keys: Keys, relay: Relay, ledger: MemoryLedger, log: str, tmp_path: Path
    ) -> None:
        """What was stored without our knowing is recognised, and is not there twice."""
        for number in range(10):
            seal(ledger, log, number)
        with following(keys, ledger, tmp_path, sleep=lambda _: None) as follow:
            follow.store._parts.present.among(log, 0, 1, 0)
            relay.loses_answers = True
            with pytest.raises(RetryLater):
                follow.follower.step()
            relay.loses_answers = False
            assert load(tmp_path).applied == {}
            follow.follow()
        assert places(keys, log) == list(range(10))

    def test_slow(
        self, keys: Keys, relay: Relay, ledger: MemoryLedger, log: str, tmp_path: Path, cluster: Node, monkeypatch
    ) -> None:
        """An answer that comes too late is none: the same goes again until it comes in time."""
        monkeypatch.setattr(connection, "_SECONDS", 0.5)
        seal(ledger, log, 0)
        (tmp_path / "keys").mkdir()
        urls = keyed_urls(keys.administrator, Node(relay.url, cluster.password), tmp_path / "keys")
        with contextlib.ExitStack() as opened:
            clients = [opened.enter_context(connect(parse(url), compress=False)) for url in urls]
            hasty = replace(keys, writer=clients[0], reader=clients[1], sweeper=clients[2])
            with following(hasty, ledger, tmp_path / "cursors", sleep=lambda _: None) as follow:
                relay.delay = 1.0
                with pytest.raises(RetryLater) as caught:
                    follow.follower.step()
                assert caught.value.code in ("elasticsearch_busy", "cluster_unreachable")
                with running(follow) as logs:
                    until(lambda: any(line["event"] == "store.waiting" for line in list(logs)))
                    relay.delay = 0.0
                    until(lambda: follow.store.cursor(log) == 1)
        assert places(keys, log) == [0]

    @pytest.mark.parametrize("block", ["read_only_allow_delete", "write"])
    def test_a_full_disk(self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, block: str) -> None:
        """Flood stage: nothing is lost or buried, the cursor waits, and goes on once the block is lifted."""
        for number in range(30):
            seal(ledger, log, number, retention_days=(30, 90)[number % 2])
        with following(keys, ledger, tmp_path, batch=10, sleep=lambda _: None) as follow:
            follow.follower.step()
            with blocked(keys, "klyra-audit-startup", block):
                with pytest.raises(ElasticsearchBusy, match="cluster_block_exception") as caught:
                    follow.follower.step()
                assert (caught.value.code, follow.store.cursor(log)) == ("elasticsearch_busy", 10)
                with running(follow) as logs:
                    until(lambda: told(logs, "store.waiting", "elasticsearch_busy"))
            with running(follow):
                until(lambda: follow.store.cursor(log) == 30)
        assert sorted(places(keys, log)) == list(range(30))
        assert not list(tmp_path.glob("*.dead.ndjson"))

    def test_a_full_disk_while_entries_move(self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path) -> None:
        """An extension waits too: the old document stays until the new one is there."""
        seal(ledger, log, 0)
        with following(keys, ledger, tmp_path, sleep=lambda _: None) as follow:
            follow.follow()
            follow.store._parts.operations._bulk._sleep = lambda _: None
            content = {"org_ref": REFERENCE, "first_seq": 0, "last_seq": 0, "retention_days": 90}
            ledger.control(Kind.EXTEND, {"type": "extend", **content}, origin=log)
            with blocked(keys, "klyra-audit-business", "read_only_allow_delete"), pytest.raises(ElasticsearchBusy):
                follow.follower.step()
            assert places(keys, log) == [0]
            follow.follow()
        (hit,) = keys.documents(log)
        assert "klyra-audit-business" in hit["_index"]


class TestOperator:
    """Somebody must act; then it goes on by itself."""

    @pytest.mark.usefixtures("_hasty")
    def test_a_deleted_stream_without_its_template(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path
    ) -> None:
        """No index is made by writing; set-up makes the stream again."""
        seal(ledger, log, 0, retention_days=730)
        stream = "klyra-audit-enterprise-730d"
        template = request(keys.administrator, "GET", f"/_index_template/{stream}")["index_templates"][0]
        request(keys.administrator, "DELETE", f"/_data_stream/{stream}*")  # organizations' own are of the same template
        request(keys.administrator, "DELETE", f"/_index_template/{stream}")
        try:
            with following(keys, ledger, tmp_path) as follow:
                with pytest.raises(WriterRefused) as caught:
                    follow.follower.step()
                assert caught.value.code == "elasticsearch_writer_refused"
                assert "setup elasticsearch" in caught.value.remedy
                with running(follow) as logs:
                    until(lambda: told(logs, "store.paused", "elasticsearch_writer_refused"))
                    request(keys.administrator, "PUT", f"/_index_template/{stream}", writable(template))
                    request(keys.administrator, "PUT", f"/_data_stream/{stream}")
                    until(lambda: follow.store.cursor(log) == 1)
        finally:
            request(keys.administrator, "PUT", f"/_index_template/{stream}", writable(template))
        assert places(keys, log) == [0]

    def test_a_deleted_copy_of_the_ledger(self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path) -> None:
        """The index is not made by writing, and what it held is written again once it is there and we begin anew."""
        for number in range(300):
            seal(ledger, log, number)
        settings = request(keys.administrator, "GET", "/klyra-audit-ledger")["klyra-audit-ledger"]
        with following(keys, ledger, tmp_path / "a") as follow:
            request(keys.administrator, "DELETE", "/klyra-audit-ledger")
            try:
                with pytest.raises(WriterRefused) as caught:
                    follow.follower.step()
                assert "setup elasticsearch" in caught.value.remedy
                assert follow.store.cursor(log) == 0
            finally:
                shape = {"mappings": settings["mappings"], "settings": {"number_of_replicas": 0}}
                request(keys.administrator, "PUT", "/klyra-audit-ledger", shape)
            follow.follow()
        assert [hit["_source"]["first"] for hit in keys.copy(log) if hit["_source"]["kind"] == "bundle"] == [0]
        assert places(keys, log) == list(range(300))

    @pytest.mark.usefixtures("_hasty")
    def test_a_closed_index(self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path) -> None:
        """What it takes to open it is said, and nothing is buried meanwhile."""
        seal(ledger, log, 0)
        index = "klyra-audit-ledger"
        for number in range(1, 256):
            seal(ledger, log, number)
        request(keys.administrator, "POST", f"/{index}/_close")
        try:
            with following(keys, ledger, tmp_path) as follow:
                with pytest.raises((Paused, RetryLater)) as caught:
                    follow.follower.step()
                assert "closed" in str(caught.value)
                assert load(tmp_path).applied == {}
                with running(follow) as logs:
                    until(lambda: any(line["event"] in ("store.paused", "store.waiting") for line in list(logs)))
                    request(keys.administrator, "POST", f"/{index}/_open")
                    until(lambda: follow.store.cursor(log) == 256)
        finally:
            request(keys.administrator, "POST", f"/{index}/_open")
        assert not list(tmp_path.glob("*.dead.ndjson"))

    @pytest.mark.usefixtures("_hasty")
    def test_a_closed_index_of_a_stream(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, cluster: Node
    ) -> None:
        """Nothing is buried, erased by halves, or read short: the writer pauses, the reader and verification refuse."""
        for number in range(3):
            seal(ledger, log, number, retention_days=730)
        with following(keys, ledger, tmp_path) as follow:
            follow.follow()
            keys.refresh()
            follow.store._parts.searchable._next = 0.0
            follow.store.shrink()
            index = keys.documents(log)[0]["_index"]
            seal(ledger, log, 3, retention_days=730)
            request(keys.administrator, "POST", f"/{index}/_close")
            try:
                with pytest.raises(IndexClosed) as caught:
                    follow.follower.step()
                assert (caught.value.code, "_open" in caught.value.remedy) == ("index_closed", True)
                with pytest.raises(IndexClosed) as closed:
                    follow.store.indexes(log, organization_reference(ACME), ((0, 9),))
                assert (closed.value.code, "_open" in closed.value.remedy) == ("index_closed", True)
                self.is_not_read_short(keys, tmp_path, cluster, log)
                with running(follow) as logs:
                    until(lambda: told(logs, "store.paused", "index_closed"))
                    request(keys.administrator, "POST", f"/{index}/_open")
                    until(lambda: follow.store.cursor(log) == 4)
            finally:
                request(keys.administrator, "POST", f"/{index}/_open")
        assert places(keys, log) == [0, 1, 2, 3]
        assert not list(tmp_path.glob("*.dead.ndjson"))

    def is_not_read_short(self, keys: Keys, cursors: Path, node: Node, log: str) -> None:
        """See that a search, an export, a count and verification fail rather than leave something out."""
        reader = ElasticsearchReader(keys.reader, cursors)
        search = Search(organization_id=ACME, filters=Filters(), today=0)
        with pytest.raises(AnswerIncomplete) as caught:
            reader.search(search, 10)
        assert (caught.value.code, bool(caught.value.remedy)) == ("answer_incomplete", True)
        with pytest.raises(AnswerIncomplete), reader.export(search):
            pass
        with pytest.raises(AnswerIncomplete):
            reader.summarize(search, Shape(10, 1))
        address = ElasticsearchAddress.parse(node.store_url)
        asking = ElasticsearchClient(address, f"Basic {b64encode(f'elastic:{node.password}'.encode()).decode()}")
        asking.sleep = lambda _: None
        with ElasticsearchCopy(asking) as copy, pytest.raises(CannotVerify) as refused:
            list(copy.hits(log))
        assert (refused.value.code, "_open" in refused.value.remedy) == ("index_closed", True)

    def test_an_expired_key(self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, cluster: Node) -> None:
        """The follower pauses and names the key's setting; another key is all it takes."""
        seal(ledger, log, 0)
        (tmp_path / "keys").mkdir()
        urls = keyed_urls(keys.administrator, cluster, tmp_path / "keys")
        with contextlib.ExitStack() as opened:
            writer = opened.enter_context(connect(parse(urls[0]), compress=False))
            who = request(writer, "GET", "/_security/_authenticate")["api_key"]["id"]
            with following(replace(keys, writer=writer), ledger, tmp_path / "cursors") as follow:
                request(keys.administrator, "DELETE", "/_security/api_key", {"ids": [who]})
                with pytest.raises(WriterRefused) as caught:
                    follow.follower.step()
            assert caught.value.code == "elasticsearch_writer_refused"
            assert "write_url" in caught.value.remedy
        with following(keys, ledger, tmp_path / "cursors") as follow:
            follow.follow()
        assert places(keys, log) == [0]


def writable(template: dict[str, Any]) -> dict[str, Any]:
    """Return a template as it is written."""
    return template["index_template"]


@pytest.mark.parametrize("years", [-2, 2])
def test_clocks_that_differ(keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, years: int) -> None:
    """Our clock may be years before or behind the server's: documents are the same, found, and not deleted."""
    record = seal(ledger, log, 0, ingest_us=TODAY_US + years * YEAR_US)
    with following(keys, ledger, tmp_path, wall_us=TODAY_US + years * YEAR_US) as follow:
        follow.follow()
        keys.refresh()
        follow.store._parts.searchable._next = 0.0
        follow.store.shrink()
    assert load(tmp_path).searchable == {log: 1}
    (hit,) = keys.documents(log)
    assert record_of(hit["_source"]).leaf_bytes == record.leaf_bytes


class TestServe:
    """What `klyra-audit serve` and `klyra-audit status` make of a server that cannot be used."""

    @pytest.fixture
    def settings(self, keys: Keys, cluster: Node, relay: Relay, tmp_path: Path, monkeypatch) -> Callable[..., Settings]:
        """Settings that name a server, with keys of our own."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "keys").mkdir()
        write, read, sweep = keyed_urls(keys.administrator, cluster, tmp_path / "keys")
        opened = open_ledger(tmp_path / "data", SetClock())
        opened.sign()
        opened.close()

        def made(url: str = relay.url, more: str = "") -> Settings:
            for name, given in (
                ("URL", read),
                ("ELASTICSEARCH__WRITE_URL", write),
                ("ELASTICSEARCH__SWEEP_URL", sweep),
            ):
                monkeypatch.setenv(f"KLYRA_STORE__{name}", given.replace(cluster.url, url) + more)
            return Settings.load(data=tmp_path / "data")

        return made

    @pytest.fixture
    def serve(self) -> Callable[[Settings], contextlib.AbstractContextManager[list[Any]]]:
        """Follow in a thread as the role does; yield what it logs."""

        @contextlib.contextmanager
        def go(settings: Settings) -> Iterator[list[Any]]:
            stop = threading.Event()
            with self.reader(settings) as reader, capture_logs() as logs:
                thread = threading.Thread(target=follow_into_elasticsearch, args=(settings, reader, stop))
                thread.start()
                try:
                    yield logs
                finally:
                    stop.set()
                    thread.join()

        return go

    def reader(self, settings: Settings) -> contextlib.closing[LedgerReader]:
        """Read the ledger."""
        return contextlib.closing(LedgerReader(settings.data_directory.ledger))

    def status(self, settings: Settings) -> str:
        """Return what the operator reads, which must be an alarm."""
        report = store_report(settings, TODAY_US)
        assert not store_is_well(report)
        return "\n".join(store_lines(report))

    def test_the_server_is_down(self, settings, serve, relay: Relay) -> None:
        """It is tried again, and said to be so; once it is there, it is followed."""
        relay.is_down = True
        made = settings()
        with serve(made) as logs:
            until(lambda: told(logs, "store.unreachable", "cluster_unreachable"))
            assert "does not answer" in self.status(made)
            relay.is_down = False
            until(lambda: load(made.data_directory.cursors).applied)

    @pytest.mark.parametrize("number", ["8.18.4", "10.0.0", "7.17.29"])
    def test_another_version(self, settings, relay: Relay, number: str) -> None:
        """It stops before anything is written, and says which versions it works with."""

        def bend(answer: Answer) -> None:
            if answer.path == "/":
                told = orjson.loads(answer.content)
                told["version"]["number"] = number
                answer.content = orjson.dumps(told)

        relay.bend = bend
        relay.asked.clear()
        made = settings()
        with self.reader(made) as reader, pytest.raises(ClusterUnsuitable, match=r"8\.19") as caught:
            follow_into_elasticsearch(made, reader, threading.Event())
        assert (isinstance(caught.value, Halted), caught.value.code) == (True, "cluster_unsuitable")
        assert "Use a cluster of one of these versions" in caught.value.remedy
        assert not [path for _, path in relay.asked if "_bulk" in path]
        assert number in self.status(made)

    def test_another_product(self, settings, relay: Relay) -> None:
        """What does not say that it is Elasticsearch is not written to."""

        def bend(answer: Answer) -> None:
            answer.headers = {name: it for name, it in answer.headers.items() if name.lower() != "x-elastic-product"}

        relay.bend = bend
        made = settings()
        with self.reader(made) as reader, pytest.raises(ClusterUnsuitable) as caught:
            follow_into_elasticsearch(made, reader, threading.Event())
        assert (caught.value.code, bool(caught.value.remedy)) == ("no_product", True)
        assert "no Elasticsearch" in self.status(made)

    def test_a_proxy_that_answers_in_its_place(
        self, keys: Keys, relay: Relay, ledger: MemoryLedger, log: str, tmp_path: Path
    ) -> None:
        """A page that says that all is well says nothing of our documents: they go again."""

        def bend(answer: Answer) -> None:
            answer.status, answer.content = 200, b"<html>Back soon</html>"
            answer.headers = {"content-type": "text/html", "x-elastic-product": "Elasticsearch"}

        seal(ledger, log, 0)
        with following(keys, ledger, tmp_path, sleep=lambda _: None) as follow:
            relay.bend = bend
            with pytest.raises(RetryLater) as caught:
                follow.follower.step()
            assert (caught.value.code, "in the cluster's place" in str(caught.value)) == ("cluster_unreachable", True)
            with pytest.raises(ElasticsearchBusy, match="in the cluster's place"):
                follow.bulk.write([Line("klyra-audit-startup", "x", b"{}", log, 0)])
            assert load(tmp_path).applied == {}
            relay.bend = lambda _: None
            follow.follow()
        assert places(keys, log) == [0]

    def test_a_certificate_of_an_unknown_authority(self, settings, serve, cluster: Node, tmp_path: Path) -> None:
        """Nothing is sent there; with the authority's certificate all is well."""
        authority = Authority(tmp_path)
        with relaying(cluster.url, authority.issue("server")) as secure:
            made = settings(secure.url)
            with serve(made) as logs:
                until(lambda: told(logs, "store.unreachable", "cluster_refuses"))
            assert "ca=" in self.status(made)
            assert not secure.asked
            made = settings(secure.url, f"&ca={authority.certificate}")
            with serve(made):
                until(lambda: load(made.data_directory.cursors).applied)

    def test_a_certificate_of_another_authority(self, settings, cluster: Node, tmp_path: Path) -> None:
        """One that we trust has not signed it."""
        authority, other = Authority(tmp_path), Authority(tmp_path, "other")
        with relaying(cluster.url, authority.issue("server")) as secure:
            self.refused(settings(secure.url, f"&ca={other.certificate}"))
            assert not secure.asked

    def test_a_certificate_of_another_host(self, settings, cluster: Node, tmp_path: Path) -> None:
        """It is good, and not for the name that was asked for."""
        authority = Authority(tmp_path)
        with relaying(cluster.url, authority.issue("server", host="elsewhere.test")) as secure:
            self.refused(settings(secure.url, f"&ca={authority.certificate}"))
            assert not secure.asked

    def refused(self, made: Settings) -> None:
        """See that the certificate is not trusted, and that the remedy says what to do."""
        with connect(parse(made.store.url or "")) as client, pytest.raises(ClusterRefuses) as caught:
            request(client, "GET", "/")
        assert (caught.value.code, "ca=" in caught.value.remedy) == ("cluster_refuses", True)
        assert "certificate" in self.status(made)
