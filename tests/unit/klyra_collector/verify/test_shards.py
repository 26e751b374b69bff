"""Several shards as one: what closes and opens them, keys that lead to keys, and what a reader knows from before."""

from __future__ import annotations

import base64
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from klyra_audit.format import control, merkle, note, policy
from klyra_audit.format.control import (
    REASON_DISASTER,
    REASON_YEAR,
    DroppedShard,
    Extend,
    Hold,
    Key,
    PolicyRecord,
    Release,
    ShardClose,
    ShardOpen,
)
from klyra_audit.format.heads import Head, HeadsTree
from klyra_audit.format.leaf import Kind, Leaf
from klyra_audit.format.note import ALGORITHM_COSIGNATURE, SigningKey
from klyra_collector.verify import Verdict
from klyra_collector.verify.facts import ControlFacts
from klyra_collector.verify.lineage import LEAST_DAYS_UNTIL_DROPPED, Lineage, Link
from klyra_collector.verify.retention import QuorumTimes
from support.ledgers import ACME, DAY_US, ORIGIN, LedgerBuilder, put, shards_in_a_row, signing_key
from support.sealing import SetClock, open_ledger

if TYPE_CHECKING:
    from pathlib import Path

V = Verdict
WITNESS = SigningKey.from_seed("witness.test/w1", bytes(32), ALGORITHM_COSIGNATURE)
OTHER = bytes(range(7, 39))


def pin(*vkeys: str, witness: bool = False) -> policy.Policy:
    """Return a policy of these logs, and of one witness."""
    lines = [f"log {vkey}\n" for vkey in vkeys]
    lines += [f"witness w1 {WITNESS.vkey}\nquorum w1\n"] if witness else ["quorum none\n"]
    return policy.parse("".join(lines).encode())


def verdicts(report) -> set[Verdict]:
    """Return everything that was found and is not good."""
    counts = [pair for shard in report.shards for pair in shard.counts.items()]
    return {verdict for verdict, count in counts if count and not verdict.is_good}


@pytest.fixture
def row() -> list[LedgerBuilder]:
    """Three shards."""
    return shards_in_a_row("2025", "2026", "2027")


@pytest.fixture
def data(row, tmp_path) -> Path:
    """Them on disk."""
    for builder in row:
        builder.write(tmp_path / "data")
    return tmp_path / "data"


