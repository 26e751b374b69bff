"""Group commit: whatever waits while one commit is on its way to the disk becomes the next one."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from klyra_audit.errors import KlyraError, RetryLater
from klyra_collector.errors import Conflict, IntakeHalted, Overloaded
from klyra_collector.fair_budget import FairBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klyra_collector.seal.ledger import Ledger
    from klyra_collector.seal.signing import Unsigned
    from klyra_collector.stages import Outcome, Submission

CHECKPOINT_SECONDS = 1.0
HEADS_SECONDS = 60.0
MAX_WAITING_BYTES = 64 * 1024 * 1024
MAX_WAITING_SECONDS = 5.0  # stock clients give up after ten, and send again what is sealed already
MAX_COMMIT_RECORDS = 8192

_Result = TypeVar("_Result")

_log = structlog.get_logger(__name__)


class SealObserver(Protocol):
    """What the seal reports to metrics."""

    def committed(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Note the outcomes of one group commit and how long its writing took."""
        ...

    def signed(self, size: int) -> None:
        """Note that a checkpoint over `size` leaves was published."""
        ...

    def not_signed(self, error: KlyraError) -> None:
        """Note that a checkpoint was due and none could be published."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    submission: Submission
    answer: asyncio.Future[list[Outcome]]
    since: float


class Sealer:
    """The seal as receivers see it: many submit, one thread commits. Implements `stages.Seal`.

    Memory is bounded: submissions beyond `max_waiting_bytes`, or beyond their organization's share of it, are refused
    as retryable. So is time: once somebody has waited for `max_waiting_seconds`, newcomers are refused until the disk
    has caught up.
    """

    def __init__(
        self,
        ledger: Ledger,
        observer: SealObserver,
        *,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        max_waiting_seconds: float = MAX_WAITING_SECONDS,
        heads_seconds: float = HEADS_SECONDS,
    ) -> None:
        self._ledger = ledger
        self._observer = observer
        self._budget = FairBudget(max_waiting_bytes)
        self._max_waiting_seconds = max_waiting_seconds
        self._heads_seconds = heads_seconds
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._signing_thread = ThreadPoolExecutor(1, thread_name_prefix="sign")
        self._signing: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def waiting_bytes(self) -> int:
        """Bytes of submissions not yet answered."""
        return self._budget.held

    @property
    def oldest_waiting_seconds(self) -> float:
        """Age of the submission that has waited longest, 0 if none waits."""
        return time.monotonic() - self._waiting[0].since if self._waiting else 0.0

    async def seal(self, submission: Submission) -> list[Outcome]:
        """Return once every record of the submission is durable; see `stages.Seal`."""
        if self._closing or self.oldest_waiting_seconds > self._max_waiting_seconds:
            raise Overloaded(
                f"What waits to be sealed does so for {self.oldest_waiting_seconds:.1f} seconds by now.",
                remedy="Send the same request again shortly.",
            )
        with self._budget.reservation(_holder(submission)) as reservation:
            reservation.hold(submission.size)
            waiting = _Waiting(submission, asyncio.get_running_loop().create_future(), time.monotonic())
            self._waiting.append(waiting)
            self._wake.set()
            try:
                return await waiting.answer
            except asyncio.CancelledError:
                # Its client went away and will come again; kept on, it would hold memory that nobody counts.
                self._waiting = deque(item for item in self._waiting if item is not waiting)
                raise

    async def run(self) -> None:
        """Commit and sign until `close`; then answer everything that still waits and return."""
        next_checkpoint = time.monotonic() + CHECKPOINT_SECONDS
        next_heads = time.monotonic() + self._heads_seconds
        while not (self._closing and not self._waiting):
            await self._wait(next_checkpoint)
            if self._waiting:
                await self._commit(self._take())
            if time.monotonic() >= next_heads:
                await self._seal_heads()
                next_heads = time.monotonic() + self._heads_seconds
            if time.monotonic() >= next_checkpoint:
                await self._begin_signing()
                next_checkpoint = time.monotonic() + CHECKPOINT_SECONDS
        if self._signing is not None:
            await self._signing

    def close(self) -> None:
        """Refuse new submissions and let `run` return when the waiting ones are answered."""
        self._closing = True
        self._wake.set()

    async def on_thread(self, work: Callable[[], _Result]) -> _Result:
        """Run `work` with the ledger on the sealing thread, between commits."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _wait(self, until: float) -> None:
        if self._waiting or self._closing:
            return
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), max(0.0, until - time.monotonic()))
        except TimeoutError:
            return

    def _take(self) -> list[_Waiting]:
        """Take what waits, up to the size of one commit."""
        taken: list[_Waiting] = []
        records = 0
        while self._waiting and (not taken or records < MAX_COMMIT_RECORDS):
            waiting = self._waiting.popleft()
            taken.append(waiting)
            records += len(waiting.submission.records)
        return taken

    async def _commit(self, taken: list[_Waiting]) -> None:
        began = time.monotonic()
        try:
            answers = await self.on_thread(lambda: self._ledger.commit([item.submission for item in taken]))
        except RetryLater as error:
            _refuse(taken, error)
            return
        except Exception:  # noqa: BLE001 - whatever it is, the other submissions must still be answered
            _log.exception("commit_failed", submissions=len(taken))
            await self._commit_apart(taken)
            return
        sealed: list[Outcome] = []
        for item, answer in zip(taken, answers, strict=True):
            _answer(item, answer)
            if not isinstance(answer, Conflict):
                sealed += answer
        self._observer.committed(sealed, time.monotonic() - began)

    async def _commit_apart(self, taken: list[_Waiting]) -> None:
        """After an unexpected failure, find the submission that causes it, so that the others are sealed."""
        await self._resume()
        if len(taken) == 1:
            _refuse(taken, IntakeHalted("Sealing failed unexpectedly.", remedy="See the collector's log."))
            return
        for item in taken:
            await self._commit([item])

    async def _begin_signing(self) -> None:
        """Have what is committed signed beside the commits that follow: a key held elsewhere may take its time.

        Nothing is begun while the signature before is still waited for; the next one covers more.
        """
        if self._signing is not None and not self._signing.done():
            return
        try:
            if self._ledger.halted is not None:
                await self._resume()
            unsigned = await self.on_thread(self._ledger.prepare_to_sign)
        except KlyraError as error:
            self._report_unsigned(error)
            return
        if unsigned is None:
            self._observer.signed(self._ledger.signed_size)
            return
        self._signing = asyncio.create_task(self._sign(unsigned))

    async def _sign(self, unsigned: Unsigned) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._signing_thread, self._ledger.publish, unsigned)
        except KlyraError as error:
            self._report_unsigned(error)
        except Exception:  # noqa: BLE001 - whatever it is, the next second tries again
            _log.exception("signing_failed")
        else:
            self._observer.signed(self._ledger.signed_size)

    def _report_unsigned(self, error: KlyraError) -> None:
        _log.error("not_signed", code=error.code, reason=str(error))
        self._observer.not_signed(error)

    async def _seal_heads(self) -> None:
        if self._ledger.halted is not None:
            return
        try:
            await self.on_thread(self._ledger.seal_heads)
        except KlyraError as error:
            _log.error("heads_not_sealed", reason=str(error))

    async def _resume(self) -> None:
        try:
            await self.on_thread(self._ledger.resume)
        except KlyraError as error:
            _log.error("intake_halted", reason=str(error))
            return
        _log.warning("intake_resumed", size=self._ledger.size)


def _holder(submission: Submission) -> str:
    """Return whose share of the waiting bytes a submission takes."""
    return submission.records[0].tenancy.organization_id if submission.records else ""


def _answer(item: _Waiting, answer: list[Outcome] | Conflict) -> None:
    if item.answer.done():  # its client went away; the record is sealed all the same
        return
    if isinstance(answer, Conflict):
        item.answer.set_exception(answer)
    else:
        item.answer.set_result(answer)


def _refuse(taken: list[_Waiting], error: Exception) -> None:
    for item in taken:
        if not item.answer.done():
            item.answer.set_exception(error)
