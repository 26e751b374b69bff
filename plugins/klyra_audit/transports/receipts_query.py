"""Ask a collector for the receipts of events that were sent on a way which brings none back (DESIGN section 6)."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import httpx

from klyra_audit.errors import Paused, RetryLater
from klyra_audit.format.errors import LeafError
from klyra_audit.format.leaf import Leaf
from klyra_audit.receipt import Receipt, ReceiptMismatch
from klyra_audit.transports.http_answers import OK, error_of, members_of, no_answer
from klyra_audit.transports.otlp_http import open_client
from klyra_audit.transports.refusal import BatchRefused, kept_in_quarantine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from klyra_audit.batch import Batch
    from klyra_audit.errors import InvalidEvent
    from klyra_audit.otlp import EmitterIdentity
    from klyra_audit.spool.segment import SpooledEvent
    from klyra_audit.transports.client_tls import ClientTls

RECEIPTS_PATH: Final = "/v1/receipts"

_MAX_COUNT = 1000
_FIRST_WAIT = 0.05
_LONGEST_WAIT = 1.0
_SEALED, _QUARANTINED = "sealed", "quarantined"


class ReceiptsQuery:
    """Asks one collector over kept-alive connections. Thread-safe.

    Args:
        endpoint: URL of its OTLP/HTTP port, or `unix:/path`.
        api_key: the key that the events were sent with.
        timeout: seconds until an answer, and until a receipt that is not there yet, is given up.
        tls: what to trust and to show; None for what the system trusts.
    """

    def __init__(self, endpoint: str, api_key: str, timeout: float, *, tls: ClientTls | None = None) -> None:
        self._open = partial(open_client, endpoint, {"Authorization": f"Bearer {api_key}"}, timeout, tls)
        self._timeout = timeout
        self._client = self._open()
        self._of_parents: list[httpx.Client] = []

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def after_fork(self) -> None:
        """In a forked child: see `OtlpHttpTransport.after_fork`."""
        self._of_parents.append(self._client)
        self._client = self._open()

    def of(self, batch: Batch, *, was_warned: bool) -> list[Receipt | InvalidEvent]:
        """Return the receipt of each event, or why it was quarantined.

        Args:
            batch: what was acknowledged.
            was_warned: the acknowledgement spoke of events that were quarantined.

        Raises:
            RetryLater: no answer, or some of them are not sealed yet: a pipeline on the way has them still.
            Paused: the key is refused, or no receipts are to be had there.
            ReceiptMismatch: the answer is none.
        """
        answers = [answer for part in _parts(batch.events) for answer in self._wait_for(batch.identity, part)]
        return [
            _outcome(spooled, members, was_warned=was_warned)
            for spooled, members in zip(batch.events, answers, strict=True)
        ]

    def _wait_for(self, identity: EmitterIdentity, events: Sequence[SpooledEvent]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + self._timeout
        wait = _FIRST_WAIT
        while True:
            answers = self._ask(identity, events)
            missing = sum(members.get("status") not in (_SEALED, _QUARANTINED) for members in answers)
            if not missing:
                return answers
            if time.monotonic() + wait > deadline:
                raise RetryLater(
                    f"The batch was acknowledged, but {missing} of its events are not in the ledger yet.",
                    remedy="See what stands between the emitter and the collector; the same events are sent again.",
                    code="not_sealed_yet",
                )
            time.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    def _ask(self, identity: EmitterIdentity, events: Sequence[SpooledEvent]) -> list[dict[str, Any]]:
        first, last = events[0].sequence, events[-1].sequence
        parameters: dict[str, str | int] = {
            "emitter": identity.emitter_id,
            "boot": identity.boot,
            "first_seq": first,
            "count": last - first + 1,
        }
        try:
            response = self._client.get(RECEIPTS_PATH, params=parameters)
        except httpx.TransportError as error:
            raise no_answer(str(self._client.base_url), error) from error
        if response.status_code != OK:
            raise _error_of(response)
        listed = members_of(response).get("receipts")
        if not isinstance(listed, list) or len(listed) != last - first + 1:
            raise _no_receipts()
        answers = [listed[spooled.sequence - first] for spooled in events]
        if not all(
            isinstance(members, dict) and members.get("emitter_seq") == spooled.sequence
            for spooled, members in zip(events, answers, strict=True)
        ):
            raise _no_receipts()
        return answers


def _parts(events: Sequence[SpooledEvent]) -> Iterator[Sequence[SpooledEvent]]:
    """Yield events in parts that one question can ask for; where a disk was damaged, numbers are far apart."""
    begin = 0
    for place, spooled in enumerate(events):
        if spooled.sequence - events[begin].sequence >= _MAX_COUNT:
            yield events[begin:place]
            begin = place
    if events:
        yield events[begin:]


def _outcome(spooled: SpooledEvent, members: dict[str, Any], *, was_warned: bool) -> Receipt | InvalidEvent:
    if members["status"] == _QUARANTINED:
        return kept_in_quarantine(str(members.get("pointer", "")), str(members.get("reason", "")))
    # The id stands in the content, which may be gone by now; the leaf is what is checked.
    named = members if members.get("record_id") is not None else members | {"record_id": spooled.event.record_id}
    receipt = Receipt.parse(named)
    if was_warned and not receipt.duplicate and _is_anothers(receipt, spooled):
        return kept_in_quarantine("", "another event was sealed at its place in the emitter's sequence before")
    return receipt


def _is_anothers(receipt: Receipt, spooled: SpooledEvent) -> bool:
    try:
        return Leaf.unpack(receipt.leaf).commit != spooled.event.commit
    except LeafError:
        return False


def _error_of(response: httpx.Response) -> Exception:
    error = error_of(response)
    if not isinstance(error, BatchRefused):
        return error
    return Paused(
        f"No receipts are to be had at {response.url.copy_with(query=None)}: {error.args[0]}",
        remedy="Give as receipts_from the URL of the collector's OTLP/HTTP port.",
        code="no_receipts_there",
    )


def _no_receipts() -> ReceiptMismatch:
    return ReceiptMismatch(
        "The answer does not have the receipts that were asked for.",
        remedy="Check that receipts_from is a klyra-audit collector.",
    )
