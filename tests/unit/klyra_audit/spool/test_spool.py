"""The spool: durable when `append` returns, bounded, shared by processes, left in order by dead ones."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from klyra_audit.format.batch import MAX_SEQUENCE
from klyra_audit.spool.boots import Boots
from klyra_audit.spool.errors import SpoolClosed, SpoolFailed, SpoolFull, SpoolUnusable
from klyra_audit.spool.reader import BootReader
from klyra_audit.spool.writer import SystemDisk
from support.spooling import IDENTITY, FailingDisk, prepared, spool

if TYPE_CHECKING:
    from collections.abc import Iterator


def sequences(boot) -> list[int]:
    """Return the sequence numbers of what is left of a boot."""
    durable = None if boot.writer is None else boot.writer.durable
    return [spooled.sequence for spooled in boot.reader.read(10_000, 1 << 30, durable)]


def fill(opened) -> None:
    """Append until the spool takes no more."""
    while True:
        opened.append(prepared())


class CountingDisk(FailingDisk):
    """Counts how often bytes were made durable."""

    syncs = 0

    def sync(self, descriptor: int) -> None:
        """See `Disk`."""
        self.syncs += 1
        threading.Event().wait(0.005)  # long enough for others to come
        super().sync(descriptor)


class StandingDisk(SystemDisk):
    """Stands still in each fsync until it may go on; can be interrupted there."""

    def __init__(self, *, interrupts: bool = False) -> None:
        self.reached, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.interrupts = interrupts
        self.syncs = 0

    def sync(self, descriptor: int) -> None:
        """See `Disk`."""
        self.syncs += 1
        self.reached.release()
        assert self.go_on.acquire(timeout=10)
        if self.interrupts:
            self.interrupts = False
            raise KeyboardInterrupt
        super().sync(descriptor)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts, also where the tests were started in the background: a shell has it ignored there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_until(condition) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class TestAppending:
    """What `append` promises."""

    def test_numbers_events_without_a_gap(self, tmp_path) -> None:
        """Each gets the next place in the boot's sequence, and is read back in that order."""
        opened = spool(tmp_path / "s")
        assert [opened.append(prepared()).sequence for _ in range(5)] == [0, 1, 2, 3, 4]
        (boot,) = opened.own()
        assert sequences(boot) == [0, 1, 2, 3, 4]
        opened.close()

    def test_threads_share_an_fsync(self, tmp_path) -> None:
        """What comes while one commit is on its way becomes the next one; each thread gets a place of its own."""
        disk = CountingDisk()
        opened = spool(tmp_path / "s", disk)
        with ThreadPoolExecutor(16) as threads:
            placed = list(threads.map(lambda _: opened.append(prepared()).sequence, range(200)))
        assert sorted(placed) == list(range(200))
        assert disk.syncs < 200
        opened.close()

    def test_all_that_wait_during_an_fsync_share_the_next(self, tmp_path) -> None:
        """Nobody whose event is durable waits for the others' fsync, and nobody writes for itself alone."""
        disk = StandingDisk()
        opened = spool(tmp_path / "s", disk)
        with ThreadPoolExecutor(8) as threads:
            first = threads.submit(opened.append, prepared())
            assert disk.reached.acquire(timeout=10)
            others = [threads.submit(opened.append, prepared()) for _ in range(7)]
            writer = opened.own()[0].writer
            wait_until(lambda: len(writer._pending) == 7)
            disk.go_on.release()
            assert first.result(10).sequence == 0
            assert disk.reached.acquire(timeout=10)
            disk.go_on.release()
            assert sorted(one.result(10).sequence for one in others) == [1, 2, 3, 4, 5, 6, 7]
        assert disk.syncs == 2
        opened.close()

    def test_an_interrupted_write_gives_the_boot_up(self, tmp_path) -> None:
        """Ctrl-C in the thread that writes for all: nobody knows what was written, so the others go into a new boot."""
        disk = StandingDisk(interrupts=True)
        opened = spool(tmp_path / "s", disk)
        with ThreadPoolExecutor(2) as threads:
            interrupted = threads.submit(opened.append, prepared())
            assert disk.reached.acquire(timeout=10)
            follower = threads.submit(opened.append, prepared())
            writer = opened.own()[0].writer
            wait_until(lambda: len(writer._pending) == 1)
            disk.go_on.release()
            with pytest.raises(KeyboardInterrupt):
                interrupted.result(10)
            disk.go_on.release()
            assert follower.result(10).sequence == 0
        assert len(opened.own()) == 2
        opened.close()

    @pytest.mark.usefixtures("interruptible")
    def test_a_thread_that_is_interrupted_while_it_waits_stops_nobody(self, tmp_path) -> None:
        """Its event is written all the same; the lead goes to somebody who is still there."""
        disk = StandingDisk()
        opened = spool(tmp_path / "s", disk)
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(opened.append, prepared())
            assert disk.reached.acquire(timeout=10)
            writer = opened.own()[0].writer

            def interrupt() -> None:
                wait_until(lambda: len(writer._pending) == 1)
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

            interrupting = threads.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                opened.append(prepared())
            interrupting.result(10)
            disk.go_on.release()
            assert first.result(10).sequence == 0
            disk.go_on.release()
            assert threads.submit(opened.append, prepared()).result(10).sequence == 2
        opened.close()

    def test_nothing_is_read_before_it_is_durable(self, tmp_path) -> None:
        """What is written but not synced could still be taken back, and its place given to another event."""
        disk = FailingDisk()
        opened = spool(tmp_path / "s", disk)
        opened.append(prepared())
        (boot,) = opened.own()
        seen = []
        disk.sync = lambda _: seen.append(sequences(boot))
        opened.append(prepared())
        assert (seen, sequences(boot)) == ([[0]], [0, 1])
        opened.close()

    def test_files_are_for_this_user_alone(self, tmp_path) -> None:
        """Events name people."""
        opened = spool(tmp_path / "s")
        opened.append(prepared())
        found = list((tmp_path / "s").rglob("*"))
        assert found
        assert all(not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) for path in (tmp_path / "s", *found))
        opened.close()

    def test_a_used_up_boot_is_followed_by_another(self, tmp_path) -> None:
        """The sequence never passes 2^32 - 2."""
        opened = spool(tmp_path / "s")
        first = opened.append(prepared())
        opened.own()[0].writer.next_sequence = MAX_SEQUENCE + 1
        second = opened.append(prepared())
        assert (second.boot != first.boot, second.sequence) == (True, 0)
        assert [sequences(boot) for boot in opened.own()] == [[0], [0]]
        opened.close()

    def test_a_closed_spool_takes_nothing(self, tmp_path) -> None:
        """The caller is told; nothing is lost in silence."""
        opened = spool(tmp_path / "s")
        opened.close()
        with pytest.raises(SpoolClosed) as caught:
            opened.append(prepared())
        assert (caught.value.code, bool(caught.value.remedy)) == ("spool_closed", True)


