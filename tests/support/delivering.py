"""Delivery of a real ledger to a real receiver, step by step."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from klyra_audit import timestamps
from klyra_audit.format.sections import organization_reference
from klyra_collector.backoff import Backoff
from klyra_collector.data_directory import DataDirectory
from klyra_collector.dead_letters import DeadLetters
from klyra_collector.destination_status import DestinationStatus, read_statuses
from klyra_collector.fanout.cursor import CursorFile
from klyra_collector.fanout.delivery import Delivery, DeliveryTerms
from klyra_collector.fanout.ledger_position import LedgerPosition
from klyra_collector.fanout.report import Report
from klyra_collector.fanout.source import EntrySource
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.reader import LedgerReader
from klyra_siem.destination import DestinationOptions, Limits, TlsOptions
from klyra_siem.otlp import create
from support.records import BUSINESS, STARTUP
from support.sealing import MIDSUMMER_US

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_audit.audit_integrity import RecordKey
    from klyra_siem.destination import Destination

NAME = "back"
LIMITS = Limits(entries=8, encoded_bytes=1_000_000)


def options(endpoint: str, **members: object) -> DestinationOptions:
    """Return what an OTLP destination is made of."""
    defaults = {
        "name": NAME,
        "endpoint": endpoint,
        "headers": {},
        "compression": "gzip",
        "timeout_seconds": 5.0,
        "tls": TlsOptions(),
        "key": None,
        "software": "klyra-audit/test",
    }
    return DestinationOptions(**(defaults | members))


class Bench:
    """One destination's delivery, and what it left on disk.

    Attributes:
        today: the UTC day on which it believes to be.
        organizations: whose entries it delivers.
    """

    def __init__(self, root: Path, destination: Destination, *, limits: Limits = LIMITS, from_end: bool = False):
        self.data = DataDirectory(root)
        self.data.cursors.mkdir(exist_ok=True)
        self.today = timestamps.day_of(MIDSUMMER_US)
        self.organizations = {STARTUP.organization_id, BUSINESS.organization_id}
        self.disk = Disk()
        self.reader = LedgerReader(self.data.ledger)
        self.source = EntrySource(self.reader, self, lambda: self.today)
        self.dead_letters = DeadLetters(self.data.cursors, NAME, self.disk)
        self.cursor_file = CursorFile(self.data.cursors, NAME, self.disk)
        begun = DestinationStatus(name=NAME, kind="otlp", endpoint="", skipped={})
        self.delivery = Delivery(
            DeliveryTerms(name=NAME, limits=limits, linger_seconds=0.0, paused_seconds=300.0),
            destination=destination,
            source=self.source,
            ledger=LedgerPosition(self.reader, from_end=from_end),
            cursor_file=self.cursor_file,
            dead_letters=self.dead_letters,
            report=Report(self.data.cursors, begun, lambda: MIDSUMMER_US),
            backoff=Backoff(draw=lambda: 1.0),
            wall_us=lambda: MIDSUMMER_US,
        )

    def references(self) -> frozenset[bytes]:
        """Return the org_ref of everyone whose entries are delivered."""
        salt = (self.data.keys / "org-salt").read_bytes()
        return frozenset(organization_reference(salt, name) for name in self.organizations)

    def refresh(self) -> bool:
        """Say that the organizations are always those of this moment."""
        return True

    def status(self) -> DestinationStatus:
        """Return what it tells of itself now."""
        self.delivery._report.publish()
        (status,) = read_statuses(self.data.cursors)
        return status

    def deliver(self) -> None:
        """Go on until there is nothing to do but wait."""
        while self.delivery.step() == 0:
            pass

    def close(self) -> None:
        """Let everything go."""
        self.reader.close()
        self.disk.close()


@contextlib.contextmanager
def bench(root: Path, endpoint: str, key: RecordKey | None = None, **members: object) -> Iterator[Bench]:
    """Give a delivery of a data directory to an endpoint; `members` are `Bench`'s."""
    with contextlib.closing(create(options(endpoint, key=key))) as destination:
        made = Bench(root, destination, **members)
        try:
            yield made
        finally:
            made.close()
