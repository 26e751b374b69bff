"""Verify everything in a target: the one entrance for callers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from klyra_collector.verify import files
from klyra_collector.verify.files import Unreadable
from klyra_collector.verify.layout import find_shards
from klyra_collector.verify.ledger import Options, ShardVerification
from klyra_collector.verify.report import Report
from klyra_collector.verify.work import Alone, Processes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from klyra_collector.verify.layout import ShardFolder

WORTH_PROCESSES: Final = 32 * 1024 * 1024  # bytes; below, starting processes takes longer than the work

__all__ = ["Options", "verify_target"]


def verify_target(target: Path, options: Options) -> Report:
    """Verify the shards of a data, ledger or shard directory, one after another.

    Raises:
        CannotVerify: nothing there looks like a ledger.
    """
    shards = find_shards(target)
    spread = options.processes > 1 and _weight(shards) >= WORTH_PROCESSES
    with Processes(options.processes) if spread else Alone() as crew:
        reports = [ShardVerification(folder, options, crew).run() for folder in shards]
    return Report(
        target=os.fsencode(target).decode("utf-8", "backslashreplace"),
        pinned=options.policy is not None,
        require_pinned=options.require_pinned,
        shards=reports,
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
