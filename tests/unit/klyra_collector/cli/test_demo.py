"""How the demo says to call the program."""

from __future__ import annotations

import sys

import pytest

from klyra_collector.cli import demo


@pytest.mark.parametrize(
    ("called", "found", "said"),
    [
        ("/usr/bin/klyra-audit", "/usr/bin/klyra-audit", "klyra-audit"),
        (".venv/bin/klyra-audit", None, ".venv/bin/klyra-audit"),
        ("/some where/klyra-audit", None, "'/some where/klyra-audit'"),
        ("/x/klyra_collector/__main__.py", None, f"{sys.executable} -m klyra_collector"),
    ],
)
def test_printed_commands_can_be_pasted(monkeypatch, called, found, said) -> None:
    """By its name where the shell finds it, else by the path it was called by."""
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(demo.shutil, "which", lambda _: found)
    assert demo.program() == said
