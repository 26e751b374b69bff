"""Every command explains itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click
import pytest
import typer
from typer.testing import CliRunner

from klyra_collector import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

BRACKETED = re.compile(r"\[/?[A-Za-z][^\]]*\]")


def commands(path: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield a command and those below it, with the words that lead there."""
    yield path, command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from commands((*path, name), below)


EVERY = [
    pytest.param(name, path, command, id=" ".join((name, *path)))
    for name in cli._COMMANDS
    for path, command in commands((), typer.main.get_command(cli._load(name)))
]


@pytest.mark.parametrize(("name", "path", "command"), EVERY)
def test_help_is_shown(name: str, path: tuple[str, ...], command: click.Command) -> None:
    """Nothing breaks, and nothing that stands in brackets is taken for markup and lost."""
    shown = CliRunner().invoke(cli._load(name), [*path, "--help"])
    assert shown.exit_code == 0, shown.output
    helps = [command.help or "", *(getattr(one, "help", None) or "" for one in command.params)]
    marked = [found for text in helps for found in BRACKETED.findall(text) if "default:" not in found]
    assert not marked, "it would be read as markup"
