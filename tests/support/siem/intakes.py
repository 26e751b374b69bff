"""Splunk, Datadog and Sumo Logic behind one face, for tests of what is the same for all of them."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from klyra_siem import datadog, splunk, sumo_logic
from support.siem.cloud import options
from support.siem.cloud_server import serving
from support.siem.datadog import API_KEY, StrictIntake
from support.siem.splunk import TOKEN, StrictHec
from support.siem.sumo_logic import PATH, StrictSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klyra_siem.destination import Destination, DestinationOptions
    from support.siem.cloud_server import CloudServer


class NoTime:
    """A timer on which no time passes but what somebody waits for."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waits: list[float] = []

    def now(self) -> float:
        """Return the sum of all waits."""
        return self.seconds

    def wait(self, seconds: float) -> None:
        """Remember it."""
        self.seconds += seconds
        self.waits.append(seconds)


@dataclass
class Intake:
    """A vendor's service and a destination for it.

    Attributes:
        server: where faults are planned.
        service: what takes the requests.
        made_of: what `create` would be given.
        destination: that sends there.
        received: says which entry ids are there, repeats included.
        poison: ids that the service refuses.
        rows: says what a search gives there.
    """

    server: CloudServer
    service: StrictHec | StrictIntake | StrictSource
    made_of: DestinationOptions
    destination: Destination
    received: Callable[[], list[str]]
    poison: set[str]
    rows: Callable[[], list[dict[str, Any]]]


@contextlib.contextmanager
def splunk_hec(*, acknowledge: bool = False, **members: object) -> Iterator[Intake]:
    """Splunk; `members` are those of `DestinationOptions`."""
    hec = StrictHec(acknowledges=acknowledge)
    with serving(hec) as server:
        settings = {"token": TOKEN, "acknowledge": acknowledge, "acknowledge_seconds": 60}
        made_of = options(server.url, settings, **members)
        made = splunk.SplunkHec(made_of, splunk.HecSettings.read(made_of), NoTime())
        with contextlib.closing(made):
            yield Intake(server, hec, made_of, made, hec.ids, hec.poison, lambda: exported(hec))


@contextlib.contextmanager
def splunk_acknowledged(**members: object) -> Iterator[Intake]:
    """Splunk with indexer acknowledgement."""
    with splunk_hec(acknowledge=True, **members) as made:
        yield made


@contextlib.contextmanager
def datadog_intake(**members: object) -> Iterator[Intake]:
    """Datadog."""
    intake = StrictIntake()
    with serving(intake) as server:
        made_of = options(server.url, {"api_key": API_KEY}, **members)
        with contextlib.closing(datadog.create(made_of)) as made:
            yield Intake(server, intake, made_of, made, intake.ids, intake.poison, lambda: found(intake))


@contextlib.contextmanager
def sumo_logic_source(**members: object) -> Iterator[Intake]:
    """Sumo Logic."""
    source = StrictSource()
    with serving(source) as server:
        made_of = options(server.url + PATH, {}, **members)
        with contextlib.closing(sumo_logic.create(made_of)) as made:
            yield Intake(server, source, made_of, made, source.ids, source.poison, lambda: messages(source))


def exported(hec: StrictHec) -> list[dict[str, Any]]:
    """Return the rows of a search in Splunk, exported as JSON: what is in `event` is `_raw`."""
    rows = []
    for event in hec.indexed:
        raw = event["event"] if isinstance(event["event"], str) else json.dumps(event["event"])
        rows.append({"preview": False, "result": {**event["fields"], "_time": str(event["time"]), "_raw": raw}})
    return rows


def found(intake: StrictIntake) -> list[dict[str, Any]]:
    """Return what Datadog's search gives: reserved attributes apart from the others."""
    reserved = {"message", "service", "status", "timestamp", "hostname", "ddtags", "ddsource"}
    return [
        {
            "type": "log",
            "attributes": {
                **{name: value for name, value in log.items() if name in reserved},
                "attributes": {name: value for name, value in log.items() if name not in reserved},
            },
        }
        for log in intake.indexed
    ]


def messages(source: StrictSource) -> list[dict[str, Any]]:
    """Return the messages of a search in Sumo Logic: the line is `_raw`."""
    return [{"map": {"_raw": line, "_messageid": str(number)}} for number, line in enumerate(source.lines)]


INTAKES = {
    "splunk": splunk_hec,
    "splunk, acknowledged": splunk_acknowledged,
    "datadog": datadog_intake,
    "sumo-logic": sumo_logic_source,
}
