"""A follower killed while Splunk, Datadog or Sumo Logic have a batch that it does not know of."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from klyra_audit import ids, timestamps
from klyra_audit.catalog import Catalog
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from klyra_collector.data_directory import DataDirectory
from klyra_collector.destination_status import read_statuses
from klyra_collector.registry import Registry
from support import collector, otlp
from support.collector import ACME, OPERATOR
from support.siem.cloud_server import serving
from support.siem.datadog import API_KEY, StrictIntake
from support.siem.splunk import ACK, TOKEN, StrictHec
from support.siem.sumo_logic import CODE, PATH, StrictSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.siem.cloud_server import CloudServer, Reply, Request

COUNT = 20
BATCH = 7
PATIENCE_SECONDS = 40
SECRETS = {"SPLUNK_TOKEN": TOKEN, "DATADOG_API_KEY": API_KEY}


@dataclass
class Killing:
    """A service that kills whoever sends to it, once, after it has taken the request.

    Attributes:
        service: that takes requests.
        path: with which the request begins that is the last one.
        number: which of these.
        process: the victim.
    """

    service: Callable[[Request], Reply]
    path: str
    number: int = 2
    process: subprocess.Popen[bytes] | None = None
    seen: list[str] = field(default_factory=list)

    def __call__(self, request: Request) -> Reply:
        """Take a request."""
        reply = self.service(request)
        self.seen += [request.path] if request.path.startswith(self.path) else []
        if self.process is not None and len(self.seen) == self.number:
            self.process.kill()  # nobody will ever read this answer
            self.process.wait()
            self.process = None
        return reply


@dataclass(frozen=True)
class Ledger:
    """A data directory, and the ids of what is sealed of an organization that may have destinations, in order."""

    root: Path
    entry_ids: list[str]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> Ledger:
    """One for all tests: each has a cursor of its own."""
    root = tmp_path_factory.mktemp("killed") / "data"
    keys = collector.make_keys(root)
    with contextlib.closing(Registry.open(DataDirectory(root).registry_url, Catalog.load())) as registry:
        registry.set_plan(ACME, "enterprise", by=OPERATOR)
    running = collector.start(root, keys)
    try:
        now = timestamps.from_microseconds(time.time_ns() // 1000)
        events = [otlp.prepared(timestamp=now) for _ in range(COUNT)]
        answer = running.post("/v1/logs", otlp.own_form(*events, boot=str(ids.new_uuid7())))
        assert answer.status_code == 200, answer.text
    finally:
        running.terminate()
    documents = [sections.join(item.body.sections) for item in running.sealed() if item.leaf.kind == Kind.EVENT]
    return Ledger(root, [document["id"] for document in documents if document["organization_id"] == ACME])


@contextlib.contextmanager
def following(ledger: Ledger, configuration: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the follower until the block ends, unless it is dead by then."""
    command = [sys.executable, "-m", "klyra_collector", "serve", "--role", "follower"]
    command += ["--config", str(configuration), "--data", str(ledger.root)]
    with configuration.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(command, env=os.environ | environment, stderr=log, stdout=log)
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(20) in (0, -9), configuration.with_suffix(".log").read_text()


def await_that(condition: Callable[[], bool], what: str, log: Path) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"gave up waiting: {what}; {log.read_text()}")


def configured(folder: Path, name: str, kind: str, server: CloudServer, **settings: Any) -> tuple[Path, dict[str, str]]:
    """Return a file with one destination, and the variables to which it refers."""
    url = server.url + (PATH if kind == "sumo-logic" else "")
    lines = ["[[destination]]", f'name = "{name}"', f'kind = "{kind}"', 'endpoint = "env:FAR_URL"']
    lines += [f"batch_entries = {BATCH}", "linger_seconds = 0.05", "[destination.options]"]
    lines += [f"{option} = {json.dumps(value)}" for option, value in settings.items()]
    path = folder / f"{name}.toml"
    path.write_text("\n".join([*lines, ""]))
    return path, {"FAR_URL": url, **SECRETS}


CASES = {
    "splunk": ("splunk", StrictHec, "/services/collector/event", {"token": "env:SPLUNK_TOKEN", "acknowledge": False}),
    "splunk-taken": (
        "splunk",
        lambda: StrictHec(acknowledges=True),
        "/services/collector/event",
        {"token": "env:SPLUNK_TOKEN"},
    ),
    "splunk-asked": ("splunk", lambda: StrictHec(acknowledges=True, falses=0), ACK, {"token": "env:SPLUNK_TOKEN"}),
    "datadog": ("datadog", StrictIntake, "/api/v2/logs", {"api_key": "env:DATADOG_API_KEY"}),
    "sumo-logic": ("sumo-logic", StrictSource, PATH, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_killed_between_taken_and_cursor(ledger, tmp_path, name) -> None:
    """The batch in flight is there twice, byte for byte, all others once; nothing is missing; no secret is written."""
    kind, make, path, settings = CASES[name]
    service = make()
    killing = Killing(service, path)
    with serving(killing) as server:
        configuration, environment = configured(tmp_path, name, kind, server, **settings)
        log = configuration.with_suffix(".log")
        with following(ledger, configuration, environment) as process:
            killing.process = process
            await_that(lambda: process.poll() is not None, "the kill", log)
        before = len(service.ids())
        with following(ledger, configuration, environment):
            await_that(lambda: set(ledger.entry_ids) <= set(service.ids()), "the rest", log)
            await_that(lambda: entries_of(ledger, name) >= len(ledger.entry_ids) - BATCH, "the cursor", log)
    received = service.ids()
    assert BATCH <= before < len(ledger.entry_ids)
    assert list(dict.fromkeys(received)) == ledger.entry_ids
    repeated = {entry_id for entry_id in received if received.count(entry_id) > 1}
    assert repeated == set(ledger.entry_ids[BATCH : 2 * BATCH])
    assert len(received) == len(ledger.entry_ids) + BATCH
    written = log.read_text() + "".join(path.read_text() for path in DataDirectory(ledger.root).cursors.iterdir())
    assert not [secret for secret in (TOKEN, API_KEY, CODE) if secret in written]


def entries_of(ledger: Ledger, name: str) -> int:
    """Return how many entries the follower says that it has delivered."""
    found = [one for one in read_statuses(DataDirectory(ledger.root).cursors) if one.name == name]
    return found[0].entries if found else 0


@pytest.mark.parametrize("kind", ["splunk", "datadog", "sumo-logic"])
def test_the_command_line_shows_no_secret(ledger, tmp_path, kind) -> None:
    """`destination test` shows what the vendor says, without what it repeats of ours."""
    _, make, _, settings = CASES[kind]
    with serving(make()) as server:
        configuration, environment = configured(tmp_path, kind, kind, server, **settings)
        wrong = {name: f"{value}-and-more" for name, value in environment.items()}
        for variables, status in ((environment, 0), (wrong, 1)):
            command = [sys.executable, "-m", "klyra_collector", "destination", "test", kind]
            command += ["--config", str(configuration), "--data", str(ledger.root)]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, check=False)
            assert done.returncode == status, done.stdout + done.stderr
            assert not [name for name in (TOKEN, API_KEY, CODE) if name in done.stdout + done.stderr]
