from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from klyra_audit.format import policy as policies
from klyra_audit.format import tile
from klyra_audit.format.tile import Tile, tiles_of
from klyra_collector.publish.published import PublishedLedger
from support.api import ACME, assert_problem, running_api
from support.ledgers import LedgerBuilder, large_ledger, put, signing_key, small_ledger
from support.published import policy_text, publishing_api

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_collector.publish.published import PublishedShard
    from support.api import Api

SIGNED = 690
FULL = "public, max-age=31536000, immutable"
PARTIAL = "public, max-age=60"


@pytest.fixture(scope="module")
def builder() -> LedgerBuilder:
    """A ledger of three tiles."""
    return large_ledger(700)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its data directory."""
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module")
def api(builder: LedgerBuilder, folder: Path) -> Iterator[Api]:
    """The API beside the ledger."""
    with publishing_api(builder, folder, signed=SIGNED) as running:
        yield running


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    """A client without a key."""
    with httpx.Client(base_url=api.url) as opened:
        yield opened


@pytest.fixture
def shard(folder: Path) -> PublishedShard:
    """What is published, read beside the API."""
    return PublishedLedger(folder / "ledger").current()


class TestPublic:
    """Checkpoints, hash tiles and the policy are for everyone."""

    @pytest.mark.parametrize("log", ["", "collector-1/2026/"])
    def test_a_stranger_reads_the_whole_tree_of_hashes(
        self, client: httpx.Client, shard: PublishedShard, log: str
    ) -> None:
        """Under the shard's own address and under that of the current one."""
        checkpoint = client.get(f"/log/{log}checkpoint")
        assert checkpoint.content == shard.checkpoint()
        assert checkpoint.headers["content-type"] == "text/plain; charset=utf-8"
        for item in tiles_of(SIGNED):
            if item.level == tile.ENTRIES:
                continue
            answer = client.get(f"/log/{log}{item.path}")
            assert (answer.status_code, answer.content) == (200, shard.tile(item))
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["cache-control"] == (FULL if item.is_full else PARTIAL)
            assert answer.headers["access-control-allow-origin"] == "*"

    def test_the_policy_opens_the_checkpoint(self, client: httpx.Client) -> None:
        """Two requests and nothing else are enough to know what was signed by whom."""
        answer = client.get("/.well-known/klyra-audit/policy")
        assert (answer.content, answer.headers["content-type"]) == (policy_text(), "text/plain; charset=utf-8")
        assert answer.headers["access-control-allow-origin"] == "*"
        opened = policies.open_checkpoint(client.get("/log/checkpoint").content, policies.parse(answer.content))
        assert (opened.checkpoint.size, opened.key) == (SIGNED, signing_key().verifying_key)

    @pytest.mark.parametrize(
        "path", ["/log/checkpoint", "/log/tile/0/000", "/log/tile/0/002.p/7", "/.well-known/klyra-audit/policy"]
    )
    def test_what_is_known_is_not_sent_again(self, client: httpx.Client, path: str) -> None:
        """An ETag is answered by 304 with the same caching headers; HEAD has the headers and no content."""
        answer = client.get(path)
        tag = answer.headers["etag"]
        for known in (tag, f'"other", W/{tag}', "*"):
            again = client.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
            assert again.headers["cache-control"] == answer.headers["cache-control"]
        assert client.get(path, headers={"If-None-Match": '"other"'}).content == answer.content
        head = client.head(path)
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
        assert head.headers["content-length"] == str(len(answer.content))

    def test_a_checkpoint_is_asked_for_again_every_time(self, client: httpx.Client) -> None:
        """A cache that kept it would hide what was signed since."""
        assert client.get("/log/checkpoint").headers["cache-control"] == "no-cache"


class TestAbsent:
    """What is not published is a 404, whatever lies on the disk."""

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            ("/log/tile/0/002", "not_published"),
            (f"/log/tile/0/002.p/{SIGNED - 512 + 1}", "not_published"),
            ("/log/tile/2/000.p/1", "not_published"),
            ("/log/tile/0/000.p/256", "no_such_tile"),
            ("/log/tile/0/000.p/0", "no_such_tile"),
            ("/log/tile/00/000", "no_such_tile"),
            ("/log/tile/0/0", "no_such_tile"),
            ("/log/tile/0/x000/001", "no_such_tile"),
            ("/log/tile/64/000", "no_such_tile"),
            ("/log/tile/data/000", "no_such_tile"),
            ("/log/tile/%2e%2e/%2e%2e/keys/org-salt", "no_such_tile"),
            ("/log/tile/0/..%2f..%2fleaves", "no_such_tile"),
            ("/log/collector-1/%2e%2e/checkpoint", "no_such_log"),
            ("/log/collector-1/..%2f..%2fkeys/checkpoint", "no_such_log"),
            ("/log/collector-1/2025/checkpoint", "no_such_log"),
            ("/log/collector-2/2026/checkpoint", "no_such_log"),
            ("/log/2026/checkpoint", "no_such_log"),
            ("/log/collector-1/2026/leaves", "unknown_address"),
            ("/log/", "unknown_address"),
        ],
    )
    def test_it_is_not_there(self, client: httpx.Client, path: str, code: str) -> None:
        """Nothing beyond the checkpoint, no other spelling of a tile, no way out of the ledger's folder."""
        assert_problem(client.get(path), 404, code)

    def test_it_cannot_be_written(self, client: httpx.Client) -> None:
        """The log's public face only reads."""
        for method in ("POST", "PUT", "DELETE"):
            assert_problem(client.request(method, "/log/checkpoint"), 405, "method_not_allowed")


