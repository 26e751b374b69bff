"""`klyra-audit demo`, as a newcomer meets it: what it prints can be pasted, and all of it stops and continues."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from klyra_audit.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KLYRA = (sys.executable, "-m", "klyra_collector")
ANY_PORT = {
    "KLYRA_API__LISTEN": "127.0.0.1:0",
    "KLYRA_OTLP__HTTP__LISTEN": "127.0.0.1:0",
    "KLYRA_OTLP__GRPC__LISTEN": "127.0.0.1:0",
}
START_SECONDS = 60
STOP_SECONDS = 30
TYPES_SECONDS = 30
PRODUCT_TYPES = {*Catalog.load().names("moderation"), *Catalog.load().names("administrative")}


@dataclass
class Demo:
    """A demo that has said how to use it.

    Attributes:
        process: the command.
        data: its data directory.
        printed: its standard output.
        log: file of its standard error.
    """

    process: subprocess.Popen
    data: Path
    printed: str
    log: Path

    def step(self, title: str) -> str:
        """Return the line printed under a title."""
        (line,) = re.findall(rf"^{title}.*:\n    (.+)$", self.printed, re.MULTILINE)
        return line

    @property
    def read_key(self) -> str:
        """The key in the printed command."""
        return re.search(r"Bearer (\S+)\"", self.step("Ask the API"))[1]

    @property
    def run(self) -> dict[str, Any]:
        """What run.json says."""
        return json.loads((self.data / "run.json").read_text())

    def ask(self, path: str, **parameters: Any) -> dict[str, Any]:
        """Return the API's answer."""
        answer = httpx.get(
            f"{self.run['api']}{path}", params=parameters, headers={"Authorization": f"Bearer {self.read_key}"}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def entries(self) -> list[dict[str, Any]]:
        """Return the newest entries."""
        return self.ask("/v1/audit-logs", limit=1000)["data"]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it as its user does; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


@contextmanager
def demo(data: Path, *options: str, **environment: str) -> Iterator[Demo]:
    """Start a demo on any free ports, and give it when it has printed what to do; end it whatever happens."""
    printed, log = data.with_suffix(".out"), data.with_suffix(".log")
    with printed.open("w") as out, log.open("w") as err:
        process = subprocess.Popen(
            [*KLYRA, "demo", "--data", data, *options],
            env=os.environ | ANY_PORT | environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    try:
        wait_for(lambda: "Ctrl-C stops" in printed.read_text(), START_SECONDS, process, log)
        yield Demo(process, data, printed.read_text(), log)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(STOP_SECONDS)


def wait_for(condition: Callable[[], bool], seconds: float, process: subprocess.Popen, log: Path) -> None:
    """Return when a condition holds; fail with what the demo said if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Paste a printed command into a shell."""
    return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False)


def gone(pids: dict[str, int]) -> bool:
    """Tell whether every process has ended."""
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids.values())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One demo with traffic, for the tests that only look."""
    with demo(tmp_path_factory.mktemp("demo") / "data") as started:
        yield started


def test_every_type_of_the_product_appears(running: Demo) -> None:
    """Within half a minute the API shows all 15 types, successes and failures, from many actors and addresses."""
    seen: list[dict[str, Any]] = []

    def complete() -> bool:
        seen[:] = running.entries()
        return {entry["event_type"] for entry in seen} >= PRODUCT_TYPES

    wait_for(complete, TYPES_SECONDS, running.process, running.log)
    assert {entry["status"] for entry in seen} == {"success", "failure"}
    assert len({entry["actor"]["id"] for entry in seen}) >= 8
    assert len({entry["metadata"].get("client_ip") for entry in seen}) >= 8


def test_the_traffic_goes_on(running: Demo) -> None:
    """After the first burst entries keep coming."""
    wait_for(lambda: len(running.entries()) > 60, TYPES_SECONDS, running.process, running.log)
    before = running.entries()[0]["timestamp"]
    wait_for(lambda: running.entries()[0]["timestamp"] > before, TYPES_SECONDS, running.process, running.log)


def test_the_link_opens_the_page_and_signs_in_once(running: Demo) -> None:
    """The page is there, the token in the link makes one session, and is then used up."""
    address, _, token = running.step("Open the dashboard").partition("#sign-in=")
    assert "text/html" in httpx.get(address).headers["content-type"]
    with httpx.Client(base_url=address) as browser:
        assert browser.post("/v1/sessions", json={"sign_in": token}).status_code == 201
        assert browser.get("/v1/audit-logs", params={"limit": 1}).json()["data"]
    assert httpx.post(f"{address}v1/sessions", json={"sign_in": token}).status_code == 401


def test_the_printed_commands_work(running: Demo, tmp_path: Path, require_peer: Callable[[str, object], None]) -> None:
    """What is printed can be pasted as it stands: ask the API, add an entry, verify while it runs, export."""
    require_peer("curl", shutil.which("curl"))
    asked = run(running.step("Ask the API"), tmp_path)
    assert len(json.loads(asked.stdout)["data"]) == 3
    added = json.loads(run(running.step("Add an entry"), tmp_path).stdout)
    assert added["categories"] == ["toxic"]
    found = {"resource_ids": added["id"], "event_types": "moderation.flagged"}
    wait_for(lambda: running.ask("/v1/audit-logs", **found)["data"] != [], 30, running.process, running.log)
    verified = run(running.step("Verify"), tmp_path)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    exported = run(running.step("Export"), tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert added["id"] in (tmp_path / "audit-logs.csv").read_text()


def test_a_second_demo_does_not_disturb_the_first(running: Demo) -> None:
    """On the same data it is refused before anything changes, names the process, and exits 2."""
    done = subprocess.run(
        [*KLYRA, "demo", "--data", running.data], env=os.environ | ANY_PORT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"is being written by process {running.run['pids']['collector']}" in done.stderr
    assert running.entries()
    assert running.process.poll() is None


def test_it_stops_whole_and_continues(tmp_path: Path) -> None:
    """SIGTERM and Ctrl-C stop every process; the next run has the old entries and new keys; verify passes."""
    data = tmp_path / "data"
    with demo(data) as first:
        wait_for(lambda: len(first.entries()) > 60, TYPES_SECONDS, first.process, first.log)
        pids, kept, old_key = first.run["pids"], first.entries()[-1], first.read_key
        assert pids.keys() == {"supervisor", "collector", "follower", "api", "moderation-service", "example-traffic"}
        assert first.stop(signal.SIGTERM) == 0
        assert gone(pids)
        assert not (data / "run.json").exists()
    with demo(data) as second:
        assert kept in second.ask("/v1/audit-logs", order="asc", limit=1000)["data"]
        refused = httpx.get(f"{second.run['api']}/v1/audit-logs", headers={"Authorization": f"Bearer {old_key}"})
        assert refused.status_code == 401
        pids = second.run["pids"]
        assert second.stop(signal.SIGINT) == 0
        assert gone(pids)
    verified = subprocess.run([*KLYRA, "verify", data], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_without_traffic_on_other_ports(tmp_path: Path) -> None:
    """Taken ports move with a notice; --no-traffic runs no example, and prints how to add an entry oneself."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with demo(tmp_path / "data", "--no-traffic", KLYRA_API__LISTEN=f"127.0.0.1:{taken}") as quiet:
            api = quiet.run["api"]
            assert f"api.listen: port {taken} is taken, using {api.rpartition(':')[2]}" in quiet.log.read_text()
            assert quiet.run["pids"].keys() == {"supervisor", "collector", "follower", "api"}
            assert json.loads(run(quiet.step("Add an entry"), tmp_path).stdout).keys() >= {"record_id", "log", "index"}
            wait_for(
                lambda: "user.added" in {entry["event_type"] for entry in quiet.entries()},
                30,
                quiet.process,
                quiet.log,
            )


