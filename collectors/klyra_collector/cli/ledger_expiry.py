"""`klyra-audit ledger expire`: what has reached the end of its time, and have it deleted now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from klyra_audit.errors import KlyraError
from klyra_audit.timestamps import day_of, day_to_date
from klyra_collector.cli.administration import COULD_NOT, DEFAULT_DATA, DataOption, answer, answer_table, say
from klyra_collector.data_directory import DataDirectory
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.expiry_survey import Fate, survey

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.seal.expiry import Expired
    from klyra_collector.seal.expiry_survey import Fated, Survey

_KIBI = 1024
_UNITS = ("B", "KiB", "MiB", "GiB")


def add_to(app: typer.Typer) -> None:
    """Add the command to `klyra-audit ledger`."""
    app.command("expire")(expire)


def expire(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and delete nothing.")] = False,
    confirm_clock: Annotated[
        bool, typer.Option("--confirm-clock", help="You looked at the clock, and it is right. Recorded in the ledger.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")] = False,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Delete the bodies whose retention has ended; their leaves, and every proof, stay.

    A running collector does this by itself after each midnight (UTC). This command says what is due, what a legal
    hold keeps, and when the next is due; on a stopped collector it then does what the collector would do: it seals
    EXPIRY records that name what goes, signs them, and deletes.

    Example: klyra-audit ledger expire --dry-run
    """
    directory = DataDirectory(data)
    if not directory.ledger.exists():
        say(f"Error: there is no ledger in {data}. Name the data directory with --data.")
        raise typer.Exit(COULD_NOT)
    try:
        found = survey(directory, day_of(SystemClock().wall_us()))
        expired = None if dry_run else _expire(data, confirm_clock=confirm_clock)
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(COULD_NOT) from error
    _show(found, expired, as_json=as_json, dry_run=dry_run)


def _expire(data: Path, *, confirm_clock: bool) -> Expired | None:
    from klyra_collector.supervise.offline import expire_if_stopped  # noqa: PLC0415 - looking needs no server

    return expire_if_stopped(data, confirm_clock=confirm_clock)


def _show(found: Survey, expired: Expired | None, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        answer(orjson.dumps(_report(found, expired), option=orjson.OPT_INDENT_2).decode())
    elif found.fated:
        headings = ("SHARD", "ORGANIZATION", "DUE", "BODIES", "SIZE", "WHAT BECOMES OF THEM")
        answer_table(headings, [_row(item) for item in found.fated])
    else:
        answer("Nothing is due.")
    if found.next_day is not None:
        say(f"The next are due on {day_to_date(found.next_day)}.")
    if dry_run:
        return
    if expired is None:
        say("The collector of this data directory runs, and expires what is due by itself.")
        return
    say(f"{expired.named} bodies named by EXPIRY records, {expired.deleted} files deleted.")
    if expired.waiting:
        say("The rest is deleted once a witness has cosigned the records: start the collector.")


def _row(item: Fated) -> tuple[str, ...]:
    what = f"kept by the legal hold {item.hold_id}" if item.fate is Fate.HELD else item.fate.value
    return (item.shard, item.org_ref.hex(), day_to_date(item.day), str(item.count), _size(item.size), what)


def _report(found: Survey, expired: Expired | None) -> dict[str, Any]:
    return {
        "due": [
            {
                "shard": item.shard,
                "org_ref": item.org_ref.hex(),
                "day": day_to_date(item.day),
                "fate": item.fate.name.lower(),
                "hold_id": item.hold_id,
                "count": item.count,
                "bytes": item.size,
            }
            for item in found.fated
        ],
        "next_due": None if found.next_day is None else day_to_date(found.next_day),
        "expired": None
        if expired is None
        else {"named": expired.named, "files_deleted": expired.deleted, "waiting": expired.waiting},
    }


def _size(size: int) -> str:
    unit = 0
    while size >= _KIBI and unit < len(_UNITS) - 1:
        size //= _KIBI
        unit += 1
    return f"{size} {_UNITS[unit]}"
