"""The follower's store where that is Elasticsearch: reached sooner or later, whatever is not there at the start."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import structlog

from klyra_audit.errors import Paused, RetryLater
from klyra_collector.backoff import Backoff
from klyra_collector.dead_letters import DeadLetters
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.store.elasticsearch.names import FOLLOWER

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from klyra_collector.config import Settings
    from klyra_collector.supervise.self_check import SelfCheck

_LONGEST_WAIT_SECONDS: Final = 30.0

_log = structlog.get_logger(__name__)


def follow_into_elasticsearch(settings: Settings, reader: LedgerReader, stop: threading.Event) -> None:
    """Follow until `stop` is set; a cluster that cannot be used yet is tried again, so destinations go on beside it.

    Raises:
        Rejected, Halted: the configuration, the cluster, the cursor or a record cannot be used at all.
    """
    from klyra_collector.store.elasticsearch.assembly import (  # noqa: PLC0415 - needs an extra
        Surroundings,
        following,
    )
    from klyra_collector.store.follower import Follower  # noqa: PLC0415

    backoff = Backoff(longest_seconds=_LONGEST_WAIT_SECONDS)
    failures = 0
    while not stop.is_set():
        try:
            with (
                _self_check(settings) as self_check,
                following(
                    settings.store.url or "",
                    settings.store.elasticsearch,
                    Surroundings(
                        data=settings.data_directory,
                        destinations=[one.name for one in settings.destination],
                        witnessed_s=lambda: _witnessed(settings),
                        wall_us=SystemClock().wall_us,
                        self_check=self_check.tell,
                    ),
                ) as store,
            ):
                Follower(reader, store).run(stop)
                store.finish()
        except (RetryLater, Paused) as error:  # the beginning and the end raise these: the follower itself waits
            failures += 1
            seconds = backoff.seconds(failures, None)
            _log.warning("store.unreachable", reason=str(error), code=error.code, seconds=round(seconds, 1))
            stop.wait(seconds)


@contextlib.contextmanager
def _self_check(settings: Settings) -> Iterator[SelfCheck]:
    from klyra_collector.store.elasticsearch.connection import connect, parse  # noqa: PLC0415 - needs an extra
    from klyra_collector.supervise.self_check import Copy, SelfCheck  # noqa: PLC0415 - as that

    data = settings.data_directory
    data.cursors.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        contextlib.closing(LedgerReader(data.ledger)) as reader,
        contextlib.closing(connect(parse(settings.store.url or ""))) as client,
        contextlib.closing(Disk()) as disk,
    ):
        copy = Copy(
            reader=reader,
            client=client,
            cursors=data.cursors,
            dead_letters=DeadLetters(data.cursors, FOLLOWER, disk),
            wall_us=SystemClock().wall_us,
        )
        yield SelfCheck(copy)


def _witnessed(settings: Settings) -> int | None:
    from klyra_collector.witnessed import load_policy, newest_time  # noqa: PLC0415 - a role loads what it needs

    if settings.witness.policy is None:
        return None
    return newest_time(settings.data_directory.ledger, load_policy(settings.witness.policy))
