"""The three processes: build the objects, run until told to stop, leave cleanly. Each can run alone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import secrets
import signal
import threading
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import structlog

from klyra_audit import resources
from klyra_audit.catalog import Catalog
from klyra_audit.validation import Validator
from klyra_collector.fair_budget import FairBudget
from klyra_collector.observe import CollectorMetrics, ExpiryMetrics, TlsMetrics
from klyra_collector.receive.forward.assembly import receiving_forward
from klyra_collector.receive.ingest import Ingest
from klyra_collector.receive.listening import listen, unlinked_at_end
from klyra_collector.receive.otlp_grpc import receiving_grpc
from klyra_collector.receive.otlp_http import create_app
from klyra_collector.receive.outbox import OutboxDrain
from klyra_collector.receive.rates import OrganizationRates
from klyra_collector.receive.receipts import Receipts
from klyra_collector.receive.senders import Senders
from klyra_collector.receive.tls import load_tls
from klyra_collector.registry import Registry
from klyra_collector.registry.policies import Policies
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.expiry_clock import ExpiryClock
from klyra_collector.seal.expiry_task import expiring, witness_clock
from klyra_collector.seal.identity import KeyOptions
from klyra_collector.seal.ledger import Ledger, LedgerOptions
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.seal.sealer import Sealer
from klyra_collector.supervise.elasticsearch import follow_into_elasticsearch
from klyra_collector.supervise.flow import pipeline_of, replays_of
from klyra_collector.supervise.http_server import HttpLimits, serve_http
from klyra_collector.witness.assembly import witnessing

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from klyra_collector.config import Settings
    from klyra_collector.fanout.assembly import Surroundings
    from klyra_collector.query.destinations import DestinationRules
    from klyra_collector.query.services import PublicLog

Role = Literal["collector", "follower", "api"]
ROLES: tuple[Role, ...] = ("collector", "follower", "api")

_CURSOR_KEY_BYTES = 32
_PROGRESS_LEAVES = 1_000_000
_OPEN_FILES = 65536
_OBJECTS_BETWEEN_COLLECTIONS = 200_000  # several times what a batch of 5,000 records is made of

_log = structlog.get_logger(__name__)


def run_role(role: Role, settings: Settings, on_ready: Callable[[dict[str, str]], None]) -> None:
    """Run one role until SIGTERM or SIGINT.

    Args:
        role: which.
        settings: everything configured.
        on_ready: called once with the addresses that answer now.
    """
    {"collector": run_collector, "follower": run_follower, "api": run_api}[role](settings, on_ready)


def ledger_options(settings: Settings, catalog: Catalog, *, confirm_clock: bool = False) -> LedgerOptions:
    """Return what the ledger's writer is told at start."""
    return LedgerOptions(
        software=f"klyra-audit {version('klyra-audit')}",
        schemas=catalog.schema_hashes(),
        ledger_name=settings.ledger.name,
        collector_id=settings.collector.id,
        confirm_clock=confirm_clock,
        recognised_days=settings.intake.recognised_days,
        on_progress=_log_progress,
        keys=KeyOptions(
            signer=settings.ledger.signer,
            outgoing_signer=settings.ledger.outgoing_signer,
            passphrase=settings.ledger.key_passphrase,
        ),
        cell=settings.ledger.cell,
    )


def run_collector(settings: Settings, on_ready: Callable[[dict[str, str]], None]) -> None:
    """Receive, validate, seal."""
    _allow_open_files()
    catalog = Catalog.load(settings.catalog)
    clock = SystemClock()
    disk = Disk()
    with (
        unlinked_at_end(listen(settings.otlp.http, "otlp.http.listen")) as listening,
        contextlib.closing(Registry.open(settings.registry_url, catalog)) as registry,
        contextlib.closing(disk),
        contextlib.closing(
            Ledger.open(
                settings.data_directory,
                disk,
                clock,
                ledger_options(settings, catalog, confirm_clock=settings.confirm_clock),
            )
        ) as ledger,
    ):
        _log_opening(ledger)
        metrics = CollectorMetrics(registry)
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(_serve_collector(settings, registry, ledger, catalog, metrics, listening, on_ready))


