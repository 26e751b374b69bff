"""Judge whether a packet's runs cover its window: every shard that lies in it, without a gap. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from klyra_audit.format.control import ShardOpen, Start
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from klyra_audit.format.control import ShardClose
    from klyra_audit.format.leaf import Leaf
    from klyra_audit.format.packet import Window
    from klyra_audit.format.policy import Policy
    from klyra_collector.verify.packet_run import ProvedControl, RunVerification

Closes = dict[str, tuple[int, "Leaf", "ShardClose"]]


def judge_coverage(
    window: Window, runs: Sequence[RunVerification], closes: Closes, policy: Policy
) -> Iterator[tuple[Problem, RunVerification | None]]:
    """Yield what is wrong, with the run it is about.

    Args:
        window: that the packet speaks of.
        runs: oldest first, each verified.
        closes: index, leaf and document of the record that closed a shard, by origin.
        policy: whose every ledger must be here.
    """
    ledgers: dict[str, list[RunVerification]] = {}
    for run in runs:
        ledgers.setdefault(_ledger(run.run.origin), []).append(run)
    for name in sorted({_ledger(log.key.name) for log in policy.logs} - ledgers.keys()):
        yield Problem(Verdict.TRUNCATED, f"there is no run of {name}, a ledger of the policy"), None
    for shards in ledgers.values():
        yield from _judge_ledger(window, shards, closes)


def _judge_ledger(
    window: Window, runs: Sequence[RunVerification], closes: Mapping[str, tuple[int, Leaf, ShardClose]]
) -> Iterator[tuple[Problem, RunVerification | None]]:
    if not _begins_in_time(window, runs[0]):
        reason = "the window begins before this run, and the shard before it is not here"
        yield Problem(Verdict.TRUNCATED, reason), runs[0]
    for run, following in pairwise(runs):
        problem = _judge_link(window, run, following, closes)
        if problem is not None:
            yield problem, run
    last = runs[-1]
    heads = last.state.heads_leaf
    if heads is not None and heads.ingest_us < window.end_us:
        reason = "the window ends after the newest HEADS record, behind which there may be more"
        yield Problem(Verdict.TRUNCATED, reason), last


def _begins_in_time(window: Window, run: RunVerification) -> bool:
    if run.state.first_us is not None and run.state.first_us < window.start_us:
        return True
    opening = _opening(run)
    if opening is None:
        return False
    return isinstance(opening.document, Start) or opening.leaf.ingest_us <= window.start_us


def _opening(run: RunVerification) -> ProvedControl | None:
    """Return the shard's record 0, if it is here and proved."""
    return next((proved for proved in run.state.controls if proved.index == 0), None)


def _judge_link(
    window: Window,
    run: RunVerification,
    following: RunVerification,
    closes: Mapping[str, tuple[int, Leaf, ShardClose]],
) -> Problem | None:
    """Say what may be missing between two shards of a ledger."""
    closed = closes.get(run.run.origin)
    opening = _opening(following)
    heads = run.state.heads_leaf
    if heads is None:
        return None  # said already, of heads.json
    if closed is not None:
        index, _, document = closed
        if document.next_origin != following.run.origin:
            return Problem(Verdict.TRUNCATED, f"{document.next_origin} comes next, and there is no run of it")
        size = index
    elif opening is not None and isinstance(opening.document, ShardOpen):
        if opening.document.previous_origin != run.run.origin:
            reason = (
                f"{opening.document.previous_origin} comes before {following.run.origin}, and there is no run of it"
            )
            return Problem(Verdict.TRUNCATED, reason)
        size = opening.document.previous_size
    else:
        return Problem(Verdict.TRUNCATED, f"nothing shows that {following.run.origin} comes next")
    if run.state.heads_index + 1 == size or heads.ingest_us >= window.end_us:
        return None
    reason = f"between the last HEADS record and the end of {run.run.origin} nothing shows which records there were"
    return Problem(Verdict.UNVERIFIABLE, reason)


def _ledger(origin: str) -> str:
    return origin.rpartition("/")[0]
