"""`klyra-audit ledger export-tiles` and `ledger policy`: what outsiders read a ledger with."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klyra_audit.errors import KlyraError, Rejected
from klyra_collector.cli.administration import COULD_NOT, DEFAULT_DATA, FOUND_WRONG, DataOption, answer, say
from klyra_collector.config import BadConfiguration, Settings
from klyra_collector.publish.policy import PolicyPublisher
from klyra_collector.publish.published import PublishedLedger
from klyra_collector.publish.tiles import export_tiles as export_shard
from klyra_collector.witnessed import load_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TOLD_EVERY = 8192  # files, where no terminal shows them


def add_to(app: typer.Typer) -> None:
    """Add the commands to `klyra-audit ledger`."""
    app.command("export-tiles")(export_tiles)
    app.command("policy")(policy)


def export_tiles(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; one directory a shard.")],
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="NAME", help="Such as 2026; by default the newest.")
    ] = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Write a shard as the static files that any C2SP tlog-tiles client reads.

    The ledger may be in use: what its newest checkpoint covers is written. Run it again to bring DIR up to date; what
    is there already is not written again, and a run that was broken off goes on. Serve DIR with any web server.

    Entry bundles (tile/entries/) show which organization is how busy: leave them out of what you make public unless
    that may be known.

    Example: klyra-audit ledger export-tiles public/2026 --shard 2026
    """
    ledger = PublishedLedger(data / "ledger")
    with _refusals():
        chosen = ledger.current() if shard is None else ledger.shard(shard)
        written = export_shard(chosen, directory, _progress())
        say(f"{written} files written for {chosen.head().origin}")
    answer(str(directory))


def policy(data: DataOption = DEFAULT_DATA) -> None:
    """Print the policy file that auditors pin: the keys that sign this ledger, and its witnesses.

    Give it to them by a way that whoever could change the ledger cannot change too. It is what
    `klyra-audit verify --policy FILE` and every C2SP tool take.

    Example: klyra-audit ledger policy > klyra.policy
    """
    with _refusals():
        settings = Settings.load(data=data)
        chosen = settings.witness.policy
        witnesses = None if chosen is None else load_policy(chosen)
        publisher = PolicyPublisher(PublishedLedger(settings.data_directory.ledger), witnesses)
        answer(publisher.render().removesuffix("\n"))


def _progress() -> Callable[[int, int], None]:
    """Return what tells a person how far an export is."""
    is_terminal = sys.stderr.isatty()

    def show(done: int, total: int) -> None:
        if is_terminal:
            typer.echo(f"\r{done} of {total} files", nl=done == total, err=True)
        elif done == total or done % _TOLD_EVERY == 0:
            say(f"{done} of {total} files")

    return show


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what is refused into a message and an exit status."""
    try:
        yield
    except KlyraError as error:
        say(f"Error: {error}")
        refused = isinstance(error, Rejected) and not isinstance(error, BadConfiguration)
        raise typer.Exit(FOUND_WRONG if refused else COULD_NOT) from error
    except OSError as error:
        say(f"Error: {error}")
        raise typer.Exit(COULD_NOT) from error
