"""What the emitter gets back for a sealed event, and how it is checked (DESIGN section 6)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from klyra_audit.errors import Halted, Rejected
from klyra_audit.format.errors import LeafError
from klyra_audit.format.leaf import Kind, Leaf

if TYPE_CHECKING:
    from klyra_audit.prepared import PreparedEvent


class ReceiptMismatch(Halted):
    """The collector acknowledged something else than what was sent: a fault, or an attack."""

    code = "receipt_mismatch"


class AlreadySealed(Rejected):
    """The collector says that an event of this id and content was sealed before, by another run of an emitter.

    Its leaf commits to the salts of that run, so this copy cannot check it; nothing was sealed now.

    Attributes:
        receipt: of the first sealing, unchecked.
    """

    code = "already_sealed"

    def __init__(self, receipt: Receipt) -> None:
        super().__init__(
            f"{receipt.record_id} was sealed before, as record {receipt.index} of {receipt.log}.",
            remedy="Nothing is to be done if this is a repeat; give another event an id of its own.",
        )
        self.receipt = receipt


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where an event stands in the ledger.

    Attributes:
        record_id: the entry's id.
        log: origin of the shard.
        index: of the leaf in it.
        leaf: the 112 bytes that commit to the event.
        duplicate: the collector recognised a repeat; this is the first sealing's receipt.
    """

    record_id: str
    log: str
    index: int
    leaf: bytes
    duplicate: bool = False

    @classmethod
    def parse(cls, members: dict[str, Any]) -> Receipt:
        """Read one receipt of `/v1/audit`; `ReceiptMismatch` if it is malformed."""
        try:
            leaf = base64.b64decode(members["leaf"], validate=True)
            duplicate = members.get("duplicate") is True
            return cls(str(members["record_id"]), str(members["log"]), int(members["index"]), leaf, duplicate)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise _mismatch("a receipt that is none") from error

    def check(self, event: PreparedEvent, sequence: int) -> None:
        """Check that the leaf commits to exactly this event at this place of the emitter's sequence.

        Raises:
            AlreadySealed: it is the receipt of an earlier run's sealing of the same id.
            ReceiptMismatch: it does not.
        """
        if self.record_id != event.record_id:
            raise _mismatch("another entry id")
        try:
            leaf = Leaf.unpack(self.leaf)
        except LeafError as error:
            raise _mismatch("a leaf that is none") from error
        if leaf.kind != Kind.EVENT:
            raise _mismatch("a record that is no event")
        if leaf.commit != event.commit:
            raise AlreadySealed(self) if self.duplicate else _mismatch("another event than the one sent")
        if leaf.emitter == 0 or leaf.emitter_seq != sequence:
            raise _mismatch("another place in the emitter's sequence")


def _mismatch(what: str) -> ReceiptMismatch:
    return ReceiptMismatch(
        f"The collector's receipt acknowledges {what}.",
        remedy="Stop sending there and find out what answers at that address; keep the receipt as evidence.",
    )
