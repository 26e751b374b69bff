"""Which time expiry believes: a clock that is wrong, found so or made so, deletes nothing early."""

from __future__ import annotations

import pytest

from klyra_audit.errors import RetryLater
from klyra_audit.timestamps import SECONDS_PER_DAY
from klyra_collector.errors import IntakeHalted
from klyra_collector.seal.expiry_clock import ExpiryRefused
from klyra_collector.witnessed import Witnessed
from support.expiring import ExpiringLedger

HOUR = 3600
DAY = SECONDS_PER_DAY


class TestWithoutWitness:
    """Only the machine's own clocks tell the time."""

    def test_a_clock_found_far_ahead_deletes_nothing_for_an_hour(self, tmp_path) -> None:
        """A start that finds the clock over a day past the last leaf waits an hour before it deletes."""
        with ExpiringLedger(tmp_path) as ledger:
            index = ledger.event()
            ledger.stop()
            ledger.clock.set_forward(40 * DAY)
            ledger.start()
            with pytest.raises(ExpiryRefused, match="over a day later than expected") as refused:
                ledger.run()
            assert isinstance(refused.value, RetryLater)
            assert refused.value.code == "clock_in_doubt"
            assert "--confirm-clock" in refused.value.remedy
            ledger.clock.pass_seconds(HOUR - 1)
            with pytest.raises(ExpiryRefused):
                ledger.run()
            assert ledger.present() == [index]
            ledger.clock.pass_seconds(1)
            assert ledger.run().named == 1

    def test_a_clock_that_is_set_back_within_the_hour_has_deleted_nothing(self, tmp_path) -> None:
        """An operator who sees the alarm and sets the clock has lost nothing, then or later."""
        with ExpiringLedger(tmp_path) as ledger:
            index = ledger.event()
            ledger.stop()
            ledger.clock.set_forward(40 * DAY)
            ledger.start()
            with pytest.raises(ExpiryRefused):
                ledger.run()
            ledger.clock.set_forward(-40 * DAY)
            ledger.clock.pass_seconds(2 * HOUR)
            assert ledger.run().named == 0
            assert ledger.present() == [index]

    def test_a_clock_that_leaps_while_it_runs_deletes_nothing(self, tmp_path) -> None:
        """A leap between two runs is doubted too, even if the kernel calls the clock synchronised."""
        with ExpiringLedger(tmp_path) as ledger:
            index = ledger.event()
            ledger.run()
            ledger.clock.is_synchronised = True
            ledger.clock.set_forward(40 * DAY)
            with pytest.raises(ExpiryRefused):
                ledger.run()
            assert ledger.present() == [index]

    def test_a_smaller_leap_that_intake_refuses_names_nothing(self, tmp_path) -> None:
        """Within a day the guard of intake decides: no EXPIRY is sealed by a clock that it does not believe."""
        with ExpiringLedger(tmp_path) as ledger:
            index = ledger.event()
            ledger.pass_days(30)
            ledger.event()
            ledger.clock.set_forward(0.9 * DAY)
            with pytest.raises(IntakeHalted) as refused:
                ledger.run()
            assert refused.value.code == "clock_leapt"
            assert index in ledger.present()

    def test_the_operator_confirms(self, tmp_path) -> None:
        """With --confirm-clock a ledger that was off for long expires at once."""
        with ExpiringLedger(tmp_path) as ledger:
            ledger.event()
            ledger.stop()
            ledger.clock.set_forward(40 * DAY)
            ledger.confirmed = True
            ledger.start()
            assert ledger.run().named == 1

    def test_a_day_that_merely_passed_is_no_leap(self, tmp_path) -> None:
        """A clock that went on as the machine's own did is believed, however long nothing was sealed."""
        with ExpiringLedger(tmp_path) as ledger:
            ledger.event()
            ledger.pass_days(200)
            assert ledger.run().named == 1


class Witnesses:
    """What a quorum says it has seen of the open shard; set by the test."""

    def __init__(self) -> None:
        self.seen: Witnessed | None = None

    def __call__(self, shard) -> Witnessed | None:
        """Say it, with a note where the collector keeps it."""
        if self.seen is not None:
            shard.witnessed.write_bytes(b"cosigned\n")
        return self.seen


class TestWithWitnesses:
    """The witnesses' clocks bound what may go, and their cosignature comes first."""

    def test_nothing_is_due_before_a_witness_has_said_what_day_it_is(self, tmp_path) -> None:
        """Without any cosignature expiry is refused, with a code of its own."""
        with ExpiringLedger(tmp_path, witnessed=Witnesses()) as ledger:
            ledger.event()
            ledger.pass_days(40)
            with pytest.raises(ExpiryRefused) as refused:
                ledger.run()
            assert refused.value.code == "no_witness_time"
            assert "klyra-audit status" in refused.value.remedy

    def test_the_newest_cosignature_bounds_the_cutoff(self, tmp_path) -> None:
        """A clock ahead of the witnesses' names nothing that is not due by theirs."""
        witnesses = Witnesses()
        with ExpiringLedger(tmp_path, witnessed=witnesses) as ledger:
            ledger.event()
            ledger.pass_days(31)
            midnight = ledger.today * DAY
            witnesses.seen = Witnessed(size=1, time=midnight - 1)
            assert ledger.run().named == 0
            witnesses.seen = Witnessed(size=1, time=midnight)
            assert ledger.run().named == 1

    def test_deletion_waits_for_the_cosignature_over_the_record(self, tmp_path) -> None:
        """Named is not deleted: the files stay until a quorum has cosigned the EXPIRY, on its day or later."""
        witnesses = Witnesses()
        with ExpiringLedger(tmp_path, witnessed=witnesses) as ledger:
            index = ledger.event()
            ledger.pass_days(31)
            midnight = ledger.today * DAY
            witnesses.seen = Witnessed(size=1, time=midnight)
            done = ledger.run()
            assert (done.named, done.deleted, done.waiting) == (1, 0, True)
            assert ledger.present() == [index]
            witnesses.seen = Witnessed(size=ledger.ledger.size, time=midnight - 1)
            assert ledger.run().waiting
            witnesses.seen = Witnessed(size=ledger.ledger.size, time=midnight + 60)
            done = ledger.run()
            assert (done.named, done.deleted, done.waiting) == (0, 1, False)
            (kept,) = ledger.shard.checkpoints.glob("expiry-*")
            assert kept.read_bytes() == b"cosigned\n"

    def test_a_witness_vouches_for_the_clock(self, tmp_path) -> None:
        """A collector that was off for long need not wait an hour when a witness says the same day."""
        witnesses = Witnesses()
        with ExpiringLedger(tmp_path, witnessed=witnesses) as ledger:
            ledger.event()
            ledger.stop()
            ledger.clock.set_forward(40 * DAY)
            ledger.start()
            witnesses.seen = Witnessed(size=1, time=ledger.clock.wall // 1_000_000)
            assert ledger.run().named == 1

    def test_a_restart_while_it_waits_goes_on(self, tmp_path) -> None:
        """What was named and not deleted when the collector stopped is deleted once it is cosigned."""
        witnesses = Witnesses()
        with ExpiringLedger(tmp_path, witnessed=witnesses) as ledger:
            ledger.event()
            ledger.pass_days(31)
            witnesses.seen = Witnessed(size=1, time=ledger.today * DAY)
            assert ledger.run().waiting
            ledger.kill()
            ledger.start()
            witnesses.seen = Witnessed(size=ledger.ledger.size, time=ledger.today * DAY + 1)
            assert ledger.run().deleted == 1
            assert len(ledger.expiries()) == 1
