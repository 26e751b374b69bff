"""`klyra-audit ledger`: look at a ledger's shards, and go on after a loss."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from klyra_audit.catalog import Catalog
from klyra_audit.errors import KlyraError, Rejected
from klyra_collector.cli import ledger_expiry, ledger_keys, ledger_rebuild, ledger_tiles
from klyra_collector.cli.administration import (
    COULD_NOT,
    DEFAULT_DATA,
    FOUND_WRONG,
    DataOption,
    JsonOption,
    answer,
    answer_json,
    answer_table,
    log_to_stderr,
    say,
    time_text,
)
from klyra_collector.cli.ledger_explain import explanation, explanation_lines
from klyra_collector.config import Settings
from klyra_collector.data_directory import DataDirectory
from klyra_collector.seal.cell_guard import guard_of
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.disaster import examine, leave_behind
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.identity import load_identity
from klyra_collector.seal.ledger import Ledger
from klyra_collector.seal.lock import LedgerLock
from klyra_collector.seal.overview import ShardOverview, overview
from klyra_collector.seal.shards import shards_of
from klyra_collector.supervise.roles import ledger_options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_collector.seal.disaster import Examination
    from klyra_collector.seal.identity import Identity
    from klyra_collector.seal.ledger import LedgerOptions

ExplainJsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON object instead of text.")]

app = typer.Typer(
    name="ledger",
    help="Look at the ledger, renew its keys, end what is due, and go on after a loss.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command("show")
def show(*, as_json: JsonOption = False, data: DataOption = DEFAULT_DATA) -> None:
    """Show the ledger's shards: one a calendar year, each a log of its own.

    It shows what the files say; what they prove is said by: klyra-audit verify DIR

    Example: klyra-audit ledger show --json
    """
    shards = [overview(shard) for shard in shards_of(existing(data))]
    if as_json:
        answer_json([_row(shard) for shard in shards])
        return
    answer_table(
        ("SHARD", "RECORDS", "SIGNED", "LAST SIGNED", "STATE"),
        [
            (
                shard.name,
                str(shard.committed),
                str(shard.head.size if shard.head else 0),
                time_text(shard.signed_us) or "never",
                _state(shard, following),
            )
            for shard, following in zip(shards, (*shards[1:], None), strict=True)
        ],
    )
    for shard in shards:
        for line in _details(shard):
            answer(line)


@app.command("explain")
def explain(*, as_json: ExplainJsonOption = False, data: DataOption = DEFAULT_DATA) -> None:
    """Say what is left of a ledger that refuses to start, what was signed, what is missing, and the choices.

    Nothing is written. Exit 1 if the ledger cannot be continued as it is.

    Example: klyra-audit ledger explain
    """
    directory = existing(data)
    with _alone(directory), contextlib.closing(Disk()) as disk:
        identity, found = _examine(directory, disk)
    origin = identity.origin(found.shard.root.name)
    if as_json:
        answer(orjson.dumps(explanation(found, origin), option=orjson.OPT_INDENT_2).decode())
    else:
        for line in explanation_lines(found, origin, data):
            answer(line)
    if found.refusal is not None:
        raise typer.Exit(FOUND_WRONG)


@app.command("continue")
def continue_after_disaster(
    *,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="What happened; it is kept in the ledger for ever.")
    ],
    after_disaster: Annotated[
        bool, typer.Option("--after-disaster", help="Say that you know what this is.", show_default=False)
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Agree without being asked.", show_default=False)] = False,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Leave a damaged shard behind for good, go on in a new one, and print its verifier key.

    First look at what would be lost: klyra-audit ledger explain. The damaged shard is kept as it is and never written
    again; what can be read of it is still served. Everyone who verifies must pin the new shard's key: nothing that is
    signed leads from the old one to it.

    Example: klyra-audit ledger continue --after-disaster --reason "disk of host a1 lost, backup of 3 May restored"
    """
    if not after_disaster:
        say("Error: this gives up what cannot be read any more. Look first with `klyra-audit ledger explain`,")
        say("then say --after-disaster.")
        raise typer.Exit(COULD_NOT)
    directory = existing(data)
    with _alone(directory), contextlib.closing(Disk()) as disk:
        identity, found = _examine(directory, disk)
        if found.refusal is not None and not yes:
            _ask(explanation_lines(found, identity.origin(found.shard.root.name), data))
        shard = leave_behind(directory, disk, identity, found, reason, SystemClock().wall_us())
    say(f"The ledger goes on in {shard.root.name}.")
    answer(_begin(data))


