"""The follower's store where that is Elasticsearch: reached sooner or later, whatever is not there at the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from klyra_audit.errors import Paused, RetryLater
from klyra_collector.backoff import Backoff
from klyra_collector.seal.clock import SystemClock

if TYPE_CHECKING:
    import threading

    from klyra_collector.config import Settings
    from klyra_collector.seal.reader import LedgerReader

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

    around = Surroundings(
        data=settings.data_directory,
        destinations=[one.name for one in settings.destination],
        witnessed_s=lambda: _witnessed(settings),
        wall_us=SystemClock().wall_us,
    )
    backoff = Backoff(longest_seconds=_LONGEST_WAIT_SECONDS)
    failures = 0
    while not stop.is_set():
        try:
            with following(settings.store.url or "", settings.store.elasticsearch, around) as store:
                Follower(reader, store).run(stop)
                store.finish()
        except (RetryLater, Paused) as error:  # the beginning and the end raise these: the follower itself waits
            failures += 1
            seconds = backoff.seconds(failures, None)
            _log.warning("store.unreachable", reason=str(error), code=error.code, seconds=round(seconds, 1))
            stop.wait(seconds)


def _witnessed(settings: Settings) -> int | None:
    from klyra_collector.witnessed import load_policy, newest_time  # noqa: PLC0415 - a role loads what it needs

    if settings.witness.policy is None:
        return None
    return newest_time(settings.data_directory.ledger, load_policy(settings.witness.policy))
