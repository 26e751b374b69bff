"""`format: packet` of an export: built from the ledger beside the API, recorded in it, and verified by who gets it."""

from __future__ import annotations

import threading
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from klyra_audit import timestamps
from klyra_audit.format import packet as layout
from klyra_audit.format.packet import MANIFEST, Manifest
from klyra_collector.publish.packet_jobs import PacketFolder
from klyra_collector.publish.policy import PolicyPublisher
from klyra_collector.query.packets import Packets
from klyra_collector.query.services import PublicLog
from klyra_collector.registry.policies import Policies
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.stages import Tenancy
from support import records
from support.api import OTHER, assert_problem, running_api
from support.entries import ACME
from support.packets import Sealed, lines, members

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from support.api import Api

TENANCY = Tenancy(ACME, "startup", "startup", 30)
PACKET = {"format": "packet"}


class Collector:
    """Does a collector's part in another thread: seals what the outbox has, and signs."""

    def __init__(self, sealed: Sealed, api: Api) -> None:
        self._sealed = sealed
        self._api = api
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.step()

    def step(self) -> None:
        """Seal HEADS and the records of exports; the entries that tell of them are left where they are."""
        ledger = self._sealed.ledger
        done = []
        for command in self._api.registry.pending_commands(100):
            if command.kind == "heads":
                ledger.seal_heads()
            elif command.kind == "export":
                ledger.commit_export(command.organization_id, bytes.fromhex(command.payload["sha256"]), again=False)
            else:
                continue
            done.append((command.command_id, ledger.origin, ledger.size - 1))
        self._sealed.clock.pass_seconds(1)
        ledger.sign()
        self._api.registry.mark_sealed(done)


@contextmanager
def serving(folder: Path, **patience: float) -> Iterator[tuple[Api, Sealed]]:
    """Run the API beside a real ledger with entries of Acme."""
    sealed = Sealed(folder)
    for number in range(5):
        actor = {"type": "user", "id": f"usr_{number % 2}", "name": None}
        sealed.seal(records.record(TENANCY, actor=actor))
    sealed.settle()
    ledger = sealed.published
    packets = Packets(
        folder=PacketFolder(folder / "exports", ledger),
        org_salt=(folder / "keys/org-salt").read_bytes,
        software="klyra-audit test",
        **({"patience_seconds": 10.0, "heads_patience_seconds": 3.0} | patience),
    )
    log = PublicLog(ledger=ledger, policy=PolicyPublisher(ledger), packets=packets)
    reader = LedgerReader(folder / "ledger")
    with closing(reader), running_api(folder, ledger=reader, public_log=log) as api:
        api.clock.now_us = sealed.clock.wall_us()
        api.seal()
        yield api, sealed
    sealed.ledger.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Api, Sealed]]:
    """An API beside a ledger."""
    with serving(tmp_path) as running:
        yield running


def export(api: Api, **asked: object) -> httpx.Response:
    """Ask for a packet with Acme's key."""
    with api.client() as client:
        return client.post("/v1/audit-logs/export", json=PACKET | asked, timeout=30)


def manifest_of(path: Path, response: httpx.Response) -> Manifest:
    """Write an answer to a file and return its manifest."""
    path.write_bytes(response.content)
    return Manifest.parse(members(path)[MANIFEST])