class TestRow:
    """Shards of one ledger."""

    def test_the_oldest_key_leads_to_all(self, data, row, verify) -> None:
        """Each close record names the next key."""
        report = verify(data, policy=pin(row[0].vkey))
        assert (report.exit_status, len(report.shards)) == (0, 3)

    def test_without_a_policy_they_are_consistent(self, data, verify) -> None:
        """Each by its own key."""
        assert verify(data).exit_status == 0

    def test_another_key_than_the_one_that_was_named(self, tmp_path, row, verify) -> None:
        """Whoever holds it did not get it from the shard before."""
        row[1] = replace(row[1], seed=OTHER)
        for builder in row:
            builder.write(tmp_path / "data")
        assert V.BAD_SIGNATURE in verdicts(verify(tmp_path / "data", policy=pin(row[0].vkey)))

    @pytest.mark.parametrize("gone", ["2025", "2026", "2027"])
    def test_a_shard_that_is_gone(self, data, row, verify, gone) -> None:
        """The oldest, one in the middle and the newest."""
        shutil.rmtree(data / "ledger" / gone)
        assert verdicts(verify(data, policy=pin(*(builder.vkey for builder in row)))) == {V.MISSING}

    def test_a_shard_that_was_dropped(self, tmp_path, verify) -> None:
        """A POLICY record says which one, with size and root."""
        first, second = shards_in_a_row("2025", "2026")
        root = merkle.root_of(map(merkle.leaf_hash, first.leaves))
        second.now_us += (LEAST_DAYS_UNTIL_DROPPED + 1) * DAY_US
        second.control(Kind.POLICY, DroppedShard(first.origin, len(first.leaves), root).document())
        second.event(ACME)
        second.write(tmp_path / "data")
        assert V.MISSING not in verdicts(verify(tmp_path / "data", policy=pin(second.vkey)))

    def test_a_shard_that_was_dropped_too_early(self, tmp_path, verify) -> None:
        """The record says when: a reason to call it missing, not to do without it."""
        first, second = shards_in_a_row("2025", "2026")
        root = merkle.root_of(map(merkle.leaf_hash, first.leaves))
        second.control(Kind.POLICY, DroppedShard(first.origin, len(first.leaves), root).document())
        second.write(tmp_path / "data")
        report = verify(tmp_path / "data", policy=pin(second.vkey))
        assert (report.exit_status, verdicts(report)) == (1, {V.MISSING})
        assert "could be in force" in report.shards[0].findings[0].reason

    def test_a_shard_that_was_closed_shorter(self, data, row, verify) -> None:
        """The head of an older state is signed, and the next shard knows better."""
        shutil.rmtree(data / "ledger" / "2025")
        older = replace(row[0], leaves=row[0].leaves[:-1], controls=row[0].controls[:-1])
        older.write(data)
        put(data / "keys" / "org-salt", older.org_salt)
        assert V.ROLLBACK in verdicts(verify(data, policy=pin(*(builder.vkey for builder in row))))

    def test_a_shard_that_was_written_anew(self, tmp_path, row, verify) -> None:
        """Its root is not the one that the next shard goes on from."""
        again = shards_in_a_row("2025")[0]
        again.now_us += DAY_US
        again.event(ACME)
        again.control(Kind.SHARD, ShardClose(row[1].origin, row[1].vkey).document())
        assert len(again.leaves) > len(row[0].leaves) - 1
        for builder in (again, *row[1:]):
            builder.write(tmp_path / "data")
        assert V.FORK in verdicts(verify(tmp_path / "data", policy=pin(*(builder.vkey for builder in row))))

    def test_a_hold_that_is_not_carried_over(self, tmp_path, verify) -> None:
        """A new shard must not forget it."""
        first, second = shards_in_a_row("2025", "2026")
        facts = ControlFacts()
        hold = Hold("case", first.reference(ACME), 0)
        leaf = first_leaf(first)
        facts.note("a", 0, leaf, hold)
        facts.note("a", 1, leaf, ShardClose("b", second.vkey))
        facts.note("b", 0, leaf, ShardOpen("a", 2, bytes(32), "year"))
        links = [link("a", 2), link("b", 1)]
        (found,) = Lineage(links, facts, is_whole=True, turning_since_us=None).check()
        assert (found.problem.verdict, "case" in found.problem.reason) == (V.CONTROL_ALTERED, True)

    def test_records_behind_the_close_are_extra(self) -> None:
        """Nothing may follow it."""
        facts = ControlFacts()
        facts.note("a", 1, first_leaf(LedgerBuilder().begin()), ShardClose("b", "key"))
        found = list(Lineage([link("a", 3)], facts, is_whole=False, turning_since_us=None).check())
        assert [(one.index, one.problem.verdict) for one in found] == [(2, V.EXTRA)]

    def test_a_shard_behind_another_begins_with_its_open_record(self) -> None:
        """Otherwise it is none of this ledger."""
        facts = ControlFacts(["a", "b"])
        found = list(Lineage([link("a", 3), link("b", 3)], facts, is_whole=True, turning_since_us=None).check())
        assert [(one.shard, one.problem.verdict) for one in found] == [(1, V.CONTROL_ALTERED)]


def first_leaf(builder: LedgerBuilder) -> Leaf:
    """Return any leaf."""
    return Leaf.unpack(builder.leaves[0])


def link(log: str, size: int) -> Link:
    """Return what is known of a shard, of which nothing can be computed."""
    return Link(log=log, size=size, root_at=lambda _: None, last_us=0, first_us=0)


