"""The emitter's spool against a real collector: what is promised is sealed, whatever happens to either of them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from klyra_audit import Actor, AuditEmitter, InvalidEvent, events
from klyra_audit.emitter import NotSealedYet
from klyra_audit.errors import RetryLater
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from klyra_audit.spool.errors import SpoolClosed, SpoolFull, SpoolUnusable
from klyra_audit.spool.spool import SpoolOptions
from klyra_audit.transports.otlp_http import OtlpHttpTransport
from support import collector
from support.collector import ACME

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One collector for all tests of this file."""
    root = tmp_path_factory.mktemp("data")
    started = collector.start(root, collector.make_keys(root))
    yield started
    assert started.terminate() == 0


def emitter(running, spool, **options) -> AuditEmitter:
    """Return an emitter of ACME's."""
    url = options.pop("url", running.url)
    options = {"emitter_id": "spooling", "timeout": 10} | options
    return AuditEmitter(url, api_key=running.keys[ACME], organization_id=ACME, spool=spool, **options)


def created(**context):
    """Return a small valid event."""
    return events.moderation_created(actor=Actor.user("usr_1"), moderation_id="mod_1", content_type="text", **context)


def sealed_ids(running) -> list[str]:
    """Return the ids of all sealed events."""
    return [sections.join(record.body.sections)["id"] for record in running.sealed() if record.leaf.kind == Kind.EVENT]


class TestPromises:
    """What `emit` promises, and when it does not."""

    def test_an_event_emitted_while_nobody_listens_is_sealed_by_the_next_process(self, running, tmp_path) -> None:
        """`emit` returns at once; who comes later with the same spool delivers."""
        first = emitter(running, tmp_path / "s", url=NOBODY)
        spooled = [first.emit(created()) for _ in range(3)]
        assert first.close(timeout=0.2) is False
        with emitter(running, tmp_path / "s") as second:
            assert second.flush()
        assert [item for item in sealed_ids(running) if item in {one.record_id for one in spooled}] == [
            one.record_id for one in spooled
        ]
        assert list((tmp_path / "s").iterdir()) == []

    def test_waiting_says_that_the_event_is_durable(self, running, tmp_path) -> None:
        """No answer in time is no loss: the error says where the event is."""
        with emitter(running, tmp_path / "s", url=NOBODY, timeout=0.3) as sender:
            with pytest.raises(NotSealedYet) as caught:
                sender.emit(created(), wait=True)
            assert (caught.value.code, "durable" in str(caught.value)) == ("not_sealed_yet", True)
            assert sender.status().waiting == 1

    def test_asyncio_waits_without_blocking_the_loop(self, running, tmp_path) -> None:
        """Other tasks go on, with and without the receipt."""

        async def emit_some() -> tuple[list, list]:
            ticks: list[float] = []

            async def tick() -> None:
                while True:
                    ticks.append(time.monotonic())
                    await asyncio.sleep(0.001)

            ticking = asyncio.create_task(tick())
            receipts = await asyncio.gather(*(sender.aemit(created(), wait=True) for _ in range(5)))
            spooled = await sender.aemit(created())
            ticking.cancel()
            return [*(receipt.record_id for receipt in receipts), spooled.record_id], ticks

        with emitter(running, tmp_path / "s") as sender:
            ids, ticks = asyncio.run(emit_some())
            assert sender.flush()
        assert set(ids) <= set(sealed_ids(running))
        assert len(ticks) > 3

    def test_a_full_spool_refuses(self, running, tmp_path) -> None:
        """With `raise` at once; nothing that was promised goes."""
        options = SpoolOptions(tmp_path / "s", max_bytes=20_000, when_full="raise")
        sender = emitter(running, options, url=NOBODY)
        promised = []

        def fill() -> None:
            while True:
                promised.append(sender.emit(created()).record_id)

        with pytest.raises(SpoolFull):
            fill()
        assert sender.close(timeout=0) is False
        with emitter(running, tmp_path / "s") as second:
            assert second.flush()
        assert set(promised) <= set(sealed_ids(running))

    def test_a_closed_emitter_takes_nothing(self, running, tmp_path) -> None:
        """The caller is told."""
        sender = emitter(running, tmp_path / "s")
        assert sender.close() is True
        assert sender.close() is True
        with pytest.raises(SpoolClosed):
            sender.emit(created())
        assert sender.status().state == "closed"

    def test_a_spool_that_cannot_be_used_is_said_at_once(self, running, tmp_path) -> None:
        """When the emitter is made, not when the first event is lost."""
        (tmp_path / "file").touch()
        with pytest.raises(SpoolUnusable):
            emitter(running, tmp_path / "file")

    def test_invalid_events_can_go_to_the_quarantine_instead(self, running, tmp_path) -> None:
        """`strict=False` raises nothing; the collector keeps what is invalid, and the others are sealed."""
        before = len(running.sealed())
        with emitter(running, tmp_path / "s", strict=False) as sender:
            sender.emit(created(client_ip="not an address"))
            good = sender.emit(created())
            sender.emit(created(metadata={"a key with spaces": 1}))
            written_down = sender.emit(created(metadata={"value": object()}))
            with pytest.raises(InvalidEvent, match="quarantine"):
                sender.emit(created(client_ip="neither"), wait=True)
            assert sender.flush(), sender.status()
            status = sender.status()
        kinds = [record.leaf.kind for record in running.sealed(before) if record.leaf.emitter]
        assert kinds.count(Kind.QUARANTINE) == 3
        assert {good.record_id, written_down.record_id} <= set(sealed_ids(running))
        assert (status.emitted, status.delivered, status.refused, status.dropped) == (5, 5, 3, 0)


