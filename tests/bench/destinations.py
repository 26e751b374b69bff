"""From the ledger to every kind of destination, into far sides that take everything and keep nothing.

"Per core" divides by the processor time of this process, which reads, checks, writes records, signs, compresses and
sends; the far side is a process of its own.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from klyra_audit import timestamps
from klyra_collector.data_directory import DataDirectory
from klyra_collector.fanout.signing import destination_key
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.identity import open_key_files
from klyra_collector.seal.ledger import Ledger
from klyra_siem import azure_monitor, cloudwatch, datadog, google_cloud_logging, otlp, splunk, sumo_logic
from klyra_siem.cloud_requests import Redaction
from klyra_siem.cloud_tokens import Token
from klyra_siem.formats import NAMES, record_format
from support.delivering import Bench
from support.records import record, submission
from support.sealing import OPTIONS
from support.siem import azure, google, moto
from support.siem.cloud import options
from support.siem.sumo_logic import PATH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klyra_audit.audit_integrity import RecordKey
    from klyra_siem.destination import Destination, DestinationOptions

_BATCH = 512
_FORMAT = "native"


def to_destinations(root: Path, events: int, say: Callable[[str], None]) -> None:
    """Seal events, then deliver them to each kind, and in each format to one."""
    seal(DataDirectory(root), events)
    key = signing_key(DataDirectory(root))
    say(f"\nledger to destinations that keep nothing, {events} events, gzip where the vendor takes it")
    with nothing() as url:
        for kind, make in KINDS.items():
            signed, unsigned = (_deliver(root, make(url, _FORMAT, one)) for one in (key, None))
            say(f"  {events / signed:10,.0f} events/s per core to {kind}, {events / unsigned:,.0f} unsigned")
        for written in NAMES:
            used = _deliver(root, KINDS["splunk"](url, written, key))
            say(f"  {events / used:10,.0f} events/s per core to splunk as {written}")


def signing_key(data: DataDirectory) -> RecordKey:
    """Return the key of delivered records."""
    with contextlib.closing(Disk()) as disk:
        return destination_key(open_key_files(data, disk, None))


def _deliver(root: Path, destination: Destination) -> float:
    """Return the processor time of delivering everything."""
    for path in DataDirectory(root).cursors.glob("*"):
        path.unlink()
    with contextlib.closing(destination):
        bench = Bench(root, destination, limits=destination.limits)
        bench.now_us = time.time_ns() // 1000
        bench.today = timestamps.day_of(bench.now_us)
        used = time.process_time()
        bench.deliver()
        used = time.process_time() - used
        assert bench.status().state == "delivering", bench.status()
        bench.close()
    return used


class _NoIssuer:
    """Gives a token that nobody looks at."""

    def fetch(self) -> Token:
        """See `TokenFetcher`."""
        return Token("token", time.time() + 3600)

    def forget(self) -> None:
        """See `TokenFetcher`."""


def _azure(made_of: DestinationOptions) -> Destination:
    url = azure_monitor.stream_url(made_of.endpoint, azure.RULE, azure.STREAM)
    return azure_monitor.AzureMonitor(made_of, url, _NoIssuer(), Redaction())


def _made(
    create: Callable[[DestinationOptions], Destination], path: str = "", **settings: str | bool
) -> Callable[[str, str, RecordKey | None], Destination]:
    """Return what makes a kind of destination for a server, a format and a key."""

    def make(url: str, written: str, key: RecordKey | None) -> Destination:
        return create(options(url + path, settings, key=key, record=record_format(written, key), timeout_seconds=30.0))

    return make


KINDS = {
    "otlp": _made(otlp.create, "/v1/logs"),
    "splunk": _made(splunk.create, token="any-token-will-do", acknowledge=False),
    "datadog": _made(datadog.create, api_key="any-key-will-do"),
    "sumo-logic": _made(sumo_logic.create, PATH),
    "cloudwatch": _made(
        cloudwatch.create,
        log_group=moto.GROUP,
        region=moto.REGION,
        access_key_id=moto.KEY_ID,
        secret_access_key=moto.SECRET,
    ),
    "azure-monitor": _made(_azure),
    "google-cloud-logging": _made(
        google_cloud_logging.create, project=google.PROJECT, credentials=google.ServiceAccount().key_file()
    ),
}


def seal(data: DataDirectory, events: int) -> None:
    """Seal some events of this moment."""
    now = timestamps.from_microseconds(time.time_ns() // 1000)
    with (
        contextlib.closing(Disk()) as disk,
        contextlib.closing(Ledger.open(data, disk, SystemClock(), OPTIONS)) as ledger,
    ):
        for _ in range(events // _BATCH):
            ledger.commit([submission(*(record(timestamp=now) for _ in range(_BATCH)))])


@contextlib.contextmanager
def nothing() -> Iterator[str]:
    """Run a far side that takes everything and keeps nothing."""
    command = [sys.executable, str(Path(__file__).with_name("null_destinations.py"))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
