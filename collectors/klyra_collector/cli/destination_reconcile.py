"""`klyra-audit destination reconcile`: whether a SIEM has what was delivered, and has it unchanged."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import orjson
import typer

from klyra_audit import timestamps
from klyra_audit.catalog import Catalog
from klyra_audit.errors import KlyraError, Rejected
from klyra_collector.cli.administration import (
    COULD_NOT,
    DEFAULT_DATA,
    FOUND_WRONG,
    DataOption,
    JsonOption,
    answer,
    log_to_stderr,
    say,
)
from klyra_collector.config import Settings
from klyra_collector.dead_letters import DeadLetters
from klyra_collector.fanout.assembly import destination_source
from klyra_collector.fanout.cursor import CursorFile
from klyra_collector.reconcile.reconciling import Expected, Ledger, Reconciliation, Verdict, verdict_lines
from klyra_collector.reconcile.rows import read_rows
from klyra_collector.registry import Registry
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.reader import LedgerReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_collector.destination_settings import DestinationSettings
    from klyra_collector.reconcile.reconciling import Answer

_OWN_RECORDS = "otlp"
_DAY_CHARACTERS = 10


def add_to(app: typer.Typer) -> None:
    """Add the command to `klyra-audit destination`."""
    app.command("reconcile")(reconcile)


def reconcile(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As configured.")],
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="What the SIEM has exported; - for standard input.")],
    begin: Annotated[str, typer.Option("--from", metavar="TIME", help="Entries of this time or later, RFC 3339.")],
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Entries before this time; now.")] = None,
    *,
    as_json: JsonOption = False,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The configuration file.")] = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Compare what a SIEM says it has with the ledger, entry by entry.

    FILE is the SIEM's own export of the window, CSV or JSON as it comes, compressed with gzip or not. Each entry is OK,
    MISSING, ALTERED, DUPLICATE, EXTRA or TRUNCATED. What the destination's filters leave out, and what was not
    delivered yet, is not missing; what has expired may be there or not.

    Prints what is not OK and a summary; with --json a line for every entry and one for the summary. Exit 0 if
    everything is OK, 1 if anything is not, 2 if it could not be compared.

    Example: klyra-audit destination reconcile splunk --from 2026-06-01 splunk-export.csv
    """
    log_to_stderr()
    try:
        with contextlib.ExitStack() as opened:
            settings = Settings.load(config, data=data)
            one = _configured(settings, name)
            comparison = _comparison(settings, one, (_moment(begin), _end(end)), opened)
            export = opened.enter_context(_opened(file))
            for found in comparison.answers(read_rows(export)):
                _tell(found, as_json=as_json)
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(COULD_NOT) from error
    _conclude(comparison, as_json=as_json)


def _comparison(
    settings: Settings, one: DestinationSettings, window: tuple[int, int], opened: contextlib.ExitStack
) -> Reconciliation:
    """Return the comparison of one destination; what it reads is closed with `opened`."""
    directory = settings.data_directory
    disk = opened.enter_context(contextlib.closing(Disk()))
    registry = opened.enter_context(contextlib.closing(Registry.open(settings.registry_url, Catalog.load())))
    # Two: a reader that goes back in a file of bodies begins it anew.
    reader = opened.enter_context(contextlib.closing(LedgerReader(directory.ledger)))
    beside = opened.enter_context(contextlib.closing(LedgerReader(directory.ledger)))
    source = destination_source(one, directory, registry, reader, SystemClock().wall_us)
    cursor = CursorFile(directory.cursors, one.name, disk).load()
    letters = DeadLetters(directory.cursors, one.name, disk).read()
    expected = Expected(
        from_ns=window[0],
        to_ns=window[1],
        delivered=("", 0) if cursor is None else (cursor.origin, cursor.index),
        dead=frozenset((letter.origin, letter.index) for letter in letters),
    )

    def leaf(origin: str, index: int) -> bytes:
        return beside.read(origin, index, 1)[0].leaf_bytes

    return Reconciliation(Ledger(reader, source, leaf), expected)


def _tell(found: Answer, *, as_json: bool) -> None:
    if as_json:
        members: dict[str, Any] = {name: value for name, value in asdict(found).items() if value not in ("", None)}
        answer(orjson.dumps(members).decode())
    elif found.verdict is not Verdict.OK:
        place = f"row {found.row}" if found.row is not None else f"{found.log}/{found.index}"
        answer(f"{found.verdict:<9}  {found.entry_id or '-'}  {place}  {found.reason}")


def _conclude(comparison: Reconciliation, *, as_json: bool) -> None:
    summary = comparison.summary
    if as_json:
        counts = {verdict.value: summary.verdicts[verdict] for verdict in Verdict}
        members: dict[str, Any] = {"rows": summary.rows, "verdicts": counts}
        members |= {"not_delivered_yet": summary.not_delivered_yet}
        members |= {"not_erased": summary.not_erased, "test_events": summary.test_events}
        answer(orjson.dumps({"summary": members}).decode())
    else:
        for line in verdict_lines(summary):
            answer(line)
    if not summary.is_intact:
        raise typer.Exit(FOUND_WRONG)


@contextlib.contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    """Give the export; standard input for `-`."""
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        opened = Path(file).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise Rejected(f"{file} cannot be read: {error.strerror}.", remedy="Name a file, or - .") from error
    with opened:
        yield opened


def _configured(settings: Settings, name: str) -> DestinationSettings:
    for one in settings.destination:
        if one.name != name:
            continue
        if one.kind == _OWN_RECORDS:
            raise Rejected(
                f"Destination {name} is of kind otlp, whose records are of OpenTelemetry's own form.",
                remedy="Compare a destination that gets one of the record formats.",
            )
        return one
    names = ", ".join(one.name for one in settings.destination) or "none"
    raise Rejected(f"No destination {name} is configured; there is {names}.", remedy="Check --config.")


def _moment(text: str) -> int:
    """Return a time in nanoseconds since 1970; a date is its beginning, UTC."""
    try:
        return timestamps.to_nanoseconds(f"{text}T00:00:00Z" if len(text) == _DAY_CHARACTERS else text)
    except ValueError as error:
        raise Rejected(f"{text} is no time.", remedy="Write 2026-06-01 or 2026-06-01T12:00:00Z.") from error


def _end(text: str | None) -> int:
    return time.time_ns() if text is None else _moment(text)
