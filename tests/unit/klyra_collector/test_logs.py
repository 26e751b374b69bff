"""Structured logs on standard error."""

from __future__ import annotations

import io
import os
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
