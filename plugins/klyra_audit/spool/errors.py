"""Errors of the spool, typed by what the caller does next."""

from __future__ import annotations

from klyra_audit.errors import Halted, Paused, RetryLater


class SpoolFull(RetryLater):
    """The spool holds as much as it may; the event was not taken."""

    code = "spool_full"


class SpoolFailed(RetryLater):
    """The disk did not take the event. It may or may not be sealed later; it was not promised to be."""

    code = "spool_failed"


class SpoolUnusable(Paused):
    """The spool's folder cannot be used: it does not exist, is read-only, or can be read by others."""

    code = "spool_unusable"


class SpoolClosed(Halted):
    """An event was emitted after the emitter was closed."""

    code = "spool_closed"
