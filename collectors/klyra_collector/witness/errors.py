"""What a witness's answer means for the log that asked, typed by what is done next.

RetryLater
└── WitnessUnavailable   no answer, or a passing trouble; asked again by itself
Paused
├── LogNotWitnessed      404, 403: the witness's operator must add this log's key
└── AnswerInvalid        what came back is not what the policy's witness would say
Halted
├── LedgerBehind         the witness has cosigned more than this ledger holds: ROLLBACK
└── HistoryRefused       the witness has seen another history of this ledger: FORK

None of them stops intake. The last two are alarms: someone must look.
"""

from __future__ import annotations

from typing import Final

from klyra_audit.errors import Halted, Paused, RetryLater


class WitnessUnavailable(RetryLater):
    """A witness did not answer, or cannot just now."""

    code = "witness_unavailable"


class LogNotWitnessed(Paused):
    """The witness does not know this log, or not its key."""

    code = "log_not_witnessed"


class AnswerInvalid(Paused):
    """The answer is malformed, too long, of another key, or its time is far off."""

    code = "witness_answer_invalid"


class LedgerBehind(Halted):
    """A witness has cosigned a larger tree than the newest one here: the ledger was rolled back, or copied."""

    code = "rollback"


class HistoryRefused(Halted):
    """A witness found that this ledger's history is not the one it cosigned before."""

    code = "fork"


ALARMS: Final = frozenset({LedgerBehind.code, HistoryRefused.code})
