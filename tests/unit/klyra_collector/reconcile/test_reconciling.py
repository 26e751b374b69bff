"""Every verdict, and whose fault it is not: filters, plans, retention, erasures, what was not delivered yet."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from klyra_audit.format.leaf import Kind
from klyra_collector.fanout.source import Wanted
from klyra_collector.fanout.trial import TEST_ORIGIN, trial_entry
from klyra_collector.reconcile.errors import ExportEmpty
from klyra_collector.reconcile.reconciling import Verdict, verdict_lines
from klyra_siem.formats import NAMES
from support.entries import ACME, ORIGIN, RETENTION_DAYS, TODAY, MemoryLedger, organization_reference
from support.sealing import MIDSUMMER_US
from support.siem.events import EVENT_TYPES, delivered, event
from support.siem.reconciling import TO, reconcile, record, sealed_in

NEXT = ORIGIN.replace("2026", "2027")


def verdicts(answers) -> dict[str, str]:
    """Return the verdict on each index, or row."""
    return {f"row {one.row}" if one.row else one.index: one.verdict.value for one in answers}


@pytest.fixture
def ledger() -> MemoryLedger:
    """A ledger of one event of each type."""
    made = MemoryLedger(ORIGIN, NEXT)
    sealed_in(made)
    return made


class TestVerdicts:
    """One of each."""

    @pytest.mark.parametrize("name", NAMES)
    def test_everything_is_there(self, ledger, name) -> None:
        """In any order, in any format."""
        answers, summary = reconcile(ledger, [record(entry, name) for entry in reversed(delivered(ledger))])
        assert {one.verdict for one in answers} == {Verdict.OK}
        assert (len(answers), summary.is_intact, summary.rows) == (len(EVENT_TYPES), True, len(EVENT_TYPES))

    @pytest.mark.parametrize("name", NAMES)
    def test_one_fault_each(self, ledger, name) -> None:
        """Deleted, changed, doubled, made up and cut off are told apart."""
        rows = [record(entry, name) for entry in delivered(ledger)]
        whole = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        changed = whole[1].replace("usr_1", "usr_9").replace("classifier", "classified")
        cut = whole[2][: whole[2].index("sections") + 60]
        answers, summary = reconcile(ledger, [changed, cut, whole[3], whole[3], "hello", *whole[4:]])
        expected = {0: "MISSING", 1: "ALTERED", 2: "TRUNCATED", 3: "DUPLICATE", "row 5": "EXTRA"}
        assert verdicts(one for one in answers if one.verdict is not Verdict.OK) == expected
        assert all(one.reason for one in answers if one.verdict is not Verdict.OK)
        assert not summary.is_intact
        assert summary.verdicts[Verdict.OK] == len(EVENT_TYPES) - 4

    @pytest.mark.parametrize("name", NAMES)
    def test_a_test_event_is_no_fault(self, ledger, name) -> None:
        """It is of no ledger and says so; it is counted beside the entries."""
        rows = [record(entry, name) for entry in (*delivered(ledger), trial_entry("far", MIDSUMMER_US))]
        answers, summary = reconcile(ledger, rows)
        assert {one.verdict for one in answers} == {Verdict.OK}
        assert (summary.test_events, summary.is_intact) == (1, True)
        assert verdict_lines(summary)[-1] == "1 test events are there besides"

    def test_what_only_pretends_to_be_a_test_event_is_extra(self, ledger) -> None:
        """Another type, or other text beside a test event's sealed text, in the name of no ledger."""
        honest = [record(entry, "native") for entry in delivered(ledger)]
        lied = replace(delivered(ledger)[0], origin=TEST_ORIGIN)
        shown = record(trial_entry("far", MIDSUMMER_US), "native") | {"action": "delete"}
        answers, summary = reconcile(ledger, [*honest, record(lied, "native"), shown])
        assert [one.verdict for one in answers if one.verdict is not Verdict.OK] == [Verdict.EXTRA] * 2
        assert (summary.test_events, summary.is_intact) == (0, False)

    def test_a_copy_made_anew_with_another_content_is_altered(self, ledger) -> None:
        """Whoever can compute commitments makes a copy that agrees with itself, but not with the ledger."""
        other = MemoryLedger()
        sealed_in(other, event(EVENT_TYPES[0], 0, status="failure"))
        forged = record(delivered(other)[0])
        answers, _ = reconcile(ledger, [forged, *(record(entry) for entry in delivered(ledger)[1:])])
        assert verdicts(answers)[0] == "ALTERED"

    def test_a_whole_copy_does_not_excuse_a_changed_one(self, ledger) -> None:
        """Both are there: somebody changed one."""
        rows = [record(entry) for entry in delivered(ledger)]
        answers, _ = reconcile(ledger, [*rows, rows[5] | {"status": "failure"}])
        assert verdicts(answers)[5] == "ALTERED"

    def test_sealed_text_that_is_no_entry_is_altered(self, ledger) -> None:
        """Forged sections may hold anything; that is a verdict, never a crash."""
        odd = delivered(ledger)[0]
        document = {"id": odd.entry_id, "organization_id": ACME}
        body = replace(odd.body, sections=replace(odd.body.sections, core=json.dumps(document).encode()))
        row = record(odd) | {"klyra": record(replace(odd, body=body))["klyra"]}
        answers, _ = reconcile(ledger, [row])
        assert verdicts(answers)[0] == "ALTERED"

    @pytest.mark.parametrize("change", [{"log": "other/c/2026"}, {"index": 99}, {"index": -1}])
    def test_an_entry_of_another_ledger_is_extra(self, ledger, change) -> None:
        """It may be a true one, but not of this ledger."""
        row = record(delivered(ledger)[0])
        answers, _ = reconcile(ledger, [row | {"klyra": row["klyra"] | change}])
        assert verdicts(answers)["row 1"] == "EXTRA"

    def test_many_cut_records_that_say_where_they_stand(self, ledger) -> None:
        """Beside the record vendors' modules write its place."""
        rows = [{"klyra_log": ORIGIN, "seq": str(n), "_raw": '{"klyra": {"id"'} for n in range(len(EVENT_TYPES))]
        answers, _ = reconcile(ledger, rows)
        assert {one.verdict for one in answers} == {Verdict.TRUNCATED}
        assert len(answers) == len(EVENT_TYPES)

    def test_cut_records_of_nobody_are_told_by_their_row(self, ledger) -> None:
        """An id that this ledger does not have, or none at all."""
        rows = ['{"klyra": {"id": "log_00000000000000000000zzzz', '{"klyra": {"leaf"']
        answers, _ = reconcile(ledger, rows)
        cut = [one for one in answers if one.verdict is Verdict.TRUNCATED]
        assert {(one.entry_id, one.row) for one in cut} == {("log_00000000000000000000zzzz", None), ("", 2)}


