"""Whatever a vendor says back, no secret of a destination stands in anything that is written or shown.

Every kind is configured with secrets that one recognises; its service repeats them in all it says. Then everything is
searched: logs at level DEBUG, files, tables, metrics, messages.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import traceback
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import structlog
from typer.testing import CliRunner

from klyra_audit.errors import KlyraError
from klyra_collector.cli import destinations
from klyra_collector.config import Settings
from klyra_collector.data_directory import DataDirectory
from klyra_collector.destination_status import DestinationMeter
from klyra_collector.fanout.assembly import build_destination
from klyra_collector.query.metrics import Followers, QueryMetrics
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.store.elasticsearch import health
from klyra_collector.store.lag import Lag
from klyra_siem.cloud_requests import Redaction
from support.delivering import Bench
from support.records import STARTUP, record, submission
from support.sealing import MIDSUMMER_US, SetClock, open_ledger
from support.siem.cloud import entry
from support.siem.echoing import KINDS
from support.siem.vendors import LIBRARIES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.siem.echoing import Configured

for library in LIBRARIES:
    pytest.importorskip(library, reason=f"for want of {library}")

HIDDEN = "[hidden]"


class Everything(logging.Handler):
    """Keeps every line that any library writes into its log, at any level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.written = io.StringIO()

    def emit(self, line: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(f"{line.name} {self.format(line)} {line.args!r}")


@pytest.fixture
def logged() -> Iterator[Everything]:
    """What is logged with the standard library and, as the server writes it, with structlog."""
    handler, root = Everything(), logging.getLogger()
    level, before = root.level, structlog.get_config()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    processors = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(processors=processors, logger_factory=structlog.PrintLoggerFactory(handler.written))
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        structlog.configure(**before)


@pytest.fixture(params=sorted(KINDS))
def configured(request, tmp_path, data_directory, monkeypatch) -> Iterator[Configured]:
    """A kind in a configuration, and a ledger."""
    ledger = open_ledger(data_directory, SetClock(MIDSUMMER_US))
    ledger.commit([submission(*(record(STARTUP) for _ in range(150)))])
    ledger.close()
    DataDirectory(data_directory).cursors.mkdir()
    with KINDS[request.param](tmp_path) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "klyra-audit.toml").write_text("\n".join(made.lines))
        yield made


def settings_of(folder: Path, data: Path) -> Settings:
    """Read the configuration."""
    return Settings.load(folder / "klyra-audit.toml", data=data)


def deliver(folder: Path, data: Path, configured: Configured) -> str:
    """Deliver until the service has said everything in every way; return what was told meanwhile."""
    (one,) = settings_of(folder, data).destination
    told = [repr(one)]
    with contextlib.closing(build_destination(one, None)) as destination:
        told += [repr(destination), repr(vars(destination).keys())]
        bench = Bench(data, destination)
        with contextlib.closing(bench):
            for _ in range(configured.echo.turns):
                bench.delivery._guarded(bench.delivery.step)
                told.append(repr(bench.status()))
            bench.delivery._lanes.close()
    return "\n".join(told)


def commands(folder: Path, data: Path) -> str:
    """Return what the commands show."""
    told = ""
    for command in (["list"], ["list", "--json"], ["dead-letters", "back"], ["dead-letters", "back", "--json"]):
        told += shown(command, folder, data)
    for _ in range(6):
        told += shown(["test", "back"], folder, data) + shown(["test", "back", "--probe"], folder, data)
    return told


def shown(command: list[str], folder: Path, data: Path) -> str:
    """Return what a command writes on both channels, and what it raises."""
    result = CliRunner().invoke(
        destinations.app, [*command, "--config", str(folder / "klyra-audit.toml"), "--data", str(data)]
    )
    raised = "".join(traceback.format_exception(result.exception)) if result.exception else ""
    return result.output + result.stderr + raised


def measured(data: Path) -> str:
    """Return what monitoring is told: by the meter, in metrics, in the health documents of Elasticsearch."""
    with contextlib.closing(LedgerReader(DataDirectory(data).ledger)) as reader:
        meter = DestinationMeter(DataDirectory(data).cursors, ["back"], reader, lambda: MIDSUMMER_US)
        metrics = QueryMetrics()
        metrics.watch(Followers(store=lambda: Lag(0, 0.0), destinations=meter.measure))
        return repr((meter.measure(), health._destinations(meter.measure()))) + metrics.render()[0].decode()


def files(data: Path) -> str:
    """Return everything that is on disk."""
    return "".join(path.read_bytes().decode(errors="replace") for path in data.rglob("*") if path.is_file())


def found(secrets: set[str], text: str) -> list[str]:
    """Return the lines that hold a secret as it is or in a form that anybody can undo."""
    forms = {form for one in secrets for form in (one, quote(one, safe=""), json.dumps(one)[1:-1].replace("/", "\\/"))}
    return [line[:300] for line in text.splitlines() if any(form in line for form in forms)]


def search(configured: Configured, folder: Path, data: Path, logged: Everything, capfd) -> dict[str, list[str]]:
    """Have everything happen; return the lines with a secret, by place."""
    told = deliver(folder, data, configured)
    assert configured.echo.repeated > 100
    out, error = capfd.readouterr()
    places = {
        "status": told,
        "commands": commands(folder, data),
        "measured": measured(data),
        "files": files(data),
        "output": out + error,
        "logs": "\n".join([*logged.lines, logged.written.getvalue()]),
    }
    assert HIDDEN in told or not is_hiding(), "the service was not heard"
    lines = {place: found(configured.echo.secrets, text)[:3] for place, text in places.items()}
    return {place: there for place, there in lines.items() if there}


def is_hiding() -> bool:
    """Say whether secrets are hidden at all."""
    return Redaction(["a-secret"]).hide("a-secret") == HIDDEN


def test_no_secret_is_anywhere(configured, tmp_path, data_directory, logged, capfd) -> None:
    """Logs, files, tables, metrics and messages are searched after every answer that a service could give."""
    assert search(configured, tmp_path, data_directory, logged, capfd) == {}


@pytest.mark.parametrize("configured", ["splunk"], indirect=True)
def test_the_search_finds_what_is_not_hidden(configured, tmp_path, data_directory, logged, capfd, monkeypatch) -> None:
    """If nothing was hidden, the same search would find it in every place where vendors' words go."""
    monkeypatch.setattr(Redaction, "hide", lambda _self, text: text)
    there = search(configured, tmp_path, data_directory, logged, capfd)
    assert there.keys() >= {"status", "commands", "files", "logs"}


BROKEN = ("a-SECRET-4711\r\nX-Injected: 1", "a-SECRET-4711\u2028", "  a-SECRET-4711  ", "\x7fa-SECRET-4711")


def test_no_message_repeats_a_broken_secret(configured, tmp_path, data_directory, logged, monkeypatch) -> None:
    """A secret with a line break, or one that cannot be sent, is refused without being quoted, wherever it stands."""
    for name in configured.environment.keys() - {"ENDPOINT", "CODE"}:
        for value in BROKEN:
            monkeypatch.setenv(name, value)
            told = tried(tmp_path, data_directory)
            assert "SECRET-4711" not in told + "\n".join(logged.lines)
        monkeypatch.setenv(name, configured.environment[name])


def tried(folder: Path, data: Path) -> str:
    """Return what is said when a destination is made and sends something."""
    (one,) = settings_of(folder, data).destination
    try:
        with contextlib.closing(build_destination(one, None)) as destination:
            return repr(destination.send(destination.encode([entry()])))
    except KlyraError as error:
        return f"{error} {error.remedy} {''.join(traceback.format_exception(error))}"