class TestFailingDisk:
    """Whatever fails, nothing is promised that is not kept, and no number is given twice or left out."""

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
    @pytest.mark.parametrize("torn", [0, 1, 20, 400])
    def test_a_write_that_fails_is_cut_off_and_its_number_used_again(self, tmp_path, number, torn) -> None:
        """The caller gets an error; the next event takes the place, and reads back whole."""
        disk = FailingDisk(number=number, torn=torn)
        opened = spool(tmp_path / "s", disk)
        opened.append(prepared())
        disk.failing = {"write"}
        with pytest.raises(SpoolFailed) as caught:
            opened.append(prepared())
        assert (caught.value.code, bool(caught.value.remedy)) == ("spool_failed", True)
        disk.failing = set()
        event = prepared()
        assert opened.append(event).sequence == 1
        (boot,) = opened.own()
        assert boot.reader.read(10, 1 << 20, boot.writer.durable)[1].event == event
        opened.close()

    def test_after_a_failed_fsync_the_boot_is_given_up(self, tmp_path) -> None:
        """The kernel may call the next one a success although the bytes are gone, so nothing more goes in there."""
        disk = FailingDisk()
        opened = spool(tmp_path / "s", disk)
        first = opened.append(prepared())
        disk.failing = {"sync"}
        with pytest.raises(SpoolFailed):
            opened.append(prepared())
        disk.failing = set()
        second = opened.append(prepared())
        assert (second.boot != first.boot, second.sequence) == (True, 0)
        assert [sequences(boot) for boot in opened.own()] == [[0], [0]]
        opened.close()

    @pytest.mark.parametrize("call", ["create", "write", "sync_directory"])
    def test_a_segment_that_cannot_be_begun_is_begun_again(self, tmp_path, call) -> None:
        """The error reaches the caller, and the next event finds no obstacle."""
        disk = FailingDisk(call, torn=3)
        opened = spool(tmp_path / "s", disk)
        with pytest.raises(SpoolFailed):
            opened.append(prepared())
        disk.failing = set()
        assert opened.append(prepared()).sequence == 0
        assert sequences(opened.own()[-1]) == [0]
        opened.close()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it likes")
    def test_a_read_only_folder_is_refused_at_once(self, tmp_path) -> None:
        """The remedy names the setting."""
        (tmp_path / "s").mkdir(mode=0o500)
        with pytest.raises(SpoolUnusable):
            spool(tmp_path / "s").append(prepared())

    def test_a_folder_that_others_can_read_is_refused(self, tmp_path) -> None:
        """The message says why, the remedy names the setting."""
        (tmp_path / "s").mkdir(mode=0o755)
        with pytest.raises(SpoolUnusable, match="others may use it") as caught:
            spool(tmp_path / "s")
        assert (caught.value.code, "KLYRA_AUDIT_SPOOL" in caught.value.remedy) == ("spool_unusable", True)

    def test_a_folder_that_cannot_be_made_is_refused(self, tmp_path) -> None:
        """A file stands in its way."""
        (tmp_path / "s").write_text("")
        with pytest.raises(SpoolUnusable):
            spool(tmp_path / "s")


