"""Asking a cluster that may be hostile: every wrong answer is an error of verification, and none is believed."""

from __future__ import annotations

import socket

import orjson
import pytest

from klyra_collector.verify import CannotVerify, elasticsearch_client
from klyra_collector.verify.elasticsearch_address import ElasticsearchAddress, Host
from klyra_collector.verify.elasticsearch_client import ANSWER_SECONDS, ATTEMPTS, ElasticsearchClient
from support.elasticsearch_reading import ReadingElasticsearch, Stored, reading

EVERYTHING = {"bool": {"filter": []}}


@pytest.fixture
def server():
    """A cluster with 25 numbered documents."""
    with reading(ReadingElasticsearch([Stored("some", str(n), {"n": n}) for n in range(25)])) as server:
        yield server


@pytest.fixture
def client(server):
    """Asks it, and never waits."""
    client = ElasticsearchClient(ElasticsearchAddress.parse(server.url), sleep=lambda _seconds: None)
    yield client
    client.close()


def read(client, order_by="n"):
    """Return the numbers of all documents."""
    with client.point_in_time("some") as view:
        return [hit.source["n"] for hit in view.documents(EVERYTHING, order_by)]


def code_of(client) -> str:
    """Return what keeps it from being read."""
    with pytest.raises(CannotVerify) as caught:
        read(client)
    assert caught.value.remedy
    return caught.value.code


class TestAddress:
    """The URL."""

    def test_hosts_and_credentials(self) -> None:
        """Several nodes, a port or none, everything by reference."""
        url = "elasticsearch+https://es1:9201,[2001:db8::1]/?api_key=env:KEY&ca=/etc/ca.pem"
        address = ElasticsearchAddress.parse(url)
        assert address.hosts == (Host("es1", 9201), Host("2001:db8::1", 9200))
        assert (address.secure, address.authority, address.keeps_secrets) == (True, "/etc/ca.pem", True)
        assert str(address) == "elasticsearch+https://es1:9201,[2001:db8::1]:9200"
        assert address.authorization(lambda reference, _: f"<{reference}>") == "ApiKey <env:KEY>"

    def test_user_and_password(self) -> None:
        """HTTP Basic."""
        address = ElasticsearchAddress.parse("elasticsearch+https://es?user=elastic&password=env:P")
        assert address.authorization(lambda _reference, _what: "secret") == "Basic ZWxhc3RpYzpzZWNyZXQ="

    def test_nothing_to_sign_in_with(self) -> None:
        """A cluster without security."""
        address = ElasticsearchAddress.parse("elasticsearch+http://localhost:9200")
        assert address.authorization(lambda _reference, _what: "") is None

    @pytest.mark.parametrize(
        "url",
        [
            "https://es:9200",
            "elasticsearch+https://",
            "elasticsearch+https://es:port",
            "elasticsearch+https://es:99999",
            "elasticsearch+https://user:password@es",
            "elasticsearch+https://es/index",
            "elasticsearch+https://es?key=env:X",
            "elasticsearch+https://es?api_key=env:X&api_key=env:Y",
            "elasticsearch+https://es?user=elastic",
            "elasticsearch+https://es?api_key=env:X&user=a&password=env:P",
            "elasticsearch+https://es?api_key",
            "elasticsearch+https://es#x",
            "elasticsearch+https://[es",
            "elasticsearch+https://a,,b",
        ],
    )
    def test_no_address(self, url) -> None:
        """It is not repeated: it may hold a secret."""
        with pytest.raises(CannotVerify) as caught:
            ElasticsearchAddress.parse(url)
        assert caught.value.code == "bad_url"
        assert "password@" not in str(caught.value)

    def test_a_secret_in_the_clear(self) -> None:
        """Others could read it on the way."""
        address = ElasticsearchAddress.parse("elasticsearch+http://es.example:9200?api_key=env:X")
        with pytest.raises(CannotVerify) as caught:
            ElasticsearchClient(address, "ApiKey x")
        assert caught.value.code == "key_in_clear"

    def test_no_certificates(self, tmp_path) -> None:
        """The file of `ca` is not there."""
        address = ElasticsearchAddress.parse(f"elasticsearch+https://es?ca={tmp_path}/none.pem")
        with pytest.raises(CannotVerify) as caught:
            ElasticsearchClient(address)
        assert caught.value.code == "bad_ca"


def test_a_closed_index(server, client) -> None:
    """What it holds cannot be judged, and is not called missing."""
    error = {"type": "index_closed_exception", "reason": "closed"}
    server.bend = lambda _path, _status, _body: (400, {"error": error})
    assert code_of(client) == "index_closed"


def test_only_an_index_of_a_plain_name_may_be_absent(server, client) -> None:
    """Of a pattern nothing is left out without a word."""
    for pattern in ("some", "some*"):
        with client.point_in_time(pattern):
            pass
    first, second = (path for method, path in server.asked if method == "POST")
    assert "ignore_unavailable=true" in first
    assert "ignore_unavailable" not in second
    assert "expand_wildcards=open,closed" in second


