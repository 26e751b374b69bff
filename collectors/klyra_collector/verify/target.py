"""Verify everything in a target: the one entrance for callers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from klyra_collector.verify import files
from klyra_collector.verify.files import Unreadable
from klyra_collector.verify.layout import find_shards
from klyra_collector.verify.ledger import Options
from klyra_collector.verify.report import Report
from klyra_collector.verify.whole import LedgerVerification
from klyra_collector.verify.work import Alone, Processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from klyra_collector.verify.layout import ShardFolder
    from klyra_collector.verify.report import ShardReport

WORTH_PROCESSES: Final = 32 * 1024 * 1024  # bytes; below, starting processes takes longer than the work

__all__ = ["Options", "verify_target"]


def verify_target(target: Path, options: Options) -> Report:
    """Verify the shards of a data, ledger or shard directory.

    Raises:
        CannotVerify: nothing there looks like a ledger.
    """
    _, reports = run_over(target, options)
    return report_of(target, options, reports)


def run_over(target: Path, options: Options) -> tuple[LedgerVerification, list[ShardReport]]:
    """Verify the shards of a directory; return what was found in each, and the run it was found by.

    Raises:
        CannotVerify: as `verify_target`.
    """
    shards = find_shards(target)
    spread = options.processes > 1 and _weight(shards) >= WORTH_PROCESSES
    with Processes(options.processes) if spread else Alone() as crew:
        verification = LedgerVerification(shards, options, crew)
        return verification, verification.run()


def report_of(target: Path, options: Options, shards: Sequence[ShardReport]) -> Report:
    """Return the report on a target, by those on its shards."""
    return Report(
        target=os.fsencode(target).decode("utf-8", "backslashreplace"),
        pinned=options.policy is not None,
        require_pinned=options.require_pinned,
        shards=shards,
    )


def _weight(shards: Iterable[ShardFolder]) -> int:
    """Return how many bytes there are to hash, until it is enough to know."""
    weight = 0
    for folder in shards:
        weight += _size(folder.leaves)
        try:
            weight += sum(_size(folder.bodies(day)) for day in folder.body_days())
        except Unreadable:
            continue
    return weight


def _size(path: Path) -> int:
    with files.open_if_readable(path) as file:
        return file.size
