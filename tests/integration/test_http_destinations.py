"""A real ledger delivered to Splunk, Datadog and Sumo Logic by the engine, whatever goes wrong on the way."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klyra_audit import timestamps
from klyra_siem.formats import NAMES, record_format
from klyra_siem.formats.reading import compare, find_copy
from support.delivering import Bench
from support.records import BUSINESS, STARTUP, record, submission
from support.sealing import MIDSUMMER_US, SetClock, open_ledger
from support.siem.cloud_server import Fault, Reply
from support.siem.datadog import StrictIntake
from support.siem.intakes import INTAKES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.siem.intakes import Intake

COUNT = 20
BATCH = 8  # of `support.delivering`
PATIENCE = 400  # steps
PAGE = {"Content-Type": "text/html"}


def sealed(root: Path) -> list[str]:
    """Seal entries of two organizations, all of this moment; return their ids in order."""
    now = timestamps.from_microseconds(MIDSUMMER_US)
    items = [record(STARTUP if number % 3 else BUSINESS, timestamp=now) for number in range(COUNT)]
    ledger = open_ledger(root, SetClock())
    ledger.commit([submission(*items)])
    ledger.close()
    return [item.record_id for item in items]


@contextlib.contextmanager
def delivering(root: Path, intake: Intake) -> Iterator[Bench]:
    """Give the delivery of a ledger to an intake."""
    made = Bench(root, intake.destination)
    try:
        yield made
    finally:
        made.close()


def deliver(bench: Bench, expected: set[str], intake: Intake) -> set[str]:
    """Go on until all is there or a dead letter, without the waits; return the dead letters."""
    dead: set[str] = set()
    for _ in range(PATIENCE):
        bench.delivery.step()
        dead = {letter.entry_id for letter in bench.dead_letters.read()}
        cursor = bench.cursor_file.load()
        if cursor is not None and not cursor.pending and expected <= dead | set(intake.received()):
            break
    return dead


PASSING = st.sampled_from(
    [
        Fault(),
        Fault(reset=True),
        Fault(reply_lost=True),
        Fault(truncated=True),
        Fault(reply=Reply(429, b"", {"Retry-After": "1"})),
        Fault(reply=Reply(500)),
        Fault(reply=Reply(403)),
        Fault(reply=Reply(413)),
        Fault(reply=Reply(200, b"<h1>Sign in</h1>", PAGE)),
    ]
)


@pytest.mark.parametrize("kind", sorted(INTAKES))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(PASSING, max_size=6),
    poisoned=st.sets(st.integers(0, COUNT - 1), max_size=2),
    crash_after=st.integers(1, 6),
)
def test_nothing_is_lost(kind, faults, poisoned, crash_after) -> None:
    """Received and dead letters are the ledger, for any faults and a crash; repeats are of the batch in flight."""
    with tempfile.TemporaryDirectory() as folder, INTAKES[kind]() as intake:
        root = Path(folder) / "data"
        ids = sealed(root)
        if isinstance(intake.service, StrictIntake):
            intake.service.now = MIDSUMMER_US / 1e6
        intake.poison.update(ids[number] for number in poisoned)
        intake.server.plan(*faults)
        with delivering(root, intake) as crashed:
            for _ in range(crash_after):
                crashed.delivery.step()
        with delivering(root, intake) as bench:
            dead = deliver(bench, set(ids), intake)
        received = intake.received()
    assert set(received) | dead == set(ids)
    assert {ids[number] for number in poisoned} <= dead
    # An attempt without its confirmation repeats at most one batch; halving repeats what stood before a bad entry.
    unconfirmed = len(faults) + 4 * len(poisoned)
    assert len(received) <= COUNT + BATCH * unconfirmed
    first = list(dict.fromkeys(received))
    assert first == [name for name in ids if name in set(received)], "in the ledger's order"


@pytest.mark.parametrize("written", NAMES)
@pytest.mark.parametrize("kind", sorted(INTAKES))
def test_what_is_there_can_be_verified(tmp_path, kind, written) -> None:
    """What a search gives there holds, and shows, what the ledger commits to, in every format."""
    ids = sealed(tmp_path)
    with INTAKES[kind](record=record_format(written, None)) as intake:
        if isinstance(intake.service, StrictIntake):
            intake.service.now = MIDSUMMER_US / 1e6
        with delivering(tmp_path, intake) as bench:
            bench.deliver()
        copies = [find_copy(row) for row in json.loads(json.dumps(intake.rows()))]
        assert not getattr(intake.service, "complaints", [])
    assert [copy.entry_id for copy, _ in copies] == ids
    assert {copy.mismatch() for copy, _ in copies} == {""}
    for copy, told in copies:
        compare(copy, told)
