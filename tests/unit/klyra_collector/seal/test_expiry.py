"""Expiry in operation: what is due goes, nothing else does, and a crash at any moment changes neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from klyra_audit.format import control
from klyra_audit.format.leaf import Kind
from klyra_collector.errors import LedgerDamaged
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.expiry import finish
from klyra_collector.seal.expiry_files import ExpiredState, ShardBodies, spans
from klyra_collector.seal.ledger import Ledger
from support.expiring import ExpiringLedger
from support.records import BUSINESS, STARTUP
from support.sealing import Fault, FaultyDisk


class TestDaily:
    """Plain retention."""

    def test_a_body_goes_on_its_day_and_not_before(self, tmp_path) -> None:
        """On the day in the leaf, an EXPIRY names the body and its file is deleted; the day before, nothing happens."""
        with ExpiringLedger(tmp_path) as ledger:
            index = ledger.event()
            ledger.pass_days(30)
            assert ledger.run().named == 0
            assert ledger.present() == [index]
            ledger.pass_days(1)
            done = ledger.run()
            assert (done.named, done.deleted, done.waiting) == (1, 1, False)
            assert ledger.present() == []
            assert ledger.files() == []
            (expiry,) = ledger.expiries()
            assert expiry == control.Expiry(
                ledger.reference(), ledger.today, 1, control.seq_digest([1]), held=(), log=None
            )

    def test_nothing_is_named_twice(self, tmp_path) -> None:
        """A second run on the same day, or after a restart, seals nothing."""
        with ExpiringLedger(tmp_path) as ledger:
            ledger.event()
            ledger.pass_days(31)
            ledger.run()
            assert ledger.run().named == 0
            ledger.stop()
            ledger.start()
            assert ledger.run().named == 0
            assert len(ledger.expiries()) == 1

    def test_each_organization_has_its_own_record_and_time(self, tmp_path) -> None:
        """Organizations expire by their own plans, each with a record of its own in its own chain."""
        with ExpiringLedger(tmp_path) as ledger:
            ledger.event(STARTUP)
            kept = ledger.event(BUSINESS)
            ledger.bad(STARTUP)
            ledger.pass_days(31)
            assert ledger.run().named == 2
            assert ledger.present() == [kept]
            ledger.pass_days(60)
            ledger.run()
            assert ledger.files() == []
            assert [expiry.org_ref for expiry in ledger.expiries()] == [
                ledger.reference(STARTUP),
                ledger.reference(BUSINESS),
            ]
            records = [record for record in ledger.records() if record.leaf.kind == Kind.EXPIRY]
            assert [record.leaf.org_ref.hex() for record in records] == [
                record.control["org_ref"] for record in records
            ]

    def test_the_checkpoint_that_covers_the_record_is_kept(self, tmp_path) -> None:
        """`checkpoints/expiry-<index>` is a signed head over the EXPIRY record."""
        with ExpiringLedger(tmp_path) as ledger:
            ledger.event()
            ledger.pass_days(31)
            ledger.run()
            (record,) = [record for record in ledger.records() if record.leaf.kind == Kind.EXPIRY]
            kept = ledger.shard.checkpoints / f"expiry-{record.index}"
            assert int(kept.read_text().split("\n")[1]) > record.index


class TestHeld:
    """Legal holds stop expiry, and only expiry of what they cover."""

    def test_a_held_body_stays_and_the_rest_goes(self, tmp_path) -> None:
        """What a hold covers is called held, filed under `held` with its quarantined bytes, and readable."""
        with ExpiringLedger(tmp_path) as ledger:
            free = ledger.event()
            ledger.clock.pass_seconds(60)
            since = ledger.clock.wall
            held = [ledger.event(), ledger.bad()]
            ledger.hold(from_us=since)
            ledger.pass_days(31)
            assert ledger.run().named == 1
            assert free not in ledger.present()
            assert ledger.present() == held
            assert ledger.files() == ["ledger/2026/bodies/held/frames", "quarantine/held/2026.frames"]
            (expiry,) = ledger.expiries()
            assert (expiry.count, expiry.held) == (1, ((2, 3),))

    def test_a_released_body_goes_at_the_next_run(self, tmp_path) -> None:
        """After RELEASE a new EXPIRY names what was held; its frame leaves the file of held ones."""
        with ExpiringLedger(tmp_path) as ledger:
            ledger.event()
            ledger.hold()
            ledger.pass_days(31)
            ledger.run()
            ledger.pass_days(3)
            ledger.run()
            assert len(ledger.present()) == 1
            ledger.release()
            assert ledger.run().named == 1
            assert ledger.files() == []
            first, last = ledger.expiries()
            assert (first.count, first.held) == (0, ((1, 1),))
            assert (last.count, last.held, last.seq_digest) == (1, (), control.seq_digest([1]))

    def test_what_is_still_held_is_called_so_again(self, tmp_path) -> None:
        """Every later record of the organization repeats what is held: what it does not repeat, it names."""
        with ExpiringLedger(tmp_path) as ledger:
            kept = ledger.event()
            ledger.hold(to_us=ledger.clock.wall)
            ledger.pass_days(1)
            ledger.event()
            ledger.pass_days(30)
            ledger.run()
            ledger.pass_days(1)
            ledger.run()
            assert [(expiry.count, expiry.held) for expiry in ledger.expiries()] == [(0, ((1, 1),)), (1, ((1, 1),))]
            assert ledger.present() == [kept]

    def test_one_of_two_holds_keeps(self, tmp_path) -> None:
        """A body under two holds goes when the second is released."""
        with ExpiringLedger(tmp_path) as ledger:
            ledger.event()
            ledger.hold("hold_1")
            ledger.hold("hold_2")
            ledger.pass_days(31)
            ledger.run()
            ledger.release("hold_1")
            ledger.run()
            assert len(ledger.present()) == 1
            ledger.release("hold_2")
            ledger.run()
            assert ledger.present() == []

    def test_a_hold_of_another_organization_keeps_nothing_here(self, tmp_path) -> None:
        """A hold covers its own organization alone."""
        with ExpiringLedger(tmp_path) as ledger:
            ledger.event()
            ledger.event(BUSINESS)
            ledger.hold(tenancy=BUSINESS)
            ledger.pass_days(31)
            assert ledger.run().named == 1
            ledger.pass_days(60)
            ledger.run()
            assert len(ledger.present()) == 1


class TestExtended:
    """EXTEND keeps what is sealed longer."""

    def test_an_extended_body_goes_on_its_new_day(self, tmp_path) -> None:
        """On its old day its frame moves to the file of the new one, where readers find it; then it goes."""
        with ExpiringLedger(tmp_path) as ledger:
            other = ledger.event(BUSINESS)
            short, long = ledger.event(), ledger.event()
            ledger.bad(BUSINESS)
            ledger.extend(2, 2, 90)
            ledger.pass_days(31)
            assert ledger.run().named == 1
            assert short not in ledger.present()
            assert {other, long} <= set(ledger.present())
            assert [name for name in ledger.files() if "bodies" in name] == [
                f"ledger/2026/bodies/{ledger.today - 31 + 91}/frames"
            ]
            ledger.pass_days(59)
            ledger.run()
            assert long in ledger.present()
            ledger.pass_days(1)
            ledger.run()
            assert ledger.present() == []
            assert ledger.files() == []

    def test_a_held_body_may_be_extended(self, tmp_path) -> None:
        """What was held past its day and is extended then is filed under its new day once the hold ends."""
        with ExpiringLedger(tmp_path) as ledger:
            index = ledger.event()
            ledger.hold()
            ledger.pass_days(31)
            ledger.run()
            ledger.extend(1, 1, 60)
            ledger.release()
            assert ledger.run().named == 0
            assert ledger.present() == [index]
            assert "held" not in "".join(ledger.files())
            ledger.pass_days(30)
            assert ledger.run().named == 1
            assert ledger.files() == []

    def test_an_extension_that_comes_too_late_changes_nothing(self, tmp_path) -> None:
        """An EXTEND behind the EXPIRY that names a body does not bring it back, nor is it named again."""
        with ExpiringLedger(tmp_path) as ledger:
            ledger.event()
            ledger.pass_days(31)
            ledger.run()
            ledger.extend(1, 1, 60)
            ledger.pass_days(30)
            assert ledger.run().named == 0
            assert len(ledger.expiries()) == 1


STEPS = ("commit_expiries", "write_expired", "keep_checkpoint", "move", "remove", "sift")


class Stop(Exception):  # noqa: N818 - no error: the process ends here
    """The process is killed."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: str, *, before: bool) -> None:
    """Kill the process right before or right after a durable step of expiry, the first time it comes."""
    owner, name = {
        "commit_expiries": (Ledger, "commit_expiries"),
        "write_expired": (ExpiredState, "write"),
        "keep_checkpoint": (Disk, "replace"),
        "move": (ShardBodies, "_append"),
        "remove": (ShardBodies, "remove"),
        "sift": (Path, "replace"),
    }[step]
    original = getattr(owner, name)

    def dying(*arguments, **options):
        counts = {
            "keep_checkpoint": lambda: "expiry-" in str(arguments[1]),
            "sift": lambda: "held" in str(arguments[0]),
            "move": lambda: bool(arguments[1]),
        }.get(step, lambda: True)()
        if counts and before:
            raise Stop
        result = original(*arguments, **options)
        if counts:
            raise Stop
        return result

    monkeypatch.setattr(owner, name, dying)


