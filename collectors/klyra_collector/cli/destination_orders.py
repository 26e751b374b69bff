"""`klyra-audit destination pause|resume|replay`: an operator's word to a delivery, running or stopped."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klyra_audit import timestamps
from klyra_audit.errors import KlyraError, Rejected
from klyra_collector.cli.administration import (
    COULD_NOT,
    DEFAULT_DATA,
    FOUND_WRONG,
    DataOption,
    answer,
    log_to_stderr,
    say,
    time_text,
)
from klyra_collector.config import Settings
from klyra_collector.dead_letters import DeadLetters
from klyra_collector.fanout.cursor import Cursor, CursorFile
from klyra_collector.fanout.orders import Orders, Pause
from klyra_collector.fanout.replaying import check_place, place_at
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.reader import LedgerReader

if TYPE_CHECKING:
    from collections.abc import Iterator

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="As configured.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The configuration file; klyra-audit.toml if there is.")
]
_NS_PER_US = 1000


def add_to(app: typer.Typer) -> None:
    """Add the commands to `klyra-audit destination`."""
    app.command("pause")(pause)
    app.command("resume")(resume)
    app.command("replay")(replay)


def pause(
    name: NameArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; others see it in the list.")] = "",
    *,
    config: ConfigOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Deliver nothing to a destination until it is resumed; its cursor stays where it is, and nothing is lost.

    Entries whose retention ends meanwhile are not delivered any more.

    Example: klyra-audit destination pause splunk --reason "indexes are being moved"
    """
    with _orders(name, config, data) as (_, orders):
        orders.pause(Pause(reason or "paused by an operator", SystemClock().wall_us()))
    answer(f"{name} is paused.")


def resume(name: NameArgument, *, config: ConfigOption = None, data: DataOption = DEFAULT_DATA) -> None:
    """Go on delivering to a paused destination, from where it was.

    Example: klyra-audit destination resume splunk
    """
    with _orders(name, config, data) as (_, orders):
        was_paused = orders.resume()
    answer(f"{name} goes on." if was_paused else f"{name} was not paused.")


def replay(
    name: NameArgument,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="What was sealed at this time or later, RFC 3339.")
    ] = None,
    index: Annotated[
        int | None, typer.Option("--from-index", metavar="N", help="This record and all behind it.")
    ] = None,
    log: Annotated[str | None, typer.Option("--log", metavar="ORIGIN", help="The shard of N; the newest one.")] = None,
    *,
    letters: Annotated[bool, typer.Option("--dead-letters", help="Its dead letters, and nothing else.")] = False,
    config: ConfigOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Deliver again what a destination was given before, such as after it has lost it. Ids stay the same.

    With --dead-letters what it has refused is tried again, such as after a limit of its was raised.

    Example: klyra-audit destination replay splunk --from 2026-06-01T00:00:00Z
    """
    if [begin is not None, index is not None, letters].count(True) != 1:
        say("Error: say what: --from TIME, --from-index N or --dead-letters.")
        raise typer.Exit(COULD_NOT)
    if letters:
        _replay_letters(name, config, data)
    else:
        _replay_from(name, config, data, (begin, index, log))


def _replay_letters(name: str, config: Path | None, data: Path) -> None:
    with _orders(name, config, data) as (settings, orders), contextlib.closing(Disk()) as disk:
        count = len(DeadLetters(settings.data_directory.cursors, name, disk))
        if count:
            orders.redeliver()
    answer(f"{name} is sent {count} dead letters again." if count else f"{name} has no dead letters.")


def _replay_from(
    name: str, config: Path | None, data: Path, place_given: tuple[str | None, int | None, str | None]
) -> None:
    with _orders(name, config, data) as (settings, orders):
        directory = settings.data_directory
        with contextlib.closing(LedgerReader(directory.ledger)) as reader, contextlib.closing(Disk()) as disk:
            place = _place(reader, *place_given)
            check_place(reader, place, CursorFile(directory.cursors, name, disk).load())
            (record,) = reader.read(place.origin, place.index, 1) or (None,)
        orders.replay(place)
    since = "" if record is None else f", sealed at {time_text(record.leaf.ingest_us)}"
    answer(f"{name} delivers again from record {place.index} of {place.origin}{since}.")


def _place(reader: LedgerReader, begin: str | None, index: int | None, log: str | None) -> Cursor:
    if begin is not None:
        return place_at(reader, _sealed_us(begin))
    origins = reader.origins()
    return Cursor(log or (origins[-1] if origins else ""), index or 0)


def _sealed_us(text: str) -> int:
    try:
        return timestamps.to_nanoseconds(text) // _NS_PER_US
    except ValueError as error:
        raise Rejected(f"{text} is no time.", remedy="Write it like 2026-06-01T00:00:00Z.", code="bad_time") from error


@contextlib.contextmanager
def _orders(name: str, config: Path | None, data: Path) -> Iterator[tuple[Settings, Orders]]:
    """Yield the orders of a configured destination; turn what is refused into a message and an exit status."""
    log_to_stderr()
    try:
        settings = Settings.load(config, data=data)
        names = [one.name for one in settings.destination]
        if name not in names:
            say(f"Error: no destination {name} is configured; there is {', '.join(names) or 'none'}.")
            raise typer.Exit(COULD_NOT)
        cursors = settings.data_directory.cursors
        cursors.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.closing(Disk()) as disk:
            yield settings, Orders(cursors, name, disk)
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(FOUND_WRONG if isinstance(error, Rejected) else COULD_NOT) from error
