"""The processes of one server do not share their failures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING

import httpx

from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from support import otlp
from support.collector import ACME, make_keys
from support.sealing import read_all
from support.serving import await_that, log_of, serve

if TYPE_CHECKING:
    from pathlib import Path

NOBODY_THERE = "elasticsearch+http://127.0.0.1:9"


def lines(root: Path, event: str) -> list[dict[str, object]]:
    """Return what a server logged under a name."""
    found = []
    for line in log_of(root).read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return [one for one in found if one["event"] == event]


def test_intake_goes_on_while_the_followers_key_is_missing(tmp_path: Path) -> None:
    """What is missing is named; once it is there the follower goes on by itself."""
    root, key = tmp_path / "data", tmp_path / "writer.key"
    emit = make_keys(root)[ACME]
    settings = {
        "STORE__URL": NOBODY_THERE,
        "STORE__ELASTICSEARCH__WRITE_URL": f"{NOBODY_THERE}?api_key=file:{key}",
    }
    with serve(root, **settings) as (process, addresses):
        told = await_that(lambda: lines(root, "process_halted"), root)
        assert (told[0]["process"], told[0]["level"]) == ("follower", "error")
        assert "store.elasticsearch.write_url" in str(told[0]["reason"])
        assert str(key) in str(told[0]["reason"])
        answer = httpx.post(
            f"{addresses['otlp_http']}/v1/logs",
            content=otlp.own_form(otlp.prepared(ACME)),
            headers={"Authorization": f"Bearer {emit}", "Content-Type": "application/x-protobuf"},
        )
        assert answer.status_code == 200
        assert not lines(root, "store.unreachable")
        key.write_text("c2VjcmV0OnNlY3JldA==")
        await_that(lambda: lines(root, "store.unreachable"), root)
        assert process.poll() is None
    sealed = [record for record in read_all(root) if record.leaf.kind == Kind.EVENT]
    assert sections.join(sealed[-1].body.sections)["organization_id"] == ACME


def test_a_collector_that_must_not_go_on_ends_the_server(tmp_path: Path) -> None:
    """Nobody takes events that nobody may seal: the status says so, and the log why."""
    root = tmp_path / "data"
    make_keys(root)
    with serve(root) as (process, addresses):
        (shard,) = (path for path in DataDirectory(root).ledger.iterdir() if path.name.isdigit())
        await_that(ShardDirectory(shard).last_signed.exists, root)
        os.truncate(ShardDirectory(shard).leaves, 0)
        os.kill(addresses["pids"]["collector"], signal.SIGKILL)
        assert process.wait(40) == 2
        (told,) = lines(root, "supervisor_stopped")
        assert "collector" in str(told["reason"])
