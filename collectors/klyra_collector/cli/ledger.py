"""`klyra-audit ledger`: look at a ledger's shards, and go on after a loss."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from klyra_collector.cli.administration import (
    COULD_NOT,
    DEFAULT_DATA,
    DataOption,
    JsonOption,
    answer,
    answer_json,
    answer_table,
    say,
    time_text,
)
from klyra_collector.data_directory import DataDirectory
from klyra_collector.seal.overview import ShardOverview, overview
from klyra_collector.seal.shards import shards_of

if TYPE_CHECKING:
    from pathlib import Path

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
                _state(shard, newest=shard is shards[-1]),
            )
            for shard in shards
        ],
    )
    for shard in shards:
        for line in _details(shard):
            answer(line)


def existing(data: Path) -> DataDirectory:
    """Return a data directory that has a ledger; exit with a message if there is none."""
    directory = DataDirectory(data)
    if not directory.ledger.exists():
        say(f"Error: there is no ledger in {data}. Name the data directory with --data.")
        raise typer.Exit(COULD_NOT)
    return directory


def _row(shard: ShardOverview) -> dict[str, Any]:
    head = shard.head
    members = asdict(shard)
    del members["signed_us"]
    return members | {
        "head": None if head is None else {"origin": head.origin, "size": head.size, "root": head.root.hex()},
        "signed_at": time_text(shard.signed_us),
    }


def _state(shard: ShardOverview, *, newest: bool) -> str:
    if shard.closed is not None:
        return f"closed, goes on as {shard.closed['next_origin'].rpartition('/')[2]}"
    return "open" if newest else "left as it was: a disaster, or a closing that was interrupted"


def _details(shard: ShardOverview) -> list[str]:
    lines = ["", shard.name if shard.head is None else shard.head.origin]
    if shard.head is not None:
        lines.append(f"  root         {shard.head.root.hex()}")
    if shard.opened is not None:
        lines.append(f"  goes on from {shard.opened['previous_origin']} ({shard.opened['reason']})")
    lines += [f"  key          {vkey}" for vkey in shard.vkeys]
    lines += [f"  kept         checkpoints/{name}" for name in shard.kept]
    return lines
