"""`klyra-audit destination`: how copies to destinations are doing, and whether a destination answers."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from klyra_audit.errors import KlyraError
from klyra_collector.cli import (
    destination_orders,
    destination_receipts,
    destination_reconcile,
    destination_self_service,
)
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
from klyra_collector.config import Settings
from klyra_collector.dead_letters import DeadLetters
from klyra_collector.destination_status import DestinationMeter, State
from klyra_collector.fanout.assembly import build_destination, signing_key
from klyra_collector.fanout.signing import KEY_FILE, public_pem, verifier_key
from klyra_collector.fanout.trial import send_test_event
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.identity import open_key_files
from klyra_collector.seal.reader import LedgerReader
from klyra_siem.outcome import Action

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_collector.destination_settings import DestinationSettings
    from klyra_collector.destination_status import DestinationStatus
    from klyra_siem.outcome import Outcome

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The configuration file; klyra-audit.toml if there is.")
]
_NEVER_RAN = "never ran"
_ALARMS = frozenset({State.PAUSED.value, State.HALTED.value})

app = typer.Typer(
    name="destination",
    help="Set destinations up, try them, see how copies are doing, and mend what is wrong.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command("list")
def list_destinations(
    *,
    organization_id: Annotated[
        str | None, typer.Option("--org", metavar="ORG_ID", help="Those that an organization has set up instead.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Show every configured destination: what it does, how far behind it is, what it refused.

    Exit 1 if one of them needs an operator. Below the table stands the key that signs delivered records.

    Example: klyra-audit destination list --json
    """
    if organization_id is not None:
        destination_self_service.list_of(organization_id, data, as_json=as_json)
        return
    with _explained():
        settings = Settings.load(config, data=data)
        rows = _rows(settings)
        vkey = _vkey(settings)
    if as_json:
        answer_json([row | {"signing_key": vkey} for row in rows])
    else:
        _answer_rows(rows)
        if vkey is not None:
            answer(f"\nsigning key  {vkey}")
    if any(row["state"] in _ALARMS or row.get("window_is_closing") for row in rows):
        raise typer.Exit(FOUND_WRONG)