def frames_in(ledger: ExpiringLedger) -> dict[str, list[int]]:
    """Return which frames stand in which folder of bodies, each as often as it does."""
    found = {}
    for path in ledger.shard.bodies.glob("*/frames"):
        found[path.parent.name] = [index for index, _, _ in spans(path.read_bytes())]
    return found


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_is_made_good_by_the_next_start(tmp_path, monkeypatch, step, before) -> None:
    """Killed before or after each durable step, the next start ends where an undisturbed run would have."""
    with ExpiringLedger(tmp_path) as ledger:
        ledger.event()
        ledger.hold("hold_1", to_us=ledger.clock.wall)
        ledger.clock.pass_seconds(60)
        still_held = ledger.event()
        ledger.hold("hold_2", from_us=ledger.clock.wall, to_us=ledger.clock.wall)
        ledger.pass_days(1)
        ledger.event()
        extended, raw = ledger.event(), ledger.bad()
        ledger.extend(6, 7, 200)
        ledger.pass_days(30)
        ledger.run()
        ledger.release("hold_1")
        ledger.pass_days(1)
        with monkeypatch.context() as patched:
            kill_at(patched, step, before=before)
            with pytest.raises(Stop):
                ledger.run()
        ledger.kill()
        ledger.start()
        ledger.run()
        assert ledger.run().named == 0
        day = ledger.today - 31 + 201
        assert ledger.present() == [still_held, extended, raw]
        assert frames_in(ledger) == {"held": [still_held], str(day): [extended, raw]}
        assert ledger.files() == [
            f"ledger/2026/bodies/{day}/frames",
            "ledger/2026/bodies/held/frames",
            f"quarantine/{day}/2026.frames",
        ]
        assert sum(expiry.count for expiry in ledger.expiries()) == 2