class TestBounds:
    """A full spool says so; it never drops."""

    def test_raises_when_it_is_full(self, tmp_path) -> None:
        """With `raise` the caller is told at once, and what is held stays."""
        opened = spool(tmp_path / "s", max_bytes=8000, when_full="raise")
        with pytest.raises(SpoolFull) as caught:
            fill(opened)
        assert (caught.value.code, bool(caught.value.remedy)) == ("spool_full", True)
        assert len(sequences(opened.own()[0])) > 3
        opened.close()

    def test_blocks_until_there_is_room(self, tmp_path) -> None:
        """With `block` the caller goes on when something was delivered."""
        opened = spool(tmp_path / "s", max_bytes=16_000, when_full="block")
        opened._options = replace(opened._options, when_full="raise")
        with pytest.raises(SpoolFull):
            fill(opened)
        (boot,) = opened.own()
        opened._options = replace(opened._options, when_full="block")
        waiting = threading.Thread(target=opened.append, args=(prepared(),))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        boot.reader.note_delivered(boot.writer.next_sequence)
        waiting.join(10)
        assert not waiting.is_alive()
        opened.close()

    def test_blocks_no_longer_than_it_may(self, tmp_path) -> None:
        """Behind `block_seconds` the caller is told."""
        opened = spool(tmp_path / "s", max_bytes=100, block_seconds=0.1)
        with pytest.raises(SpoolFull):
            opened.append(prepared())
        opened.close()


class TestDelivered:
    """What was delivered goes, and nothing else."""

    def test_segments_go_when_all_in_them_was_delivered(self, tmp_path) -> None:
        """The newest stays, since it is written to."""
        opened = spool(tmp_path / "s", max_bytes=8 * 2000)
        for _ in range(12):
            opened.append(prepared())
        (boot,) = opened.own()
        names = sorted(path.name for path in boot.locked.folder.glob("*.segment"))
        boot.reader.note_delivered(11)
        assert len(names) > 2
        assert sorted(path.name for path in boot.locked.folder.glob("*.segment")) == names[-1:]
        assert sequences(boot) == [11]
        opened.close()

    def test_what_was_delivered_is_remembered(self, tmp_path) -> None:
        """Whoever reads the boot next goes on behind it."""
        opened = spool(tmp_path / "s")
        for _ in range(3):
            opened.append(prepared())
        (boot,) = opened.own()
        boot.reader.note_delivered(2)
        assert BootReader(boot.locked.folder).next_sequence == 2
        opened.close()

    @pytest.mark.parametrize("note", [b"", b"\0\0\0\2", b"\0\0\0\2\0\0\0\0", b"x" * 100])
    def test_a_damaged_note_means_that_all_is_sent_again(self, tmp_path, note) -> None:
        """Repeats are recognised by the collector; a loss would not be."""
        opened = spool(tmp_path / "s")
        opened.append(prepared())
        (boot,) = opened.own()
        (boot.locked.folder / "delivered").write_bytes(note)
        assert BootReader(boot.locked.folder).next_sequence == 0
        opened.close()

    def test_damage_is_reported_once(self, tmp_path) -> None:
        """The events around it are still delivered."""
        opened = spool(tmp_path / "s")
        for _ in range(3):
            opened.append(prepared())
        (boot,) = opened.own()
        path = next(boot.locked.folder.glob("*.segment"))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert sequences(boot) == sequences(boot) == [0, 2]
        assert [lost.boot for lost in boot.reader.lost] == [boot.identity.boot]
        opened.close()

    def test_a_boot_of_which_all_was_delivered_leaves_nothing(self, tmp_path) -> None:
        """A clean stop behind a complete delivery leaves an empty folder."""
        opened = spool(tmp_path / "s")
        opened.append(prepared())
        opened.own()[0].reader.note_delivered(1)
        opened.close()
        assert list((tmp_path / "s").iterdir()) == []


