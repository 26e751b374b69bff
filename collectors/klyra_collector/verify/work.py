"""Spread work over processes, in order and with bounded memory; or do it here, when there is little."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Final, Generic, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

_IN_FLIGHT_PER_PROCESS: Final = 4

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")
_Result_co = TypeVar("_Result_co", covariant=True)


class Promise(Protocol[_Result_co]):
    """A result that is being worked on."""

    def result(self) -> _Result_co:
        """Return it, or raise what went wrong."""
        ...


class Crew(Protocol):
    """Those who do the work."""

    def begin(self, work: Callable[[_Task], _Result], task: _Task) -> Promise[_Result]:
        """Begin a task; its result is asked for later."""
        ...

    def map(self, work: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """Yield the results of tasks in their order, working ahead by a bounded number."""
        ...


class _Later(Generic[_Result]):
    """A task that is done when its result is asked for."""

    def __init__(self, do: Callable[[], _Result]) -> None:
        self._do = do

    def result(self) -> _Result:
        return self._do()


class Alone:
    """Does everything in this process."""

    def begin(self, work: Callable[[_Task], _Result], task: _Task) -> Promise[_Result]:
        """See `Crew`."""
        return _Later(lambda: work(task))

    def map(self, work: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """See `Crew`."""
        return map(work, tasks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class Processes:
    """Spreads tasks over processes of its own; they are started afresh, since a fork of a threaded program may hang."""

    def __init__(self, count: int) -> None:
        self._window = count * _IN_FLIGHT_PER_PROCESS
        self._pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))

    def begin(self, work: Callable[[_Task], _Result], task: _Task) -> Promise[_Result]:
        """See `Crew`."""
        return self._pool.submit(work, task)

    def map(self, work: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """See `Crew`; begins at once."""
        waiting = iter(tasks)
        begun: deque[Future[_Result]] = deque()
        self._begin_more(work, waiting, begun)
        return self._collect(work, waiting, begun)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _begin_more(
        self, work: Callable[[_Task], _Result], waiting: Iterator[_Task], begun: deque[Future[_Result]]
    ) -> None:
        while len(begun) < self._window:
            task = next(waiting, None)
            if task is None:
                return
            begun.append(self._pool.submit(work, task))

    def _collect(
        self, work: Callable[[_Task], _Result], waiting: Iterator[_Task], begun: deque[Future[_Result]]
    ) -> Iterator[_Result]:
        while begun:
            yield begun.popleft().result()
            self._begin_more(work, waiting, begun)


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
