"""Quarantine with the whole product: an event of an unknown type is kept, found, mended, replayed, and guarded."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from klyra_audit.format import frame
from klyra_audit.format.frame import BlobFrame
from klyra_audit.format.leaf import Kind
from klyra_audit.format.quarantined import KeptInput, quarantine_reference
from support import otlp
from support.sealing import read_all

if TYPE_CHECKING:
    from collections.abc import Iterator

ACME, OTHER = "org_acme", "org_other"
EVENT = {
    "event_name": "order.refunded",
    "time": 1_781_000_000_000_000_000,
    "body": "paid back \x1b[2J",
    "attributes": {"klyra.actor.id": "usr_1", "klyra.resource.id": "ord_1"},
}
NOBODY = {"event_name": "user.removed", "attributes": {"klyra.resource.id": "usr_2"}}
TYPES = {
    "schema": "klyra.audit/1",
    "event_types": [
        {
            "name": "order.refunded",
            "title": "Order refunded",
            "description": "The price of an order was paid back.",
            "group": "administrative",
            "action": "update",
            "resource_type": "order",
        }
    ],
}
_ADDRESSES = ("API__LISTEN", "OTLP__HTTP__LISTEN", "OTLP__GRPC__LISTEN", "FORWARD__LISTEN")


def environment(**variables: str) -> dict[str, str]:
    """Return what commands run in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KLYRA_")}
    return kept | {f"KLYRA_{name}": "127.0.0.1:0" for name in _ADDRESSES} | variables


def klyra(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    command = [sys.executable, "-m", "klyra_collector", *arguments]
    return subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, check=False, timeout=60
    )


