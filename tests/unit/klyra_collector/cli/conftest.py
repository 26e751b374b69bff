"""The command line's groups, run in this process on a data directory without a collector."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from typer.testing import CliRunner

from klyra_audit.catalog import Catalog
from klyra_collector.registry import Registry


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The data directory that commands find by KLYRA_DATA; it does not exist yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KLYRA_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def registry_of(data):
    """A function that opens the registry a command has made, as the server would."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(Registry.open(f"sqlite:///{data}/registry.sqlite", Catalog.load()))


@pytest.fixture
def run(data):
    """A function that runs one group's command and returns (exit status, standard output, standard error)."""

    def run(app, *arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run