@app.command("test")
def try_destination(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As configured.")],
    *,
    probe: Annotated[bool, typer.Option("--probe", help="Ask for an answer only; deliver nothing.")] = False,
    config: ConfigOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Send a test event to a destination, and show what it says: address, certificates, credentials, index.

    The event is of type heartbeat.sent with the purpose test, and of no ledger. Exit 0 if it was taken, 1 if it is
    refused, 2 if there is no answer.

    Example: klyra-audit destination test splunk
    """
    with _explained(), contextlib.closing(Disk()) as disk:
        settings = Settings.load(config, data=data)
        one = _configured(settings, name)
        key = signing_key((one,), settings.data_directory, settings.ledger.key_passphrase, disk)
        with contextlib.closing(build_destination(one, key)) as destination:
            if probe:
                outcome, taken = destination.probe(), "it would take entries"
            else:
                entry_id, outcome = send_test_event(destination, name, SystemClock().wall_us())
                taken = f"it has taken the test event {entry_id}"
    answer(_verdict(one, outcome, taken))
    if outcome.action is Action.RETRY:
        raise typer.Exit(COULD_NOT)
    if outcome.action is not Action.DELIVERED or outcome.refused:
        raise typer.Exit(FOUND_WRONG)


@app.command("dead-letters")
def dead_letters(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As configured.")],
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Show the entries that a destination will never take. They are in the ledger and the store as all others.

    Example: klyra-audit destination dead-letters back --json
    """
    with _explained(), contextlib.closing(Disk()) as disk:
        settings = Settings.load(config, data=data)
        _configured(settings, name)
        letters = DeadLetters(settings.data_directory.cursors, name, disk).read()
    if as_json:
        answer_json([asdict(letter) | {"refused_at": time_text(letter.refused_us)} for letter in letters])
        return
    answer_table(
        ("ENTRY", "ORGANIZATION", "ANSWER", "REFUSED", "LOG", "INDEX"),
        [
            (
                letter.entry_id,
                letter.organization_id,
                letter.status,
                time_text(letter.refused_us) or "",
                letter.origin,
                str(letter.index),
            )
            for letter in letters
        ],
    )


@app.command("key")
def key(*, config: ConfigOption = None, data: DataOption = DEFAULT_DATA) -> None:
    """Print the public key that delivered records are signed with, as PEM: what a receiver checks them with.

    Example: klyra-audit destination key > klyra-destinations.pem
    """
    with _explained(), contextlib.closing(Disk()) as disk:
        settings = Settings.load(config, data=data)
        files = open_key_files(settings.data_directory, disk, settings.ledger.key_passphrase)
        answer(public_pem(files).rstrip())


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what is refused into a message and an exit status."""
    log_to_stderr()
    try:
        yield
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(COULD_NOT) from error


def _configured(settings: Settings, name: str) -> DestinationSettings:
    for one in settings.destination:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in settings.destination) or "none"
    say(f"Error: no destination {name} is configured; there is {names}. Add a [[destination]], or check --config.")
    raise typer.Exit(COULD_NOT)


def _rows(settings: Settings) -> list[dict[str, Any]]:
    directory = settings.data_directory
    names = [one.name for one in settings.destination]
    with contextlib.closing(LedgerReader(directory.ledger)) as reader:
        measured = DestinationMeter(directory.cursors, names, reader, SystemClock().wall_us).measure()
    statuses = {status.name: status for status in measured}
    return [_row(one, statuses.get(one.name)) for one in settings.destination]


def _row(one: DestinationSettings, status: DestinationStatus | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": one.name, "kind": one.kind, "endpoint": one.endpoint, "state": _NEVER_RAN}
    if status is None:
        return row
    times = {name: time_text(getattr(status, f"{name}_us") or None) for name in ("since", "succeeded", "error")}
    members = {name: value for name, value in asdict(status).items() if not name.endswith("_us")}
    now = SystemClock().wall_us()
    return {
        **members,
        **row,
        "state": status.state.value,
        "since": times["since"],
        "succeeded_at": times["succeeded"],
        "error_at": times["error"],
        "window_left_seconds": status.window_left(now),
        "window_is_closing": status.is_window_closing(now),
    }


def _answer_rows(rows: list[dict[str, Any]]) -> None:
    answer_table(
        ("NAME", "STATE", "BEHIND", "SECONDS", "SENT", "FAILURES", "DEAD", "LAST SUCCESS", "ENDPOINT"),
        [
            (
                row["name"],
                row["state"],
                str(row.get("lag_entries", "-")),
                f"{row.get('lag_seconds', 0):.0f}",
                str(row.get("entries", "-")),
                str(row.get("retried", "-")),
                str(row.get("dead_letters", "-")),
                row.get("succeeded_at") or "never",
                row["endpoint"],
            )
            for row in rows
        ],
    )
    for row in rows:
        if row.get("error"):
            answer(f"{row['name']}: last error {row['error_at']}: {row['error']}")
        if row.get("window_is_closing"):
            hours = row["window_left_seconds"] / 3600
            answer(f"{row['name']}: in {hours:.1f} h what waits is too old for it (destination.when_too_old)")


def _vkey(settings: Settings) -> str | None:
    """Return the key that delivered records are signed with; None before the first delivery has drawn it."""
    directory = settings.data_directory
    if not (directory.keys / KEY_FILE).exists():
        return None
    with contextlib.closing(Disk()) as disk:
        return verifier_key(open_key_files(directory, disk, settings.ledger.key_passphrase))


def _verdict(one: DestinationSettings, outcome: Outcome, taken: str) -> str:
    said = f"{outcome.status} {outcome.reason}".strip()
    if outcome.action is Action.DELIVERED and not outcome.refused:
        return f"{one.name} answers {said}: {taken}."
    if outcome.action is Action.RETRY:
        return f"{one.name} cannot take entries now: {said}"
    if outcome.action is Action.PAUSE:
        return f"{one.name} refuses us: {said}"
    return f"{one.name} refuses the event: {said}"


# What other files add stands behind the commands of this one in --help.
destination_self_service.add_to(app)
destination_orders.add_to(app)
destination_receipts.add_to(app)
destination_reconcile.add_to(app)
