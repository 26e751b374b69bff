"""What every receiver shares: from a request's bytes and its sender to records that are durable.

A receiver authenticates (`Senders`), calls `admit` before it reads, holds what it reads in a `reservation`,
then calls `accept` and answers only after that returned. Whatever goes wrong, it tells `noted`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from klyra_audit.errors import KlyraError, Rejected, RetryLater
from klyra_collector.registry.errors import KeyRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from klyra_collector.fair_budget import FairBudget, Reservation
    from klyra_collector.pipeline import Accepted, Pipeline
    from klyra_collector.receive.rates import OrganizationRates
    from klyra_collector.receive.senders import Sender, Senders
    from klyra_collector.receive.wire import WireRecord


MAX_INFLIGHT_BYTES = 128 * 1024 * 1024

_log = structlog.get_logger(__name__)


class Unexpected(RetryLater):
    """Something went wrong that nobody thought of; nothing of this request was acknowledged."""

    code = "unexpected"


class UnknownPath(Rejected):
    """Nothing is received at this path."""

    code = "unknown_path"


class WrongMethod(Rejected):
    """The path is received at, but not with this method.

    Attributes:
        allowed: the methods it takes, for the header Allow.
    """

    code = "wrong_method"

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class ReceiveObserver(Protocol):
    """What receiving reports to metrics and to the log of the product itself."""

    def accepted(self, accepted: Accepted) -> None:
        """Note an acknowledged batch."""
        ...

    def refused(self, error: KlyraError) -> None:
        """Note a request that was not acknowledged."""
        ...

    def key_refused(self, error: KeyRefused, endpoint: str) -> None:
        """Note a refused key: stock clients drop what gets a 401, so somebody must be told. May block."""
        ...


@dataclass(frozen=True, slots=True)
class Ingest:
    """What the receivers work with.

    Attributes:
        pipeline: from wire records to durable outcomes.
        senders: whose key it is.
        budget: bytes of requests that may be in memory.
        rates: events each organization may send.
        observer: told what was accepted and refused.
        max_request_bytes: of one request, as sent and again without its compression.
        body_seconds: how long an HTTP body may take to arrive.
    """

    pipeline: Pipeline
    senders: Senders
    budget: FairBudget
    rates: OrganizationRates
    observer: ReceiveObserver
    max_request_bytes: int
    body_seconds: float = 60.0

    def admit(self, sender: Sender) -> None:
        """Refuse a sender whose organization has sent too much, before its request costs anything; `RateLimited`."""
        self.rates.admit(sender.organization_id)

    def reservation(self, sender: Sender) -> AbstractContextManager[Reservation]:
        """Return what holds the bytes of one request until the block ends; its `hold` raises `Overloaded`."""
        return self.budget.reservation(sender.organization_id or sender.key_id)

    async def accept(
        self, decode: Callable[[bytes], Sequence[WireRecord]], body: bytes, sender: Sender, *, strict: bool = False
    ) -> Accepted:
        """Return once every record of a request is durable: sealed, recognised or quarantined, and fsynced.

        Call it inside the `reservation` that holds `body`.

        Args:
            decode: gives the wire records of the body.
            body: the request without compression; makes the ids of records without one repeatable.
            sender: whose request it is.
            strict: refuse the whole batch for one bad record; otherwise quarantine that record.

        Raises:
            MalformedRequest: by `decode`; sending it again cannot help.
            BatchRefused: a strict batch; nothing of it was sealed.
            RetryLater: nothing was acknowledged.
        """
        records = decode(body)
        with self.rates.charged(sender.organization_id, len(records)):
            accepted = await self.pipeline.accept(records, body, sender, strict=strict)
        self.observer.accepted(accepted)
        return accepted

    async def noted(self, problem: Exception, endpoint: str) -> KlyraError:
        """Count a request that is not acknowledged and make an entry of a refused key; return what to answer.

        A problem that nobody thought of is logged and becomes `Unexpected`: its sender keeps what it has.
        """
        error = problem if isinstance(problem, KlyraError) else _unexpected(problem, endpoint)
        self.observer.refused(error)
        if isinstance(error, KeyRefused):
            await asyncio.to_thread(self.observer.key_refused, error, endpoint)
        return error


def _unexpected(problem: Exception, endpoint: str) -> Unexpected:
    _log.error("unexpected_error", endpoint=endpoint, kind=type(problem).__name__, exc_info=problem)
    return Unexpected("Something went wrong here.", remedy="Send the same request again; our log says more.")
