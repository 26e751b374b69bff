"""What the answers of Splunk's HTTP Event Collector mean. Pure.

A reply is `{"text": …, "code": …}`; the code says more than the status (Splunk, "Troubleshoot HTTP Event Collector",
"Possible error codes").

| code | what happens next |
|--|--|
| 0 | taken |
| 24, 25 on a 200 | taken: a queue is nearly full, so that the next request waits; not sent again |
| 8, 9, 18 to 20, 23, 26, 27 | RETRY: the whole batch again, some of which may be in already |
| 6, 12, 13, 15 | BISECT: an event that Splunk cannot read; those before it are in already |
| 1 to 4, 7, 10, 11, 14, 16, 17, 21, 22 | PAUSE: address, token, index or channel are not set up as we need them |
| any other | what its status means (`outcome`) |

Splunk stops at an event that it cannot take and names it in `invalid-event-number`. Some versions count from 0 and some
from 1, so that the number is for people: going on from there could leave an event out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from klyra_siem.http_sending import not_from
from klyra_siem.outcome import Action, Outcome, of_http, retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_siem.http_sending import Answer

VENDOR: Final = "Splunk HTTP Event Collector"
NO_DATA: Final = "400/5"
NEARLY_FULL: Final = frozenset({"200/24", "200/25"})
NOT_ACKNOWLEDGED: Final = "not_acknowledged"

_OK = 0
_ACK_DISABLED = 14
_ACTIONS: Final[Mapping[int, Action]] = {
    **dict.fromkeys((8, 9, 18, 19, 20, 23, 26, 27), Action.RETRY),
    **dict.fromkeys((6, 12, 13, 15), Action.BISECT),
    **dict.fromkeys((1, 2, 3, 4, 7, 10, 11, _ACK_DISABLED, 16, 17, 21, 22), Action.PAUSE),
}
_NO_ACKNOWLEDGEMENT = (
    "the token has no indexer acknowledgement: switch it on, or write acknowledge = false below [destination.options]"
)


def of_events(answer: Answer, now: float) -> Outcome:
    """Return what the answer to a request with events means, indexer acknowledgement apart.

    Args:
        answer: to a request for `/services/collector/event`.
        now: seconds since 1970, for a `Retry-After` date.
    """
    code = _number(answer.members.get("code"))
    if code is None:
        if answer.is_success:
            return not_from(VENDOR, answer.status)
        return of_http(answer.status, answer.headers, answer.text, now)
    outcome = of_http(answer.status, answer.headers, _reason(code, answer.members), now)
    action = _ACTIONS.get(code, outcome.action)
    wait = retry_after(answer.headers.get("retry-after"), now) if action is Action.RETRY else None
    return replace(outcome, action=action, status=f"{answer.status}/{code}", retry_after=wait)


def of_no_data(answer: Answer, now: float) -> Outcome:
    """Return what the answer to an empty request means: that data are missing is said to those with a good token."""
    outcome = of_events(answer, now)
    return replace(outcome, action=Action.DELIVERED) if outcome.status == NO_DATA else outcome


def acknowledgement_id(answer: Answer) -> int | Outcome:
    """Return the `ackId` of events that were taken; PAUSE without one, for nobody would ever say they are indexed."""
    found = _number(answer.members.get("ackId"))
    return Outcome(action=Action.PAUSE, status="no_ack_id", reason=_NO_ACKNOWLEDGEMENT) if found is None else found


def of_acknowledgement(answer: Answer, ack_id: int | None, now: float) -> Outcome:
    """Return what the answer to `{"acks": [ack_id]}` means, or to `{"acks": []}` with None.

    `false` is said of what is not indexed yet, of what was asked for before, and of what that indexer never heard of
    (Splunk, "About HTTP Event Collector Indexer Acknowledgment"): RETRY, which here is to ask again. A 4xx is never a
    confirmation, nor does it say anything about the events.
    """
    if not answer.is_success:
        outcome = of_events(answer, now)
        return outcome if outcome.action is Action.RETRY else replace(outcome, action=Action.PAUSE)
    acknowledged = answer.members.get("acks")
    if not isinstance(acknowledged, dict) or not all(isinstance(value, bool) for value in acknowledged.values()):
        return not_from(VENDOR, answer.status)
    if ack_id is None or acknowledged.get(str(ack_id), False):
        return Outcome(action=Action.DELIVERED, status="acknowledged")
    return Outcome(action=Action.RETRY, status=NOT_ACKNOWLEDGED, reason="the indexer has not acknowledged the batch")


def _reason(code: int, members: Mapping[str, Any]) -> str:
    if code == _OK:
        return ""
    if code == _ACK_DISABLED:
        return _NO_ACKNOWLEDGEMENT
    number = _number(members.get("invalid-event-number"))
    place = "" if number is None else f" (event {number})"
    return f"code {code}: {members.get('text', '')}{place}"


def _number(value: Any) -> int | None:  # noqa: ANN401 - out of somebody else's JSON
    return value if isinstance(value, int) and not isinstance(value, bool) else None
