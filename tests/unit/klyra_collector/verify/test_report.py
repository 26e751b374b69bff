"""What many findings come to: one verdict, one exit status."""

from __future__ import annotations

import orjson
import pytest

from klyra_collector.verify import Finding, Report, ShardReport, Verdict
from klyra_collector.verify.findings import Findings, Marks
from klyra_collector.verify.report import BROKEN, COULD_NOT, INTACT
from klyra_collector.verify.verdicts import GRAVITY, MEANINGS

V = Verdict
GOOD = (V.OK, V.EXPIRED_OK, V.REDACTED_OK)


def report(*counts: dict[Verdict, int], pinned: bool = True, require_pinned: bool = False) -> Report:
    """Return a report of shards with these counts."""
    shards = [ShardReport(directory="x", counts=one) for one in counts]
    return Report(target="x", pinned=pinned, require_pinned=require_pinned, shards=shards)


def test_the_verdicts_are_the_closed_set() -> None:
    """All 24, each with a meaning and a place among the others."""
    assert len(Verdict) == 24
    assert set(GRAVITY) == set(MEANINGS) == set(Verdict)
    assert len(GRAVITY) == 24


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict not in GOOD])
def test_one_finding_among_many_sound_records_decides(verdict) -> None:
    """Broken, or not checked; never intact."""
    judged = report({V.OK: 1_000_000}, {V.OK: 5, verdict: 1})
    assert judged.verdict is verdict
    assert judged.exit_status == (COULD_NOT if verdict is V.UNVERIFIABLE else BROKEN)


@pytest.mark.parametrize("verdict", GOOD)
def test_sound_records_are_intact(verdict) -> None:
    """Also those that were deleted or erased as agreed."""
    assert report({V.OK: 1, verdict: 2}).exit_status == INTACT


def test_nothing_is_never_intact() -> None:
    """No shard, or a shard without a record."""
    assert report().exit_status == COULD_NOT
    assert report({}).exit_status == COULD_NOT
    assert report({V.OK: 0}).exit_status == COULD_NOT


def test_broken_outweighs_not_checked() -> None:
    """What was found is found."""
    assert report({V.UNVERIFIABLE: 3}, {V.ALTERED: 1}, pinned=False, require_pinned=True).exit_status == BROKEN


def test_a_pin_that_is_required() -> None:
    """Without it nothing was checked."""
    assert report({V.OK: 1}, pinned=False, require_pinned=True).exit_status == COULD_NOT
    assert report({V.OK: 1}, pinned=False).exit_status == INTACT


def test_findings_are_counted_beyond_what_is_kept() -> None:
    """A count of records, and a number of findings."""
    findings = Findings(limit=1)
    findings.add(Finding(verdict=V.MISSING, reason="x", first=1, last=5, count=3))
    findings.add(Finding(verdict=V.MISSING, reason="x", remedy="Do that."))
    findings.count(V.CLOCK, 4)
    findings.count(V.OK, 7)
    assert (len(findings.kept), findings.total) == (1, 6)
    assert findings.counts == {V.MISSING: 4, V.CLOCK: 4, V.OK: 7}


def test_the_form_for_machines_is_text_whatever_names_say() -> None:
    """Names of files and of a policy need not be UTF-8."""
    shard = ShardReport(directory="x", notes=["\udcff"], findings=[Finding(verdict=V.CLOCK, reason="a\udcff", first=3)])
    form = Report(target="x", pinned=True, shards=[shard]).as_json()
    assert orjson.loads(orjson.dumps(form)) == form
    assert form["shards"][0]["notes"] == ["\\udcff"]


def test_a_finding_has_a_meaning() -> None:
    """The verdict's, or its own."""
    assert Finding(verdict=V.CLOCK, reason="x").meaning == MEANINGS[V.CLOCK]
    assert Finding(verdict=V.CLOCK, reason="x", remedy="Do that.").meaning == "Do that."


def test_marks_remember_what_was_seen_and_what_was_found() -> None:
    """Independently of each other, and within their size."""
    marks = Marks(6)
    assert [marks.see(index) for index in (0, 2, 2)] == [False, False, True]
    marks.flag(-5, 0)
    marks.flag(4, 99)
    marks.flag_unseen(1, 3)
    assert marks.seen_from(0, 4) == bytes([1, 0, 1, 0])
    assert (marks.unflagged(6), marks.unflagged(3), marks.all_seen()) == (1, 1, False)