class TestDropped:
    """When a shard may be gone because a record says that it was dropped."""

    OPENED_DAY = 20_000
    DUE = OPENED_DAY + 1 + LEAST_DAYS_UNTIL_DROPPED
    GONE = DroppedShard("a", 5, bytes(32))

    def leaf(self, day: int) -> Leaf:
        """Return a control record's leaf of a day."""
        return Leaf(Kind.POLICY, 0, 0xFFFFFFFF, bytes(16), 0, day * DAY_US, 0, 0, bytes(32), bytes(32))

    def judge(self, day: int, *others, gone=GONE, quorum=None) -> str | None:
        """Return why the shard before counts as missing when it was dropped on a day, behind other records."""
        facts = ControlFacts()
        facts.note("b", 0, self.leaf(self.OPENED_DAY), ShardOpen("a", 5, bytes(32), REASON_YEAR))
        for index, document in enumerate(others, 1):
            facts.note("b", index, self.leaf(self.OPENED_DAY), document)
        facts.note("b", 9, self.leaf(day), gone)
        found = list(Lineage([link("b", 10)], facts, is_whole=True, turning_since_us=None, quorum=quorum).check())
        assert {one.problem.verdict for one in found} <= {V.MISSING}
        return found[0].problem.reason if found else None

    def test_ten_years_after_its_end(self) -> None:
        """On the first day on which nothing of it can be in force, and not on the day before."""
        assert self.judge(self.DUE) is None
        assert f"before day {self.DUE}" in self.judge(self.DUE - 1)

    def test_of_another_size_or_root_it_is_another(self) -> None:
        """The record names exactly what the next shard goes on from."""
        assert "is not here" in self.judge(self.DUE, gone=replace(self.GONE, size=4))
        assert "is not here" in self.judge(self.DUE, gone=replace(self.GONE, root=bytes(31) + b"x"))

    @pytest.mark.parametrize(
        "longer", [PolicyRecord(bytes(16), "enterprise", "e", 4_000), Extend(bytes(16), 0, 1, 4_000, "a")]
    )
    def test_what_is_kept_longer_keeps_it_longer(self, longer) -> None:
        """A policy or an extension of more than ten years."""
        due = self.OPENED_DAY + 1 + 4_000
        assert self.judge(due, longer) is None
        assert f"before day {due}" in self.judge(due - 1, longer)

    def test_a_legal_hold_keeps_it(self) -> None:
        """While it is in force, unless it is about later records only."""
        hold = Hold("case", bytes(16), 0, None, None)
        assert "legal hold case" in self.judge(self.DUE, hold)
        assert self.judge(self.DUE, hold, Release("case")) is None
        assert self.judge(self.DUE, replace(hold, from_us=self.OPENED_DAY * DAY_US + 1)) is None

    def test_witnesses_must_have_seen_the_day(self) -> None:
        """The collector's own clock is not enough where the policy asks for witnesses."""
        assert self.judge(self.DUE, quorum=QuorumTimes([("b", 10, self.DUE * 86_400)])) is None
        assert "seen by witnesses before" in self.judge(self.DUE, quorum=QuorumTimes([("b", 10, 20_001 * 86_400)]))
        assert "no quorum" in self.judge(self.DUE, quorum=QuorumTimes([]))


class TestDisaster:
    """An operator went on after a loss."""

    @pytest.fixture
    def continued(self, tmp_path) -> tuple[Path, LedgerBuilder, LedgerBuilder]:
        """A ledger that goes on from a head, with a key that nothing vouches for."""
        first = LedgerBuilder(origin="klyra-audit.test/collector-1/2026").begin(ACME)
        first.event(ACME)
        second = LedgerBuilder(origin="klyra-audit.test/collector-1/2026-2", seed=OTHER)
        root = merkle.root_of(map(merkle.leaf_hash, first.leaves))
        second.now_us = first.now_us
        second.control(Kind.SHARD, ShardOpen(first.origin, len(first.leaves), root, REASON_DISASTER).document())
        second.begin(ACME)
        for builder in (first, second):
            builder.write(tmp_path / "data")
        return tmp_path / "data", first, second

    def test_it_needs_another_pin(self, continued, verify) -> None:
        """Nothing says that the new key is the collector's: it could not be checked."""
        data, first, second = continued
        report = verify(data, policy=pin(first.vkey))
        assert (report.exit_status, verdicts(report)) == (2, {V.UNVERIFIABLE})
        report = verify(data, policy=pin(first.vkey, second.vkey))
        assert report.exit_status == 0
        assert "after a loss" in report.shards[1].notes[0]


class TestKeys:
    """Keys that change hands inside a shard."""

    @pytest.fixture
    def rotated(self, tmp_path):
        """A real ledger whose key was rotated; its old and new verifier keys."""
        ledger = open_ledger(tmp_path / "data", SetClock())
        ledger.sign()
        old = ledger.vkey
        ledger.rotate_key(old)
        ledger.sign()
        new = ledger.vkey
        ledger.close()
        return tmp_path / "data", old, new

    def test_the_old_key_vouches_for_the_new(self, rotated, verify) -> None:
        """By the checkpoint that was kept when it took over."""
        data, old, new = rotated
        only_new(data, new)
        assert verify(data, policy=pin(old)).exit_status == 0

    def test_a_new_key_that_nobody_vouches_for(self, rotated, verify) -> None:
        """No head of the old key covers the KEY record."""
        data, old, new = rotated
        shutil.rmtree(data / "ledger/2026/checkpoints")
        only_new(data, new)
        assert verdicts(verify(data, policy=pin(old))) == {V.BAD_SIGNATURE}

    def test_a_revoked_key_signs_nothing_more(self, tmp_path, verify) -> None:
        """A head that it alone signed, over records behind the revocation."""
        builder = LedgerBuilder().begin(ACME)
        rotated = SigningKey.from_seed(ORIGIN, OTHER)
        index = builder.control(Kind.KEY, Key(2, "collector-1", None, rotated.vkey, None).document())
        handover = builder.checkpoint()
        sequence = Leaf.unpack(builder.leaves[index]).org_seq
        builder.control(Kind.KEY, Key(1, "collector-1", None, builder.vkey, None, sequence).document())
        builder.event(ACME)
        data = builder.write(tmp_path / "data")
        put(data / "ledger/2026/checkpoints/key-2", handover)
        assert verdicts(verify(data, policy=pin(builder.vkey))) == {V.BAD_SIGNATURE}
        by_new = builder.checkpoint(key=rotated)
        for name in ("checkpoint", "state/last-signed"):
            put(data / "ledger/2026" / name, by_new)
        assert verify(data, policy=pin(builder.vkey)).exit_status == 0


