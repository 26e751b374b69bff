"""Collector and follower as processes, with a real Elasticsearch behind them."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from klyra_collector.store.elasticsearch.connection import request
from klyra_collector.store.elasticsearch.cursor import load
from support import collector, otlp
from support.elasticsearch_following import keyed_urls, prepared
from support.sealing import read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from klyra_audit.emitter import PreparedEvent
    from support.collector import Running
    from support.elasticsearch import Node
    from support.elasticsearch_following import Keys

WAIT_SECONDS = 60


@pytest.fixture(scope="module")
def keys(cluster: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """Clients of each key."""
    with prepared(cluster, tmp_path_factory.mktemp("keys")) as made:
        yield made


@pytest.fixture
def settings(cluster: Node, keys: Keys, tmp_path: Path) -> dict[str, str]:
    """What every role is told, as variables without their prefix."""
    write, read, sweep = keyed_urls(keys.administrator, cluster, tmp_path)
    return {
        "STORE__URL": read,
        "STORE__ELASTICSEARCH__WRITE_URL": write,
        "STORE__ELASTICSEARCH__SWEEP_URL": sweep,
    }


@contextlib.contextmanager
def follower(root: Path, settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a follower; it is killed afterwards."""
    environment = os.environ | {f"KLYRA_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "klyra_collector", "serve", "--role", "follower", "--data", str(root)]
    with (root / "follower.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


def until(true: Callable[[], bool], root: Path) -> None:
    """Wait for something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not true():
        assert time.monotonic() < deadline, (root / "follower.log").read_text()[-3000:]
        time.sleep(0.05)


def send(running: Running, first: int, count: int) -> int:
    """Send new events; return the status of the answer."""
    return post(running, first, [otlp.prepared() for _ in range(count)])


def post(running: Running, first: int, events: list[PreparedEvent]) -> int:
    """Send events; return the status of the answer."""
    return running.post("/v1/logs", otlp.own_form(*events, first=first)).status_code


def is_followed(root: Path) -> bool:
    """Say whether everything that is committed is searchable."""
    records = read_all(root)
    return bool(records) and dict(load(root / "cursors").searchable) == {records[0].origin: len(records)}


def starts(root: Path) -> int:
    """Return how often a follower has said that it is ready."""
    log = root / "follower.log"
    return log.read_text().count("follower is ready") if log.exists() else 0


def is_told(keys: Keys, root: Path) -> bool:
    """Say whether a search finds a health document."""
    body = {"query": {"term": {"log": read_all(root)[0].origin}}}
    return bool(request(keys.administrator, "POST", "/klyra-audit-health/_count", body)["count"])


def test_a_follower_that_is_killed_again_and_again(keys: Keys, settings: dict[str, str], tmp_path: Path) -> None:
    """At any instruction: every entry is in Elasticsearch once, each bundle too, and health is told."""
    root = tmp_path / "data"
    running = collector.start(root, collector.make_keys(root))
    chance = random.Random(5)  # noqa: S311 - the same waits on every run
    answers: list[int] = []
    sending = threading.Thread(target=lambda: answers.extend(send(running, first, 20) for first in range(0, 3000, 20)))
    try:
        sending.start()
        for _ in range(4):
            ready = starts(root)
            with follower(root, settings):
                until(lambda before=ready: starts(root) > before, root)
                time.sleep(chance.uniform(0.0, 2.0))
        sending.join()
        with follower(root, settings) as process:
            until(lambda: is_followed(root) and is_told(keys, root), root)
            until(lambda: starts(root) == 5, root)
            process.terminate()
            assert process.wait(20) == 0
    finally:
        sending.join()
        running.terminate()
    assert set(answers) == {200}
    records = read_all(root)
    origin = records[0].origin
    expected = [record.index for record in records if record.body is not None]
    found = [hit["_source"]["klyra"]["index"] for hit in keys.documents(origin)]
    assert found == [index for index in expected if index <= found[-1]]
    assert len(found) >= 3000
    bundles = [hit["_source"]["first"] for hit in keys.copy(origin) if hit["_source"]["kind"] == "bundle"]
    assert bundles == list(range(0, 256 * len(bundles), 256))
    assert len(bundles) >= 4
    told = request(
        keys.administrator,
        "POST",
        "/klyra-audit-health/_search",
        {"size": 1, "query": {"term": {"log": origin}}, "sort": [{"@timestamp": "desc"}]},
    )["hits"]["hits"][0]["_source"]
    assert told["collector"] == origin.rpartition("/")[0]
    assert {"size", "checkpoint_age_seconds", "store_lag_entries", "quarantine_waiting", "dead_letters"} <= told.keys()
    assert told["followers"][0]["kind"] == "elasticsearch"


def test_answers_wait_for_the_store(keys: Keys, settings: dict[str, str], tmp_path: Path) -> None:
    """With `ack = "stored"` a sender comes again while the store is behind, and then nothing is there twice."""
    root = tmp_path / "data"
    stored = {"STORE__ELASTICSEARCH__ACK": "stored", "STORE__ELASTICSEARCH__ACK_SECONDS": "1"}
    running = collector.start(root, collector.make_keys(root), **settings, **stored)
    first = [otlp.prepared() for _ in range(5)]
    try:
        assert post(running, 0, first) == 503
        with follower(root, settings):
            until(lambda: post(running, 0, first) == 200, root)
            until(lambda: send(running, 5, 5) == 200, root)
            sizes = load(root / "cursors").applied
            records = read_all(root)
            last = max(record.index for record in records if record.body is not None)
            assert sizes[records[0].origin] > last
    finally:
        running.terminate()
    assert len({hit["_source"]["klyra"]["index"] for hit in keys.documents(records[0].origin)}) >= 10


def test_a_cluster_that_is_not_there_at_the_start(tmp_path: Path) -> None:
    """The follower waits for it, and stops when told."""
    root = tmp_path / "data"
    root.mkdir()
    with follower(root, {"STORE__URL": "elasticsearch+http://127.0.0.1:1"}) as process:
        until(lambda: "store.unreachable" in (root / "follower.log").read_text(), root)
        process.terminate()
        assert process.wait(40) == 0


@pytest.mark.soak
def test_a_running_collector_is_not_called_broken(
    cluster: Node, keys: Keys, settings: dict[str, str], tmp_path: Path
) -> None:
    """With its ledger and without it, while events come in all the time: what is newer than its copy is waited for."""
    root = tmp_path / "data"
    running = collector.start(root, collector.make_keys(root))
    stop = threading.Event()

    def go_on() -> None:
        first = 0
        while not stop.wait(0.2):
            send(running, first, 20)
            first += 20

    sending = threading.Thread(target=go_on)
    command = [
        sys.executable,
        "-m",
        "klyra_collector",
        "verify",
        settings["STORE__URL"],
        "--json",
        "--no-require-pinned",
    ]
    alone = ["--org-salt", str(root / "keys" / "org-salt")]
    found: list[tuple[int, object]] = []
    try:
        sending.start()
        with follower(root, settings):
            until(lambda: starts(root) == 1, root)
            time.sleep(40)
            name = read_all(root)[0].origin.rpartition("/")[0]
            for more in (["--ledger", str(root)], [*alone, "--collector", name]) * 2:
                done = subprocess.run([*command, *more], capture_output=True, text=True, check=False, timeout=120)
                found.append((done.returncode, done.stdout))
    finally:
        stop.set()
        sending.join()
        running.terminate()
    assert [status for status, _ in found] == [0, 0, 0, 0], [told for status, told in found if status]
