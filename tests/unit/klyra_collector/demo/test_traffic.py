"""The traffic's process."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from klyra_collector.demo import traffic
from klyra_collector.demo.traffic import play
from support.api import serving
from support.moderation import Notebook, running_service

PATIENCE_SECONDS = 30


@contextmanager
def traffic_process(url: str):
    """Run the traffic as the demo does; give the process."""
    command = [sys.executable, "-m", "klyra_collector.demo.traffic", "--service", url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition) -> None:
    """Return when a condition holds; fail if it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_plays_until_it_is_stopped(monkeypatch) -> None:
    """After the opening come single requests, and the stop event ends the play between two of them."""
    monkeypatch.setattr(traffic, "_SHORTEST_PAUSE", 0.0)
    monkeypatch.setattr(traffic, "_LONGEST_PAUSE", 0.01)
    notebook, stop = Notebook(), threading.Event()
    with running_service(notebook) as url:
        player = threading.Thread(target=play, args=(url, 1, stop, lambda _text: None))
        player.start()
        wait_for(lambda: len(notebook.documents) > 90)
        stop.set()
        player.join(PATIENCE_SECONDS)
    assert not player.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number) -> None:
    """SIGTERM and Ctrl-C end the process with exit 0 and without a word."""
    notebook = Notebook()
    with running_service(notebook) as url, traffic_process(url) as process:
        wait_for(lambda: len(notebook.documents) > 60)
        process.send_signal(number)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert process.stderr.read() == ""


def test_a_signal_ends_even_a_request_that_waits() -> None:
    """A service that takes the connection and never answers cannot hold the traffic up."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        traffic_process(f"http://127.0.0.1:{silent.getsockname()[1]}") as process,
        silent.accept()[0],
    ):
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0


def test_another_service_ends_it() -> None:
    """What does not answer like the example service is reported, with exit 2."""

    async def nothing_here(scope, receive, send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b"nothing here"})

    with serving(nothing_here) as url, traffic_process(url) as process:
        assert process.wait(PATIENCE_SECONDS) == 2
        assert process.stderr.read() == (
            "example traffic: POST /v1/api-keys was answered 404, not 201: nothing here "
            "Check that the address is the example moderation service's.\n"
        )
