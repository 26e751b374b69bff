"""A follower that is killed while a service has a batch of its that it does not know of."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from klyra_audit import ids, timestamps
from klyra_audit.catalog import Catalog
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from klyra_collector.data_directory import DataDirectory
from klyra_collector.destination_status import read_statuses
from klyra_collector.registry import Registry
from support import collector, otlp
from support.collector import ACME, OPERATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.siem.cloud_server import Reply, Request

COUNT = 20
PATIENCE_SECONDS = 40


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


def sealed_ledger(root: Path) -> Ledger:
    """Have a collector seal entries of an organization that may have destinations."""
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


def entries_of(ledger: Ledger, name: str) -> int:
    """Return how many entries the follower says that it has delivered."""
    found = [one for one in read_statuses(DataDirectory(ledger.root).cursors) if one.name == name]
    return found[0].entries if found else 0
