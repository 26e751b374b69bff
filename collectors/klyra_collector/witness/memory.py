"""What each witness answered last, kept as `state/witnesses.json`: a hint where to begin, and what status shows.

Nothing here is relied on: a wrong size is corrected by the witness, a lost file costs one more request each.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from klyra_collector.data_directory import ShardDirectory
    from klyra_collector.seal.durable import Disk


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """The present standing of one witness.

    Attributes:
        size: what it cosigned last; 0 if nothing is known.
        time: of that cosignature, seconds since 1970; 0 for never.
        trouble: the code of the error it answers with now; None while it cosigns.
        reason: the error in words.
    """

    size: int = 0
    time: int = 0
    trouble: str | None = None
    reason: str = ""

    def troubled(self, code: str, reason: str) -> LastAnswer:
        """Return it with a trouble; what it cosigned before stays."""
        return replace(self, trouble=code, reason=reason)


Memory = dict[str, LastAnswer]
"""By the witness's name in the policy."""


def recall(shard: ShardDirectory) -> Memory:
    """Return what was kept for a shard; nothing if the file is not there or is none of ours."""
    try:
        kept = orjson.loads(shard.witnesses.read_bytes())
        return {str(name): LastAnswer(**answer) for name, answer in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def keep(disk: Disk, shard: ShardDirectory, memory: Memory) -> None:
    """Replace what is kept for a shard."""
    encoded = {name: asdict(answer) for name, answer in memory.items()}
    disk.replace(shard.witnesses, orjson.dumps(encoded, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
