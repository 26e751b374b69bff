"""An administrator of an organization sets a destination up over the API of a running server, and entries arrive."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from klyra_audit.catalog import Catalog
from klyra_collector.data_directory import DataDirectory
from klyra_collector.registry import Registry
from support.collector import OPERATOR
from support.serving import await_that, log_of
from support.siem.cloud_server import Fault, Reply
from support.siem.self_service import OTHERS, OURS, SMALL, Far, Server, registered, server_on, splunk
from support.siem.splunk import TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """Three organizations; an administrator's and an emitter's key of each."""
    return registered(tmp_path / "data")


@pytest.fixture
def server(tmp_path: Path, keys: dict[str, str]) -> Iterator[Server]:
    """A whole server."""
    with server_on(tmp_path / "data", keys) as made:
        yield made


@pytest.fixture
def far() -> Iterator[Far]:
    """A strict Splunk."""
    with splunk() as made:
        yield made


def created(server: Server, wish: dict[str, Any]) -> str:
    """Set a destination up once the follower has run; return its id."""

    def post() -> httpx.Response | None:
        answer = server.call("POST", "/v1/destinations", wish)
        return None if answer.status_code == 503 else answer

    answer = await_that(post, server.root)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def arrived(far: Far) -> list[dict[str, Any]]:
    """Return the entries that Splunk has."""
    return [event["fields"] for event in list(far.hec.indexed)]


def of(far: Far, organization_id: str) -> int:
    """Return how many moderation entries of an organization Splunk has."""
    found = [entry for entry in arrived(far) if entry["event_type"].startswith("moderation.")]
    return sum(entry["organization_id"] == organization_id for entry in found)


def test_from_nothing_to_entries_in_splunk_and_back(server, far) -> None:
    """Set up, tried, delivered to, paused, resumed, deleted: its own entries alone, and each change an entry."""
    server.emit(OURS, 5, 0)
    server.emit(OTHERS, 5, 0)
    destination_id = created(server, far.wish())
    tried = server.call("POST", f"/v1/destinations/{destination_id}/test").json()
    assert (tried["outcome"], tried["status"]) == ("delivered", "200/0")
    await_that(lambda: of(far, OURS) == 5, server.root)

    shown = await_that(lambda: told(server, destination_id, "delivering", 5), server.root)
    assert (shown["dead_letters"], shown["last_error"], shown["secrets"]) == (0, None, {"token": {"is_set": True}})

    paused = server.call("PATCH", f"/v1/destinations/{destination_id}", {"paused": True})
    assert (paused.status_code, paused.json()["paused"]) == (200, True)
    await_that(lambda: told(server, destination_id, "paused"), server.root)
    server.emit(OURS, 3, 5)
    time.sleep(1)
    assert of(far, OURS) == 5
    server.call("PATCH", f"/v1/destinations/{destination_id}", {"paused": False})
    await_that(lambda: of(far, OURS) == 8, server.root)

    assert server.call("DELETE", f"/v1/destinations/{destination_id}").status_code == 204
    cursors = DataDirectory(server.root).cursors
    await_that(lambda: not list(cursors.glob(f"{destination_id}*")), server.root)
    server.emit(OURS, 2, 8)
    time.sleep(1)
    assert (of(far, OURS), of(far, OTHERS)) == (8, 0)
    assert {entry["organization_id"] for entry in arrived(far)} <= {OURS, "operator"}  # its test event

    def changes() -> list[Any]:
        return [entry["metadata"].get("changes") for entry in server.entries("siem_destination.updated")]

    await_that(lambda: changes() == [["paused"], ["paused"]], server.root)
    assert [entry["resource"]["name"] for entry in server.entries("siem_destination.created")] == ["splunk"]
    await_that(lambda: server.entries("siem_destination.deleted"), server.root)
    nowhere(server)


def told(server: Server, destination_id: str, state: str, delivered: int = 0) -> dict[str, Any] | None:
    """Return a destination once it says so."""
    shown: dict[str, Any] = server.call("GET", f"/v1/destinations/{destination_id}").json()
    return shown if shown["state"] == state and shown["delivered"] >= delivered else None


def nowhere(server: Server) -> None:
    """Look for the secret in everything that was written, printed and answered."""
    seen = [log_of(server.root).read_bytes()]
    seen += [path.read_bytes() for path in server.root.rglob("*") if path.is_file()]
    seen += [server.call("GET", "/v1/destinations").content, httpx.get(f"{server.addresses['api']}/metrics").content]
    assert not any(TOKEN.encode() in content for content in seen)


def test_what_the_vendor_says_is_shown(server, far) -> None:
    """A wrong token is told in the vendor's own words, in the test and in the state; a right one mends it."""
    destination_id = created(server, far.wish(secrets={"token": "wrong"}))
    tried = server.call("POST", f"/v1/destinations/{destination_id}/test").json()
    assert (tried["outcome"], tried["status"], "Invalid token" in tried["answer"]) == ("not_let_in", "403/4", True)
    server.emit(OURS, 1, 0)
    shown = await_that(lambda: told(server, destination_id, "paused"), server.root)
    assert "Invalid token" in shown["last_error"]["reason"]
    mended = server.call("PATCH", f"/v1/destinations/{destination_id}", {"secrets": {"token": TOKEN}})
    assert mended.status_code == 200
    await_that(lambda: of(far, OURS) == 1, server.root)
    nowhere(server)


