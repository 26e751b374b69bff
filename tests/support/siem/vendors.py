"""Every vendor's stand-in behind one face, and as many destinations for it as a test wants, one after the other."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from klyra_siem import azure_monitor, cloudwatch, datadog, google_cloud_logging, otlp, splunk, sumo_logic
from support.siem.cloud import options
from support.siem.cloud_server import serving
from support.siem.clouds import alphabet, amazon, microsoft
from support.siem.intakes import NoTime, datadog_intake, splunk_acknowledged, splunk_hec, sumo_logic_source
from support.siem.otlp_grpc_receiver import receiving
from support.siem.otlp_receiver import PATH, TOKEN, Receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from klyra_siem.destination import Destination, DestinationOptions
    from support.siem.cloud_server import CloudServer
    from support.siem.clouds import Cloud
    from support.siem.datadog import StrictIntake
    from support.siem.intakes import Intake

MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True, repr=False)
class Vendor:
    """A vendor's service, and how one gets a destination for it.

    Attributes:
        kind: of the configuration, and what is special about this one.
        server: where faults are planned.
        made_of: what `create` is given unless somebody wants something else.
        create: makes a destination.
        received: says which entry ids are there, in order, repeats included.
        spoil: has the service refuse an entry id from now on.
        forget: takes away all that is there.
        set_clock: says what time it is there, microseconds since 1970.
        path: behind the address of an endpoint.
        scheme: of its address.
        breath_seconds: until its client makes a new connection after one was lost.
    """

    kind: str
    server: CloudServer
    made_of: DestinationOptions
    create: Callable[[DestinationOptions], Destination]
    received: Callable[[], list[str]]
    spoil: Callable[[str], None]
    forget: Callable[[], None]
    set_clock: Callable[[int], None] = lambda _: None
    path: str = ""
    scheme: str = "http"
    breath_seconds: float = 0.0

    def __repr__(self) -> str:
        return self.kind

    def _repr_pretty_(self, printer: Any, _is_cycle: bool) -> None:  # noqa: FBT001 - how hypothesis asks for it
        printer.text(self.kind)

    def make(self, **changes: Any) -> Destination:
        """Return a new destination; `changes` are members of `DestinationOptions`."""
        return self.create(replace(self.made_of, **changes))


def _splunk(made_of: DestinationOptions) -> Destination:
    return splunk.SplunkHec(made_of, splunk.HecSettings.read(made_of), NoTime())


def _of(kind: str, one: Intake | Cloud, create: Callable[[DestinationOptions], Destination], **members: Any) -> Vendor:
    return Vendor(kind=kind, server=one.server, made_of=one.made_of, create=create, received=one.received, **members)


@contextlib.contextmanager
def splunk_vendor() -> Iterator[Vendor]:
    """Splunk."""
    with splunk_hec() as one:
        yield _of("splunk", one, _splunk, spoil=one.poison.add, forget=one.service.forget)


@contextlib.contextmanager
def splunk_acknowledged_vendor() -> Iterator[Vendor]:
    """Splunk with indexer acknowledgement."""
    with splunk_acknowledged() as one:
        yield _of("splunk, acknowledged", one, _splunk, spoil=one.poison.add, forget=one.service.forget)


@contextlib.contextmanager
def datadog_vendor() -> Iterator[Vendor]:
    """Datadog."""
    with datadog_intake() as one:
        service: StrictIntake = one.service

        def set_clock(now_us: int) -> None:
            service.now = now_us / MICROSECONDS

        yield _of(
            "datadog", one, datadog.create, spoil=one.poison.add, forget=service.indexed.clear, set_clock=set_clock
        )


@contextlib.contextmanager
def sumo_logic_vendor() -> Iterator[Vendor]:
    """Sumo Logic."""
    with sumo_logic_source() as one:
        path = one.made_of.endpoint.removeprefix(one.server.url)
        yield _of("sumo-logic", one, sumo_logic.create, spoil=one.poison.add, forget=one.service.lines.clear, path=path)


@contextlib.contextmanager
def cloudwatch_vendor() -> Iterator[Vendor]:
    """CloudWatch Logs."""
    with amazon() as one:
        strict = one.service

        def set_clock(now_us: int) -> None:
            strict.behind_ms = int(time.time() * 1000) - now_us // 1000

        stream = str(one.made_of.settings["log_stream"])
        create = cloudwatch.create
        yield _of("cloudwatch", one, create, spoil=one.spoil, forget=lambda: strict.empty(stream), set_clock=set_clock)


@contextlib.contextmanager
def azure_vendor() -> Iterator[Vendor]:
    """Azure Monitor."""
    with microsoft() as one:
        table = one.service

        def set_clock(now_us: int) -> None:
            table.now = now_us / MICROSECONDS

        yield _of(
            "azure-monitor", one, azure_monitor.create, spoil=one.spoil, forget=table.rows.clear, set_clock=set_clock
        )


@contextlib.contextmanager
def google_vendor() -> Iterator[Vendor]:
    """Google Cloud Logging."""
    with alphabet() as one:
        yield _of(
            "google-cloud-logging", one, google_cloud_logging.create, spoil=one.spoil, forget=one.service.written.clear
        )


@contextlib.contextmanager
def otlp_vendor() -> Iterator[Vendor]:
    """An OTLP receiver over HTTP."""
    receiver = Receiver()
    with serving(receiver) as server:
        yield Vendor(
            kind="otlp",
            server=server,
            made_of=options(server.url + PATH, {}, headers={"Authorization": f"Bearer {TOKEN}"}),
            create=otlp.create,
            received=receiver.ids,
            spoil=receiver.poison.add,
            forget=receiver.taken.clear,
            path=PATH,
        )


@contextlib.contextmanager
def otlp_grpc_vendor() -> Iterator[Vendor]:
    """An OTLP receiver over gRPC."""
    with receiving() as made:
        yield Vendor(
            kind="otlp, gRPC",
            server=made.server,
            made_of=options(made.server.url, {}, headers={"Authorization": f"Bearer {TOKEN}"}),
            create=otlp.create,
            received=made.receiver.ids,
            spoil=made.receiver.poison.add,
            forget=made.receiver.taken.clear,
            scheme="grpc",
            breath_seconds=0.05,
        )


VENDORS = {
    "azure-monitor": azure_vendor,
    "cloudwatch": cloudwatch_vendor,
    "datadog": datadog_vendor,
    "google-cloud-logging": google_vendor,
    "otlp": otlp_vendor,
    "otlp, gRPC": otlp_grpc_vendor,
    "splunk": splunk_vendor,
    "splunk, acknowledged": splunk_acknowledged_vendor,
    "sumo-logic": sumo_logic_vendor,
}
LIBRARIES = ("moto", "azure.identity", "google.cloud.logging_v2")  # that some of them need
