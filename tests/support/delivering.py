"""Delivery of a real ledger to a real receiver, step by step."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from klyra_audit import timestamps
from klyra_audit.format.keys import SigningKey
from klyra_audit.format.sections import organization_reference
from klyra_collector.backoff import Backoff
from klyra_collector.data_directory import DataDirectory
from klyra_collector.dead_letters import DeadLetters
from klyra_collector.destination_status import DestinationStatus, read_statuses
from klyra_collector.fanout.cursor import CursorFile
from klyra_collector.fanout.delivery import Delivery, DeliveryTerms
from klyra_collector.fanout.files import Files
from klyra_collector.fanout.fitting import Fitting, WhenTooOld
from klyra_collector.fanout.lanes import Lanes
from klyra_collector.fanout.ledger_position import LedgerPosition
from klyra_collector.fanout.orders import Orders
from klyra_collector.fanout.report import Report
from klyra_collector.fanout.segments import SegmentReceipts
from klyra_collector.fanout.signing import KEY_NAME
from klyra_collector.fanout.source import EntrySource, Wanted
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.reader import LedgerReader
from klyra_siem.destination import DestinationOptions, Limits, TlsOptions
from klyra_siem.formats.native import NativeFormat
from klyra_siem.otlp import create
from support.records import BUSINESS, STARTUP
from support.sealing import MIDSUMMER_US

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from klyra_audit.audit_integrity import RecordKey
    from klyra_siem.destination import Destination, Payload, SealedEntry

NAME = "back"
NOTE_KEY = SigningKey.from_seed(KEY_NAME, bytes(32))
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
        "record": NativeFormat(None),
    }
    return DestinationOptions(**(defaults | members))


class Bench:
    """One destination's delivery, and what it left on disk.

    Attributes:
        today: the UTC day on which it believes to be.
        now_us: its time, microseconds since 1970.
        organizations: whose entries it delivers.
    """

    def __init__(
        self,
        root: Path,
        destination: Destination,
        *others: Destination,
        limits: Limits = LIMITS,
        from_end: bool = False,
        when_too_old: WhenTooOld = WhenTooOld.RESTAMP,
        wanted: Wanted | None = None,
        heartbeats: bool = False,
        disk: Disk | None = None,
        name: str = NAME,
        linger_seconds: float = 0.0,
    ):
        self.now_us = MIDSUMMER_US
        self._destination = destination
        self.data = DataDirectory(root)
        self.data.cursors.mkdir(exist_ok=True)
        self.today = timestamps.day_of(MIDSUMMER_US)
        self.organizations = {STARTUP.organization_id, BUSINESS.organization_id}
        self.disk = disk or Disk()
        self.reader = LedgerReader(self.data.ledger)
        self.source = EntrySource(self.reader, self, lambda: self.today, wanted, NAME if heartbeats else None)
        self.dead_letters = DeadLetters(self.data.cursors, name, self.disk)
        self.cursor_file = CursorFile(self.data.cursors, name, self.disk)
        self.orders = Orders(self.data.cursors, name, self.disk)
        self.receipts = SegmentReceipts(
            self.data.cursors, name, self.disk, NOTE_KEY, days=30, wall_us=lambda: self.now_us
        )
        begun = DestinationStatus(
            name=name, kind="otlp", endpoint="", skipped={}, window_seconds=limits.oldest_seconds or 0
        )
        self.delivery = Delivery(
            DeliveryTerms(name=name, limits=limits, linger_seconds=linger_seconds, paused_seconds=300.0),
            lanes=Lanes(name, [destination, *others]),
            fitting=Fitting(limits, when_too_old, destination.measure),
            source=self.source,
            ledger=LedgerPosition(self.reader, from_end=from_end),
            files=Files(self.cursor_file, self.orders, self.dead_letters, self.receipts),
            report=Report(self.data.cursors, begun, lambda: self.now_us),
            backoff=Backoff(draw=lambda: 1.0),
            wall_us=lambda: self.now_us,
        )

    def watch_encoded(self, watch: Callable[[Sequence[SealedEntry]], None]) -> None:
        """Have somebody see the entries of each request."""
        encode = self._destination.encode

        def watched(entries: Sequence[SealedEntry]) -> Payload:
            watch(entries)
            return encode(entries)

        self._destination.encode = watched  # type: ignore[method-assign] - for this test alone

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
def bench(
    root: Path, endpoint: str, key: RecordKey | None = None, *, lanes: int = 1, **members: object
) -> Iterator[Bench]:
    """Give a delivery of a data directory to an endpoint, over some connections; `members` are `Bench`'s."""
    with contextlib.ExitStack() as opened:
        destinations = [
            opened.enter_context(contextlib.closing(create(options(endpoint, key=key)))) for _ in range(lanes)
        ]
        yield opened.enter_context(contextlib.closing(Bench(root, *destinations, **members)))
