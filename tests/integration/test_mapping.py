"""A collector whose configuration extends the mapping, fed by a program that knows nothing of us."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from support import collector, otlp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAPPING = {
    "attributes": {"actor.id": ["body:who"], "resource.id": ["body:whom"], "status": ["body:result"]},
    "event_types": [{"match": "account.*", "event_type": "user.removed"}],
    "values": {"status": {"ok": "success"}},
    "constants": {"metadata.application": "shop"},
    "personal": {"target": ["body:email"]},
}
SENT = {
    "event_name": "account.member_dropped",
    "body": {"who": "usr_81", "whom": "usr_90", "result": "OK", "email": "zoe@example.org"},
    "attributes": {"level": 0.5},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data directory."""
    return tmp_path / "data"


@pytest.fixture
def running(root: Path) -> Iterator[collector.Running]:
    """A collector with the configuration above."""
    started = collector.start(root, collector.make_keys(root), MAPPING=json.dumps(MAPPING))
    yield started
    assert started.terminate() == 0


def events(running: collector.Running) -> list[Any]:
    """Return what was sealed as events of ACME's users."""
    found = [item for item in running.sealed() if item.leaf.kind == Kind.EVENT]
    return [item for item in found if b"user.removed" in item.body.sections.core]


def test_a_foreign_record_is_sealed_as_configured_and_once(running, root) -> None:
    """Its own names, words and event are understood, what is personal can be erased, and a repeat is recognised."""
    request = otlp.foreign(SENT | {"time": time.time_ns()}, resource={"service.name": "shop"})
    for _ in range(2):
        assert running.post("/v1/logs", request).status_code == 200
    (sealed,) = events(running)
    entry = sections.join(sealed.body.sections)
    assert (entry["event_type"], entry["actor"]["id"], entry["resource"]["id"], entry["status"]) == (
        "user.removed",
        "usr_81",
        "usr_90",
        "success",
    )
    assert entry["metadata"] == {
        "application": "shop",
        "result": "OK",
        "email": "zoe@example.org",
        "attributes": {"event_name": "account.member_dropped", "level": "0.5"},
        "resource": {"service.name": "shop"},
    }
    assert orjson.loads(sealed.body.sections.target)["/metadata/email"] == "zoe@example.org"
    assert b"zoe@" not in sealed.body.sections.core


def test_a_mapping_that_cannot_be_used_refuses_to_start(root) -> None:
    """The setting is named, and nothing listens."""
    root.mkdir()
    configuration = root / "a.toml"
    configuration.write_text('[[mapping.event_types]]\nmatch = "a*"\nevent_type = "no.such"\n')
    command = [sys.executable, "-m", "klyra_collector", "serve", "--role", "collector", "--data", str(root)]
    done = subprocess.run(
        [*command, "--config", str(configuration)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "mapping.event_types.0.event_type" in done.stderr
