"""The whole product with Elasticsearch behind it answers over HTTP what it answers with its embedded store."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from klyra_audit.catalog import Catalog
from klyra_collector.data_directory import DataDirectory
from klyra_collector.registry import Registry
from support import collector, otlp
from support.collector import ACME, OPERATOR
from support.elasticsearch_following import keyed_urls, prepared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.elasticsearch import Node

WAIT_SECONDS = 60
EVENTS = 60
KINDS: tuple[dict[str, Any], ...] = (
    {"event_type": "moderation.created", "action": "create"},
    {"event_type": "moderation.flagged", "action": "update"},
    {"event_type": "moderation.completed", "action": "update"},
)
TYPES = tuple(kind["event_type"] for kind in KINDS)
METADATA = {"categories": ["spam"], "decision": "flagged"}


@dataclass(frozen=True)
class Answers:
    """Two APIs over one ledger, and a key for both."""

    elasticsearch: str
    embedded: str
    key: str
    root: Path

    def both(self, ask: Callable[[httpx.Client], Any]) -> Any:
        """Return what Elasticsearch answers, having seen that the embedded store answers the same."""
        headers = {"Authorization": f"Bearer {self.key}"}
        answers = []
        for url in (self.elasticsearch, self.embedded):
            with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
                answers.append(ask(client))
        assert answers[0] == answers[1]
        return answers[0]


@pytest.fixture(scope="module")
def answers(cluster: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """A server with Elasticsearch, and beside it a follower and an API with a file, over the same ledger."""
    folder = tmp_path_factory.mktemp("whole")
    root = folder / "data"
    emit_keys = collector.make_keys(root)
    with contextlib.closing(Registry.open(DataDirectory(root).registry_url, Catalog.load())) as registry:
        registry.create_organization("org_enterprise", "enterprise", by=OPERATOR)
        made = registry.create_key(organization_id=ACME, scopes={"read", "export"}, label="tests", by=OPERATOR)
    with contextlib.ExitStack() as running, prepared(cluster, folder) as keys:
        write, read, sweep = keyed_urls(keys.administrator, cluster, folder)
        cluster_settings = {
            "STORE__URL": read,
            "STORE__ELASTICSEARCH__WRITE_URL": write,
            "STORE__ELASTICSEARCH__SWEEP_URL": sweep,
        }
        addresses = running.enter_context(serving(root, "all", cluster_settings))
        embedded_settings = {"STORE__URL": f"sqlite:///{folder / 'beside.sqlite'}"}
        running.enter_context(serving(root, "follower", embedded_settings))
        beside = running.enter_context(serving(root, "api", embedded_settings))
        send(addresses["otlp_http"], emit_keys[ACME])
        both = Answers(addresses["api"], beside["api"], made.secret_text, root)
        until(lambda: all(has_everything(both, url) for url in (both.elasticsearch, both.embedded)), root)
        yield both


@contextlib.contextmanager
def serving(root: Path, role: str, settings: dict[str, str]) -> Iterator[dict[str, str]]:
    """Run a role; yield its addresses; stop it afterwards."""
    listeners = ("OTLP__HTTP", "OTLP__GRPC", "FORWARD", "API")
    environment = os.environ | {f"KLYRA_{name}__LISTEN": "127.0.0.1:0" for name in listeners}
    environment |= {f"KLYRA_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "klyra_collector", "serve", "--role", role, "--data", str(root)]
    path = root.parent / f"{role}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield ready(path, role, process)
    finally:
        process.terminate()
        assert process.wait(40) == 0, path.read_text()[-3000:]


def ready(log: Path, role: str, process: subprocess.Popen[bytes]) -> dict[str, str]:
    """Wait until a role says where it answers."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if role == "all":
            found = log.parent / "data" / "run.json"
            if found.exists():
                return dict(json.loads(found.read_text()))
        for line in log.read_text().splitlines():
            if line.startswith(f"{role} is ready"):
                return dict(json.loads(line.removeprefix(f"{role} is ready").strip().replace("'", '"') or "{}"))
        time.sleep(0.05)
    raise AssertionError(log.read_text()[-3000:])