def test_a_torn_frame_in_the_new_file_is_cut(tmp_path) -> None:
    """What a crash left half written at the end of the file that frames move to is replaced by the whole frame."""
    with ExpiringLedger(tmp_path) as ledger:
        held = [ledger.event(), ledger.event()]
        (day,) = ledger.shard.bodies.iterdir()
        content = (day / "frames").read_bytes()
        ledger.hold()
        ledger.pass_days(31)
        folder = ledger.shard.bodies / "held"
        folder.mkdir()
        (folder / "frames").write_bytes(content[:-7])
        ledger.run()
        assert (folder / "frames").read_bytes() == content
        assert ledger.present() == held


def test_a_damaged_file_is_not_deleted_while_a_hold_may_need_it(tmp_path) -> None:
    """If nobody can say what is in a file, and something is held, expiry stops and says so."""
    with ExpiringLedger(tmp_path) as ledger:
        ledger.event()
        ledger.hold()
        (path,) = ledger.shard.bodies.glob("*/frames")
        path.write_bytes(b"XXXX" + path.read_bytes()[4:])
        ledger.pass_days(31)
        with pytest.raises(LedgerDamaged, match="legal hold") as refused:
            ledger.run()
        assert refused.value.code == "ledger_damaged"
        assert "klyra-audit verify" in refused.value.remedy
        assert path.exists()


def test_a_full_disk_leaves_no_half_frame(tmp_path) -> None:
    """A move that fails in the middle is taken back, so that the writer's own next frame stands behind whole ones."""
    disk = FaultyDisk()
    with ExpiringLedger(tmp_path, disk=disk) as ledger:
        kept = ledger.event()
        ledger.hold()
        ledger.pass_days(31)
        finish(ledger.expiry.run())
        ledger.ledger.sign()
        disk.fault = Fault("append", "torn")
        with pytest.raises(OSError, match="No space"):
            finish(ledger.expiry.run())
        assert (ledger.shard.bodies / "held" / "frames").read_bytes() == b""
        ledger.run()
        assert ledger.present() == [kept]
        assert frames_in(ledger) == {"held": [kept]}
