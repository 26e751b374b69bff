"""Group commit as receivers see it: many submit, one thread commits, everyone gets the truth."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from klyra_audit.format.leaf import Kind
from klyra_collector.errors import Conflict, IntakeHalted, Overloaded
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.sealer import Sealer
from klyra_collector.stages import Record, Status, Tenancy
from support import records
from support.records import submission
from support.sealing import Fault, FaultyDisk, SetClock, open_ledger, read_all

OTHER = Tenancy("org_other", "business", "business", 90)


class Noted:
    """Keeps what the sealer reports."""

    def __init__(self) -> None:
        self.commits: list[int] = []
        self.sizes: list[int] = []
        self.unsigned: list[str] = []

    def committed(self, outcomes, seconds) -> None:
        """Note how many records a commit had."""
        assert seconds >= 0
        self.commits.append(len(outcomes))

    def signed(self, size) -> None:
        """Note a checkpoint."""
        self.sizes.append(size)

    def not_signed(self, error) -> None:
        """Note why a checkpoint is missing."""
        self.unsigned.append(error.code)


class HangingDisk(Disk):
    """A disk whose syncs return only while it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs, self.goes_on = threading.Event(), threading.Event()
        self.goes_on.set()

    def sync(self, descriptors) -> None:
        """Sync, once it goes on."""
        if not self.goes_on.is_set():
            self.hangs.set()
            self.goes_on.wait(20)
        super().sync(descriptors)


def run(root, scenario, *, disk=None, sizes=None, **options) -> Noted:
    """Run a scenario with a running sealer, then stop it cleanly; `sizes` is where it finds what was signed."""
    noted = Noted()
    if sizes is not None:
        noted.sizes = sizes

    async def main() -> None:
        sealer = Sealer(ledger, noted, **options)
        running = asyncio.create_task(sealer.run())
        try:
            await scenario(sealer)
        finally:
            sealer.close()
            await running

    ledger = open_ledger(root, SetClock(), disk)
    try:
        asyncio.run(main())
    finally:
        ledger.close()
    return noted


def test_what_waits_together_is_committed_together(tmp_path) -> None:
    """Submissions that arrive during one commit share the next, and each gets its own outcomes."""

    async def scenario(sealer) -> None:
        answers = await asyncio.gather(*(sealer.seal(submission(records.record())) for _ in range(50)))
        assert {outcome.status for (outcome,) in answers} == {Status.SEALED}
        assert len({outcome.sealed.index for (outcome,) in answers}) == 50

    noted = run(tmp_path, scenario)
    assert sum(noted.commits) == 50
    assert len(noted.commits) < 10
    assert sum(item.leaf.kind == Kind.EVENT for item in read_all(tmp_path)) == 50


def test_a_conflict_refuses_its_submission_alone(tmp_path) -> None:
    """Others in the same commit are sealed."""
    event = records.record()
    other = records.record(id=event.record_id, status="failure")

    async def scenario(sealer) -> None:
        await sealer.seal(submission(event))
        answers = await asyncio.gather(
            sealer.seal(submission(other, strict=True)),
            sealer.seal(submission(records.record(), strict=True)),
            return_exceptions=True,
        )
        assert isinstance(answers[0], Conflict)
        assert answers[1][0].status is Status.SEALED

    run(tmp_path, scenario)


def test_too_much_waiting_is_overload(tmp_path) -> None:
    """Beyond the bound a submission is refused as retryable, and the bound frees itself."""

    async def scenario(sealer) -> None:
        event = records.record()
        size = submission(event).size
        answers = await asyncio.gather(
            *(sealer.seal(submission(records.record())) for _ in range(10)), return_exceptions=True
        )
        refused = [answer for answer in answers if isinstance(answer, Overloaded)]
        assert 0 < len(refused) < 10
        assert (refused[0].code, bool(refused[0].remedy), refused[0].retry_after) == ("overloaded", True, 1.0)
        assert sealer.waiting_bytes == 0
        assert size < 5000
        await sealer.seal(submission(event))

    run(tmp_path, scenario, max_waiting_bytes=2000)