class TestReading:
    """A cluster that answers as it should."""

    def test_pages(self, client, server, monkeypatch) -> None:
        """All documents, once, in order, out of one point in time that is closed again."""
        monkeypatch.setattr(elasticsearch_client, "PAGE", 10)
        assert read(client) == list(range(25))
        assert server.asked[0][1].startswith("/some/_pit?")
        assert server.asked[-1] == ("DELETE", "/_pit")
        assert all("allow_partial_search_results=false" in path for _, path in server.asked[1:-1])

    def test_in_any_order(self, client) -> None:
        """Where nothing sorts them."""
        assert sorted(read(client, None)) == list(range(25))

    def test_signing_in(self, server) -> None:
        """With every request."""
        client = ElasticsearchClient(ElasticsearchAddress.parse(server.url), "ApiKey abc")
        read(client)
        client.close()
        assert server.authorization == "ApiKey abc"

    def test_long_documents(self, client, monkeypatch) -> None:
        """Pages get shorter until an answer is no longer than it may be."""
        monkeypatch.setattr(elasticsearch_client, "ANSWER_BYTES", 600)
        assert read(client) == list(range(25))

    def test_the_next_host(self, server) -> None:
        """One that does not answer is left for another."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
        url = server.url.replace("http://", f"http://127.0.0.1:{port},")
        client = ElasticsearchClient(ElasticsearchAddress.parse(url), sleep=lambda _seconds: None)
        assert read(client) == list(range(25))
        client.close()

    @pytest.mark.parametrize("status", [429, 502, 503])
    def test_busy_for_a_while(self, client, server, status) -> None:
        """It is asked again."""
        left = [1] * (ATTEMPTS - 1)
        server.bend = lambda _path, good, body: (status, {}) if left and left.pop() else (good, body)
        assert read(client) == list(range(25))


class TestHostile:
    """A cluster that answers something else."""

    @pytest.mark.parametrize(
        ("status", "code"),
        [(401, "refused"), (403, "refused"), (302, "bad_answer"), (400, "bad_answer"), (500, "bad_answer")],
    )
    def test_other_statuses(self, client, server, status, code) -> None:
        """Told apart by what the reader can do."""
        server.bend = lambda _path, _status, body: (status, body)
        assert code_of(client) == code

    def test_not_found(self, client, server) -> None:
        """Neither the indexes nor a point in time."""
        server.bend = lambda _path, _status, body: (404, body)
        assert code_of(client) == "bad_answer"
        server.bend = lambda path, status, body: (404 if "_search" in path else status, body)
        assert code_of(client) == "bad_answer"

    def test_busy_for_good(self, client, server) -> None:
        """It is given up."""
        server.bend = lambda _path, _status, _body: (503, {})
        assert code_of(client) == "unreachable"

    def test_slow(self, server) -> None:
        """A time that passes with each look at the clock."""
        times = iter(range(0, 10**6, int(ANSWER_SECONDS) + 1))
        client = ElasticsearchClient(
            ElasticsearchAddress.parse(server.url), sleep=lambda _seconds: None, clock=lambda: float(next(times))
        )
        assert code_of(client) == "too_slow"
        client.close()

    def test_nobody(self) -> None:
        """Nothing listens there."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
        address = ElasticsearchAddress.parse(f"elasticsearch+http://127.0.0.1:{port}")
        client = ElasticsearchClient(address, sleep=lambda _seconds: None)
        assert code_of(client) == "unreachable"

    @pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"[" * 5000, b'{"a": 1e999}'[:-1], b'"\\ud800"'])
    def test_no_json(self, client, server, content) -> None:
        """Nothing but a JSON object is an answer."""
        server.bend = lambda _path, status, _body: (status, content)
        assert code_of(client) == "bad_answer"

    @pytest.mark.parametrize(
        "change",
        [
            lambda answer: answer.update(timed_out=True),
            lambda answer: answer["_shards"].update(failed=1),
            lambda answer: answer.pop("_shards"),
            lambda answer: answer.update(pit_id=7),
            lambda answer: answer.update(hits=[]),
            lambda answer: answer["hits"]["total"].update(value=-1),
            lambda answer: answer["hits"]["total"].update(value=1 << 50),
            lambda answer: answer["hits"]["total"].update(value=True),
            lambda answer: answer["hits"]["total"].update(value=24),
            lambda answer: answer["hits"]["total"].update(value=26),
            lambda answer: answer["hits"].update(hits={}),
            lambda answer: answer["hits"].update(hits=[1]),
            lambda answer: answer["hits"]["hits"] and answer["hits"]["hits"].reverse(),
            lambda answer: [hit.pop("sort") for hit in answer["hits"]["hits"]],
            lambda answer: [hit.update(sort=["a", 1]) for hit in answer["hits"]["hits"]],
            lambda answer: [hit.update(sort=[1]) for hit in answer["hits"]["hits"]],
            lambda answer: [hit.update(sort=[3, 3]) for hit in answer["hits"]["hits"]],
            lambda answer: [hit.update(_id=1) for hit in answer["hits"]["hits"]],
            lambda answer: [hit.update(_source="x") for hit in answer["hits"]["hits"]],
            lambda answer: answer["hits"].update(hits=answer["hits"]["hits"] * 50),
        ],
    )
    def test_another_search_s_answer(self, client, server, change) -> None:
        """Incomplete, out of order, more or less than was counted, or no documents."""

        def bend(path, status, body):
            if "_search" in path:
                change(body)
            return status, body

        server.bend = bend
        assert code_of(client) == "bad_answer"

    def test_no_point_in_time(self, client, server) -> None:
        """It has no id."""
        server.bend = lambda _path, status, _body: (status, {"id": None})
        assert code_of(client) == "bad_answer"

    def test_a_document_longer_than_any(self, client, monkeypatch) -> None:
        """One alone is more than an answer may have."""
        monkeypatch.setattr(elasticsearch_client, "ANSWER_BYTES", 190)
        assert code_of(client) == "bad_answer"

    def test_an_endless_point_in_time(self, client, server) -> None:
        """Something longer than an answer where there is no page to make shorter."""
        server.bend = lambda _path, status, _body: (status, orjson.dumps({"id": "x" * 1000}))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(elasticsearch_client, "ANSWER_BYTES", 500)
            assert code_of(client) == "bad_answer"
