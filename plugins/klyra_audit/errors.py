"""Errors of the emitter and of everything it shares with the collector, typed by what the caller does next.

KlyraError
├── RetryLater   nothing happened yet; the same call may succeed later
├── Rejected     this input will never be accepted as it is; change it
│   └── InvalidEvent   an event that breaks the profile or its schema
├── Paused       an operator must act (a key, a setting); then the same call succeeds
└── Halted       the state is unsafe or unknown; stop, then recover
"""

from __future__ import annotations


class KlyraError(Exception):
    """The root of every error that this product raises on purpose.

    Attributes:
        code: a stable, lower-case name that programs may compare.
        remedy: what the reader can do about it, one sentence.
    """

    code = "error"

    def __init__(self, message: str, *, remedy: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} {self.remedy}".rstrip()


class RetryLater(KlyraError):  # noqa: N818 - named for what the caller does next
    """Nothing was accepted; the same call may succeed after `retry_after` seconds."""

    code = "retry_later"

    def __init__(self, message: str, *, retry_after: float = 1.0, remedy: str = "", code: str | None = None) -> None:
        super().__init__(message, remedy=remedy, code=code)
        self.retry_after = retry_after


class Rejected(KlyraError):  # noqa: N818 - named for what the caller does next
    """The input will never be accepted as it is."""

    code = "rejected"


class InvalidEvent(Rejected):
    """An event that breaks the JSON profile, its schema or a rule of DESIGN section 4.

    Attributes:
        reason: one sentence without the offending value.
        pointer: JSON Pointer (RFC 6901) to the offending member, "" for the whole document.
    """

    code = "invalid_event"

    def __init__(self, reason: str, *, pointer: str = "", code: str | None = None) -> None:
        super().__init__(f"{pointer or 'the document'}: {reason}", code=code)
        self.reason = reason
        self.pointer = pointer


class Paused(KlyraError):  # noqa: N818 - named for what the caller does next
    """An operator must act before the same call can succeed."""

    code = "paused"


class Halted(KlyraError):  # noqa: N818 - named for what the caller does next
    """The state is unsafe or unknown: stop here, then recover."""

    code = "halted"
