"""Structured logs on standard error."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import structlog

from klyra_collector.logs import StandardError, log_to_standard_error

if TYPE_CHECKING:
    import pytest


def test_lines_go_to_the_standard_error_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    """Also when it was replaced after the logger was made."""
    logger = log_to_standard_error()
    logger.info("one line")
    assert capsys.readouterr() == ("", "one line\n")


def test_a_log_whose_reader_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed stream and a broken pipe lose the line, and nothing else."""
    closed = io.StringIO()
    closed.close()
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        for stream in (closed, broken):
            monkeypatch.setattr(sys, "stderr", stream)
            structlog.wrap_logger(StandardError(), processors=[structlog.processors.JSONRenderer()]).warning("x", a=1)
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), broken.fileno())  # so that closing has nowhere left to fail


def test_what_libraries_log_has_the_form_of_our_own_lines() -> None:
    """JSON that names the role, from any thread, with what was raised; a transport that is told of by us is silent."""
    program = """
import logging, threading, structlog
from klyra_collector.logs import configure_logs
configure_logs("follower")
thread = threading.Thread(target=structlog.get_logger().warning, args=("ours",), kwargs={"a": 1})
thread.start()
thread.join()
try:
    raise OSError("away")
except OSError:
    logging.getLogger("some.library").warning("theirs: %s", 2, exc_info=True)
logging.getLogger("elastic_transport.node_pool").warning("has failed for 1 times in a row")
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    ours, theirs = map(json.loads, told.stderr.splitlines())
    assert (ours["event"], ours["role"], ours["level"], ours["a"]) == ("ours", "follower", "warning", 1)
    assert (theirs["event"], theirs["role"], theirs["level"]) == ("theirs: 2", "follower", "warning")
    assert (theirs["logger"], "OSError: away" in theirs["exception"]) == ("some.library", True)
    assert ours.keys() >= {"timestamp"}
    assert theirs.keys() >= {"timestamp"}