async def _serve_collector(
    settings: Settings,
    registry: Registry,
    ledger: Ledger,
    catalog: Catalog,
    metrics: CollectorMetrics,
    listening: socket.socket,
    on_ready: Callable[[dict[str, str]], None],
) -> None:
    validator = Validator(catalog)
    senders = Senders(registry)
    sealer = Sealer(
        ledger,
        metrics,
        max_waiting_bytes=settings.intake.max_waiting_bytes,
        max_waiting_seconds=settings.intake.max_waiting_seconds,
    )
    metrics.watch_waiting(lambda: sealer.oldest_waiting_seconds, lambda: sealer.waiting_bytes)
    metrics.watch_shard(lambda: ledger.year_start_us)
    pipeline = pipeline_of(settings, senders=senders, catalog=catalog, validator=validator, sealer=sealer)
    intake = settings.intake
    ingest = Ingest(
        pipeline=pipeline,
        senders=senders,
        budget=FairBudget(intake.max_inflight_bytes),
        rates=OrganizationRates(intake.organization_events_per_second, intake.organization_burst),
        observer=metrics,
        max_request_bytes=intake.max_request_bytes,
        body_seconds=settings.otlp.http.body_seconds,
    )
    drain = OutboxDrain(
        registry=registry,
        sealer=sealer,
        ledger=ledger,
        catalog=catalog,
        validator=validator,
        wall_us=SystemClock().wall_us,
        replays=replays_of(settings, pipeline=pipeline, registry=registry, ledger=ledger, sealer=sealer),
    )
    stop_draining = asyncio.Event()
    sealing = asyncio.create_task(sealer.run())
    draining = asyncio.create_task(drain.run(stop_draining))
    receipts = Receipts(settings.data_directory, ledger.identity.org_salt)
    app = create_app(ingest, receipts, metrics.render, lambda: ledger.halted is None)
    # Everything made so far lives as long as the process; walking it again and again cost a fifth of the hot path.
    gc.collect()
    gc.freeze()
    cosigned = witnessing(
        settings.witness.policy,
        settings.witness.interval_seconds,
        ledger=ledger,
        data=settings.data_directory,
        on_thread=sealer.on_thread,
        prometheus=metrics.prometheus,
    )
    certificates = TlsMetrics(metrics.prometheus)
    forward = receiving_forward(
        settings.forward,
        tls=load_tls(settings.forward.tls, "forward.tls", certificates),
        ingest=ingest,
        catalog=catalog,
        prometheus=metrics.prometheus,
    )
    otlp = settings.otlp
    grpc = receiving_grpc(otlp.grpc, ingest=ingest, tls=load_tls(otlp.grpc.tls, "otlp.grpc.tls", certificates))
    try:
        async with (
            cosigned,
            _expiring(settings, ledger, sealer, metrics),
            grpc as grpc_address,
            forward as forward_address,
        ):
            addresses = {"otlp_grpc": grpc_address}
            if forward_address is not None:
                addresses["forward"] = forward_address
            await serve_http(
                app,
                listening,
                lambda url: on_ready({"otlp_http": url, **addresses}),
                limits=HttpLimits(otlp.http.max_connections, otlp.http.header_seconds, otlp.http.idle_seconds),
                tls=load_tls(otlp.http.tls, "otlp.http.tls", certificates),
            )
    finally:
        # The order matters: no more requests, then no more commands, then everything that waits is answered.
        stop_draining.set()
        await draining
        sealer.close()
        await sealing
        receipts.close()


def _expiring(
    settings: Settings, ledger: Ledger, sealer: Sealer, metrics: CollectorMetrics
) -> contextlib.AbstractAsyncContextManager[None]:
    """Return what expires bodies for as long as it is entered."""
    clock = SystemClock()
    expiry_clock = ExpiryClock(clock, ledger.found_us, settings.confirm_clock)
    observer = ExpiryMetrics(metrics.prometheus, clock.wall_us)
    return expiring(
        ledger, settings.data_directory, expiry_clock, witness_clock(settings.witness.policy), sealer, observer
    )


def run_follower(settings: Settings, on_ready: Callable[[dict[str, str]], None]) -> None:
    """Copy what is sealed into the store, and to every destination."""
    from klyra_collector.fanout.assembly import fanning_out  # noqa: PLC0415 - a role loads what it needs
    from klyra_collector.store.follower import Follower  # noqa: PLC0415

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    collect_rarely()
    reader = LedgerReader(settings.data_directory.ledger)
    with contextlib.closing(reader), fanning_out(settings.destination, _surroundings(settings)):
        if settings.store.is_elasticsearch:
            on_ready({})
            follow_into_elasticsearch(settings, reader, stop)
            return
        from klyra_collector.store.sqlite import SqliteStore  # noqa: PLC0415 - a role loads what it needs

        with contextlib.closing(SqliteStore.open(settings.store_path)) as store:
            on_ready({})
            Follower(reader, store).run(stop)


