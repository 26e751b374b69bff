"""What a destination has on disk beside its status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from klyra_collector.dead_letters import DeadLetters
    from klyra_collector.fanout.cursor import CursorFile
    from klyra_collector.fanout.orders import Orders
    from klyra_collector.fanout.segments import SegmentReceipts


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one destination.

    Attributes:
        cursor: where it stands.
        orders: what an operator wants of it.
        dead_letters: what it will never take.
        receipts: what it has confirmed.
    """

    cursor: CursorFile
    orders: Orders
    dead_letters: DeadLetters
    receipts: SegmentReceipts
