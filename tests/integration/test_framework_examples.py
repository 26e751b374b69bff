"""The Flask and Django examples, run as their READMEs say: each change is one entry that says who and from where."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest

from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from support import collector
from support.collector import ACME

HEADERS = {"X-User": "usr_1", "X-Forwarded-For": "203.0.113.9", "User-Agent": "probe/1"}
FLASK = [sys.executable, "-m", "flask", "--app", "app", "run", "--port"]
DJANGO = [sys.executable, "app.py", "runserver", "--noreload"]


@contextmanager
def serving(folder, command: list[str], running, spool):
    """Run an example until the block ends; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = os.environ | {
        "KLYRA_AUDIT_ENDPOINT": running.url,
        "KLYRA_AUDIT_API_KEY": running.keys[ACME],
        "KLYRA_AUDIT_ORGANIZATION_ID": ACME,
        "KLYRA_AUDIT_SPOOL": str(spool),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    process = subprocess.Popen(
        [*command, port], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One collector for both."""
    root = tmp_path_factory.mktemp("data")
    started = collector.start(root, collector.make_keys(root))
    yield started
    assert started.terminate() == 0


def await_entry(running, entry_id: str) -> dict:
    """Return an event document once it is sealed."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for record in running.sealed():
            if record.leaf.kind == Kind.EVENT:
                document = sections.join(record.body.sections)
                if document["id"] == entry_id:
                    return document
        time.sleep(0.1)
    raise AssertionError(entry_id)


@pytest.mark.parametrize(
    ("folder", "command", "change", "event_type"),
    [
        ("flask_app", FLASK, ("PUT", "/settings/theme"), "settings.updated"),
        ("django_app", DJANGO, ("DELETE", "/members/usr_2"), "user.removed"),
    ],
)
def test_a_change_is_an_entry(running, repository, tmp_path, folder, command, change, event_type) -> None:
    """Type, actor, address and user agent come from the request; nobody signed in changes nothing."""
    method, path = change
    with serving(repository / "examples" / folder, command, running, tmp_path / "spool") as url:
        assert httpx.request(method, url + path, content=b"dark").status_code == 401
        answer = httpx.request(method, url + path, content=b"dark", headers=HEADERS)
        assert answer.status_code == 200
        document = await_entry(running, answer.json()["entry"])
    assert (document["event_type"], document["actor"]["id"]) == (event_type, "usr_1")
    assert (document["metadata"]["client_ip"], document["metadata"]["user_agent"]) == ("203.0.113.9", "probe/1")