class TestWhatIsNotMissing:
    """Nobody is alarmed about what nobody should expect."""

    def test_the_time_window(self, ledger) -> None:
        """Outside the window nothing is missing; what is there is compared all the same."""
        answers, _ = reconcile(ledger, [record(delivered(ledger)[2])], from_ns=TO, to_ns=TO + 1)
        assert verdicts(answers) == {2: "OK"}

    def test_the_filter(self, ledger) -> None:
        """What the filter leaves out is not missing, and is extra when it is there."""
        wanted = Wanted(event_types=frozenset({"webhook.created"}))
        rows = [record(delivered(ledger)[0]), record(delivered(ledger)[7])]
        answers, _ = reconcile(ledger, rows, wanted=wanted)
        assert verdicts(answers) == {0: "EXTRA", 7: "OK"}

    def test_another_organization(self, ledger) -> None:
        """It is not missing; delivered to the wrong place it is extra."""
        sealed_in(ledger, event("user.added", 40, organization_id="org_other"))
        rows = [record(entry) for entry in delivered(ledger)]
        answers, _ = reconcile(ledger, rows)
        assert len(answers) == len(EVENT_TYPES)

    def test_what_was_not_delivered_yet(self, ledger) -> None:
        """Behind the cursor nothing is missing, also not in later shards."""
        sealed_in(ledger, event("user.added", 41), origin=NEXT)
        answers, summary = reconcile(ledger, [record(delivered(ledger)[0])], delivered=(ORIGIN, 2))
        assert verdicts(answers) == {0: "OK", 1: "MISSING"}
        assert summary.not_delivered_yet == len(EVENT_TYPES) - 1
        assert any("not been delivered yet" in line for line in verdict_lines(summary))

    def test_shards_before_the_cursor_s(self, ledger) -> None:
        """They were delivered whole."""
        sealed_in(ledger, event("user.added", 41), origin=NEXT)
        answers, _ = reconcile(ledger, ["hello"], delivered=(NEXT, 0))
        assert sum(one.verdict is Verdict.MISSING for one in answers) == len(EVENT_TYPES)

    def test_a_dead_letter_says_so(self, ledger) -> None:
        """It is missing for a reason that is known."""
        answers, _ = reconcile(ledger, ["hello"], dead=frozenset({(ORIGIN, 3)}))
        assert ["dead letter" in one.reason for one in answers if one.index in {3, 4}] == [True, False]

    def test_what_has_expired(self, ledger) -> None:
        """It need not be there; a SIEM may keep it for longer, and a changed copy shows even then."""
        rows = [record(entry) for entry in delivered(ledger)]
        rows[1] = rows[1] | {"status": "failure"}
        answers, summary = reconcile(ledger, rows[:3], today=TODAY + RETENTION_DAYS + 2)
        assert verdicts(answers) == {0: "OK", 1: "ALTERED", 2: "OK"}
        assert summary.verdicts[Verdict.MISSING] == 0

    def test_control_records_are_no_entries(self, ledger) -> None:
        """Neither missing nor found."""
        ledger.control(Kind.HEADS, {"type": "heads"})
        row = record(delivered(ledger)[0])
        forged = row | {"klyra": row["klyra"] | {"index": len(EVENT_TYPES)}}
        answers, _ = reconcile(ledger, [*(record(entry) for entry in delivered(ledger)), forged])
        assert verdicts(answers)[len(EVENT_TYPES)] == "EXTRA"


