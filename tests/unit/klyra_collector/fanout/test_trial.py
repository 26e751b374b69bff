"""The test event: an entry like any other that is of no ledger."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from klyra_audit.catalog import Catalog
from klyra_audit.errors import Rejected
from klyra_audit.validation import Validator
from klyra_collector.fanout.trial import TEST_ORIGIN, send_test_event, trial_entry
from klyra_siem.destination import Limits, Payload
from klyra_siem.formats import NAMES, record_format
from klyra_siem.formats.reading import compare, find_copy
from klyra_siem.otlp import create
from klyra_siem.outcome import Action, Outcome
from support import sink as sinks
from support.delivering import options
from support.sealing import MIDSUMMER_US
from support.siem.intakes import INTAKES
from support.sink import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_siem.destination import SealedEntry


def test_it_satisfies_its_schema() -> None:
    """Nobody's pipeline meets a shape that entries do not have."""
    entry = trial_entry("splunk", MIDSUMMER_US)
    Validator(Catalog.load()).check(entry.document, entry.encoded, now_us=MIDSUMMER_US)
    assert (entry.origin, entry.document["resource"]["id"]) == (TEST_ORIGIN, "splunk")


@pytest.mark.parametrize("written", NAMES)
def test_every_format_carries_it_whole(written) -> None:
    """With everything that a copy is verified by."""
    entry = trial_entry("splunk", MIDSUMMER_US)
    copy, told = find_copy(record_format(written, None).encode(entry).decode())
    compare(copy, told)
    assert (copy.entry_id, copy.mismatch()) == (entry.entry_id, "")


@pytest.mark.parametrize("kind", sorted(INTAKES))
def test_it_arrives_as_entries_do(kind) -> None:
    """What the destination shows is the event that the command names."""
    with INTAKES[kind](record=record_format("native", None)) as intake:
        intake.service.now = MIDSUMMER_US / 1e6
        entry_id, outcome = send_test_event(intake.destination, "far", MIDSUMMER_US)
        assert outcome.action is Action.DELIVERED
        assert [find_copy(row)[0].entry_id for row in intake.rows()] == [entry_id]


@pytest.mark.parametrize(("status", "action"), [(400, Action.BISECT), (401, Action.PAUSE), (503, Action.RETRY)])
def test_what_the_destination_says_is_told(status, action) -> None:
    """Its own status and words, not ours."""
    with sinks.listening() as sink, contextlib.closing(create(options(sink.url))) as destination:
        sink.planned.append(Answer(status))
        _, outcome = send_test_event(destination, "far", MIDSUMMER_US)
    assert (outcome.action, outcome.status) == (action, str(status))


class Particular:
    """A destination that takes only what is small, and encodes nothing."""

    def __init__(self, entry_bytes: int) -> None:
        self.limits = Limits(entries=1, encoded_bytes=10**6, entry_bytes=entry_bytes)

    def measure(self, entry: SealedEntry) -> int:
        """Return what it adds to a request."""
        return len(entry.encoded)

    def encode(self, entries: Sequence[SealedEntry]) -> Payload:
        """Refuse."""
        raise Rejected(f"{len(entries)} cannot be written.", remedy="Do not.", code="not_writable")

    def send(self, payload: Payload) -> Outcome:
        """Send nothing."""
        raise NotImplementedError(payload)


@pytest.mark.parametrize(("most", "status"), [(10, "too_large"), (10**6, "not_writable")])
def test_what_is_not_sent_is_told_too(most, status) -> None:
    """An event that the limits or the format would make a dead letter is one here."""
    _, outcome = send_test_event(Particular(most), "far", MIDSUMMER_US)  # type: ignore[arg-type] - all that is called
    assert (outcome.action, outcome.status) == (Action.BISECT, status)