CHILD = """
import sys; sys.path[:0] = {path!r}
from pathlib import Path
from support.spooling import prepared, spool
opened = spool(Path({folder!r}))
for _ in range(3):
    opened.append(prepared())
print("durable", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_process(tmp_path):
    """A process with three events in the spool."""
    code = CHILD.format(path=sys.path, folder=str(tmp_path / "s"))
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"durable\n"
    yield process
    process.kill()
    process.communicate()


class TestProcesses:
    """Several processes share a spool."""

    def test_nobody_takes_what_a_living_process_writes(self, tmp_path, other_process) -> None:
        """Its lock says that it lives."""
        opened = spool(tmp_path / "s")
        assert list(opened.left_behind()) == []
        opened.close()

    def test_what_a_killed_process_left_is_taken_over_once(self, tmp_path, other_process) -> None:
        """`kill -9` loses nothing, and only one process takes it."""
        other_process.send_signal(signal.SIGKILL)
        other_process.wait()
        one, another = spool(tmp_path / "s"), spool(tmp_path / "s")
        (boot,) = one.left_behind()
        assert sequences(boot) == [0, 1, 2]
        assert list(another.left_behind()) == []
        boot.end()
        (boot,) = another.left_behind()
        boot.reader.note_delivered(3)
        boot.end()
        assert list((tmp_path / "s").iterdir()) == []
        one.close()
        another.close()

    @pytest.mark.parametrize(
        "identity", [replace(IDENTITY, emitter_id="b"), replace(IDENTITY, organization_id="org_b")]
    )
    def test_another_sources_events_are_left_to_it(self, tmp_path, identity) -> None:
        """Another emitter, or one of another organization, has another key."""
        opened = spool(tmp_path / "s")
        opened.append(prepared())
        opened.close()
        assert list(Boots(tmp_path / "s").left_behind(identity)) == []
        assert len(list(Boots(tmp_path / "s").left_behind(IDENTITY))) == 1

    def test_a_boot_in_which_nothing_was_promised_is_cleared_away(self, tmp_path) -> None:
        """A folder that was never finished, or a segment without a whole header."""
        boots = Boots(tmp_path / "s")
        boots.begin("01890000-0000-7000-8000-000000000000").release()
        locked = boots.begin("01890000-0000-7000-8000-000000000001")
        (locked.folder / "0000000000.segment").write_bytes(b"KLSP")
        locked.release()
        unfinished = tmp_path / "s" / ".new-01890000-0000-7000-8000-000000000002-0"
        unfinished.mkdir(mode=0o700)
        (unfinished / "lock").touch()
        assert list(boots.left_behind(IDENTITY)) == []
        assert list((tmp_path / "s").iterdir()) == []

    def test_a_forked_child_begins_a_boot_of_its_own(self, tmp_path) -> None:
        """The parent keeps its own, locked, and goes on in it."""
        opened = spool(tmp_path / "s")
        before = opened.append(prepared())
        child = os.fork()
        if child == 0:
            opened.after_fork()
            placed = opened.append(prepared())
            os._exit(0 if (placed.boot != before.boot and placed.sequence == 0) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        after = opened.append(prepared())
        assert (after.boot, after.sequence) == (before.boot, 1)
        (left,) = opened.left_behind()
        assert sequences(left) == [0]
        left.end()
        opened.close()