def test_what_its_client_gave_up_is_not_kept(tmp_path) -> None:
    """A submission whose request was cancelled before its commit began is forgotten, with the memory it held."""
    disk = HangingDisk()

    async def scenario(sealer) -> None:
        disk.goes_on.clear()
        committing = asyncio.create_task(sealer.seal(submission(records.record())))
        await asyncio.to_thread(disk.hangs.wait, 10)
        given_up = asyncio.create_task(sealer.seal(submission(records.record())))
        await asyncio.sleep(0)
        held = sealer.waiting_bytes
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert (sealer.waiting_bytes < held, sealer.oldest_waiting_seconds) == (True, 0.0)
        disk.goes_on.set()
        await committing

    run(tmp_path, scenario, disk=disk)
    assert sum(item.leaf.kind == Kind.EVENT for item in read_all(tmp_path)) == 1


def test_one_organization_keeps_no_other_from_waiting(tmp_path) -> None:
    """Whoever fills what may wait is refused beyond its share, and another organization finds room."""
    disk = HangingDisk()

    async def flood(sealer, first: Record) -> tuple[list[asyncio.Task], asyncio.Task]:
        """Let one organization ask for more than there is room for, then another for a little; the disk hangs."""
        disk.hangs.clear()
        disk.goes_on.clear()
        committing = asyncio.create_task(sealer.seal(submission(first)))
        await asyncio.to_thread(disk.hangs.wait, 10)
        many = [asyncio.create_task(sealer.seal(submission(records.record()))) for _ in range(50)]
        await asyncio.sleep(0)
        other = asyncio.create_task(sealer.seal(submission(records.record(OTHER))))
        await asyncio.sleep(0)
        disk.goes_on.set()
        await asyncio.wait([committing, *many, other])
        return many, other

    async def scenario(sealer) -> None:
        _, other = await flood(sealer, records.record())
        assert isinstance(other.exception(), Overloaded)  # the flood was first; now it is known that it is not alone
        many, other = await flood(sealer, records.record())
        assert other.result()[0].status is Status.SEALED
        assert any(one.exception() for one in many)
        assert not all(one.exception() for one in many)

    run(tmp_path, scenario, disk=disk, max_waiting_bytes=20_000)


def test_whoever_comes_while_others_wait_too_long_is_refused(tmp_path) -> None:
    """A disk that hangs makes newcomers come again; who was let in before is answered once it goes on."""
    disk = HangingDisk()

    async def scenario(sealer) -> None:
        disk.goes_on.clear()
        committing = asyncio.create_task(sealer.seal(submission(records.record())))
        await asyncio.to_thread(disk.hangs.wait, 10)
        waiting = asyncio.create_task(sealer.seal(submission(records.record())))
        await asyncio.sleep(0.1)
        with pytest.raises(Overloaded) as refused:
            await sealer.seal(submission(records.record()))
        assert (refused.value.code, bool(refused.value.remedy)) == ("overloaded", True)
        disk.goes_on.set()
        assert [len(await one) for one in (committing, waiting)] == [1, 1]
        assert len(await sealer.seal(submission(records.record()))) == 1

    run(tmp_path, scenario, disk=disk, max_waiting_seconds=0.05)


def test_a_failing_disk_is_retryable_and_heals(tmp_path) -> None:
    """Who waits gets IntakeHalted; when the disk is well again intake resumes by itself."""
    disk = FaultyDisk()

    async def scenario(sealer) -> None:
        disk.fault = Fault("sync", "before")
        with pytest.raises(IntakeHalted):
            await sealer.seal(submission(records.record()))
        event = records.record()
        for _ in range(200):
            try:
                await sealer.seal(submission(event))
                break
            except IntakeHalted:
                await asyncio.sleep(0.02)
        else:
            pytest.fail("intake did not resume")

    run(tmp_path, scenario, disk=disk)


