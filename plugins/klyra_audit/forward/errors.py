"""What is wrong with a Forward stream, typed by what its reader does next.

Rejected
├── NotForward       the stream cannot be followed any further: close the connection
├── MessageTooLarge  a message is longer than this side holds: close the connection
└── HandshakeFailed  the peer did not prove what it must: say so and close the connection
Paused
└── MissingExtra     a library of the extra `forward` is not installed
"""

from __future__ import annotations

from klyra_audit.errors import Paused, Rejected


class NotForward(Rejected):
    """The stream holds something that is no Forward message; what follows it cannot be told apart either."""

    code = "not_forward"


class MessageTooLarge(Rejected):
    """A message is longer than this side holds, as sent or by what its header announces."""

    code = "message_too_large"


class HandshakeFailed(Rejected):
    """The peer does not know the shared key, is no known user, or speaks no handshake."""

    code = "handshake_failed"


class MissingExtra(Paused):
    """A library that only Fluent Forward needs is not installed."""

    code = "missing_extra"
