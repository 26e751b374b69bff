"""What the stock SDK loses and what the emitter loses, measured side by side; the README says what comes out."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from klyra_audit import AuditEmitter
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from support import collector
from support.collector import ACME
from support.cutting import proxy
from support.losing import ENDINGS

ROOT = Path(__file__).parents[2]
SENDERS = ("sdk", "emitter")
HEAD = "| what happens | the stock SDK loses | the emitter loses |"
ROWS = {
    "burst": "10,000 events at once, then an end in good order",
    "outage": "the collector is away for 12 s and comes back; the application goes on",
    "terminated": "SIGTERM, as at every deployment",
    "killed": "`kill -9`, or out of memory",
    "forked": "a child process that ends as `multiprocessing` ends them",
}
COUNTS = dict.fromkeys(ENDINGS, 400) | {"burst": 10_000}
AWAY_SECONDS = 12  # the exporter tries for 10


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One collector."""
    root = tmp_path_factory.mktemp("data")
    started = collector.start(root, collector.make_keys(root))
    yield started
    assert started.terminate() == 0


def start(running, who: str, how: str, folder: Path, url: str) -> subprocess.Popen:
    """Start a program that emits."""
    arguments = [who, how, url, running.keys[ACME], ACME, str(folder / f"spool-{how}"), str(COUNTS[how])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in (str(ROOT / "tests"), *sys.path) if path)
    return subprocess.Popen(
        [sys.executable, "-m", "support.losing", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def let_happen(running, who: str, how: str, folder: Path) -> None:
    """Run one program to its end."""
    port = unused_port()
    url = f"http://127.0.0.1:{port}" if how == "outage" else running.url
    with start(running, who, how, folder, url) as process, contextlib.ExitStack() as back:
        if how == "outage":
            time.sleep(AWAY_SECONDS)
            back.enter_context(proxy(running.url.removeprefix("http://"), port))
            process.stdin.write(b"the collector is back\n")
            process.stdin.flush()
        assert process.stdout.readline() == b"emitted\n"
        if how in ("terminated", "killed"):
            process.send_signal(signal.SIGTERM if how == "terminated" else signal.SIGKILL)
        process.wait(60)


def unused_port() -> int:
    """Return a port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def run_again(running, how: str, folder: Path) -> None:
    """Be the application's next start, which has nothing new to say: all that outlives the first is its disk."""
    with AuditEmitter(
        running.url,
        api_key=running.keys[ACME],
        organization_id=ACME,
        emitter_id="losing",
        spool=folder / f"spool-{how}",
    ) as emitter:
        assert emitter.flush(60)


def sealed_of(running) -> dict[str, int]:
    """Return how many entries there are of each actor."""
    counts: dict[str, int] = {}
    for record in running.sealed():
        if record.leaf.kind == Kind.EVENT:
            actor = sections.join(record.body.sections)["actor"]["id"]
            counts[actor] = counts.get(actor, 0) + 1
    return counts


def word(lost: int, count: int) -> str:
    """Return how the table calls a loss."""
    assert 0 <= lost <= count
    return "nothing" if lost == 0 else "everything" if lost == count else "a part"


def test_the_table_in_the_readme_is_what_is_measured(running, tmp_path) -> None:
    """Both are run through the same endings; the emitter loses nothing in any of them."""
    with ThreadPoolExecutor(4) as threads:
        both = [(who, how) for how in ("outage", "killed", "terminated", "forked") for who in SENDERS]
        list(threads.map(lambda one: let_happen(running, *one, tmp_path), both))
    for who in SENDERS:  # alone: how much fits through depends on what else runs
        let_happen(running, who, "burst", tmp_path)
    for how in ENDINGS:
        run_again(running, how, tmp_path)
    sealed = sealed_of(running)
    lost = {(who, how): COUNTS[how] - sealed.get(f"usr_{who}_{how}", 0) for who in SENDERS for how in ENDINGS}
    assert {how: lost["emitter", how] for how in ENDINGS} == dict.fromkeys(ENDINGS, 0)
    table = [HEAD, "|--|--|--|"]
    table += [f"| {what} | {word(lost['sdk', how], COUNTS[how])} | nothing |" for how, what in ROWS.items()]
    assert "\n".join(table) in (ROOT / "README.md").read_text(), "\n".join([*table, str(lost)])