def test_a_poison_submission_is_found_and_the_others_sealed(tmp_path) -> None:
    """An unexpected failure is traced to its submission, which is refused as retryable, never as sealed."""
    poison = submission(records.record())
    object.__setattr__(poison.records[0], "commitments", None)

    async def scenario(sealer) -> None:
        answers = await asyncio.gather(
            sealer.seal(submission(records.record())),
            sealer.seal(poison),
            sealer.seal(submission(records.record())),
            return_exceptions=True,
        )
        assert isinstance(answers[1], IntakeHalted)
        assert [answers[0][0].status, answers[2][0].status] == [Status.SEALED] * 2

    run(tmp_path, scenario)
    assert sum(item.leaf.kind == Kind.EVENT for item in read_all(tmp_path)) == 2


def test_a_client_that_goes_away_does_not_stop_the_others(tmp_path) -> None:
    """A cancelled request is sealed or not; who waits beside it gets an answer."""

    async def scenario(sealer) -> None:
        leaving = asyncio.create_task(sealer.seal(submission(records.record())))
        staying = asyncio.create_task(sealer.seal(submission(records.record())))
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await staying)[0].status is Status.SEALED
        assert sealer.waiting_bytes == 0

    run(tmp_path, scenario)


def test_closing_answers_what_waits_and_refuses_what_comes(tmp_path) -> None:
    """A clean stop loses nobody."""

    async def scenario(sealer) -> None:
        waiting = asyncio.create_task(sealer.seal(submission(records.record())))
        await asyncio.sleep(0)
        sealer.close()
        assert (await waiting)[0].status is Status.SEALED
        with pytest.raises(Overloaded):
            await sealer.seal(submission(records.record()))

    run(tmp_path, scenario)


def test_a_checkpoint_is_signed_each_second(tmp_path) -> None:
    """Without further submissions the checkpoint still follows."""

    async def scenario(sealer) -> None:
        await sealer.seal(submission(records.record()))
        await asyncio.sleep(1.3)

    assert run(tmp_path, scenario).sizes


async def until(condition) -> None:
    """Wait until something outside the loop has happened."""
    while not condition():  # noqa: ASYNC110 - files offer no event to wait for
        await asyncio.sleep(0.01)


def heads_in(root) -> list[int]:
    """Return the indexes of the HEADS records."""
    return [record.index for record in read_all(root) if record.leaf.kind == Kind.HEADS]


def test_heads_are_sealed_on_their_own_and_under_the_next_checkpoint(tmp_path) -> None:
    """HEADS comes by itself when something was sealed, once, and a checkpoint covers it."""
    sizes: list[int] = []

    async def scenario(sealer) -> None:
        await until(lambda: heads_in(tmp_path))
        ((event,),) = [await sealer.seal(submission(records.record()))]
        await until(lambda: heads_in(tmp_path)[-1] > event.sealed.index)
        last = heads_in(tmp_path)[-1]
        await until(lambda: any(size > last for size in sizes))

    run(tmp_path, scenario, sizes=sizes, heads_seconds=0.0)
    assert len(heads_in(tmp_path)) == 2


def test_heads_that_cannot_be_sealed_do_not_stop_the_seal(tmp_path) -> None:
    """A disk that fails under HEADS halts intake until it is well, as it does under an event."""
    disk = FaultyDisk()

    async def scenario(sealer) -> None:
        await until(lambda: heads_in(tmp_path))
        disk.fault = Fault("append", "before", 1)  # somewhere in this commit or in the HEADS after it
        await seal_patiently(sealer, records.record())
        await until(lambda: disk.fault.struck)
        await seal_patiently(sealer, records.record())

    run(tmp_path, scenario, disk=disk, heads_seconds=0.0)
    assert sum(record.leaf.kind == Kind.EVENT for record in read_all(tmp_path)) == 2


async def seal_patiently(sealer, event) -> None:
    """Seal an event, again and again while intake is halted, as clients do."""
    for _ in range(1000):
        with contextlib.suppress(IntakeHalted):
            await sealer.seal(submission(event))
            return
        await asyncio.sleep(0.01)
