"""The three clouds behind one face, for tests of what is the same for all of them."""

from __future__ import annotations

import contextlib
import json
import ssl
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from klyra_siem import azure_monitor, cloudwatch, google_cloud_logging
from klyra_siem.destination import TlsOptions
from support.certificates import Authority
from support.siem import azure, google, moto
from support.siem.cloud import PlainFormat, options
from support.siem.cloud_server import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klyra_siem.destination import Destination, DestinationOptions, RecordFormat
    from support.siem.cloud_server import CloudServer

PLAIN = PlainFormat()


@dataclass
class Cloud:
    """A vendor's service and a destination for it.

    Attributes:
        server: where faults are planned.
        service: what takes the requests.
        made_of: what `create` would be given.
        destination: that sends there.
        received: says which entry ids are there, repeats included.
        rows: gives what is there as the vendor exports it.
        spoil: has the service refuse an entry id from now on.
    """

    server: CloudServer
    service: moto.StrictMoto | azure.Ingestion | google.CloudLogging
    made_of: DestinationOptions
    destination: Destination
    received: Callable[[], list[str]]
    rows: Callable[[], list[dict[str, Any]]]
    spoil: Callable[[str], None]


@contextlib.contextmanager
def amazon(record: RecordFormat = PLAIN, now: float | None = None) -> Iterator[Cloud]:
    """CloudWatch Logs."""
    with moto.running() as upstream, moto.cloudwatch(upstream) as (server, strict):
        strict.behind_ms = 0 if now is None else int((time.time() - now) * 1000)
        strict.ask("CreateLogStream", {"logGroupName": moto.GROUP, "logStreamName": "klyra"})
        settings = {
            "log_group": moto.GROUP,
            "region": moto.REGION,
            "log_stream": "klyra",
            "access_key_id": moto.KEY_ID,
            "secret_access_key": moto.SECRET,
        }
        made_of = options(server.url, settings, record=record)
        with contextlib.closing(cloudwatch.create(made_of)) as made:
            yield Cloud(
                server,
                strict,
                made_of,
                made,
                received=lambda: [json.loads(event["message"])["id"] for event in strict.accepted],
                rows=lambda: [{"@message": message} for message in strict.messages("klyra")],
                spoil=strict.poison.add,
            )


@contextlib.contextmanager
def microsoft(record: RecordFormat = PLAIN, now: float | None = None) -> Iterator[Cloud]:
    """Azure Monitor."""
    issuer = azure.Issuer()
    table = azure.Ingestion(issuer, now=now)
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder))
        files = authority.issue("azure")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        with serving(issuer, context) as login, serving(table) as server:
            settings = {
                "data_collection_rule": azure.RULE,
                "tenant_id": azure.TENANT,
                "client_id": azure.CLIENT,
                "client_secret": azure.CLIENT_SECRET,
                "authority": login.url.removeprefix("https://"),
            }
            tls = TlsOptions(ca_file=authority.certificate)
            made_of = options(server.url, settings, tls=tls, record=record)
            with contextlib.closing(azure_monitor.create(made_of)) as made:
                yield Cloud(
                    server,
                    table,
                    made_of,
                    made,
                    received=table.ids,
                    rows=lambda: list(table.rows),
                    spoil=table.poison.add,
                )


@contextlib.contextmanager
def alphabet(record: RecordFormat = PLAIN, now: float | None = None) -> Iterator[Cloud]:
    """Google Cloud Logging."""
    account = google.ServiceAccount()
    logs = google.CloudLogging(account)
    with serving(logs) as server:
        settings = {"project": google.PROJECT, "credentials": account.key_file()}
        made_of = options(server.url, settings, record=record)
        with contextlib.closing(google_cloud_logging.create(made_of)) as made:
            yield Cloud(
                server,
                logs,
                made_of,
                made,
                received=lambda: google.insert_ids(logs.written),
                rows=lambda: list(logs.written),
                spoil=logs.poison.add,
            )


CLOUDS = {"cloudwatch": amazon, "azure-monitor": microsoft, "google-cloud-logging": alphabet}