class TestExport:
    """`POST /v1/audit-logs/export`."""

    def test_a_packet_is_handed_out_and_verifies(self, served, tmp_path) -> None:
        """Complete, with the headers of other exports, recorded as an entry that names its manifest."""
        api, sealed = served
        with Collector(sealed, api):
            response = export(api)
        assert (response.status_code, response.headers["content-type"]) == (200, "application/zip")
        assert response.headers["content-disposition"].endswith('.zip"')
        assert {"klyra-filters", "klyra-window-start", "klyra-window-end"} <= set(response.headers)
        manifest = manifest_of(tmp_path / "packet.zip", response)
        assert (manifest.complete, manifest.counts.entries) == (True, 5)
        assert sealed.verify(tmp_path / "packet.zip", require_pinned=True).exit_status == 0
        (recorded,) = api.recorded("audit_log.exported")
        assert recorded["metadata"]["format"] == "packet"
        assert recorded["metadata"]["complete"] is True
        assert len(recorded["metadata"]["manifest_sha256"]) == 64

    def test_filters_are_those_of_the_search(self, served, tmp_path) -> None:
        """What they leave out is not in it, and the manifest says so; the rendering is the one asked for."""
        api, sealed = served
        with Collector(sealed, api):
            response = export(api, actor_ids=["usr_1"], rendering="json")
        manifest = manifest_of(tmp_path / "packet.zip", response)
        assert (manifest.complete, manifest.counts.entries) == (False, 2)
        assert manifest.filters == {"actor_ids": ["usr_1"]}
        assert layout.JSON in members(tmp_path / "packet.zip")
        assert sealed.verify(tmp_path / "packet.zip").exit_status == 0

    def test_times_are_those_of_sealing(self, served, tmp_path) -> None:
        """Start and end make a window, not a filter: the packet stays complete."""
        api, sealed = served
        first = sealed.clock.wall_us() - 4_000_000
        with Collector(sealed, api):
            response = export(api, start_time=timestamps.from_microseconds(first))
        manifest = manifest_of(tmp_path / "packet.zip", response)
        assert manifest.complete
        assert manifest.window.start_us == first
        assert 0 < len(lines(members(tmp_path / "packet.zip")[layout.ENTRIES])) < 5
        assert sealed.verify(tmp_path / "packet.zip").exit_status == 0

    def test_the_operator_exports_and_is_told_of(self, served, tmp_path) -> None:
        """The organization sees that it was the operator."""
        api, sealed = served
        with Collector(sealed, api), api.client(organization_id=None) as client:
            response = client.post("/v1/audit-logs/export", json=PACKET | {"organization_id": ACME}, timeout=30)
        assert response.status_code == 200
        assert len(api.recorded("operator.accessed")) == 1
        assert sealed.verify(write(tmp_path / "packet.zip", response)).exit_status == 0

    def test_an_organization_without_entries_gets_a_packet(self, served, tmp_path) -> None:
        """It proves that there is nothing."""
        api, sealed = served
        with Collector(sealed, api), api.client(organization_id=OTHER) as client:
            response = client.post("/v1/audit-logs/export", json=PACKET, timeout=30)
        assert manifest_of(tmp_path / "packet.zip", response).counts.entries == 0
        assert sealed.verify(tmp_path / "packet.zip").exit_status == 0


def write(path: Path, response: httpx.Response) -> Path:
    """Write an answer to a file."""
    path.write_bytes(response.content)
    return path


class TestLater:
    """A packet whose record is not under a checkpoint in time."""

    def test_it_can_be_had_later(self, tmp_path) -> None:
        """202 with an address, at which it is 202 until the record is signed, and then the packet; for its own only."""
        with serving(tmp_path, patience_seconds=0.0, heads_patience_seconds=0.0) as (api, sealed):
            response = export(api)
            assert response.status_code == 202
            assert response.json()["status_url"] == response.headers["location"]
            status = response.headers["location"]
            with api.client() as client:
                assert client.get(status).status_code == 202
            Collector(sealed, api).step()
            with api.client() as client:
                later = client.get(status)
                assert (later.status_code, later.headers["content-type"]) == (200, "application/zip")
                assert "klyra-filters" in later.headers
                assert client.get(status).content == later.content
            assert sealed.verify(write(tmp_path / "packet.zip", later)).exit_status == 0
            with api.client(organization_id=OTHER) as client:
                assert_problem(client.get(status), 404, "no_such_export")
            with api.client("read") as client:
                assert client.get(status).status_code == 403

    def test_an_unknown_export(self, served) -> None:
        """There is none of that id."""
        api, _ = served
        with api.client() as client:
            assert_problem(client.get("/v1/audit-logs/exports/exp_1"), 404, "no_such_export")


class TestRefused:
    """What is no packet."""

    def test_a_time_that_is_not_kept(self, served) -> None:
        """A window wholly outside is named."""
        api, _ = served
        assert_problem(export(api, end_time="2020-01-01T00:00:00Z"), 422, "outside_window")

    def test_a_rendering_without_a_packet(self, served) -> None:
        """Other formats are their own rendering."""
        api, _ = served
        problem = assert_problem(export(api, format="csv", rendering="json"), 400, "invalid_parameter")
        assert problem["parameter"] == "rendering"

    def test_a_server_without_a_ledger(self, tmp_path) -> None:
        """It says who can; its plan does not offer packets."""
        with running_api(tmp_path) as api:
            assert_problem(export(api), 503, "log_elsewhere")
            with api.client() as client:
                assert "packet" not in client.get("/v1/plan").json()["export_formats"]

    def test_a_plan_without_packets(self, tmp_path) -> None:
        """403, naming the plan."""
        plans = Policies.load().plans
        policies = Policies({**plans, "startup": replace(plans["startup"], export_formats=("json",))})
        with running_api(tmp_path, policies=policies) as api:
            assert_problem(export(api), 403, "format_not_in_plan")

    def test_the_plan_offers_packets(self, served) -> None:
        """Beside a ledger."""
        api, _ = served
        with api.client() as client:
            assert client.get("/v1/plan").json()["export_formats"] == ["json", "ndjson", "csv", "packet"]