def existing(data: Path) -> DataDirectory:
    """Return a data directory that has a ledger; exit with a message if there is none."""
    directory = DataDirectory(data)
    if not directory.ledger.exists():
        say(f"Error: there is no ledger in {data}. Name the data directory with --data.")
        raise typer.Exit(COULD_NOT)
    return directory


@contextlib.contextmanager
def _alone(directory: DataDirectory) -> Iterator[None]:
    """Keep the ledger's writer out for a while; what is refused meanwhile becomes a message and an exit status."""
    try:
        with LedgerLock(directory.ledger):
            yield
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(FOUND_WRONG if isinstance(error, Rejected) else COULD_NOT) from error


def _options(data: Path) -> LedgerOptions:
    settings = Settings.load(data=data)
    return ledger_options(settings, Catalog.load(settings.catalog))


def _examine(directory: DataDirectory, disk: Disk) -> tuple[Identity, Examination]:
    options = _options(directory.root)
    identity = load_identity(
        directory, disk, ledger_name=options.ledger_name, collector_id=options.collector_id, keys=options.keys
    )
    cell = guard_of(options.cell, identity.origin(""), directory.ledger, disk)
    return identity, examine(directory, identity, cell, SystemClock().wall_us())


def _ask(lines: list[str]) -> None:
    for line in lines:
        say(line)
    if not sys.stdin.isatty():
        say("Error: nobody is there to ask. Say --yes if you agree.")
        raise typer.Exit(COULD_NOT)
    if not typer.confirm("Leave this shard behind and go on without what is lost?", err=True):
        raise typer.Exit(COULD_NOT)


def _begin(data: Path) -> str:
    """Open the ledger once, which seals the new shard's first records, and return the shard's verifier key."""
    log_to_stderr()
    try:
        with contextlib.closing(Disk()) as disk:
            ledger = Ledger.open(DataDirectory(data), disk, SystemClock(), _options(data))
            vkey = ledger.vkey
            ledger.close()
    except KlyraError as error:
        say(f"Error: {error} The next start goes on from here.")
        raise typer.Exit(COULD_NOT) from error
    return vkey


def _row(shard: ShardOverview) -> dict[str, Any]:
    head = shard.head
    members = asdict(shard)
    del members["signed_us"]
    return members | {
        "head": None if head is None else {"origin": head.origin, "size": head.size, "root": head.root.hex()},
        "signed_at": time_text(shard.signed_us),
    }


def _state(shard: ShardOverview, following: ShardOverview | None) -> str:
    if shard.closed is not None:
        return f"closed, goes on as {shard.closed['next_origin'].rpartition('/')[2]}"
    if following is None:
        return "open"
    return f"left behind, goes on as {following.name}"


def _details(shard: ShardOverview) -> list[str]:
    lines = ["", shard.name if shard.head is None else shard.head.origin]
    if shard.head is not None:
        lines.append(f"  root         {shard.head.root.hex()}")
    if shard.opened is not None:
        lines.append(f"  goes on from {shard.opened['previous_origin']} ({shard.opened['reason']})")
    lines += [f"  key          {vkey}" for vkey in shard.vkeys]
    lines += [f"  kept         checkpoints/{name}" for name in shard.kept]
    return lines


# What other files add stands behind the commands of this one in --help.
ledger_keys.add_to(app)
ledger_tiles.add_to(app)
ledger_expiry.add_to(app)
ledger_rebuild.add_to(app)