class TestRequired:
    """Fail-closed: no action without its event."""

    def test_an_action_that_succeeds_is_recorded_as_such(self, running, tmp_path) -> None:
        """Behind it."""
        event = created()
        with emitter(running, tmp_path / "s") as sender:
            with sender.required(event):
                assert sender.status().emitted == 0
            assert sender.flush()
        assert event.id in sealed_ids(running)

    def test_an_action_that_fails_is_recorded_as_a_failure(self, running, tmp_path) -> None:
        """And its exception goes on."""
        event = created()
        with emitter(running, tmp_path / "s") as sender:
            with pytest.raises(ZeroDivisionError), sender.required(event):
                raise ZeroDivisionError
            assert sender.flush()
        documents = [
            sections.join(record.body.sections) for record in running.sealed() if record.leaf.kind == Kind.EVENT
        ]
        assert [document["status"] for document in documents if document["id"] == event.id] == ["failure"]

    def test_no_action_begins_that_could_not_be_recorded(self, running, tmp_path) -> None:
        """A full spool, or an event that is invalid, stops it before."""
        acted = []
        options = SpoolOptions(tmp_path / "s", max_bytes=100, when_full="raise")
        sender = emitter(running, options, url=NOBODY)
        for event, error in ((created(), SpoolFull), (created(client_ip="no"), InvalidEvent)):
            with pytest.raises(error), sender.required(event):
                acted.append(event)
        sender.close(timeout=0)
        assert acted == []

    def test_an_action_fails_whose_event_cannot_be_kept(self, running, tmp_path) -> None:
        """The disk failed in between: the error reaches the transaction around it."""
        sender = emitter(running, tmp_path / "s")
        with pytest.raises(SpoolClosed), sender.required(created()):
            sender.close()


PROGRAM = """
import sys, time
from klyra_audit import Actor, AuditEmitter, events
emitter = AuditEmitter(sys.argv[1], api_key=sys.argv[2], organization_id=sys.argv[3], emitter_id="spooling",
                       spool=sys.argv[4])
for _ in range(5):
    event = events.moderation_created(actor=Actor.user("usr_1"), moderation_id="mod_1", content_type="text")
    print(emitter.emit(event).record_id, flush=True)
{ending}
"""


