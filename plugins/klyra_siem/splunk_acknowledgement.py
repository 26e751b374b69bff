"""Waits until Splunk's indexers have acknowledged a batch (Splunk, "HTTP Event Collector Indexer Acknowledgment").

Acknowledgement ids count from 0 for each channel on each indexer, so that an id means nothing on another one: behind a
load balancer a channel keeps its cookies, and a batch that is not acknowledged goes again through a new channel, with
new cookies. A `true` is said once. If that answer is lost the batch goes again: a duplicate, never a gap.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from klyra_siem.http_sending import JSON, Answer
from klyra_siem.outcome import Action, Outcome
from klyra_siem.splunk_answers import of_acknowledgement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klyra_siem.http_sending import HttpSender

CHANNEL_HEADER: Final = "X-Splunk-Request-Channel"
FIRST_WAIT_SECONDS: Final = 0.25
LONGEST_WAIT_SECONDS: Final = 10.0


class Timer(Protocol):
    """The time that passes while we wait."""

    def now(self) -> float:
        """Return seconds since some moment; never less than before."""
        ...

    def wait(self, seconds: float) -> None:
        """Let some time pass."""
        ...


class RealTimer:
    """See `Timer`."""

    def now(self) -> float:
        """See `Timer`."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """See `Timer`."""
        time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Channel:
    """What acknowledgement ids belong to.

    Attributes:
        name: a GUID.
    """

    name: str

    @classmethod
    def draw(cls) -> Channel:
        """Return a channel that nobody uses."""
        return cls(str(uuid.uuid4()))


class Acknowledgements:
    """Asks for acknowledgements.

    Args:
        sender: that sent the events: it has the cookies.
        url: of `/services/collector/ack`.
        headers: with the token.
        seconds: after which a batch counts as lost.
        timer: that measures them.
        wall: present time, seconds since 1970.
    """

    def __init__(
        self,
        sender: HttpSender,
        url: str,
        headers: Mapping[str, str],
        *,
        seconds: float,
        timer: Timer,
        wall: Callable[[], float],
    ) -> None:
        self._sender = sender
        self._url = url
        self._headers = {**headers, "Content-Type": JSON}
        self._seconds = seconds
        self._timer = timer
        self._wall = wall

    def wait_for(self, channel: Channel, ack_id: int) -> Outcome:
        """Ask until a batch is acknowledged; RETRY if that takes too long, PAUSE if Splunk refuses to say."""
        deadline = self._timer.now() + self._seconds
        pause = FIRST_WAIT_SECONDS
        while True:
            outcome = self.ask(channel, ack_id)
            wait = max(pause, outcome.retry_after or 0.0)
            if outcome.action is not Action.RETRY or self._timer.now() + wait > deadline:
                return outcome
            self._timer.wait(wait)
            pause = min(2 * pause, LONGEST_WAIT_SECONDS)

    def ask(self, channel: Channel, ack_id: int | None) -> Outcome:
        """Ask once; None only asks whether acknowledgements are to be had at all."""
        content = orjson.dumps({"acks": [] if ack_id is None else [ack_id]})
        headers = {**self._headers, CHANNEL_HEADER: channel.name}
        answer = self._sender.post(f"{self._url}?channel={channel.name}", content, headers)
        return of_acknowledgement(answer, ack_id, self._wall()) if isinstance(answer, Answer) else answer