class TestEntries:
    """Entry bundles show which organization is how busy."""

    PATH = Tile(tile.ENTRIES, 0).path

    def test_an_operators_key_reads_them(self, api: Api, builder: LedgerBuilder) -> None:
        """They are kept by nobody between, and recorded once for many in the operator's own log."""
        with api.client("verify", organization_id=None) as client:
            answers = [client.get(f"/log/{item.path}") for item in tiles_of(SIGNED) if item.level == tile.ENTRIES]
        assert [leaf for answer in answers for leaf in tile.split_bundle(answer.content)] == builder.leaves[:SIGNED]
        assert answers[0].headers["cache-control"] == "private, max-age=31536000, immutable"
        assert answers[0].headers["vary"] == "Authorization"
        assert "access-control-allow-origin" not in answers[0].headers
        recorded = api.recorded("audit_log.queried", "operator")
        assert [event["metadata"]["filters"] for event in recorded] == [{"call": "GET /log/tile/{tile:path}"}]

    def test_nobody_else_does(self, api: Api, client: httpx.Client) -> None:
        """No key, a key of an organization, a key without the scope; each attempt of a key is recorded."""
        assert_problem(client.get(f"/log/{self.PATH}"), 401, "not_authenticated")
        with api.client("verify") as organization:
            assert_problem(organization.get(f"/log/{self.PATH}"), 403, "operator_only")
            assert_problem(organization.get(f"/log/collector-1/2026/{self.PATH}"), 403, "operator_only")
        with api.client("read", organization_id=None) as reader:
            assert_problem(reader.get(f"/log/{self.PATH}"), 403, "scope_missing")
        assert {event["metadata"]["reason"] for event in api.recorded("access.denied")} == {"operator_only"}

    def test_whether_there_is_one_is_not_told_either(self, client: httpx.Client) -> None:
        """Authorization comes before existence."""
        assert_problem(client.get(f"/log/{Tile(tile.ENTRIES, 10**9).path}"), 401, "not_authenticated")

    def test_the_operator_can_make_them_public(self, tmp_path: Path) -> None:
        """With `log.public_entries` they are like any other tile."""
        with publishing_api(small_ledger(), tmp_path, public_entries=True) as api:
            answer = httpx.get(f"{api.url}/log/{Tile(tile.ENTRIES, 0, 3).path}")
        assert len(tile.split_bundle(answer.content)) == 3
        assert (answer.headers["cache-control"], answer.headers["access-control-allow-origin"]) == (PARTIAL, "*")


class TestTrouble:
    """What is wrong with the ledger is said, not hidden."""

    def test_a_server_without_a_ledger_has_no_log(self, tmp_path: Path) -> None:
        """An API may run apart from its collector."""
        with running_api(tmp_path) as api:
            for path in ("/log/checkpoint", "/log/tile/0/000", "/.well-known/klyra-audit/policy"):
                assert_problem(httpx.get(api.url + path), 404, "no_such_log")

    def test_a_damaged_ledger_is_the_operators_to_mend(self, tmp_path: Path) -> None:
        """The answer names the file and what to do, and is no 404."""
        with publishing_api(small_ledger(), tmp_path) as api:
            put(tmp_path / "ledger/2026/hashes/0", b"")
            problem = assert_problem(httpx.get(f"{api.url}/log/tile/0/000.p/3"), 503, "ledger_damaged")
        assert "klyra-audit verify" in problem["remedy"]


def test_the_calls_are_described(client: httpx.Client) -> None:
    """`/openapi.json` names them with their media types."""
    paths = client.get("/openapi.json").json()["paths"]
    described = {path for path in paths if path.startswith(("/log/", "/.well-known/"))}
    assert described == {
        "/.well-known/klyra-audit/policy",
        "/log/checkpoint",
        "/log/witnessed",
        "/log/{log}/witnessed",
        "/log/tile/{tile}",
        "/log/{log}/checkpoint",
        "/log/{log}/tile/{tile}",
    }
    call = paths["/log/{log}/tile/{tile}"]["get"]
    assert list(call["responses"]["200"]["content"]) == ["application/octet-stream"]
    assert [parameter["name"] for parameter in call["parameters"]] == ["log", "tile"]
    assert ACME not in str(call)
