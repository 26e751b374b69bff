"""The runner of what organizations have set up: begins, changes, stops, tells, whatever goes wrong with one."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from klyra_audit.catalog import Catalog
from klyra_audit.errors import Halted, Rejected, RetryLater
from klyra_collector.data_directory import DataDirectory
from klyra_collector.destination_status import Circuit, DestinationStatus, State
from klyra_collector.fanout import self_service
from klyra_collector.fanout.orders import Orders
from klyra_collector.fanout.self_service import SelfService, settings_of
from klyra_collector.registry import Registry
from klyra_collector.registry.destinations import DestinationSpec, StoredDestination
from klyra_collector.seal.durable import Disk
from klyra_siem.destination import Limits, Payload
from klyra_siem.outcome import Action, Outcome
from support.api import OPERATOR
from support.sealing import MIDSUMMER_US

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from klyra_collector.destination_settings import DestinationSettings

OURS, FIRST, SECOND = "org_ours", "dst-aaaaaaaaaaaa", "dst-bbbbbbbbbbbb"
SPEC = DestinationSpec(
    name="splunk",
    kind="splunk",
    endpoint="https://a.splunkcloud.com",
    format="ecs",
    when_too_old="preserve",
    filters={"event_types": ["user.added"], "statuses": ["failure"], "actors": ["usr_1"]},
    options={},
    secrets={"token": "c2VhbGVk"},
)


@dataclass
class Delivering:
    """A delivery that only says that it runs; told to, it does not stop before it is let go."""

    settings: DestinationSettings
    held: threading.Event
    is_running: bool = False

    def run(self, stop: threading.Event) -> None:
        """Wait for the end."""
        self.is_running = True
        stop.wait()
        self.held.wait()
        self.is_running = False


class Answering:
    """A destination that says what it is to say."""

    limits = Limits(entries=1, encoded_bytes=10**6)

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def measure(self, _: object) -> int:
        """Return anything."""
        return 1

    def encode(self, _: Sequence[object]) -> Payload:
        """Return nothing."""
        return Payload(b"")

    def send(self, _: Payload) -> Outcome:
        """Return what it is to say."""
        return self._outcome

    def close(self) -> None:
        """Do nothing."""


@dataclass
class Workshop:
    """Makes deliveries that only say that they run, unless told to fail."""

    cursors: Path
    disk: Disk
    made: list[Delivering] = field(default_factory=list)
    errors: dict[str, Exception] = field(default_factory=dict)
    statuses: list[DestinationStatus] = field(default_factory=list)
    outcome: Outcome = field(default_factory=lambda: Outcome(action=Action.DELIVERED, status="200"))
    held: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.held.set()

    def destination(self, stored: StoredDestination) -> Any:
        """Return one that answers."""
        if stored.destination_id in self.errors:
            raise self.errors[stored.destination_id]
        return Answering(self.outcome)

    def delivery(self, settings: DestinationSettings, stored: StoredDestination) -> Any:
        """Return one that runs."""
        if stored.destination_id in self.errors:
            raise self.errors[stored.destination_id]
        (self.cursors / f"{stored.destination_id}.cursor.json").write_text("{}")
        self.made.append(Delivering(settings, self.held))
        return self.made[-1]

    def orders(self, destination_id: str) -> Orders:
        """Return real ones."""
        return Orders(self.cursors, destination_id, self.disk)

    def measured(self, destination_ids: Sequence[str]) -> list[DestinationStatus]:
        """Return what is to be told."""
        return [one for one in self.statuses if one.name in destination_ids]

    def running(self) -> list[Delivering]:
        """Return those that run."""
        return [one for one in self.made if one.is_running]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry with one organization."""
    with contextlib.closing(Registry.open(f"sqlite:///{tmp_path}/registry.sqlite", Catalog.load())) as made:
        made.create_organization(OURS, "enterprise", by=OPERATOR)
        yield made


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    """Where deliveries are made."""
    cursors = DataDirectory(tmp_path).cursors
    cursors.mkdir()
    with contextlib.closing(Disk()) as disk:
        made = Workshop(cursors, disk)
        yield made
        made.held.set()


@pytest.fixture
def runner(registry: Registry, workshop: Workshop) -> Iterator[SelfService]:
    """What is tested."""
    made = SelfService(registry.destinations, workshop, workshop.cursors, lambda: MIDSUMMER_US)
    yield made
    workshop.held.set()
    made.close()


def create(registry: Registry, destination_id: str = FIRST, **members: Any) -> StoredDestination:
    """Set one up."""
    name = members.pop("name", destination_id)
    return registry.destinations.create(OURS, destination_id, replace(SPEC, name=name, **members), by=OPERATOR)


def await_that(condition) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_set_up_runs_once(registry, workshop, runner) -> None:
    """As it was wanted, for its organization alone."""
    create(registry)
    for _ in range(3):
        runner.look()
    [delivery] = workshop.made
    await_that(lambda: delivery.is_running)
    settings = delivery.settings
    assert (settings.name, settings.organizations, settings.format) == (FIRST, (OURS,), "ecs")
    assert (settings.event_types, settings.statuses, settings.actors) == (("user.added",), ("failure",), ("usr_1",))
    assert (settings.when_too_old, settings.start) == ("preserve", "beginning")
    assert runner.heartbeats() == [(FIRST, "splunk", settings.heartbeat_seconds)]