def send(url: str, key: str) -> None:
    """Send events of some kinds, and among them some that break their schema."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-protobuf"}
    for number in range(EVENTS):
        event = otlp.prepared(
            **KINDS[number % 3],
            status=("success", "failure")[number % 5 == 0],
            metadata=METADATA | {"client_ip": f"198.51.100.{number}"},
        )
        assert httpx.post(f"{url}/v1/logs", content=otlp.own_form(event, first=number), headers=headers).is_success
    wrong = [otlp.invalid(status="unknown") for _ in range(4)]
    httpx.post(f"{url}/v1/logs", content=otlp.own_form(*wrong, first=EVENTS), headers=headers)


def has_everything(both: Answers, url: str) -> bool:
    """Say whether an API finds all that was sent."""
    headers = {"Authorization": f"Bearer {both.key}"}
    answer = httpx.get(f"{url}/v1/audit-logs/summary", params={"event_types": ",".join(TYPES)}, headers=headers)
    waiting = httpx.get(f"{url}/v1/quarantine", headers=headers)
    return answer.is_success and answer.json()["total"] == EVENTS and len(waiting.json()["data"]) == 4


def until(true: Callable[[], bool], root: Path) -> None:
    """Wait for something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < deadline, (root.parent / "all.log").read_text()[-3000:]
        time.sleep(0.2)


@pytest.mark.parametrize(
    "filters",
    [
        {"event_types": list(TYPES)},
        {"event_types": ["moderation.flagged"], "status": ["failure"]},
        {"event_types": list(TYPES), "client_ip": "198.51.100.0/28", "order": "asc"},
        {"event_types": list(TYPES), "actor_ids": ["nobody"]},
    ],
    ids=["types", "status", "address", "nobody"],
)
def test_a_search_its_pages_and_its_counts(answers: Answers, filters: dict[str, Any]) -> None:
    """Every entry of every page, and every count, are the same."""

    def pages(client: httpx.Client) -> list[Any]:
        found, cursor = [], None
        while True:
            body = filters | {"limit": 7} | ({"cursor": cursor} if cursor else {})
            page = client.post("/v1/audit-logs/search", json=body)
            assert page.is_success, page.text
            found += page.json()["data"]
            cursor = page.json()["next_cursor"]
            if cursor is None:
                return found

    found = answers.both(pages)
    counted = {name: value for name, value in filters.items() if name != "order"}
    summary = answers.both(lambda client: client.post("/v1/audit-logs/summary", json=counted).json())
    assert summary["total"] == len(found)
    assert bool(found) is ("actor_ids" not in filters)


@pytest.mark.parametrize("rendering", ["json", "csv", "ndjson"])
def test_an_export(answers: Answers, rendering: str) -> None:
    """It is the same, byte for byte."""
    body = {"event_types": list(TYPES), "format": rendering}
    content = answers.both(lambda client: client.post("/v1/audit-logs/export", json=body).raise_for_status().content)
    assert content.count(b"moderation.flagged") >= EVENTS // 3


def test_one_entry(answers: Answers) -> None:
    """What the list shows is found by its id; one that is not there is not found in the same words."""
    listed = answers.both(lambda client: client.get("/v1/audit-logs", params={"event_types": TYPES[0]}).json()["data"])
    for entry in listed[:3]:
        assert answers.both(lambda client, one=entry["id"]: client.get(f"/v1/audit-logs/{one}").json()) == entry
    assert len(listed) >= EVENTS // 3
    missing = answers.both(lambda client: client.get("/v1/audit-logs/log_nothing").json())
    assert missing["code"] == "not_found"


def test_quarantined_input(answers: Answers) -> None:
    """What was quarantined is listed, shown and counted alike."""
    listed = answers.both(lambda client: client.get("/v1/quarantine").json()["data"])
    assert len(listed) == 4
    answers.both(lambda client: client.get("/v1/quarantine/summary").json())
    shown = answers.both(lambda client: client.get(f"/v1/quarantine/{listed[0]['id']}").json())
    assert shown["id"] == listed[0]["id"]


def test_readiness(answers: Answers) -> None:
    """Both say that they can be asked."""
    assert answers.both(lambda client: client.get("/readyz").status_code) == 200


def test_metrics(answers: Answers) -> None:
    """What was written, and how far the store is behind, can be watched."""
    shown = httpx.get(f"{answers.elasticsearch}/metrics").text
    figures = dict(line.rsplit(" ", 1) for line in shown.splitlines() if line and not line.startswith("#"))
    assert float(figures['klyra_store_writing{what="stored"}']) >= EVENTS
    assert float(figures['klyra_follower_lag_entries{follower="store"}']) >= 0
