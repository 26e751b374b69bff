"""The Flask and Django examples and the FastAPI lines of our README: each change says who and from where."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

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


def test_the_lines_for_fastapi_in_our_readme(running) -> None:
    """Put into an application as they stand there, they make each request an entry that says where it came from."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (lines,) = [
        block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "AuditContextMiddleware" in block
    ]
    lines = lines.replace("http://127.0.0.1:4318", running.url).replace("org_example", ACME)
    app = FastAPI()
    names = {"app": app, "key": running.keys[ACME]}
    exec(compile(lines, "README.md", "exec"), names)  # noqa: S102 - our own README
    before = len(running.sealed())
    with names["audit"] as audit:
        call = httpx.ASGITransport(app, client=("203.0.113.9", 1))
        answer = asyncio.run(_delete(call, "/users/usr_2"))
        assert answer.status_code == httpx.codes.OK
        assert audit.flush(20)
    (record,) = [item for item in running.sealed(before) if item.leaf.kind == Kind.EVENT]
    document = sections.join(record.body.sections)
    assert (document["event_type"], document["resource"]["id"]) == ("user.removed", "usr_2")
    assert (document["metadata"]["client_ip"], document["metadata"]["user_agent"]) == ("203.0.113.9", "probe/1")


async def _delete(transport: httpx.ASGITransport, path: str) -> httpx.Response:
    headers = {"User-Agent": "probe/1"}
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example", headers=headers) as client:
        return await client.delete(path)