def test_a_change_begins_it_anew_after_it_has_ended(registry, workshop, runner) -> None:
    """Two at once would move one cursor; its files stay."""
    before = create(registry)
    runner.look()
    await_that(lambda: len(workshop.running()) == 1)
    workshop.held.clear()
    registry.destinations.change(OURS, FIRST, replace(before.spec, format="cef"), by=OPERATOR)
    for _ in range(3):
        runner.look()
    assert len(workshop.made) == 1
    workshop.held.set()
    await_that(lambda: not workshop.running())
    runner.look()
    assert [one.settings.format for one in workshop.made] == ["ecs", "cef"]
    assert (workshop.cursors / f"{FIRST}.cursor.json").exists()


def test_a_pause_is_ordered_and_taken_back(registry, workshop, runner) -> None:
    """The delivery goes on running, and finds the order."""
    stored = create(registry)
    runner.look()
    registry.destinations.change(OURS, FIRST, replace(stored.spec, paused=True), by=OPERATOR)
    runner.look()
    pause = workshop.orders(FIRST).paused()
    assert pause is not None
    assert pause.reason == "paused by its organization"
    registry.destinations.change(OURS, FIRST, stored.spec, by=OPERATOR)
    runner.look()
    assert workshop.orders(FIRST).paused() is None
    assert len(workshop.made) == 1


def test_what_is_deleted_stops_and_leaves_no_file(registry, workshop, runner) -> None:
    """Also where another process had run it; other destinations' files stay."""
    create(registry)
    runner.look()
    await_that(workshop.running)
    others = workshop.cursors / "splunk.cursor.json"
    for path in (others, workshop.cursors / f"{SECOND}.status.json"):
        path.write_text("{}")
    registry.destinations.delete(OURS, FIRST, by=OPERATOR)
    runner.look()
    await_that(lambda: not workshop.running())
    runner.look()
    assert list(workshop.cursors.iterdir()) == [others]


def test_a_file_is_not_removed_under_a_delivery(registry, workshop, runner) -> None:
    """It is waited for: otherwise it would write the file again."""
    create(registry)
    runner.look()
    await_that(workshop.running)
    workshop.held.clear()
    registry.destinations.delete(OURS, FIRST, by=OPERATOR)
    runner.look()
    assert (workshop.cursors / f"{FIRST}.cursor.json").exists()


def test_one_that_cannot_be_begun_harms_no_other(registry, workshop, runner, monkeypatch) -> None:
    """It says why, and is tried again later."""
    workshop.errors[FIRST] = Rejected("The plan is business.", remedy="Change it.", code="not_entitled")
    create(registry)
    create(registry, SECOND)
    runner.look()
    await_that(lambda: [one.settings.name for one in workshop.running()] == [SECOND])
    status = registry.destinations.get(OURS, FIRST).status
    assert (status["state"], status["error"]) == ("halted", "not_entitled: The plan is business.")
    del workshop.errors[FIRST]
    runner.look()
    assert len(workshop.made) == 1
    monkeypatch.setattr(self_service, "RETRY_SECONDS", 0.0)
    runner.look()
    assert [one.settings.name for one in workshop.made] == [SECOND, FIRST]


def test_damaged_orders_of_one_harm_no_other(registry, workshop, runner) -> None:
    """It is not run until they are mended."""
    create(registry, paused=True)
    create(registry, SECOND)
    path = workshop.cursors / f"{FIRST}.paused.json"
    path.write_text("nonsense")
    with capture_logs() as logs:
        runner.look()
    [refused] = [line for line in logs if line["event"] == "destination_not_run"]
    assert (refused["destination"], "cannot be read" in refused["reason"]) == (FIRST, True)
    assert [one.settings.name for one in workshop.made] == [SECOND]
    path.unlink()
    runner.look()
    assert [one.settings.name for one in workshop.made] == [SECOND, FIRST]


def status(**members: Any) -> DestinationStatus:
    """Return how the first is doing."""
    return DestinationStatus(name=FIRST, kind="splunk", endpoint="", skipped={}, **members)


