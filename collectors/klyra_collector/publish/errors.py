"""What reading a published ledger raises, typed by what the caller does next.

Rejected
├── NoSuchLog       there is no such collector or shard here
└── NotPublished    no published checkpoint covers that leaf, tile or size (yet)
"""

from __future__ import annotations

from klyra_audit.errors import Rejected


class NoSuchLog(Rejected):
    """Nothing is published under that name here."""

    code = "no_such_log"


class NotPublished(Rejected):
    """The newest published checkpoint does not cover it: it does not exist, or not yet."""

    code = "not_published"
