"""Splunk, Datadog and Sumo Logic behind one face, for tests of what is the same for all of them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """

    server: CloudServer
    service: StrictHec | StrictIntake | StrictSource
    made_of: DestinationOptions
    destination: Destination
    received: Callable[[], list[str]]
    poison: set[str]


@contextlib.contextmanager
def splunk_hec(*, acknowledge: bool = False) -> Iterator[Intake]:
    """Splunk."""
    hec = StrictHec(acknowledges=acknowledge)
    with serving(hec) as server:
        made_of = options(server.url, {"token": TOKEN, "acknowledge": acknowledge, "acknowledge_seconds": 60})
        made = splunk.SplunkHec(made_of, splunk.HecSettings.read(made_of), NoTime())
        with contextlib.closing(made):
            yield Intake(server, hec, made_of, made, hec.ids, hec.poison)


@contextlib.contextmanager
def splunk_acknowledged() -> Iterator[Intake]:
    """Splunk with indexer acknowledgement."""
    with splunk_hec(acknowledge=True) as made:
        yield made


@contextlib.contextmanager
def datadog_intake() -> Iterator[Intake]:
    """Datadog."""
    intake = StrictIntake()
    with serving(intake) as server:
        made_of = options(server.url, {"api_key": API_KEY})
        with contextlib.closing(datadog.create(made_of)) as made:
            yield Intake(server, intake, made_of, made, intake.ids, intake.poison)


@contextlib.contextmanager
def sumo_logic_source() -> Iterator[Intake]:
    """Sumo Logic."""
    source = StrictSource()
    with serving(source) as server:
        made_of = options(server.url + PATH, {})
        with contextlib.closing(sumo_logic.create(made_of)) as made:
            yield Intake(server, source, made_of, made, source.ids, source.poison)


INTAKES = {
    "splunk": splunk_hec,
    "splunk, acknowledged": splunk_acknowledged,
    "datadog": datadog_intake,
    "sumo-logic": sumo_logic_source,
}