def test_its_state_is_told_when_it_changes(registry, workshop, runner, monkeypatch) -> None:
    """What moves by itself is told now and then only: each telling is a write of the registry."""
    create(registry)
    workshop.statuses = [status(entries=5, lag_seconds=1.0)]
    runner.look()
    told = registry.destinations.get(OURS, FIRST).status
    assert (told["state"], told["entries"], told["window_left_seconds"]) == ("delivering", 5, None)
    workshop.statuses = [status(entries=9, lag_seconds=2.0)]
    runner.look()
    assert registry.destinations.get(OURS, FIRST).status["entries"] == 5
    monkeypatch.setattr(self_service, "REPORT_SECONDS", 0.0)
    runner.look()
    assert registry.destinations.get(OURS, FIRST).status["entries"] == 9
    monkeypatch.undo()
    workshop.statuses = [
        status(state=State.PAUSED, circuit=Circuit.OPEN, error="401: no", window_seconds=60, waiting_us=MIDSUMMER_US)
    ]
    runner.look()
    told = registry.destinations.get(OURS, FIRST).status
    assert (told["state"], told["error"], told["window_left_seconds"]) == ("paused", "401: no", 60)


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [
        (Outcome(action=Action.DELIVERED, status="200"), ("delivered", "200", "")),
        (Outcome(action=Action.DELIVERED, status="200", refused=(0,)), ("refused", "200", "")),
        (Outcome(action=Action.PAUSE, status="403", reason="no"), ("not_let_in", "403", "no")),
        (Outcome(action=Action.RETRY, status="503", reason="later"), ("retry", "503", "later")),
        (Outcome(action=Action.BISECT, status="400", reason="what?"), ("refused", "400", "what?")),
    ],
)
def test_a_trial_is_carried_out(registry, workshop, runner, outcome, answer) -> None:
    """Once, with the vendor's answer."""
    create(registry)
    workshop.outcome = outcome
    trial = registry.destinations.request_trial(OURS, FIRST)
    runner.look()
    await_that(lambda: registry.destinations.trial_answer(trial))
    told = registry.destinations.trial_answer(trial)
    assert (told["outcome"], told["status"], told["answer"]) == answer
    assert told["event_id"].startswith("log_")


def test_an_organization_that_asks_for_many_trials_keeps_no_other_waiting(
    registry, workshop, runner, monkeypatch
) -> None:
    """One of each is under way at a time; the others are at a later look."""
    registry.create_organization("org_others", "enterprise", by=OPERATOR)
    create(registry)
    registry.destinations.create("org_others", SECOND, SPEC, by=OPERATOR)
    begun: list[str] = []
    go_on = threading.Event()

    def send(_: object, destination_id: str, __: object) -> tuple[str, Outcome]:
        begun.append(destination_id)
        assert go_on.wait(10)
        return "log_x", Outcome(action=Action.DELIVERED, status="200")

    monkeypatch.setattr(self_service, "send_test_event", send)
    trials = [registry.destinations.request_trial(OURS, FIRST) for _ in range(4)]
    trials.append(registry.destinations.request_trial("org_others", SECOND))
    runner.look()
    runner.look()
    await_that(lambda: sorted(begun) == [FIRST, SECOND])
    go_on.set()
    await_that(lambda: runner.look() or all(map(registry.destinations.trial_answer, trials)))


def test_a_trial_of_what_cannot_be_made_says_why(registry, workshop, runner) -> None:
    """Such as a secret that was sealed to another key."""
    create(registry)
    workshop.errors[FIRST] = Halted("It cannot be opened.", remedy="Give it again.", code="secret_unreadable")
    trial = registry.destinations.request_trial(OURS, FIRST)
    runner.look()
    await_that(lambda: registry.destinations.trial_answer(trial))
    told = registry.destinations.trial_answer(trial)
    assert (told["outcome"], told["status"], told["answer"]) == ("refused", "secret_unreadable", "It cannot be opened.")


def test_a_mistake_of_ours_in_a_trial_is_answered_without_its_words(registry, workshop, runner) -> None:
    """They might quote a secret; and the next trial is carried out."""
    create(registry)
    workshop.errors[FIRST] = ValueError("the token s3cret is odd")
    trials = [registry.destinations.request_trial(OURS, FIRST) for _ in range(3)]
    with capture_logs() as logs:
        await_that(lambda: runner.look() or all(map(registry.destinations.trial_answer, trials)))
    told = registry.destinations.trial_answer(trials[0])
    assert (told["outcome"], told["status"], told["answer"]) == ("refused", "internal", "ValueError")
    assert "s3cret" not in str(logs) + str(told)


def test_a_registry_that_is_away_stops_nothing(registry, workshop, runner, monkeypatch) -> None:
    """What runs goes on; the registry is looked at again."""
    create(registry)
    runner.look()
    await_that(workshop.running)
    looks: list[str] = []

    def away() -> list[StoredDestination]:
        looks.append("look")
        if len(looks) == 1:
            raise RetryLater("It is away.", remedy="Wait.", code="away")
        if len(looks) == 2:
            raise ZeroDivisionError
        return []

    monkeypatch.setattr(registry.destinations, "all", away)
    stop = threading.Event()
    with capture_logs() as logs:
        thread = threading.Thread(target=runner.run, args=(stop, 0.01))
        thread.start()
        await_that(lambda: len(looks) > 2)
        stop.set()
        thread.join(10)
    assert [line["event"] for line in logs[:2]] == ["self_service_waits", "self_service_failed"]
    assert not workshop.running()


def test_a_secret_endpoint_stands_masked_in_the_settings(registry) -> None:
    """They name what is logged and shown."""
    stored = create(registry, kind="sumo-logic", endpoint="https://endpoint4.collection.sumologic.com/…")
    assert settings_of(stored).endpoint == "https://endpoint4.collection.sumologic.com/…"
