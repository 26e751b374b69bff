"""What a witness's answer to `add-checkpoint` means (C2SP tlog-witness v1.0.0). Decides on bytes, does no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from klyra_audit.format import note
from klyra_audit.format.errors import FormatError, NoteError
from klyra_collector.witness.errors import (
    AnswerInvalid,
    HistoryRefused,
    LedgerBehind,
    LogNotWitnessed,
    WitnessUnavailable,
)
from klyra_collector.witness.lines import first_line_of
from klyra_collector.witness.request import SIZE_MEDIA_TYPE, parse_size

if TYPE_CHECKING:
    from klyra_audit.errors import KlyraError
    from klyra_audit.format.keys import VerifyingKey
    from klyra_collector.witness.heads import Head

MAX_CLOCK_SECONDS: Final = 15 * 60
MAX_ANSWER_BYTES: Final = 32 * 1024

_TELL_OPERATOR = "Ask its operator; `klyra-audit status` shows which witness it is."
_LOOK = (
    "Stop and find out why before anyone trusts newer entries: compare this ledger with its copies and backups "
    "using `klyra-audit verify`."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, its body bounded by MAX_ANSWER_BYTES.

    Attributes:
        media_type: of Content-Type, without parameters.
    """

    status: int
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A witness's checked signature line, with its newline, and the time in it (seconds since 1970)."""

    line: str
    time: int


@dataclass(frozen=True, slots=True)
class OtherSize:
    """The witness has cosigned another size than the log believed; a proof from there may satisfy it."""

    size: int


def judge(answer: Answer, head: Head, old_size: int, key: VerifyingKey, now: float) -> Cosignature | OtherSize:
    """Return what a witness's answer says.

    Args:
        answer: as received.
        head: the checkpoint it was asked to cosign.
        old_size: what the log said the witness had cosigned before.
        key: the witness's, from the policy.
        now: seconds since 1970.

    Raises:
        WitnessUnavailable, LogNotWitnessed, AnswerInvalid, LedgerBehind, HistoryRefused: see `errors`.
    """
    if answer.status == HTTPStatus.OK:
        return _cosignature(answer.body, head, key, now)
    if answer.status == HTTPStatus.CONFLICT:
        return _other_size(answer, head, old_size, key)
    raise _refusal(answer.status, head, key)


def _cosignature(body: bytes, head: Head, key: VerifyingKey, now: float) -> Cosignature:
    try:
        line, time = _checked_line(body, head, key)
    except (FormatError, UnicodeDecodeError) as error:
        raise AnswerInvalid(
            f"The answer of {key.name} is no cosignature by the policy's key: {error}.",
            remedy="Compare the witness's key in the policy with what its operator publishes.",
        ) from error
    if abs(time - now) > MAX_CLOCK_SECONDS:
        raise AnswerInvalid(
            f"{key.name} dates its cosignature {time - now:+.0f} s from this collector's clock.",
            remedy="Set the clock that is wrong, here or there.",
            code="witness_clock",
        )
    return Cosignature(line, time)


def _checked_line(body: bytes, head: Head, key: VerifyingKey) -> tuple[str, int]:
    """Return the line of the witness's key, and its time; every line of other keys is left aside."""
    line = first_line_of([f"{line}\n" for line in body.decode().split("\n")], key)
    if line is None:
        raise NoteError("no line is of that key")
    opened = note.open_note(note.append_lines(head.encoded, [line]), [key])
    return line, opened.signatures[0].time or 0


def _other_size(answer: Answer, head: Head, old_size: int, key: VerifyingKey) -> OtherSize:
    try:
        theirs = parse_size(answer.body)
    except FormatError as error:
        raise AnswerInvalid(f"{key.name} answers 409 without a size.", remedy=_TELL_OPERATOR) from error
    if answer.media_type != SIZE_MEDIA_TYPE:
        raise AnswerInvalid(f"{key.name} answers 409 but not as {SIZE_MEDIA_TYPE}.", remedy=_TELL_OPERATOR)
    size = head.checkpoint.size
    if theirs > size:
        raise LedgerBehind(
            f"{key.name} has cosigned {theirs} leaves of {head.checkpoint.origin}, which now shows only {size}.",
            remedy=_LOOK,
        )
    if theirs == old_size == size:  # version 1.0.0 answers 409 where the size is the same and the root another
        raise _history_refused(head, key)
    if theirs == old_size:
        raise AnswerInvalid(f"{key.name} refuses the size {theirs} and asks for it.", remedy=_TELL_OPERATOR)
    return OtherSize(theirs)


def _refusal(status: int, head: Head, key: VerifyingKey) -> KlyraError:
    origin = head.checkpoint.origin
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        return _history_refused(head, key)
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN):
        unknown = status == HTTPStatus.NOT_FOUND
        return LogNotWitnessed(
            f"{key.name} does not know {'the log' if unknown else 'the key of'} {origin}.",
            remedy=f"Send its operator this line to add: {head.vkey or f'the verifier key of {origin}'}",
            code="log_unknown" if unknown else "log_key_unknown",
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return WitnessUnavailable(f"{key.name} answers {status}.", remedy="It is asked again by itself.")
    return AnswerInvalid(f"{key.name} answers {status}.", remedy=_TELL_OPERATOR)


def _history_refused(head: Head, key: VerifyingKey) -> HistoryRefused:
    return HistoryRefused(
        f"{key.name} finds that {head.checkpoint.origin} of {head.checkpoint.size} leaves is not a continuation of "
        "what it cosigned before.",
        remedy=_LOOK,
    )
