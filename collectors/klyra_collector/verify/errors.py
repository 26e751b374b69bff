"""What stops a verification; what verification finds is a `Finding`, never an exception."""

from __future__ import annotations


class CannotVerify(Exception):  # noqa: N818 - read as what it says
    """Nothing could be checked (exit status 2): there is no ledger, or what was given to check it with is no use.

    Attributes:
        code: a stable, lower-case name that programs may compare.
        remedy: what the reader can do about it, one sentence.
    """

    def __init__(self, message: str, *, code: str, remedy: str) -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy
