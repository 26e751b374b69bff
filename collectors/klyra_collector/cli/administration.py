"""What the administration commands share: the registry of a data directory, their errors, their tables."""

from __future__ import annotations

import getpass
import os
import re
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import structlog
import typer

from klyra_audit import timestamps
from klyra_audit.catalog import Catalog
from klyra_audit.errors import KlyraError, Rejected
from klyra_audit.event import Actor
from klyra_collector.config import BadConfiguration, Settings
from klyra_collector.logs import log_to_standard_error
from klyra_collector.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOUND_WRONG = 1
COULD_NOT = 2

DataOption = Annotated[
    Path,
    typer.Option("--data", metavar="DIR", envvar="KLYRA_DATA", help="The data directory, running or stopped."),
]
AnyDataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The data directory; the configuration's, or ./klyra-data."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The configuration file; ./klyra-audit.toml if there is one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")]
DEFAULT_DATA = Path("klyra-data")

_DURATION = re.compile(r"(\d{1,6})([smhd])|0", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@contextmanager
def registry_of(data: Path, *, begin: bool = False) -> Iterator[Registry]:
    """Yield the registry of a data directory; what it refuses becomes a message and an exit status.

    Args:
        data: the data directory.
        begin: make it if it is not there; otherwise that is an error.
    """
    log_to_stderr()
    try:
        with Registry.open(_registry_url(data, begin=begin), Catalog.load()) as registry:
            yield registry
    except KlyraError as error:
        say(f"Error: {error}")
        refused = isinstance(error, Rejected) and not isinstance(error, BadConfiguration)
        raise typer.Exit(FOUND_WRONG if refused else COULD_NOT) from error


def _registry_url(data: Path, *, begin: bool) -> str:
    """Return where the registry is: as configured for the server, else in the data directory."""
    settings = Settings.load(data=data)
    if settings.registry.url is not None:
        return settings.registry.url
    if begin:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not (data / "registry.sqlite").is_file():
        say(f"Error: there is no registry in {data}. Name the data directory with --data, or make it by creating")
        say("an organization: klyra-audit org create org_example --plan business")
        raise typer.Exit(COULD_NOT)
    return settings.registry_url


def seal_now(data: Path) -> None:
    """Have a change sealed at once where no collector runs; where one does, it seals it by itself."""
    from klyra_collector.supervise.offline import drain_if_stopped  # noqa: PLC0415 - reading commands need no ledger

    try:
        drain_if_stopped(data)
    except KlyraError as error:
        say(f"The change is made, and will be sealed when the collector runs. It could not be sealed now: {error}")


def log_to_stderr() -> None:
    """Keep what parts of the server log, when a command runs them itself, out of the answer."""
    structlog.configure(logger_factory=log_to_standard_error)


def operator() -> Actor:
    """Return who uses the command line, as the log names them."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a user without an entry, as in many containers
        login = f"uid {os.getuid()}"
    return Actor.system("klyra-audit", f"{login} at the command line")


def say(text: str) -> None:
    """Tell a person something; standard output is kept for the answer."""
    typer.echo(text, err=True)


def answer(text: str) -> None:
    """Print the answer."""
    typer.echo(text)


def answer_json(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows for programs."""
    answer(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())


def answer_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows for people, in columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        answer("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def time_text(microseconds: int | None) -> str | None:
    """Return a time for an answer, None for one that never was or will be."""
    return None if microseconds is None else timestamps.from_microseconds(microseconds)


def duration(text: str) -> timedelta:
    """Parse a length of time such as 7d, 12h, 30m, 45s or 0."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text} is not a length of time such as 7d, 12h or 30m")
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match[1] else timedelta(0)
