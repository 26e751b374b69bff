"""Expiry in operation: what is due goes, nothing else does, and a crash at any moment changes neither."""

from __future__ import annotations

from klyra_audit.format import control
from klyra_audit.format.leaf import Kind
from support.expiring import ExpiringLedger
from support.records import BUSINESS, STARTUP


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