def only_new(data: Path, new: str) -> None:
    """Take the old key's line from the newest heads."""
    for name in ("checkpoint", "state/last-signed"):
        path = data / "ledger/2026" / name
        text, _, lines = path.read_bytes().decode().rpartition("\n\n")
        kept = [line for line in lines.splitlines(keepends=True) if note_by(text, line, new)]
        path.write_bytes(f"{text}\n\n{''.join(kept)}".encode())


def note_by(text: str, line: str, vkey: str) -> bool:
    """Say whether a signature line is a key's."""
    try:
        note.open_note(f"{text}\n\n{line}".encode(), [note.VerifyingKey.parse(vkey)])
    except note.NoteError:
        return False
    return True


class TestWitnesses:
    """A policy with a quorum."""

    @pytest.fixture
    def builder(self) -> LedgerBuilder:
        """A ledger of one day."""
        builder = LedgerBuilder().begin(ACME)
        builder.event(ACME)
        return builder

    def cosign(self, encoded: bytes, seconds: int) -> bytes:
        """Return a head with the witness's line."""
        text = encoded.decode().rpartition("\n\n")[0] + "\n"
        return note.append_lines(encoded, [WITNESS.signature_line(text, seconds)])

    def test_a_head_that_was_cosigned(self, builder, tmp_path, verify) -> None:
        """Said with its size and time."""
        data = builder.write(tmp_path / "data")
        seconds = builder.now_us // 1_000_000 + 5
        put(data / "ledger/2026/state/witnessed", self.cosign(builder.checkpoint(), seconds))
        report = verify(data, policy=pin(builder.vkey, witness=True), now_us=builder.now_us)
        assert report.exit_status == 0
        assert report.as_json()["witnessed"] is True
        assert report.as_json()["shards"][0]["witnessed"] == {"size": len(builder.leaves), "time": seconds}

    @pytest.mark.parametrize(("age", "expected"), [(86_400, set()), (86_401, {V.STALE_WITNESS})])
    def test_how_long_ago(self, builder, tmp_path, verify, age, expected) -> None:
        """By the present that the reader gives."""
        data = builder.write(tmp_path / "data")
        seconds = builder.now_us // 1_000_000
        put(data / "ledger/2026/checkpoint", self.cosign(builder.checkpoint(), seconds))
        now_us = (seconds + age) * 1_000_000
        assert verdicts(verify(data, policy=pin(builder.vkey, witness=True), now_us=now_us)) == expected

    @pytest.mark.parametrize(("age", "is_stale"), [(3600, False), (2 * 86_400, True)])
    def test_how_long_ago_by_the_clock(self, builder, tmp_path, verify, age, is_stale) -> None:
        """Unless the reader gives the present, it is what this machine's clock says, whatever the ledger shows."""
        data = builder.write(tmp_path / "data")
        cosigned = self.cosign(builder.checkpoint(), int(time.time()) - age)
        put(data / "ledger/2026/checkpoint", cosigned)
        report = verify(data, policy=pin(builder.vkey, witness=True))
        stale = [finding for finding in report.shards[0].findings if finding.verdict is V.STALE_WITNESS]
        assert [("--now" in finding.reason) for finding in stale] == [True] * is_stale

    def test_a_cosignature_that_is_none(self, builder, tmp_path, verify) -> None:
        """Its time was changed."""
        data = builder.write(tmp_path / "data")
        cosigned = self.cosign(builder.checkpoint(), builder.now_us // 1_000_000)
        head, _, line = cosigned.rpartition(b" ")
        material = bytearray(base64.b64decode(line))
        material[11] ^= 1  # behind the key id, the last byte of the time
        forged = head + b" " + base64.b64encode(material) + b"\n"
        put(data / "ledger/2026/state/witnessed", forged)
        assert V.BAD_SIGNATURE in verdicts(verify(data, policy=pin(builder.vkey, witness=True)))

    def test_more_than_is_here_was_cosigned(self, builder, tmp_path, verify) -> None:
        """The ledger was rolled back."""
        witnessed = self.cosign(builder.checkpoint(), builder.now_us // 1_000_000)
        shorter = replace(builder, leaves=builder.leaves[:-1], bodies={})
        data = shorter.write(tmp_path / "data")
        put(data / "ledger/2026/state/witnessed", witnessed)
        assert V.ROLLBACK in verdicts(verify(data, policy=pin(builder.vkey, witness=True)))

    @pytest.mark.parametrize(("late", "expected"), [(899, set()), (901, {V.CLOCK})])
    def test_records_of_a_time_that_had_not_come(self, builder, tmp_path, verify, late, expected) -> None:
        """The witness saw them before the collector says they were sealed."""
        data = builder.write(tmp_path / "data")
        seconds = builder.now_us // 1_000_000 - late
        put(data / "ledger/2026/checkpoint", self.cosign(builder.checkpoint(), seconds))
        report = verify(data, policy=pin(builder.vkey, witness=True), now_us=builder.now_us)
        assert verdicts(report) == expected


class TestExpected:
    """What a reader knows from before."""

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"expect_size": 14}, set()),
            ({"expect_size": 15}, {V.ROLLBACK}),
            ({"expect_after_us": 1}, set()),
            ({"expect_after_us": 1 << 60}, {V.TRUNCATED}),
        ],
    )
    def test_size_and_time(self, small, tmp_path, verify, options, expected) -> None:
        """At least so many records, and one of that time or later."""
        data = small.write(tmp_path / "data")
        sizes = len(small.leaves) - 14
        given = {name: value + sizes if name == "expect_size" else value for name, value in options.items()}
        assert verdicts(verify(data, small, **given)) == expected

    def test_a_head_that_was_kept(self, small, tmp_path, verify) -> None:
        """A prefix; another history; more than is here; another log."""
        data = small.write(tmp_path / "data")
        path = tmp_path / "archived"
        assert verify(data, small, expect_checkpoint=(path, small.checkpoint(5))).exit_status == 0
        other = replace(small, leaves=[*small.leaves[:4], small.leaves[5]])
        assert verdicts(verify(data, small, expect_checkpoint=(path, other.checkpoint()))) == {V.FORK}
        longer = replace(small, leaves=[*small.leaves, small.leaves[0]])
        assert V.ROLLBACK in verdicts(verify(data, small, expect_checkpoint=(path, longer.checkpoint())))
        elsewhere = LedgerBuilder(origin="klyra-audit.test/collector-1/2031").begin(ACME)
        assert verdicts(verify(data, small, expect_checkpoint=(path, elsewhere.checkpoint()))) == {V.MISSING}
        forged = small.checkpoint(5, signing_key(OTHER))
        assert V.BAD_SIGNATURE in verdicts(verify(data, small, expect_checkpoint=(path, forged)))

    def test_a_lowered_committed_hides_nothing(self, small, tmp_path, verify) -> None:
        """Signed records are checked whatever it says."""
        data = small.write(tmp_path / "data")
        put(data / "ledger/2026/state/committed", (3).to_bytes(8))
        report = verify(data, small)
        assert report.shards[0].counts == {V.OK: len(small.leaves)}


