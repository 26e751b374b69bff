"""A follower killed while a cloud has a batch that it does not know of; what it writes down holds no secret."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from klyra_collector.data_directory import DataDirectory
from support.certificates import Authority
from support.siem import azure, google, moto
from support.siem.cloud_server import serving
from support.siem.killing import Killing, Ledger, await_that, entries_of, following, sealed_ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

for library in ("moto", "azure.identity", "google.cloud.logging_v2"):
    pytest.importorskip(library, reason=f"for want of {library}")

BATCH = 7


@dataclass(frozen=True)
class Case:
    """A cloud, and a configuration for it.

    Attributes:
        killing: between the cloud and whoever sends.
        received: says which entry ids are there.
        configuration: a file with one destination.
        environment: the secrets to which it refers.
    """

    killing: Killing
    received: Callable[[], list[str]]
    configuration: Path
    environment: dict[str, str]

    def secrets(self) -> list[str]:
        """Return what nobody may see, also in part."""
        return [line for value in self.environment.values() for line in value.split("\\n") if len(line) > 20]


def configured(folder: Path, kind: str, url: str, options: dict[str, str], *more: str) -> Path:
    """Return a file with one destination, named for its kind."""
    lines = ["[[destination]]", f'name = "{kind}"', f'kind = "{kind}"', f'endpoint = "{url}"', *more]
    lines += [f"batch_entries = {BATCH}", "linger_seconds = 0.05", "heartbeat_seconds = 0", "[destination.options]"]
    lines += [f"{option} = {json.dumps(value)}" for option, value in options.items()]
    path = folder / f"{kind}.toml"
    path.write_text("\n".join([*lines, ""]))
    return path


@contextlib.contextmanager
def amazon(folder: Path) -> Iterator[Case]:
    """CloudWatch Logs; its log stream is there already."""
    with moto.running() as upstream, moto.cloudwatch(upstream) as (_, strict):
        strict.ask("CreateLogStream", {"logGroupName": moto.GROUP, "logStreamName": "klyra"})
        killing = Killing(strict, "/")
        with serving(killing) as server:
            options = {"log_group": moto.GROUP, "log_stream": "klyra", "region": moto.REGION}
            options |= {"access_key_id": moto.KEY_ID, "secret_access_key": "env:AWS_SECRET"}
            path = configured(folder, "cloudwatch", server.url, options)
            yield Case(
                killing,
                lambda: [json.loads(event["message"])["id"] for event in strict.accepted],
                path,
                {"AWS_SECRET": moto.SECRET},
            )


@contextlib.contextmanager
def microsoft(folder: Path) -> Iterator[Case]:
    """Azure Monitor."""
    authority = Authority(folder)
    files = authority.issue("azure")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    table = azure.Ingestion(azure.Issuer())
    killing = Killing(table, "/dataCollectionRules")
    with serving(table.issuer, context) as login, serving(killing, context) as server:
        options = {"data_collection_rule": azure.RULE, "authority": login.url.removeprefix("https://")}
        options |= {"tenant_id": azure.TENANT, "client_id": azure.CLIENT, "client_secret": "env:AZURE_SECRET"}
        path = configured(folder, "azure-monitor", server.url, options, f'ca_file = "{authority.certificate}"')
        yield Case(killing, table.ids, path, {"AZURE_SECRET": azure.CLIENT_SECRET})


@contextlib.contextmanager
def alphabet(folder: Path) -> Iterator[Case]:
    """Google Cloud Logging."""
    account = google.ServiceAccount()
    logs = google.CloudLogging(account)
    killing = Killing(logs, "/v2/entries:write")
    with serving(killing) as server:
        options = {"project": google.PROJECT, "credentials": "env:GOOGLE_KEY"}
        path = configured(folder, "google-cloud-logging", server.url, options)
        yield Case(killing, lambda: google.insert_ids(logs.written), path, {"GOOGLE_KEY": account.key_file()})


CASES = {"cloudwatch": amazon, "azure-monitor": microsoft, "google-cloud-logging": alphabet}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> Ledger:
    """One for all tests: each has a cursor of its own."""
    return sealed_ledger(tmp_path_factory.mktemp("killed") / "data")


@pytest.mark.parametrize("kind", sorted(CASES))
def test_killed_between_taken_and_cursor(ledger, tmp_path, kind) -> None:
    """The batch in flight is there twice, all others once; nothing is missing; no secret is written."""
    with CASES[kind](tmp_path) as case:
        log = case.configuration.with_suffix(".log")
        with following(ledger, case.configuration, case.environment) as process:
            case.killing.process = process
            await_that(lambda: process.poll() is not None, "the kill", log)
        with following(ledger, case.configuration, case.environment):
            await_that(lambda: set(ledger.entry_ids) <= set(case.received()), "the rest", log)
            await_that(lambda: entries_of(ledger, kind) >= len(ledger.entry_ids) - BATCH, "the cursor", log)
        received = case.received()
    assert list(dict.fromkeys(received)) == ledger.entry_ids
    repeated = {entry_id for entry_id in received if received.count(entry_id) > 1}
    assert repeated == set(ledger.entry_ids[BATCH : 2 * BATCH])
    assert len(received) == len(ledger.entry_ids) + BATCH
    written = log.read_text() + "".join(path.read_text() for path in DataDirectory(ledger.root).cursors.iterdir())
    assert not [secret for secret in case.secrets() if secret in written]


@pytest.mark.parametrize("kind", sorted(CASES))
def test_the_command_line_shows_no_secret(ledger, tmp_path, kind) -> None:
    """`destination test` says whether all is right, and shows what the vendor says without what it repeats of ours."""
    with CASES[kind](tmp_path) as case:
        other = google.ServiceAccount().key_file() if kind == "google-cloud-logging" else "wrong-that-nobody-may-see"
        wrong = dict.fromkeys(case.environment, other)
        for variables, status in ((case.environment, 0), (wrong, 1)):
            command = [sys.executable, "-m", "klyra_collector", "destination", "test", kind]
            command += ["--config", str(case.configuration), "--data", str(ledger.root)]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, check=False)
            told = done.stdout + done.stderr
            assert done.returncode == status, told
            assert not [secret for secret in (*case.secrets(), "nobody-may-see", *other.split("\\n")) if secret in told]
