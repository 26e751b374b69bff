"""Builds every configured destination and runs each on a thread of its own, for as long as the follower runs."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import structlog

from klyra_audit.timestamps import day_of
from klyra_collector.backoff import Backoff
from klyra_collector.dead_letters import DeadLetters
from klyra_collector.destination_status import DestinationStatus
from klyra_collector.fanout.cursor import CursorFile
from klyra_collector.fanout.delivery import Delivery, DeliveryTerms
from klyra_collector.fanout.entitlement import Entitlement, OrganizationsUnknown
from klyra_collector.fanout.kinds import make_destination
from klyra_collector.fanout.ledger_position import LedgerPosition
from klyra_collector.fanout.report import Report
from klyra_collector.fanout.signing import destination_key
from klyra_collector.fanout.source import EntrySource
from klyra_collector.registry import Registry
from klyra_collector.registry.policies import Policies
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.identity import open_key_files
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.secret_reference import is_reference, read_secret
from klyra_siem.destination import DestinationOptions, Limits, TlsOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from klyra_audit.audit_integrity import RecordKey
    from klyra_audit.catalog import Catalog
    from klyra_collector.data_directory import DataDirectory
    from klyra_collector.destination_settings import DestinationSettings
    from klyra_siem.destination import Destination

STOP_SECONDS: Final = 5.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What destinations are run in.

    Attributes:
        data: the data directory.
        registry_url: of the registry.
        passphrase: reference to what key files are encrypted under; None if they are not.
        catalog: of event types.
        wall_us: present time, microseconds since 1970.
    """

    data: DataDirectory
    registry_url: str
    passphrase: str | None
    catalog: Catalog
    wall_us: Callable[[], int]


@contextlib.contextmanager
def fanning_out(configured: Sequence[DestinationSettings], around: Surroundings) -> Iterator[None]:
    """Deliver to every configured destination while inside; without any do nothing.

    A thread that is still waiting for an answer at the end goes with its process: its batch is sent again next time.

    Raises:
        NotEntitled, BadDestination, MissingExtra, SecretUnavailable, KeyLocked: before anything is begun.
    """
    if not configured:
        yield
        return
    stop = threading.Event()
    with contextlib.ExitStack() as opened:
        registry = opened.enter_context(contextlib.closing(Registry.open(around.registry_url, around.catalog)))
        disk = opened.enter_context(contextlib.closing(Disk()))
        key = signing_key(configured, around.data, around.passphrase, disk)
        around.data.cursors.mkdir(mode=0o700, parents=True, exist_ok=True)
        deliveries = [_delivery(one, around, registry, disk, key) for one in configured]
        threads = [_started(one, delivery, stop) for one, delivery in zip(configured, deliveries, strict=True)]
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(STOP_SECONDS)


def signing_key(
    configured: Sequence[DestinationSettings], data: DataDirectory, passphrase: str | None, disk: Disk
) -> RecordKey | None:
    """Return the key of delivered records, made on first use; None if no destination wants signatures."""
    if not any(one.sign for one in configured):
        return None
    return destination_key(open_key_files(data, disk, passphrase))


def build_destination(one: DestinationSettings, key: RecordKey | None) -> Destination:
    """Return the destination of a configured section; errors as `fanning_out`."""
    setting = f"destination.{one.name}"
    endpoint = read_secret(one.endpoint, f"{setting}.endpoint") if is_reference(one.endpoint) else one.endpoint
    headers = {name: read_secret(reference, f"{setting}.headers.{name}") for name, reference in one.headers.items()}
    options = DestinationOptions(
        name=one.name,
        endpoint=endpoint,
        headers=headers,
        compression=one.compression,
        timeout_seconds=one.timeout_seconds,
        tls=TlsOptions(ca_file=one.ca_file, certificate_file=one.certificate_file, key_file=one.key_file),
        key=key if one.sign else None,
        software=f"klyra-audit/{version('klyra-audit')}",
    )
    return make_destination(one.kind, options)


def _started(one: DestinationSettings, delivery: Delivery, stop: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=delivery.run, args=(stop,), name=f"destination {one.name}", daemon=True)
    _log.info("destination_started", destination=one.name, kind=one.kind, endpoint=one.endpoint)
    thread.start()
    return thread


def _delivery(
    one: DestinationSettings, around: Surroundings, registry: Registry, disk: Disk, key: RecordKey | None
) -> Delivery:
    data, wall_us = around.data, around.wall_us
    entitlement = Entitlement(registry, Policies.load(), wanted=one.organizations, org_salt=lambda: _org_salt(data))
    entitlement.check(one.name)
    destination = build_destination(one, key)
    reader = LedgerReader(data.ledger)  # its own: readers are of one thread
    source = EntrySource(reader, entitlement, lambda: day_of(wall_us()))
    dead_letters = DeadLetters(data.cursors, one.name, disk)
    begun = DestinationStatus(
        name=one.name, kind=one.kind, endpoint=one.endpoint, skipped={}, dead_letters=len(dead_letters)
    )
    return Delivery(
        DeliveryTerms(
            name=one.name,
            limits=_limits(one, destination.limits),
            linger_seconds=one.linger_seconds,
            paused_seconds=one.paused_seconds,
        ),
        destination=destination,
        source=source,
        ledger=LedgerPosition(reader, from_end=one.start == "end"),
        cursor_file=CursorFile(data.cursors, one.name, disk),
        dead_letters=dead_letters,
        report=Report(data.cursors, begun, wall_us),
        backoff=Backoff(),
        wall_us=wall_us,
    )


def _limits(one: DestinationSettings, own: Limits) -> Limits:
    """Return the destination's own limits, or less."""
    return Limits(
        entries=min(one.batch_entries or own.entries, own.entries),
        encoded_bytes=min(one.batch_bytes or own.encoded_bytes, own.encoded_bytes),
    )


def _org_salt(data: DataDirectory) -> bytes:
    try:
        return (data.keys / "org-salt").read_bytes()
    except OSError as error:
        raise OrganizationsUnknown(f"{data.keys / 'org-salt'} cannot be read: {error.strerror}.") from error