def test_a_plan_without_destinations_is_told_so(server, far) -> None:
    """403 naming the plan."""
    refused = server.call("POST", "/v1/destinations", far.wish(), key=SMALL)
    assert (refused.status_code, refused.json()["code"]) == (403, "destinations_not_in_plan")
    assert "business" in refused.json()["detail"]
    assert server.call("GET", "/v1/destinations", key=SMALL).status_code == 403


def test_whoever_leaves_the_plan_gets_nothing_delivered(tmp_path, keys, far) -> None:
    """After a restart at once; and the secrets can be taken away."""
    root = tmp_path / "data"
    with server_on(root, keys) as server:
        destination_id = created(server, far.wish())
        server.emit(OURS, 5, 0)
        await_that(lambda: of(far, OURS) == 5, root)
    with contextlib.closing(Registry.open(DataDirectory(root).registry_url, Catalog.load())) as registry:
        registry.set_plan(OURS, "business", by=OPERATOR)
    with server_on(root, keys) as server:
        server.emit(OURS, 5, 5)
        await_that((DataDirectory(root).cursors / f"{destination_id}.cursor.json").exists, root)
        time.sleep(2)
        assert of(far, OURS) == 5
        assert server.call("GET", "/v1/destinations").json()["code"] == "destinations_not_in_plan"
        assert server.call("DELETE", f"/v1/destinations/{destination_id}").status_code == 204


def moderated(server: Server) -> set[str]:
    """Return the ids of our organization's moderation entries, as the log has them."""
    answer = server.call("GET", "/v1/audit-logs?event_types=moderation.created&limit=1000")
    return {entry["id"] for entry in answer.json()["data"]}


def test_a_killed_server_goes_on_where_it_was(tmp_path, keys, far) -> None:
    """Kill -9 of everything while Splunk is busy loses nothing; a clean restart repeats nothing."""
    root = tmp_path / "data"
    with server_on(root, keys) as server:
        destination_id = created(server, far.wish())
        server.emit(OURS, 20, 0)
        await_that(lambda: of(far, OURS) == 20, root)
        far.server.plan(*[Fault(reply=Reply(503))] * 3)
        server.emit(OURS, 20, 20)
        await_that(lambda: told(server, destination_id, "retrying"), root)
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait(20)
    with server_on(root, keys) as server:
        await_that(lambda: len(moderated(server)) == 40, root)
        expected = moderated(server)
        await_that(lambda: expected <= {entry["event_id"] for entry in arrived(far)}, root)
        assert server.call("GET", "/v1/destinations").json()["data"][0]["id"] == destination_id
        await_that(lambda: told(server, destination_id, "delivering"), root)
    before = len(far.hec.indexed)
    with server_on(root, keys) as server:
        server.emit(OURS, 1, 40)
        await_that(lambda: len(moderated(server) - expected) == 1, root)
        await_that(lambda: moderated(server) <= {entry["event_id"] for entry in arrived(far)}, root)
    again = [entry["event_id"] for entry in arrived(far)[before:]]
    assert not expected & set(again)


def test_another_organization_sees_nothing_of_it(server, far) -> None:
    """As if it was not there."""
    destination_id = created(server, far.wish())
    assert server.call("GET", "/v1/destinations", key=OTHERS).json() == {"data": []}
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/test")):
        answer = server.call(method, f"/v1/destinations/{destination_id}{path}", {}, key=OTHERS)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_destination")
    assert server.call("GET", f"/v1/destinations/{destination_id}").status_code == 200