class TestHeadsRecords:
    """HEADS is recomputed."""

    @pytest.mark.parametrize("change", [{}, {"count": 1}, {"size": 3}, {"root": bytes(32)}])
    def test_size_count_and_root(self, tmp_path, verify, change) -> None:
        """As the collector seals it, and with one of them changed."""
        builder = LedgerBuilder().begin(ACME)
        builder.event(ACME)
        said = control.Heads(len(builder.leaves), *heads_of(builder))
        builder.control(Kind.HEADS, replace(said, **change).document())
        index = len(builder.leaves) - 1
        builder.event(ACME)
        said = control.Heads(len(builder.leaves), *heads_of(builder))
        builder.control(Kind.HEADS, said.document())
        report = verify(builder.write(tmp_path / "data"), builder)
        expected = [(V.CONTROL_ALTERED, index)] if change else []
        assert [(finding.verdict, finding.first) for finding in report.shards[0].findings] == expected


def heads_of(builder: LedgerBuilder) -> tuple[int, bytes]:
    """Return count and root over the newest record of each organization."""
    tree = HeadsTree()
    for index, encoded in enumerate(builder.leaves):
        leaf = Leaf.unpack(encoded)
        tree.put(Head(leaf.org_ref, leaf.org_seq, merkle.leaf_hash(encoded), index))
    return tree.count, tree.root()
