"""What our streams and indexes are called (DESIGN section 8). Never `logs-…`: that makes a stream of another kind."""

from __future__ import annotations

PREFIX = "klyra-audit-"
LEDGER_INDEX = f"{PREFIX}ledger"
HEALTH_STREAM = f"{PREFIX}health"
HELD_STREAM = f"{PREFIX}held"
QUARANTINE_HELD_STREAM = f"{PREFIX}quarantine-held"
# How all of a pattern is asked for: streams of plans that nobody has yet may be absent, and nothing else is left out.
# `ignore_unavailable` would leave out indexes that somebody has closed, without a word.
CLOSED_TOO = "expand_wildcards=open,closed"
WHOLE = f"allow_no_indices=true&{CLOSED_TOO}"
DEDICATED = "-at-"  # stands before an organization in the names of its own streams
FOLLOWER = "elasticsearch"  # of its dead letters

# Where entries are: of every plan and of every retention policy of its own name, dedicated streams too.
ENTRY_STREAMS = ",".join(f"{PREFIX}{name}*" for name in ("startup", "business", "enterprise", "held"))
QUARANTINE_STREAMS = f"{PREFIX}quarantine-*"


def entry_stream(policy: str) -> str:
    """Return the data stream for entries of a retention policy."""
    return f"{PREFIX}{policy}"


def quarantine_stream(policy: str) -> str:
    """Return the data stream for quarantined input of a retention policy."""
    return f"{PREFIX}quarantine-{policy}"


def dedicated_stream(policy: str, organization_id: str) -> str:
    """Return the data stream for the entries of one organization that has its own; stream names have no capitals."""
    return f"{PREFIX}{policy}{DEDICATED}{organization_id.lower()}"
