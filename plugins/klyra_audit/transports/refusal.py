"""What a collector says of a batch that it will never take as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """One record the collector refused: its position in the batch, and why."""

    position: int
    pointer: str
    reason: str


class BatchRefused(Rejected):
    """The collector sealed nothing of the batch because of the records named."""

    code = "batch_refused"

    def __init__(self, message: str, refused: Sequence[RefusedRecord]) -> None:
        super().__init__(message)
        self.refused = tuple(refused)


class TooLarge(Rejected):
    """The collector takes no batch of this size; its halves may pass."""

    code = "batch_too_large"