class TestEndings:
    """However a process ends, what it was promised is sealed."""

    @pytest.mark.parametrize(
        ("ending", "number"),
        [
            ("time.sleep(60)", signal.SIGTERM),
            ("time.sleep(60)", signal.SIGKILL),
            ("", None),
            ("sys.exit(3)", None),
            ("raise RuntimeError", None),
            ("import os; os._exit(1)", None),
        ],
    )
    def test_a_process_that_ends(self, running, tmp_path, ending, number) -> None:
        """By a signal, at its end, by an error: here with nobody listening, so that nothing could be delivered."""
        command = [sys.executable, "-c", PROGRAM.format(ending=ending), NOBODY, running.keys[ACME], ACME]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        process = subprocess.Popen(
            [*command, str(tmp_path / "s")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        promised = [process.stdout.readline().decode().strip() for _ in range(5)]
        if number is not None:
            process.send_signal(number)
        process.communicate(timeout=30)
        with emitter(running, tmp_path / "s") as second:
            assert second.flush()
        assert all(promised)
        assert set(promised) <= set(sealed_ids(running))

    @pytest.mark.parametrize("missing", [1, 10, 200])
    def test_a_power_loss_that_tears_the_last_event(self, running, tmp_path, missing) -> None:
        """What is whole is sealed; what was torn had not been promised; no gap remains in the sequence."""
        first = emitter(running, tmp_path / "s", url=NOBODY)
        spooled = [first.emit(created()) for _ in range(3)]
        first.close(timeout=0)
        (path,) = (tmp_path / "s").glob("*/*.segment")
        os.truncate(path, path.stat().st_size - missing)
        with emitter(running, tmp_path / "s") as second:
            assert second.flush()
            assert second.status().lost == ()
        found = [one.record_id in sealed_ids(running) for one in spooled]
        assert found == [True, True, False]

    def test_a_damaged_disk_is_reported(self, running, tmp_path, caplog) -> None:
        """What can be read is sealed; that something could not is in the status and in the log."""
        first = emitter(running, tmp_path / "s", url=NOBODY)
        spooled = [first.emit(created()) for _ in range(3)]
        first.close(timeout=0)
        (path,) = (tmp_path / "s").glob("*/*.segment")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with emitter(running, tmp_path / "s") as second:
            assert second.flush()
            assert len(second.status().lost) == 1
        assert [one.record_id in sealed_ids(running) for one in spooled] == [True, False, True]
        assert "cannot be read from the spool" in caplog.text


class TestServerless:
    """A function that is frozen between its calls."""

    def test_flush_tells_the_truth(self, running, tmp_path) -> None:
        """True only when everything is durable at the collector."""
        sender = emitter(running, tmp_path / "s", url=NOBODY)
        assert sender.flush(0.1) is True
        sender.emit(created())
        assert sender.flush(0.3) is False
        assert sender.status().state == "retrying"
        sender.close(timeout=0)

    def test_flush_needs_no_thread(self, running, tmp_path, monkeypatch) -> None:
        """The caller delivers, as where threads do not run on after the answer."""
        from klyra_audit.delivery import Delivery

        monkeypatch.setattr(Delivery, "start", lambda _: None)
        with emitter(running, tmp_path / "s") as sender:
            spooled = sender.emit(created())
            assert sender.flush(10) is True
            assert spooled.record_id in sealed_ids(running)


class Trouble(OtlpHttpTransport):
    """Fails a few times before it delivers."""

    def __init__(self, running, *errors: Exception) -> None:
        super().__init__(running.url, running.keys[ACME], 10)
        self.errors = list(errors)
        self.sent_at: list[float] = []

    def send(self, batch):
        """See `OtlpHttpTransport`."""
        self.sent_at.append(time.monotonic())
        if self.errors:
            raise self.errors.pop(0)
        return super().send(batch)


class TestTrouble:
    """A collector that cannot take events now."""

    def test_it_waits_as_long_as_it_is_told(self, running, tmp_path) -> None:
        """Retry-After is obeyed, and new events do not shorten it."""
        transport = Trouble(running, RetryLater("Wait.", retry_after=0.6))
        with AuditEmitter(transport, organization_id=ACME, spool=tmp_path / "s") as sender:
            sender.emit(created())
            for _ in range(5):
                time.sleep(0.05)
                sender.emit(created())
            deadline = time.monotonic() + 10
            while sender.status().waiting and time.monotonic() < deadline:
                time.sleep(0.02)
        first, second, *_ = transport.sent_at
        assert second - first >= 0.6

    def test_a_clock_that_jumps_changes_nothing(self, running, tmp_path, monkeypatch) -> None:
        """Events keep their order and none is lost; what says it is from the future is kept in quarantine."""
        real = time.time_ns
        with emitter(running, tmp_path / "s") as sender:
            spooled = []
            for hours in (0, -24, 1, 0):
                monkeypatch.setattr(time, "time_ns", lambda hours=hours: real() + hours * 3_600_000_000_000)
                spooled.append(sender.emit(created()))
            monkeypatch.undo()
            assert sender.flush()
            assert (sender.status().delivered, sender.status().refused) == (4, 1)
        assert [one.sequence for one in spooled] == [0, 1, 2, 3]
        order = [item for item in sealed_ids(running) if item in {one.record_id for one in spooled}]
        assert order == [one.record_id for one in spooled if one != spooled[2]]


def test_metrics_are_those_of_the_draft(running, tmp_path) -> None:
    """Read through the OpenTelemetry SDK; dropped is 0, and reported."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from klyra_audit.integrations.opentelemetry_metrics import observe

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    with emitter(running, tmp_path / "s", url=NOBODY) as sender:
        observe(sender, provider.get_meter("test"))
        sender.emit(created())
        data = reader.get_metrics_data()
        sender.close(timeout=0)
    figures = {
        metric.name: metric.data.data_points[0].value for metric in data.resource_metrics[0].scope_metrics[0].metrics
    }
    assert figures["audit.records.emitted"] == 1
    assert figures["audit.records.exported"] == 0
    assert figures["audit.records.dropped"] == 0
    assert figures["audit.queue.depth"] == 1
    assert figures["klyra.spool.size"] > 0
    assert 0 <= figures["klyra.spool.age"] < 60
    provider.shutdown()


def test_the_default_spool_is_in_the_users_state_folder(monkeypatch) -> None:
    """XDG_STATE_HOME, or the folder that stands for it."""
    from klyra_audit.emitter import default_spool

    monkeypatch.delenv("KLYRA_AUDIT_SPOOL")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert default_spool() == Path("/var/state/klyra-audit/spool")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_spool() == Path.home() / ".local/state/klyra-audit/spool"


def test_an_event_that_a_later_run_emits_anew_leaves_no_gap(tmp_path) -> None:
    """It is not sealed again; its place in the sequence is filled, and the ledger stays intact."""
    data = tmp_path / "data"
    running = collector.start(data, collector.make_keys(data))
    event = created(timestamp="2026-06-01T00:00:00Z")
    for _ in range(3):
        with emitter(running, tmp_path / "s") as run:
            before = run.emit(created())
            run.emit(event)
            run.emit(created())
            assert run.flush()
            assert run.status().refused == 0
            assert before.sequence == 0
    assert running.terminate() == 0
    assert sealed_ids(running).count(event.id) == 1
    command = [sys.executable, "-m", "klyra_collector", "verify", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "EMITTER_GAP" in done.stdout) == (0, False), done.stdout
