"""What the emitter gets back for a sealed event, and how it is checked (DESIGN section 6)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from klyra_audit.errors import Halted
from klyra_audit.format.errors import LeafError
from klyra_audit.format.leaf import Kind, Leaf

if TYPE_CHECKING:
    from klyra_audit.prepared import PreparedEvent


class ReceiptMismatch(Halted):
    """The collector acknowledged something else than what was sent: a fault, or an attack."""

    code = "receipt_mismatch"


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where an event stands in the ledger.

    Attributes:
        record_id: the entry's id.
        log: origin of the shard.
        index: of the leaf in it.
        leaf: the 112 bytes that commit to the event.
    """

    record_id: str
    log: str
    index: int
    leaf: bytes

    @classmethod
    def parse(cls, members: dict[str, Any]) -> Receipt:
        """Read one receipt of `/v1/audit`; `ReceiptMismatch` if it is malformed."""
        try:
            leaf = base64.b64decode(members["leaf"], validate=True)
            return cls(str(members["record_id"]), str(members["log"]), int(members["index"]), leaf)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise _mismatch("a receipt that is none") from error

    def check(self, event: PreparedEvent, sequence: int) -> None:
        """Check that the leaf commits to exactly this event at this place of the emitter's sequence.

        Raises:
            ReceiptMismatch: it does not.
        """
        try:
            leaf = Leaf.unpack(self.leaf)
        except LeafError as error:
            raise _mismatch("a leaf that is none") from error
        if leaf.kind != Kind.EVENT or leaf.commit != event.commit:
            raise _mismatch("another event than the one sent")
        if leaf.emitter == 0 or leaf.emitter_seq != sequence:
            raise _mismatch("another place in the emitter's sequence")
        if self.record_id != event.record_id:
            raise _mismatch("another entry id")


def _mismatch(what: str) -> ReceiptMismatch:
    return ReceiptMismatch(
        f"The collector's receipt acknowledges {what}.",
        remedy="Stop sending there and find out what answers at that address; keep the receipt as evidence.",
    )