def test_a_process_that_dies_is_named(tmp_path: Path) -> None:
    """When one process ends by itself, all end, the message says which, and the exit status is 2."""
    with demo(tmp_path / "data") as broken:
        pids = broken.run["pids"]
        os.kill(pids["moderation-service"], signal.SIGKILL)
        assert broken.process.wait(STOP_SECONDS) == 2
        assert gone(pids)
        assert "moderation-service: exit status -9" in broken.log.read_text()


def test_a_killed_demo_leaves_nothing_running(tmp_path: Path) -> None:
    """When the command itself is killed, every process it started ends by itself."""
    with demo(tmp_path / "data") as killed:
        pids = killed.run["pids"]
        killed.process.kill()
        killed.process.wait(STOP_SECONDS)
        deadline = time.monotonic() + STOP_SECONDS
        while not gone(pids):
            assert time.monotonic() < deadline, killed.log.read_text()
            time.sleep(0.1)


def test_a_stop_while_it_starts_is_clean(tmp_path: Path) -> None:
    """Told to stop before it was ready, it stops what it had started and exits 0."""
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*KLYRA, "demo", "--data", tmp_path / "data"],
            env=os.environ | ANY_PORT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: "starting collector" in log.read_text(), START_SECONDS, process, log)
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def test_a_host_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    """What cannot work is said before anything is made, with the setting's name, and exits 2."""
    done = subprocess.run(
        [*KLYRA, "demo", "--data", tmp_path / "data"],
        env=os.environ | {"KLYRA_API__LISTEN": "192.0.2.1:8080"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Cannot listen on 192.0.2.1, on any port, for api.listen" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A data directory that cannot be made ends in a sentence and exit 2."""
    (tmp_path / "file").touch()
    command = [*KLYRA, "demo", "--data", tmp_path / "file" / "data"]
    done = subprocess.run(command, env=os.environ | ANY_PORT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: [Errno " in done.stderr
    assert "Traceback" not in done.stderr