class TestErasures:
    """What was erased here may still be there, and must be said; what was erased there must have been here."""

    @staticmethod
    def erase(ledger: MemoryLedger, index: int, *names: str) -> None:
        """Erase sections of an entry."""
        ranges = {name: [[index, index]] if name in names else [] for name in ("actor", "target")}
        content = {"type": "erasure", "org_ref": organization_reference(ACME).hex(), "basis": "request"}
        ledger.control(Kind.ERASURE, content | ranges | {"requested_day": TODAY})
        ledger.erase(ledger.read(ORIGIN, index, 1)[0], *names)

    def test_a_copy_from_before_an_erasure(self, ledger) -> None:
        """It is what was sealed, and still holds the person: a figure of its own."""
        rows = [record(entry) for entry in delivered(ledger)]
        self.erase(ledger, 11, "actor", "target")
        answers, summary = reconcile(ledger, rows)
        assert {one.verdict for one in answers} == {Verdict.OK}
        assert summary.not_erased == 1
        assert any("erased" in line for line in verdict_lines(summary))

    def test_a_copy_from_after_it(self, ledger) -> None:
        """Nothing is left to erase."""
        self.erase(ledger, 11, "actor", "target")
        answers, summary = reconcile(ledger, [record(entry) for entry in delivered(ledger)])
        assert ({one.verdict for one in answers}, summary.not_erased) == ({Verdict.OK}, 0)

    def test_a_redaction_that_no_erasure_names(self, ledger) -> None:
        """Somebody took a section out there."""
        other = MemoryLedger()
        other._shards, other._chains = {ORIGIN: list(ledger.read(ORIGIN, 0, 99))}, ledger._chains
        self.erase(other, 11, "actor")
        rows = [record(entry) for entry in delivered(other)]
        answers, _ = reconcile(ledger, rows)
        (altered,) = [one for one in answers if one.verdict is not Verdict.OK]
        assert (altered.verdict, altered.index, "actor" in altered.reason) == (Verdict.ALTERED, 11, True)


def test_an_empty_export_says_nothing(ledger) -> None:
    """It is an error, never OK."""
    with pytest.raises(ExportEmpty) as raised:
        reconcile(ledger, [])
    assert (raised.value.code, raised.value.remedy != "") == ("export_empty", True)
