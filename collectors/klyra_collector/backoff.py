"""How long to wait before the same batch goes again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: any time up to a bound that doubles, so that many senders do not come back together.

    Attributes:
        first_seconds, longest_seconds: the bound after the first failure, and the highest one.
        draw: a random number from 0 to 1.
    """

    first_seconds: float = 1.0
    longest_seconds: float = 60.0
    draw: Callable[[], float] = random.random

    def seconds(self, failures: int, asked: float | None) -> float:
        """Return the wait after some failures in a row, never less than the destination asks for."""
        bound = min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures - 1, 32))
        wait = self.draw() * bound
        return wait if asked is None else max(wait, asked)
