"""How many events each organization may send: a token bucket each, paid when a request is known.

Pure but for the clock it is given.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit.errors import RetryLater

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_BUCKETS = 10_000
_SHORTEST_WAIT = 0.1


class RateLimited(RetryLater):
    """The organization sends more events than it may; nothing of this request was taken."""

    code = "rate_limited"


@dataclass(slots=True)
class _Bucket:
    events: float
    at: float


class OrganizationRates:
    """The bucket of each organization.

    A request is let in while its organization's bucket is not empty, and pays for its events when they are counted:
    a batch larger than the burst passes too, and its organization then waits until the debt is paid. In the long run
    nobody exceeds the rate. What is not acknowledged is given back, so that sending it again is not paid twice.

    Args:
        events_per_second: what flows into each bucket; 0 for no limit.
        burst: what a bucket holds at most.
        clock: seconds, never decreasing.
    """

    def __init__(
        self, events_per_second: float = 0, burst: float = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = events_per_second
        self._burst = max(burst, 1.0)
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def admit(self, organization_id: str | None) -> None:
        """Let a request in or raise `RateLimited`; None, for a key of the operator's for many, is not limited."""
        if not self._rate or organization_id is None:
            return
        bucket = self._filled(organization_id)
        if bucket.events < 1:
            raise RateLimited(
                f"{organization_id} sends more than {self._rate:g} events per second.",
                retry_after=max((1 - bucket.events) / self._rate, _SHORTEST_WAIT),
                remedy="Send the same request again after the delay given.",
            )

    @contextmanager
    def charged(self, organization_id: str | None, events: int) -> Iterator[None]:
        """Take the events of one request from its organization's bucket; give them back if the block raises."""
        if not self._rate or organization_id is None:
            yield
            return
        self._filled(organization_id).events -= events
        try:
            yield
        except BaseException:
            bucket = self._filled(organization_id)
            bucket.events = min(bucket.events + events, self._burst)
            raise

    def _filled(self, organization_id: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(organization_id)
        if bucket is None:
            self._forget_full(now)
            bucket = self._buckets[organization_id] = _Bucket(self._burst, now)
        bucket.events = min(bucket.events + (now - bucket.at) * self._rate, self._burst)
        bucket.at = now
        return bucket

    def _forget_full(self, now: float) -> None:
        """Forget the buckets that are full by now, once there are many: a new one is full, too."""
        if len(self._buckets) < _MAX_BUCKETS:
            return
        self._buckets = {
            organization_id: bucket
            for organization_id, bucket in self._buckets.items()
            if bucket.events + (now - bucket.at) * self._rate < self._burst
        }
