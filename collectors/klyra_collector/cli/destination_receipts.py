"""`klyra-audit destination receipts`: what the collector has signed for having delivered, checked again."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from klyra_audit import timestamps
from klyra_audit.errors import KlyraError, Rejected
from klyra_audit.format.keys import VerifyingKey
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
from klyra_collector.fanout.segments import SegmentReceiptDamaged, SegmentReceipts, decode, root_of
from klyra_collector.fanout.signing import KEY_FILE, verifier_key
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.identity import open_key_files
from klyra_collector.seal.reader import LedgerReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_collector.fanout.segments import Segment

_READ_RECORDS = 1000


def add_to(app: typer.Typer) -> None:
    """Add the command to `klyra-audit destination`."""
    app.command("receipts")(receipts)


def receipts(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As configured.")],
    *,
    as_json: JsonOption = False,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The configuration file.")] = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Show the signed receipt of each batch that a destination has confirmed, and check it against the ledger.

    A receipt says which records went at once, the Merkle root over their leaves, and when they were confirmed. With
    --json the signed note is shown whole, for others to check with the key of `destination list`. Exit 1 if one is not
    as it was signed, or is not what the ledger holds.

    Example: klyra-audit destination receipts splunk --json
    """
    log_to_stderr()
    is_intact = True
    try:
        for note, segment, fault in _checked(Settings.load(config, data=data), name):
            is_intact = is_intact and not fault
            answer(_line_as_json(note, segment, fault) if as_json else _line(segment, fault))
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(COULD_NOT) from error
    if not is_intact:
        raise typer.Exit(FOUND_WRONG)


def _checked(settings: Settings, name: str) -> Iterator[tuple[bytes, Segment | None, str]]:
    """Yield each note, what it says, and what is wrong with it."""
    directory = settings.data_directory
    if name not in [one.name for one in settings.destination]:
        raise Rejected(f"No destination {name} is configured.", remedy="Check --config.", code="unknown_destination")
    if not (directory.keys / KEY_FILE).exists():
        return
    with contextlib.closing(Disk()) as disk, contextlib.closing(LedgerReader(directory.ledger)) as reader:
        files = open_key_files(directory, disk, settings.ledger.key_passphrase)
        key = VerifyingKey.parse(verifier_key(files))
        written = SegmentReceipts(directory.cursors, name, disk, None, days=1, wall_us=SystemClock().wall_us)
        for note in written.read():
            try:
                segment = decode(note, key)
            except SegmentReceiptDamaged as error:
                yield note, None, str(error)
                continue
            yield note, segment, _fault(segment, name, reader)


def _fault(segment: Segment, name: str, reader: LedgerReader) -> str:
    """Return what a receipt says that is not so."""
    if segment.destination != name:
        return f"It is about {segment.destination}."
    if segment.origin not in reader.origins():
        return "The ledger has no such shard."
    wanted = set(segment.indexes)
    first, end = segment.indexes[0], segment.indexes[-1] + 1
    leaves = [
        record.leaf_bytes
        for start in range(first, end, _READ_RECORDS)
        for record in reader.read(segment.origin, start, min(_READ_RECORDS, end - start))
        if record.index in wanted
    ]
    return "" if root_of(leaves) == segment.root else "The ledger's leaves have another root."


def _line(segment: Segment | None, fault: str) -> str:
    if segment is None:
        return f"DAMAGED  {fault}"
    confirmed = timestamps.from_microseconds(segment.confirmed_us)
    place = f"{segment.origin}  {segment.indexes[0]}-{segment.indexes[-1]}"
    return f"{'WRONG' if fault else 'OK':<7}  {confirmed}  {len(segment.indexes):>6} entries  {place}  {fault}".rstrip()


def _line_as_json(note: bytes, segment: Segment | None, fault: str) -> str:
    members: dict[str, Any] = {"verdict": "OK" if not fault else "WRONG" if segment else "DAMAGED", "fault": fault}
    if segment is not None:
        members |= {
            "log": segment.origin,
            "first": segment.indexes[0],
            "last": segment.indexes[-1],
            "count": len(segment.indexes),
            "root": segment.root.hex(),
            "confirmed_at": timestamps.from_microseconds(segment.confirmed_us),
        }
    return orjson.dumps(members | {"note": note.decode()}).decode()
