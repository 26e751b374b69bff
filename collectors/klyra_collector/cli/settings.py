"""`klyra-audit config`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import typer

from klyra_audit.catalog import Catalog
from klyra_audit.errors import KlyraError
from klyra_audit.mapping.table import MappingTable
from klyra_collector.cli.administration import FOUND_WRONG, ConfigOption, answer, say
from klyra_collector.config import Settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Check and show the configuration.")


@app.command()
def check(config: ConfigOption = None) -> None:
    """Say whether file and environment can be used; exit 1 and name the setting if not."""
    settings = _load(config)
    with _found_wrong():
        MappingTable(Catalog.load(settings.catalog), settings.mapping.additions())
    say("The configuration can be used.")


@app.command()
def show(config: ConfigOption = None) -> None:
    """Print every setting in force as JSON, defaults included."""
    answer(orjson.dumps(_load(config).model_dump(mode="json"), option=orjson.OPT_INDENT_2).decode())


def _load(config: Path | None) -> Settings:
    with _found_wrong():
        return Settings.load(config)


@contextmanager
def _found_wrong() -> Iterator[None]:
    try:
        yield
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(FOUND_WRONG) from error
