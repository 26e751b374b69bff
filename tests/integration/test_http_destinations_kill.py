"""A follower killed while Splunk, Datadog or Sumo Logic have a batch that it does not know of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from klyra_collector.data_directory import DataDirectory
from support.siem.cloud_server import serving
from support.siem.datadog import API_KEY, StrictIntake
from support.siem.killing import Killing, Ledger, await_that, entries_of, following, sealed_ledger
from support.siem.splunk import ACK, TOKEN, StrictHec
from support.siem.sumo_logic import CODE, PATH, StrictSource

if TYPE_CHECKING:
    from pathlib import Path

    from support.siem.cloud_server import CloudServer

BATCH = 7
SECRETS = {"SPLUNK_TOKEN": TOKEN, "DATADOG_API_KEY": API_KEY}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> Ledger:
    """One for all tests: each has a cursor of its own."""
    return sealed_ledger(tmp_path_factory.mktemp("killed") / "data")


def configured(folder: Path, name: str, kind: str, server: CloudServer, **settings: Any) -> tuple[Path, dict[str, str]]:
    """Return a file with one destination, and the variables to which it refers."""
    url = server.url + (PATH if kind == "sumo-logic" else "")
    lines = ["[[destination]]", f'name = "{name}"', f'kind = "{kind}"', 'endpoint = "env:FAR_URL"']
    lines += [f"batch_entries = {BATCH}", "linger_seconds = 0.05", "heartbeat_seconds = 0", "[destination.options]"]
    lines += [f"{option} = {json.dumps(value)}" for option, value in settings.items()]
    path = folder / f"{name}.toml"
    path.write_text("\n".join([*lines, ""]))
    return path, {"FAR_URL": url, **SECRETS}


CASES = {
    "splunk": ("splunk", StrictHec, "/services/collector/event", {"token": "env:SPLUNK_TOKEN", "acknowledge": False}),
    "splunk-taken": (
        "splunk",
        lambda: StrictHec(acknowledges=True),
        "/services/collector/event",
        {"token": "env:SPLUNK_TOKEN"},
    ),
    "splunk-asked": ("splunk", lambda: StrictHec(acknowledges=True, falses=0), ACK, {"token": "env:SPLUNK_TOKEN"}),
    "datadog": ("datadog", StrictIntake, "/api/v2/logs", {"api_key": "env:DATADOG_API_KEY"}),
    "sumo-logic": ("sumo-logic", StrictSource, PATH, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_killed_between_taken_and_cursor(ledger, tmp_path, name) -> None:
    """The batch in flight is there twice, byte for byte, all others once; nothing is missing; no secret is written."""
    kind, make, path, settings = CASES[name]
    service = make()
    killing = Killing(service, path)
    with serving(killing) as server:
        configuration, environment = configured(tmp_path, name, kind, server, **settings)
        log = configuration.with_suffix(".log")
        with following(ledger, configuration, environment) as process:
            killing.process = process
            await_that(lambda: process.poll() is not None, "the kill", log)
        before = len(service.ids())
        with following(ledger, configuration, environment):
            await_that(lambda: set(ledger.entry_ids) <= set(service.ids()), "the rest", log)
            await_that(lambda: entries_of(ledger, name) >= len(ledger.entry_ids) - BATCH, "the cursor", log)
    received = service.ids()
    assert BATCH <= before < len(ledger.entry_ids)
    assert list(dict.fromkeys(received)) == ledger.entry_ids
    repeated = {entry_id for entry_id in received if received.count(entry_id) > 1}
    assert repeated == set(ledger.entry_ids[BATCH : 2 * BATCH])
    assert len(received) == len(ledger.entry_ids) + BATCH
    written = log.read_text() + "".join(path.read_text() for path in DataDirectory(ledger.root).cursors.iterdir())
    assert not [secret for secret in (TOKEN, API_KEY, CODE) if secret in written]


@pytest.mark.parametrize("kind", ["splunk", "datadog", "sumo-logic"])
def test_the_command_line_shows_no_secret(ledger, tmp_path, kind) -> None:
    """`destination test` shows what the vendor says, without what it repeats of ours."""
    _, make, _, settings = CASES[kind]
    with serving(make()) as server:
        configuration, environment = configured(tmp_path, kind, kind, server, **settings)
        wrong = {name: f"{value}-and-more" for name, value in environment.items()}
        for variables, status in ((environment, 0), (wrong, 1)):
            command = [sys.executable, "-m", "klyra_collector", "destination", "test", kind]
            command += ["--config", str(configuration), "--data", str(ledger.root)]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, check=False)
            assert done.returncode == status, done.stdout + done.stderr
            assert not [name for name in (TOKEN, API_KEY, CODE) if name in done.stdout + done.stderr]
