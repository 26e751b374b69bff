"""What an answer of the bulk API means for what was sent: the whole table, without any input or output.

| answer for one document | what is done |
|--|--|
| 201 | STORED |
| 201 or 200 with `failure_store: used` | REFUSED: it lies in the failure store, where no search finds it |
| 409 `version_conflict_engine_exception` | EXISTS: whoever has the `_id` decides (`ours`) |
| 429; 403 or 429 `cluster_block_exception`; 408; 5xx | RETRY: that document alone, after a wait |
| 400 `index_closed_exception` | PAUSE: somebody has closed the index, and can open it |
| any other 400 | REFUSED: a dead letter; that most of many are tells of another mapping (`blames_mapping`) |
| 401, 403 `security_exception`, 404, anything else | PAUSE: an operator must act |

| answer for a whole request | what is done |
|--|--|
| 200 | the table above, document by document |
| 413 | SPLIT: halves; a document alone is REFUSED |
| 408, 429, 5xx, no answer | RETRY: nobody knows what was stored, so the same documents go again |
| 401, 403, 404, a certificate that is not trusted | PAUSE |
| anything else | HALT |

Source: Elasticsearch reference, "Bulk index or delete documents" (response body), "Failure store", "Index blocks".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STORED: Final = frozenset({200, 201})
_CONFLICT: Final = 409
_RETRY: Final = frozenset({408, 429})
_SERVER_ERRORS: Final = range(500, 600)
_BAD_REQUEST: Final = 400
_TOO_LARGE: Final = 413
_REFUSED_ACCESS: Final = frozenset({401, 403, 404})

_CLUSTER_BLOCK: Final = "cluster_block_exception"
_VERSION_CONFLICT: Final = "version_conflict_engine_exception"
_REASON_CHARACTERS: Final = 300

SUSPICIOUSLY_MANY: Final = 10
CLOSED: Final = "index_closed_exception"


class Result(StrEnum):
    """What became of one document, or what to do with a whole request."""

    STORED = "stored"
    EXISTS = "exists"
    RETRY = "retry"
    REFUSED = "refused"
    SPLIT = "split"
    PAUSE = "pause"
    HALT = "halt"


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one document.

    Attributes:
        result: see the table.
        index: the concrete index that has, or refused, the document; "" if the answer does not say.
        status: as answered.
        reason: the server's type and words, for people; may quote a value.
    """

    result: Result
    index: str = ""
    status: int = 201
    reason: str = ""


def of_item(item: Mapping[str, Any]) -> ItemResult:
    """Return what the answer for one document says; `item` is a member of `items`, whatever its operation."""
    ((_, answer),) = item.items()
    status = int(answer.get("status", 0))
    error = answer.get("error") or {}
    kind, reason = str(error.get("type", "")), _reason(error)
    if answer.get("failure_store") == "used":
        reason = f"it went to the failure store {answer.get('_index', '')}. {reason}".rstrip()
        return ItemResult(Result.REFUSED, str(answer.get("_index", "")), status, reason)
    return ItemResult(_of_status(status, kind), str(answer.get("_index", "")), status, reason)


def of_deleted(item: Mapping[str, Any]) -> ItemResult:
    """Return what the answer for one deletion says: what is gone already is as good as deleted."""
    ((_, answer),) = item.items()
    found = of_item(item)
    gone = found.status == 404 and answer.get("result") == "not_found"  # noqa: PLR2004 - HTTP status
    return ItemResult(Result.STORED, found.index, found.status) if gone else found


def of_request(status: int, kind: str = "") -> Result:
    """Return what to do with a whole request that was answered by an error.

    Args:
        status: of the answer, 0 for none.
        kind: type of the error in it, "" for none.
    """
    if status == 0 or status in _RETRY or status in _SERVER_ERRORS or kind == _CLUSTER_BLOCK:
        return Result.RETRY
    if status == _TOO_LARGE:
        return Result.SPLIT
    return Result.PAUSE if status in _REFUSED_ACCESS else Result.HALT


def blames_mapping(results: Sequence[ItemResult]) -> str | None:
    """Return the reason for which most of many documents were refused; None if there is no such.

    One document may be at fault by itself. That most of a request are, says that the mapping is not the one that
    this version writes for, and a dead letter for every entry would hide that.
    """
    refused = [item for item in results if item.result is Result.REFUSED]
    if len(refused) < SUSPICIOUSLY_MANY or len(refused) * 2 <= len(results):
        return None
    return refused[0].reason


def _of_status(status: int, kind: str) -> Result:
    if status in _STORED:
        return Result.STORED
    if status == _CONFLICT:
        return Result.EXISTS if kind == _VERSION_CONFLICT else Result.RETRY
    if status in _RETRY or status in _SERVER_ERRORS or kind == _CLUSTER_BLOCK:
        return Result.RETRY
    return Result.REFUSED if status == _BAD_REQUEST and kind != CLOSED else Result.PAUSE


def _reason(error: Mapping[str, Any]) -> str:
    words = " ".join(str(error.get("reason", "")).split())[:_REASON_CHARACTERS]
    return f"{error.get('type', '')}: {words}" if error else ""
