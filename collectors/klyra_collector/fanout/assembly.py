"""Builds every configured destination and runs each on a thread of its own, for as long as the follower runs."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import structlog

from klyra_audit.errors import KlyraError
from klyra_audit.timestamps import day_of
from klyra_collector.backoff import Backoff
from klyra_collector.dead_letters import DeadLetters
from klyra_collector.destination_kinds import make_destination
from klyra_collector.destination_settings import is_secret_option
from klyra_collector.destination_status import DestinationMeter, DestinationStatus
from klyra_collector.fanout.cursor import CursorFile
from klyra_collector.fanout.delivery import Delivery, DeliveryTerms
from klyra_collector.fanout.entitlement import Entitlement, OrganizationsUnknown
from klyra_collector.fanout.files import Files
from klyra_collector.fanout.fitting import Fitting, WhenTooOld
from klyra_collector.fanout.heartbeat import Heartbeats
from klyra_collector.fanout.lanes import Lanes
from klyra_collector.fanout.ledger_position import LedgerPosition
from klyra_collector.fanout.orders import Orders
from klyra_collector.fanout.report import Report
from klyra_collector.fanout.segments import SegmentReceipts
from klyra_collector.fanout.self_service import SelfService
from klyra_collector.fanout.signing import destination_key, note_key
from klyra_collector.fanout.source import EntrySource, Wanted
from klyra_collector.registry import Registry
from klyra_collector.registry.policies import Policies
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.identity import open_key_files
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.secret_reference import is_reference, read_secret
from klyra_collector.self_service.checking import options_of
from klyra_collector.self_service.secret_box import SecretBox
from klyra_siem.destination import DestinationOptions, TlsOptions
from klyra_siem.formats import record_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from klyra_audit.audit_integrity import RecordKey
    from klyra_audit.catalog import Catalog
    from klyra_audit.format.keys import SigningKey
    from klyra_collector.data_directory import DataDirectory
    from klyra_collector.destination_settings import DestinationSettings
    from klyra_collector.registry.destinations import StoredDestination
    from klyra_collector.self_service_settings import SelfServiceSettings
    from klyra_siem.destination import Destination, Limits

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
        self_service: what organizations may set up for themselves.
    """

    data: DataDirectory
    registry_url: str
    passphrase: str | None
    catalog: Catalog
    wall_us: Callable[[], int]
    self_service: SelfServiceSettings


@dataclass(frozen=True, slots=True)
class Keys:
    """What deliveries sign and open with.

    Attributes:
        records: delivered records.
        notes: segment receipts.
        secrets: opens those of destinations that organizations have set up.
    """

    records: RecordKey
    notes: SigningKey
    secrets: SecretBox


@contextlib.contextmanager
def fanning_out(configured: Sequence[DestinationSettings], around: Surroundings) -> Iterator[None]:
    """Deliver to every configured destination while inside, and to those that organizations set up for themselves.

    A thread that is still waiting for an answer at the end goes with its process: its batch is sent again next time.

    Raises:
        NotEntitled, BadDestination, MissingExtra, SecretUnavailable, KeyLocked: before anything is begun.
    """
    if not configured and not around.self_service.enabled:
        yield
        return
    stop = threading.Event()
    with contextlib.ExitStack() as opened:
        registry = opened.enter_context(contextlib.closing(Registry.open(around.registry_url, around.catalog)))
        disk = opened.enter_context(contextlib.closing(Disk()))
        around.data.cursors.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            keys = _keys(around, disk)
        except KlyraError as error:
            if configured:
                raise
            _log.warning("self_service_off", code=error.code, reason=str(error))  # the store needs no key to follow
            yield
            return
        threads = _begun(_Workshop(around, registry, disk, keys), configured, stop)
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


def _keys(around: Surroundings, disk: Disk) -> Keys:
    files = open_key_files(around.data, disk, around.passphrase)
    return Keys(destination_key(files), note_key(files), SecretBox.of(files))


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
        record=record_format(one.format, key if one.sign else None),
        settings={name: _resolved(name, value, setting) for name, value in one.options.items()},
    )
    return make_destination(one.kind, options)


def _resolved(name: str, value: str | int | bool, setting: str) -> str | int | bool:  # noqa: FBT001 - of any type
    """Return an option's value; only a secret one is a reference, for `env:production` is a good tag."""
    return read_secret(str(value), f"{setting}.options.{name}") if is_secret_option(name) else value


def _started(one: DestinationSettings, delivery: Delivery, stop: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=delivery.run, args=(stop,), name=f"destination {one.name}", daemon=True)
    _log.info("destination_started", destination=one.name, kind=one.kind, endpoint=one.endpoint)
    thread.start()
    return thread


def _begun(
    workshop: _Workshop, configured: Sequence[DestinationSettings], stop: threading.Event
) -> list[threading.Thread]:
    """Begin everything; what cannot be made is found before anything is begun."""
    around, registered = workshop.around, workshop.registry.destinations
    deliveries = [workshop.configured(one) for one in configured]
    threads = [_started(one, delivery, stop) for one, delivery in zip(configured, deliveries, strict=True)]
    serving = SelfService(registered, workshop, around.data.cursors, around.wall_us)
    if around.self_service.enabled:
        registered.publish_sealing_key(workshop.keys.secrets.public)
        threads.append(_on_a_thread("self-service", serving.run, stop, around.self_service.look_seconds))
    own = [(one.name, one.kind, one.heartbeat_seconds) for one in configured if one.heartbeat_seconds]
    beating = Heartbeats(workshop.registry, lambda: [*own, *serving.heartbeats()], around.wall_us)
    return [*threads, _on_a_thread("heartbeats", beating.run, stop)]


