"""Every type of event, in every format, fits what Splunk, Datadog and Sumo Logic take."""

from __future__ import annotations

import pytest

from klyra_siem.formats import NAMES, record_format
from klyra_siem.formats.reading import compare, find_copy
from klyra_siem.outcome import Action
from support.siem.cloud import send
from support.siem.events import sealed, sealed_without
from support.siem.intakes import INTAKES


@pytest.mark.parametrize("written", NAMES)
@pytest.mark.parametrize("kind", sorted(INTAKES))
def test_nothing_is_spoilt(kind: str, written: str) -> None:
    """No attribute is too deep, too long or too many, no line is sliced or filed under another time."""
    entries = [*sealed(), sealed_without("user.added", "actor"), sealed_without("user.removed", "actor", "target")]
    with INTAKES[kind](record=record_format(written, None)) as intake:
        intake.service.now = entries[0].filed_ns / 1e9
        assert send(intake.destination, entries).action is Action.DELIVERED
        rows = intake.rows()
        assert not getattr(intake.service, "complaints", [])
        assert not getattr(intake.service, "sliced", [])
    copies = [find_copy(row) for row in rows]
    assert [copy.entry_id for copy, _ in copies] == [entry.entry_id for entry in entries]
    for copy, told in copies:
        compare(copy, told)
        assert not copy.mismatch()
