"""Whether the policy's witnesses have seen the ledger, and lately. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from klyra_collector.verify.heads import Heads, SignedHead

CLOCK_SECONDS: Final = 15 * 60  # how far a collector's clock may be ahead of a witness's

_MICROSECONDS: Final = 1_000_000


def newest_cosigned(heads: Heads) -> SignedHead | None:
    """Return the largest head on which the quorum is met, at its earliest; None if it is met on none."""
    return max(heads.cosigned, key=lambda head: (head.checkpoint.size, -(head.quorum_time or 0)), default=None)


def newest_time(heads: Iterable[SignedHead]) -> int:
    """Return the newest time at which any witness cosigned, in seconds since 1970; 0 without any."""
    return max((time for head in heads for time in head.cosigned.values()), default=0)


def judge_age(heads: Heads, newest_us: int, max_age: float) -> Problem | None:
    """Say so if the quorum has not cosigned a shard that is written, or not lately.

    Args:
        heads: of the shard.
        newest_us: the present, in microseconds since 1970.
        max_age: seconds.
    """
    times = [head.quorum_time for head in heads.cosigned if head.quorum_time is not None]
    return judge_quorum_age(times, newest_us, max_age)


def judge_quorum_age(times: Sequence[int], newest_us: int, max_age: float) -> Problem | None:
    """Say so if a quorum has cosigned a log never, or not lately.

    Args:
        times: by when it had cosigned a head of it, seconds since 1970.
        newest_us: the present, in microseconds since 1970.
        max_age: seconds.
    """
    if not times:
        return Problem(Verdict.STALE_WITNESS, "the policy's quorum of witnesses has cosigned no head of this shard")
    age = newest_us // _MICROSECONDS - max(times)
    if age > max_age:
        reason = f"the policy's quorum of witnesses last cosigned a head {age} s ago"
        return Problem(
            Verdict.STALE_WITNESS, f"{reason}; for a ledger that is no longer written, say the time with --now"
        )
    return None