def _on_a_thread(name: str, run: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=run, args=arguments, name=name, daemon=True)
    thread.start()
    return thread


@dataclass(frozen=True, slots=True)
class _Workshop:
    """Makes deliveries of settings, and of what the registry keeps (see `self_service.Workshop`)."""

    around: Surroundings
    registry: Registry
    disk: Disk
    keys: Keys

    def configured(self, one: DestinationSettings) -> Delivery:
        """Return the delivery of a configured section."""
        return self._delivery(one, lambda: build_destination(one, self.keys.records))

    def delivery(self, settings: DestinationSettings, stored: StoredDestination) -> Delivery:
        """Return the delivery of what an organization has set up."""
        return self._delivery(settings, lambda: self.destination(stored))

    def destination(self, stored: StoredDestination) -> Destination:
        """Return a destination with its secrets opened."""
        name, spec = stored.destination_id, stored.spec
        secrets = {member: self.keys.secrets.open(sealed, name, member) for member, sealed in spec.secrets.items()}
        return make_destination(spec.kind, options_of(name, spec, secrets, self.keys.records))

    def orders(self, destination_id: str) -> Orders:
        """Return what is ordered of a delivery."""
        return Orders(self.around.data.cursors, destination_id, self.disk)

    def measured(self, destination_ids: Sequence[str]) -> list[DestinationStatus]:
        """Return how deliveries are doing."""
        data = self.around.data
        if not destination_ids:
            return []
        with contextlib.closing(LedgerReader(data.ledger)) as reader:
            return DestinationMeter(data.cursors, destination_ids, reader, self.around.wall_us).measure()

    def _delivery(self, one: DestinationSettings, make: Callable[[], Destination]) -> Delivery:
        data, wall_us = self.around.data, self.around.wall_us
        entitlement = _entitlement(one, self.registry, data)
        entitlement.check(one.name)
        lanes = [make() for _ in range(one.concurrency)]
        limits = _limits(one, lanes[0].limits)
        reader = LedgerReader(data.ledger)  # its own: readers are of one thread
        dead_letters = DeadLetters(data.cursors, one.name, self.disk)
        begun = DestinationStatus(
            name=one.name,
            kind=one.kind,
            endpoint=one.endpoint,
            skipped={},
            dead_letters=len(dead_letters),
            window_seconds=limits.oldest_seconds or 0,
        )
        return Delivery(
            DeliveryTerms(
                name=one.name,
                limits=limits,
                linger_seconds=one.linger_seconds,
                paused_seconds=one.paused_seconds,
            ),
            lanes=Lanes(one.name, lanes),
            fitting=Fitting(limits, WhenTooOld(one.when_too_old), lanes[0].measure),
            source=_source(one, reader, entitlement, wall_us),
            ledger=LedgerPosition(reader, from_end=one.start == "end"),
            files=self._files(one, dead_letters),
            report=Report(data.cursors, begun, wall_us),
            backoff=Backoff(),
            wall_us=wall_us,
        )

    def _files(self, one: DestinationSettings, dead_letters: DeadLetters) -> Files:
        cursors, days = self.around.data.cursors, one.receipt_days
        receipts = SegmentReceipts(
            cursors, one.name, self.disk, self.keys.notes, days=days, wall_us=self.around.wall_us
        )
        return Files(CursorFile(cursors, one.name, self.disk), self.orders(one.name), dead_letters, receipts)


def destination_source(
    one: DestinationSettings, data: DataDirectory, registry: Registry, reader: LedgerReader, wall_us: Callable[[], int]
) -> EntrySource:
    """Return what of a ledger a destination is to have, as its delivery reads it; errors as `EntrySource.read`."""
    return _source(one, reader, _entitlement(one, registry, data), wall_us)


def _entitlement(one: DestinationSettings, registry: Registry, data: DataDirectory) -> Entitlement:
    return Entitlement(registry, Policies.load(), wanted=one.organizations, org_salt=lambda: _org_salt(data))


def _source(
    one: DestinationSettings, reader: LedgerReader, entitlement: Entitlement, wall_us: Callable[[], int]
) -> EntrySource:
    wanted = Wanted(frozenset(one.event_types), frozenset(one.statuses), frozenset(one.actors))
    heartbeats_of = one.name if one.heartbeat_seconds else None
    return EntrySource(reader, entitlement, lambda: day_of(wall_us()), wanted, heartbeats_of)


def _limits(one: DestinationSettings, own: Limits) -> Limits:
    """Return the destination's own limits, or less."""
    return replace(
        own,
        entries=min(one.batch_entries or own.entries, own.entries),
        encoded_bytes=min(one.batch_bytes or own.encoded_bytes, own.encoded_bytes),
    )


def _org_salt(data: DataDirectory) -> bytes:
    try:
        return (data.keys / "org-salt").read_bytes()
    except OSError as error:
        raise OrganizationsUnknown(f"{data.keys / 'org-salt'} cannot be read: {error.strerror}.") from error