@contextlib.contextmanager
def serving(root: Path, **variables: str) -> Iterator[dict[str, Any]]:
    """Run everything on a data directory, and give its addresses."""
    command = [sys.executable, "-m", "klyra_collector", "serve", "--data", str(root)]
    with (root / "serve.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment(**variables), stdin=subprocess.DEVNULL, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not (root / "run.json").exists():
            assert process.poll() is None, (root / "serve.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield json.loads((root / "run.json").read_text())
    finally:
        process.terminate()
        assert process.wait(30) == 0


@dataclass
class Product:
    """A data directory with two organizations and their keys."""

    root: Path
    keys: dict[str, str]

    def command(self, *arguments: str, key: str = "admin", code: int = 0) -> str:
        """Run `klyra-audit quarantine` and return what it prints."""
        done = klyra("quarantine", *arguments, "--data", str(self.root), KLYRA_KEY=self.keys[key])
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        """Return what the list has."""
        found: list[dict[str, Any]] = json.loads(self.command("list", "--json", *arguments))
        return found

    def await_listed(self, count: int, *arguments: str) -> list[dict[str, Any]]:
        """Return the list once the follower has brought so many."""
        deadline = time.monotonic() + 20
        while len(found := self.listed(*arguments)) < count:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return found

    def entries(self, *event_types: str) -> list[dict[str, Any]]:
        """Return the entries of some types."""
        types = [argument for name in event_types for argument in ("--type", name)]
        done = klyra("query", "--json", *types, "--data", str(self.root), KLYRA_KEY=self.keys["admin"])
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def call(self, addresses: dict[str, Any], method: str, path: str, key: str = "admin", **how: Any) -> httpx.Response:
        """Call the API."""
        headers = {"Authorization": f"Bearer {self.keys[key]}"}
        return httpx.request(method, addresses["api"] + path, headers=headers, timeout=30, **how)

    def send(self, addresses: dict[str, Any], body: bytes, media_type: str = "application/x-protobuf") -> None:
        """Send a request, which is acknowledged whatever is in it."""
        headers = {"Authorization": f"Bearer {self.keys['emit']}", "Content-Type": media_type}
        answer = httpx.post(addresses["otlp_http"] + "/v1/logs", content=body, headers=headers, timeout=30)
        assert answer.status_code == 200

    def verify(self) -> subprocess.CompletedProcess[str]:
        """Verify the data directory."""
        return klyra("verify", str(self.root))


@pytest.fixture(scope="module")
def product(tmp_path_factory) -> Product:
    """An organization with one key for each purpose, and another organization's key."""
    root = tmp_path_factory.mktemp("data")
    keys = {}
    for organization_id, scopes in ((ACME, ("emit", "read", "admin")), (OTHER, ("read,admin",))):
        made = klyra("org", "create", organization_id, "--plan", "business", "--data", str(root))
        assert made.returncode == 0, made.stderr
        for scope in scopes:
            asked = "read,admin" if scope == "admin" else scope
            done = klyra("key", "create", "--org", organization_id, "--scope", asked, "--data", str(root))
            keys["other" if organization_id == OTHER else scope] = done.stdout.strip()
    return Product(root, keys)


@pytest.fixture(scope="module")
def replayed(product) -> dict[str, Any]:
    """Send, look, mend, restart, replay; return what was seen on the way. The tests say what must have been."""
    seen: dict[str, Any] = {}
    with serving(product.root) as addresses:
        product.send(addresses, otlp.foreign(EVENT, otlp.MAPPED, resource={"service.name": "shop"}))
        product.send(addresses, otlp.foreign_json(NOBODY), "application/json")
        product.send(addresses, otlp.foreign(EVENT, resource={"service.name": "shop"}))
        seen["listed"] = product.await_listed(2)
        seen["table"] = product.command("list", "--pointer", "/event_type")
        refund = next(item for item in seen["listed"] if item["pointer"] == "/event_type")
        seen["refund"] = refund
        seen["shown"] = product.command("show", refund["id"])
        seen["whole"] = json.loads(product.command("show", "--json", refund["id"], key="read"))
        seen["raw"] = base64.b64decode(seen["whole"]["raw"])
        seen["summary"] = json.loads(product.command("summary", "--json"))
        seen["counts"] = product.command("summary")
        seen["other"] = product.call(addresses, "GET", f"/v1/quarantine/{refund['id']}", key="other")
        seen["others"] = product.call(addresses, "GET", "/v1/quarantine", key="other").json()
        body = {"ids": [refund["id"]]}
        seen["reader"] = product.call(addresses, "POST", "/v1/quarantine/replay", key="read", json=body)
        seen["stranger"] = product.call(addresses, "POST", "/v1/quarantine/replay", key="other", json=body).json()
        seen["still"] = json.loads(product.command("replay", "--json", refund["id"], code=1))
        seen["waiting"] = metric(addresses["api"], "klyra_quarantine_waiting")
        seen["counted"] = metric(addresses["otlp_http"], "klyra_quarantine_records_total")
    path = product.root / "types.json"
    path.write_text(json.dumps(TYPES))
    with serving(product.root, KLYRA_CATALOG=str(path)) as addresses:
        seen["first"] = json.loads(product.command("replay", "--json", "--pointer", "/event_type"))
        seen["second"] = json.loads(product.command("replay", "--json", refund["id"]))
        seen["told"] = product.command("replay", "--all", code=1)
        seen["entries"] = product.entries("order.refunded")
        seen["trace"] = product.entries("quarantine.replayed")
        seen["reads"] = product.entries("audit_log.queried")
        seen["after"] = {item["id"]: item for item in product.listed()}
        seen["left"] = metric(addresses["api"], "klyra_quarantine_waiting")
    seen["records"] = [item for item in read_all(product.root) if item.leaf.kind == Kind.QUARANTINE]
    seen["verified"] = product.verify()
    return seen


def metric(url: str, name: str) -> float:
    """Return the sum of a metric's series."""
    lines = httpx.get(f"{url}/metrics", timeout=10).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


class TestLooking:
    """What was kept can be found and read."""

    def test_each_input_is_listed_with_reason_and_pointer(self, replayed) -> None:
        """The same input sent twice is kept once; the valid event beside it is not here."""
        pointers = {item["pointer"]: item for item in replayed["listed"]}
        assert set(pointers) == {"/event_type", "/actor/id"}
        assert {item["source"]["encoding"] for item in replayed["listed"]} == {"otlp-protobuf", "otlp-json"}
        assert all(item["source"]["key"].startswith("key_") and item["reason"] for item in replayed["listed"])
        assert (replayed["refund"]["state"], replayed["refund"]["entry_id"]) == ("waiting", None)

    def test_the_table_names_it(self, replayed) -> None:
        """People see the same as programs."""
        heading, line = replayed["table"].splitlines()
        assert heading.split() == ["RECEIVED", "SOURCE", "ENCODING", "POINTER", "REASON", "STATE", "ID"]
        assert line.endswith(replayed["refund"]["id"])

    def test_what_came_is_shown_and_is_a_request_of_its_own(self, replayed) -> None:
        """Any OTLP tool reads it, its resource included; a terminal is not driven by it."""
        assert replayed["whole"]["bytes"] == "intact"
        kept = KeptInput.unpack(replayed["raw"])
        [logs] = ExportLogsServiceRequest.FromString(kept.content).resource_logs
        assert logs.resource.attributes[0].value.string_value == "shop"
        assert "order.refunded" in replayed["shown"]
        assert "\x1b" not in replayed["shown"]

    def test_the_name_is_the_leafs(self, replayed) -> None:
        """Anyone with the ledger can tell which record it is."""
        names = {quarantine_reference(item.leaf_bytes): item.index for item in replayed["records"]}
        assert names == {item["id"]: item["index"] for item in replayed["listed"]}

    def test_counts_per_source_and_reason(self, replayed) -> None:
        """Who sends it, and what is wrong with it."""
        summary = replayed["summary"]
        assert (summary["records"], summary["waiting"]) == (2, 2)
        assert [item["records"] for item in summary["sources"]] == [1, 1]
        assert {item["pointer"] for item in summary["reasons"]} == {"/event_type", "/actor/id"}
        assert "WAITING" in replayed["counts"]

    def test_metrics_can_alarm(self, replayed) -> None:
        """One counts what came by key, one what waits."""
        assert (replayed["counted"], replayed["waiting"], replayed["left"]) == (2, 2, 1)


class TestAllowed:
    """Who may do what."""

    def test_nobody_sees_anothers(self, replayed) -> None:
        """It cannot be told apart from nothing at all."""
        assert (replayed["other"].status_code, replayed["others"]["data"]) == (404, [])
        assert [item["status"] for item in replayed["stranger"]["data"]] == ["not_found"]

    def test_looking_is_not_replaying(self, replayed) -> None:
        """Replay needs the scope admin."""
        assert (replayed["reader"].status_code, replayed["reader"].json()["code"]) == (403, "scope_missing")

    def test_looking_leaves_a_trace(self, replayed) -> None:
        """Every read is an entry of the organization."""
        filters = [entry["metadata"]["filters"] for entry in replayed["reads"]]
        assert {"quarantine": {"id": replayed["refund"]["id"]}} in filters


class TestReplay:
    """After a catalog file with the type."""

    def test_before_it_is_mended_the_reason_stays(self, replayed) -> None:
        """And the input stays where it is."""
        [outcome] = replayed["still"]
        assert (outcome["status"], outcome["pointer"], outcome["entry_id"]) == ("refused", "/event_type", None)

    def test_it_becomes_an_entry_that_a_query_finds(self, replayed) -> None:
        """With everything that came, and where it was quarantined."""
        [outcome] = replayed["first"]
        [entry] = replayed["entries"]
        assert (outcome["status"], outcome["entry_id"]) == ("replayed", entry["id"])
        refund = replayed["refund"]
        assert entry["metadata"]["replayed_from"] == f"{refund['log']}#{refund['index']}"
        assert (entry["actor"]["id"], entry["resource"]["id"]) == ("usr_1", "ord_1")

    def test_again_is_a_repeat(self, replayed) -> None:
        """The same entry, and nothing new."""
        [outcome] = replayed["second"]
        assert (outcome["status"], outcome["entry_id"]) == ("repeat", replayed["first"][0]["entry_id"])

    def test_what_is_still_no_event_stays(self, replayed) -> None:
        """Replaying all that waits tells the reason of what is left."""
        assert "refused" in replayed["told"]
        states = {item["pointer"]: item["state"] for item in replayed["after"].values()}
        assert states == {"/event_type": "replayed", "/actor/id": "waiting"}
        assert len(replayed["records"]) == 2

    def test_each_replay_leaves_a_trace(self, replayed) -> None:
        """Who asked, for which input, and what came of it."""
        told = {(entry["resource"]["id"], entry["status"]) for entry in replayed["trace"]}
        names = {item["pointer"]: item["id"] for item in replayed["listed"]}
        assert told == {
            (names["/event_type"], "failure"),
            (names["/event_type"], "success"),
            (names["/actor/id"], "failure"),
        }
        assert all(entry["actor"]["type"] == "api_key" for entry in replayed["trace"])


class TestGuarded:
    """It cannot be emptied, or changed, unnoticed."""

    def test_what_was_replayed_verifies(self, replayed) -> None:
        """Quarantine records, replayed events and their traces are one intact ledger."""
        assert replayed["verified"].returncode == 0, replayed["verified"].stdout

    @pytest.fixture
    def path(self, product, replayed) -> Iterator[Path]:
        """The day's file of quarantined bytes, put back afterwards."""
        [path] = (product.root / "quarantine").rglob("*.frames")
        whole = path.read_bytes()
        yield path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole)

    def test_a_deleted_file_is_missing(self, product, path) -> None:
        """Before its time nothing may go."""
        path.unlink()
        done = product.verify()
        assert done.returncode == 1
        assert "MISSING" in done.stdout

    def test_a_deleted_folder_is_missing(self, product, path) -> None:
        """Neither may all of quarantine."""
        shutil.rmtree(product.root / "quarantine")
        done = product.verify()
        assert (done.returncode, "MISSING" in done.stdout) == (1, True)

    def test_one_input_taken_out_is_missing(self, product, path) -> None:
        """The frames around it stay whole."""
        frames = list(frame.read_blob_frames(path.read_bytes()))
        path.write_bytes(path.read_bytes()[frames[0][1] :])
        done = product.verify()
        assert (done.returncode, "MISSING" in done.stdout) == (1, True)

    def test_other_bytes_are_altered(self, product, path) -> None:
        """The ledger has their hash."""
        frames = [blob for _, _, blob in frame.read_blob_frames(path.read_bytes())]
        changed = [BlobFrame(frames[0].index, frames[0].payload.replace(b"usr_1", b"usr_9")), *frames[1:]]
        assert changed[0] != frames[0]
        path.write_bytes(b"".join(map(frame.encode_blob, changed)))
        done = product.verify()
        assert (done.returncode, "ALTERED" in done.stdout) == (1, True)

    def test_a_list_says_what_became_of_the_bytes(self, product, path, replayed) -> None:
        """Without them the record stays in the list, and showing it fails."""
        path.unlink()
        with serving(product.root):
            shown = product.command("show", replayed["refund"]["id"], code=1)
            assert "missing" in shown
