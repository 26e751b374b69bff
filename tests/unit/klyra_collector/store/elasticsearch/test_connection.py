"""Where a cluster is, who we are there, and what its answers mean for us."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from klyra_audit.errors import Rejected
from klyra_collector.errors import SecretUnavailable
from klyra_collector.store.elasticsearch.connection import (
    ClusterRefuses,
    ClusterUnreachable,
    ClusterUnsuitable,
    Flavor,
    IndexClosed,
    NotFound,
    connect,
    parse,
    probe,
    request,
)
from support import certificates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRODUCT = {"X-Elastic-Product": "Elasticsearch"}


@contextmanager
def answering(
    status: int, body: object, headers: dict[str, str] = PRODUCT, tls: certificates.Files | None = None
) -> Iterator[str]:
    """Yield the URL of a server that gives one answer to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers | {"Content-Type": "application/json"}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        scheme = "http" if tls is None else "https"
        yield f"elasticsearch+{scheme}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asked(url: str) -> object:
    """Ask what answers there."""
    with connect(parse(url)) as client:
        return probe(client)


def version(number: str, **members: str) -> dict[str, object]:
    """Return what a server says of itself."""
    return {"version": {"number": number} | members}


class TestUrl:
    """What a URL may say."""

    def test_several_hosts_and_credentials_by_reference(self) -> None:
        """Every host is asked with the same credentials."""
        url = parse("elasticsearch+https://one:9200,two:9200?api_key=env:KEY&ca=/etc/ca.pem")
        assert (url.hosts, url.api_key, url.authority) == (
            ("https://one:9200", "https://two:9200"),
            "env:KEY",
            "/etc/ca.pem",
        )
        assert url.shown == "https://one:9200, https://two:9200"

    @pytest.mark.parametrize(
        "url",
        [
            "https://one:9200",
            "elasticsearch+ftp://one",
            "elasticsearch+https://",
            "elasticsearch+https://user:secret@one:9200",
            "elasticsearch+https://one:9200/index",
            "elasticsearch+https://one:9200?verify=false",
            "elasticsearch+https://one:9200?user=elastic",
            "elasticsearch+https://one:port",
        ],
    )
    def test_another_form_is_refused_with_the_right_one(self, url) -> None:
        """Nothing is guessed, and no secret is repeated."""
        with pytest.raises(Rejected, match="elasticsearch\\+https://host:port") as refused:
            parse(url)
        assert (refused.value.code, "env:NAME" in refused.value.remedy) == ("bad_url", True)
        assert "secret" not in str(refused.value)

    def test_a_secret_in_place_of_a_reference_is_refused(self) -> None:
        """Secrets are never values."""
        with pytest.raises(Rejected) as refused:
            parse("elasticsearch+https://one?api_key=c2VjcmV0")
        assert refused.value.code == "bad_reference"
        assert "c2VjcmV0" not in str(refused.value)

    def test_a_secret_that_is_not_there_is_named(self) -> None:
        """It is looked for when the client is made."""
        with pytest.raises(SecretUnavailable, match="env:KLYRA_NOT_SET"):
            connect(parse("elasticsearch+https://one?api_key=env:KLYRA_NOT_SET"))


class TestServer:
    """Which servers are worked with."""

    @pytest.mark.parametrize("number", ["8.19.0", "8.20.1", "9.0.0", "9.5.1-SNAPSHOT"])
    def test_known_versions(self, number) -> None:
        """8.19 and later, and 9."""
        with answering(200, version(number)) as url:
            server = asked(url)
        assert (server.version, server.flavor) == (number, Flavor.DEFAULT)

    def test_serverless_has_a_version_of_its_own(self) -> None:
        """It counts in another way and is always the newest."""
        with answering(200, version("8.11.0", build_flavor="serverless")) as url:
            assert asked(url).flavor is Flavor.SERVERLESS

    @pytest.mark.parametrize("number", ["7.17.0", "8.18.9", "10.0.0", ""])
    def test_another_version_halts(self, number) -> None:
        """Before anything is written there."""
        with answering(200, version(number)) as url, pytest.raises(ClusterUnsuitable, match=r"8\.19") as halted:
            asked(url)
        assert (halted.value.code, bool(halted.value.remedy)) == ("cluster_unsuitable", True)

    def test_another_product_halts(self) -> None:
        """What does not say that it is Elasticsearch is not taken for it."""
        with answering(200, version("8.19.0"), headers={}) as url, pytest.raises(ClusterUnsuitable) as halted:
            asked(url)
        assert (halted.value.code, bool(halted.value.remedy)) == ("no_product", True)


class TestAnswers:
    """What the caller does next."""

    @pytest.mark.parametrize(
        ("status", "kind", "error", "code"),
        [
            (401, "security_exception", ClusterRefuses, "cluster_refuses"),
            (403, "security_exception", ClusterRefuses, "cluster_refuses"),
            (403, "cluster_block_exception", ClusterUnreachable, "cluster_unreachable"),
            (404, "index_not_found_exception", NotFound, "not_found"),
            (429, "es_rejected_execution_exception", ClusterUnreachable, "cluster_unreachable"),
            (503, "unavailable_shards_exception", ClusterUnreachable, "cluster_unreachable"),
            (400, "parse_exception", Rejected, "cluster_rejects"),
            (400, "index_closed_exception", IndexClosed, "index_closed"),
        ],
    )
    def test_each_refusal_has_its_kind(self, status, kind, error, code) -> None:
        """Come again, pause, or mend the request: with what the cluster says itself."""
        body = {"error": {"type": kind, "reason": "because"}}
        with (
            answering(status, body) as url,
            connect(parse(url)) as client,
            pytest.raises(error, match=kind) as raised,
        ):
            request(client, "GET", "/thing")
        assert (type(raised.value), raised.value.code) == (error, code)

    def test_a_page_in_the_cluster_s_place(self) -> None:
        """Something in between answers; it may go away again."""
        with (
            answering(200, "Back soon") as url,
            connect(parse(url)) as client,
            pytest.raises(ClusterUnreachable, match="in the cluster's place") as raised,
        ):
            request(client, "GET", "/")
        assert (raised.value.code, bool(raised.value.remedy)) == ("cluster_unreachable", True)

    def test_nobody_there_may_be_asked_again(self) -> None:
        """A closed port is a cluster that is not there now."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"elasticsearch+http://127.0.0.1:{unused.getsockname()[1]}"
            with connect(parse(url)) as client, pytest.raises(ClusterUnreachable) as raised:
                request(client, "GET", "/")
        assert (raised.value.code, bool(raised.value.remedy)) == ("cluster_unreachable", True)

    def test_a_certificate_of_nobody_we_know_pauses(self, tmp_path: Path) -> None:
        """Nothing is sent to a server that cannot prove who it is; with its authority it is asked."""
        authority = certificates.Authority(tmp_path)
        with answering(200, version("8.19.0"), tls=authority.issue("server")) as url:
            with connect(parse(url)) as client, pytest.raises(ClusterRefuses, match="certificate") as raised:
                request(client, "GET", "/")
            assert (raised.value.code, "ca=" in raised.value.remedy) == ("cluster_refuses", True)
            assert asked(f"{url}?ca={authority.certificate}").version == "8.19.0"
