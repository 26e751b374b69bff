"""The HTTP face of a witness."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from klyra_collector.seal.durable import Disk
from klyra_collector.witness import server
from klyra_collector.witness.cosigner import digest_of
from klyra_collector.witness.request import MAX_REQUEST_BYTES, SIZE_MEDIA_TYPE
from support.sealing import Fault, FaultyDisk
from support.witnesses import ORIGIN, Log, make_cosigner


def ask(cosigner, method, path, content=None):
    """Send one request to the application."""

    async def send():
        transport = httpx.ASGITransport(server.create_app(cosigner))
        async with httpx.AsyncClient(transport=transport, base_url="http://witness") as http:
            return await http.request(method, path, content=content)

    return asyncio.run(send())


def test_add_checkpoint_and_what_monitors_read(tmp_path):
    """A cosigned checkpoint is shown under the digest of its origin, as text that is not cached."""
    log = Log().grow(3)
    cosigner = make_cosigner(tmp_path, log.key.vkey)
    path = f"/{digest_of(ORIGIN)}/checkpoint"
    assert ask(cosigner, "GET", path).status_code == 404
    answer = ask(cosigner, "POST", "/add-checkpoint", log.request(0))
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    shown = ask(cosigner, "GET", path)
    assert (shown.status_code, shown.headers["Cache-Control"]) == (200, "no-cache")
    assert shown.text.endswith(answer.text)
    conflict = ask(cosigner, "POST", "/add-checkpoint", log.grow(5).request(0))
    assert (conflict.status_code, conflict.text, conflict.headers["Content-Type"]) == (409, "3\n", SIZE_MEDIA_TYPE)


def test_only_the_methods_and_paths_of_the_protocol(tmp_path):
    """Anything else is 404 or 405."""
    cosigner = make_cosigner(tmp_path)
    wanted = [("GET", "/add-checkpoint", 405), ("GET", "/", 404), ("POST", "/sign-subtree", 404)]
    assert [(m, p, ask(cosigner, m, p).status_code) for m, p, _ in wanted] == wanted


def test_a_long_body_is_refused(tmp_path):
    """413 as soon as the limit is passed."""
    assert ask(make_cosigner(tmp_path), "POST", "/add-checkpoint", b"x" * (MAX_REQUEST_BYTES + 1)).status_code == 413


def test_a_slow_body_is_given_up(tmp_path, monkeypatch):
    """408 when a request does not arrive in time."""
    monkeypatch.setattr(server, "BODY_SECONDS", 0.05)

    async def dripping():
        yield b"old 0\n"
        await asyncio.sleep(5)

    assert ask(make_cosigner(tmp_path), "POST", "/add-checkpoint", dripping()).status_code == 408


@pytest.mark.parametrize("trouble", ["disk", "state"])
def test_a_witness_in_trouble_says_so_and_signs_nothing(tmp_path, trouble):
    """500 without a signature when the checkpoint cannot be kept, or what is kept is not the witness's own."""
    log = Log().grow(3)
    disk = FaultyDisk()
    cosigner = make_cosigner(tmp_path, log.key.vkey, disk=disk)
    if trouble == "disk":
        disk.fault = Fault("replace", "before")
    else:
        Disk().replace(tmp_path / "checkpoints" / digest_of(ORIGIN), b"damaged")
    answer = ask(cosigner, "POST", "/add-checkpoint", log.request(0))
    assert (answer.status_code, answer.text) == (500, "this witness cannot cosign now\n")