def collect_rarely() -> None:
    """Let the garbage collector look less often: walking each batch again and again cost a third of the follower."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


def _surroundings(settings: Settings) -> Surroundings:
    from klyra_collector.fanout.assembly import Surroundings  # noqa: PLC0415 - a role loads what it needs

    return Surroundings(
        data=settings.data_directory,
        registry_url=settings.registry_url,
        passphrase=settings.ledger.key_passphrase,
        catalog=Catalog.load(settings.catalog),
        wall_us=SystemClock().wall_us,
        self_service=settings.self_service,
    )


def _destination_rules(settings: Settings) -> DestinationRules | None:
    from klyra_collector.destination_kinds import make_destination  # noqa: PLC0415 - a role loads what it needs
    from klyra_collector.query.destinations import DestinationRules  # noqa: PLC0415
    from klyra_collector.self_service.checking import Rules  # noqa: PLC0415

    if not settings.self_service.enabled:
        return None
    return DestinationRules(Rules(settings.self_service.allowed_hosts, make_destination))


def run_api(settings: Settings, on_ready: Callable[[dict[str, str]], None]) -> None:
    """Answer queries and serve the page."""
    from klyra_collector.destination_status import DestinationMeter  # noqa: PLC0415 - a role loads what it needs
    from klyra_collector.query.app import create_app as create_api  # noqa: PLC0415
    from klyra_collector.query.metrics import Followers  # noqa: PLC0415
    from klyra_collector.store.lag import LagMeter  # noqa: PLC0415
    from klyra_collector.supervise.answering import answering  # noqa: PLC0415
    from klyra_collector.supervise.listing import quarantine_of  # noqa: PLC0415

    catalog = Catalog.load(settings.catalog)
    listening = listen(settings.api, "api.listen")
    with (
        contextlib.closing(listening),
        contextlib.closing(Registry.open(settings.registry_url, catalog)) as registry,
        answering(settings) as stored,
        contextlib.closing(LedgerReader(settings.data_directory.ledger)) as reader,
        contextlib.closing(LedgerReader(settings.data_directory.ledger)) as destination_reader,
    ):
        clock = SystemClock().wall_us
        names = [one.name for one in settings.destination]
        meter = DestinationMeter(settings.data_directory.cursors, names, destination_reader, clock)
        app = create_api(
            registry=registry,
            store=stored.entries,
            catalog=catalog,
            policies=Policies.load(),
            dashboard=resources.folder("dashboards") / "web",
            clock=clock,
            cursor_key=_cursor_key(settings),
            followers=Followers(LagMeter(reader, stored.entries, clock).measure, meter.measure, stored.writing),
            public_log=_public_log(settings),
            quarantine=quarantine_of(settings, stored.quarantine),
            destinations=_destination_rules(settings),
        )
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(serve_http(app, listening, lambda url: on_ready({"api": url})))


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 - absent on platforms it does not support

    return uvloop.new_event_loop()


def _public_log(settings: Settings) -> PublicLog:
    """Return what the API publishes of the ledger beside it."""
    from klyra_collector.publish.packet_jobs import PacketFolder  # noqa: PLC0415 - a role loads what it needs
    from klyra_collector.publish.policy import PolicyPublisher  # noqa: PLC0415
    from klyra_collector.publish.published import PublishedLedger  # noqa: PLC0415
    from klyra_collector.query.packets import Packets  # noqa: PLC0415
    from klyra_collector.query.services import PublicLog  # noqa: PLC0415
    from klyra_collector.witnessed import load_policy, newest_time  # noqa: PLC0415

    ledger = PublishedLedger(settings.data_directory.ledger)
    chosen = None if settings.witness.policy is None else load_policy(settings.witness.policy)
    return PublicLog(
        ledger=ledger,
        policy=PolicyPublisher(ledger, chosen),
        public_entries=settings.log.public_entries,
        witnessed_at=lambda: None if chosen is None else newest_time(settings.data_directory.ledger, chosen),
        packets=Packets(
            folder=PacketFolder(settings.data_directory.exports, ledger),
            org_salt=(settings.data_directory.keys / "org-salt").read_bytes,
            software=f"klyra-audit {version('klyra-audit')}",
        ),
    )


def _cursor_key(settings: Settings) -> bytes:
    """Return the key that signs page cursors, made on first use; it guards nothing but their integrity."""
    path = settings.data_directory.keys / "cursor.key"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        disk = Disk()
        with contextlib.closing(disk):
            disk.replace(path, secrets.token_bytes(_CURSOR_KEY_BYTES), mode=0o600)
    return path.read_bytes()


def _allow_open_files() -> None:
    """Let connections be as many as the system allows, up to a bound: the ledger must always get its own files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _log_opening(ledger: Ledger) -> None:
    _log.info("ledger_open", origin=ledger.origin, size=ledger.size)
    cut = ledger.recovered.cut
    if cut is not None:
        _log.warning("ledger_recovered", kept=cut.size, cut=cut.count, reason=cut.reason)


def _log_progress(done: int, total: int) -> None:
    if total >= _PROGRESS_LEAVES and done % _PROGRESS_LEAVES < 8192:  # noqa: PLR2004 - once per million
        _log.info("recovering", leaves=done, of=total, at=time.strftime("%H:%M:%S"))
