"""What a collector says of a batch that it will never take as it is, and of events that it keeps elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit.errors import InvalidEvent, Rejected

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


class RefusedWhole(Rejected):
    """What answers does not take the batch, and does not say because of which events; its halves may pass."""

    code = "refused_whole"


class TooLarge(RefusedWhole):
    """The collector takes no batch of this size; its halves may pass."""

    code = "batch_too_large"


def kept_in_quarantine(pointer: str, reason: str) -> InvalidEvent:
    """Return what becomes of an event that is durable, but no entry."""
    return InvalidEvent(f"{reason} (kept in the collector's quarantine)", pointer=pointer)
