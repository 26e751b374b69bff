"""What the pure functions on bytes raise: hostile input leads to these and to nothing else.

FormatError
├── ProfileError   a JSON document breaks the restricted profile (DESIGN section 4)
├── SectionError   sections do not join to a document
├── LeafError      112 bytes that are no leaf
│   └── UnknownLeafError   a later version or kind: unverifiable, not broken
├── FrameError     a frame of a flat file is torn or damaged
├── NoteError      a signed note is malformed or a known key's signature fails
├── CheckpointError  the text of a note is no checkpoint of the expected log
├── ProofError     a Merkle proof does not lead to the root
├── TileError      a path that names no tile, or an entry bundle that is none
├── PolicyError    a trust policy that cannot be used
├── ControlError   a control document that is not what its kind says
└── PacketError    a member of an export packet that is not what its name says
"""

from __future__ import annotations


class FormatError(Exception):
    """The root of every error about bytes."""


class ProfileError(FormatError):
    """A document outside the JSON profile of DESIGN section 4.

    Attributes:
        reason: one sentence that does not quote the offending value.
        pointer: JSON Pointer to the offending member, "" for the whole document.
    """

    def __init__(self, reason: str, pointer: str = "") -> None:
        super().__init__(f"{pointer or 'the document'}: {reason}")
        self.reason = reason
        self.pointer = pointer


class SectionError(FormatError):
    """Sections that do not belong together (verdict ALTERED)."""


class LeafError(FormatError):
    """Bytes that are not a leaf of KL1."""


class UnknownLeafError(LeafError):
    """A leaf of a version or kind this software does not know (verdict UNVERIFIABLE)."""


class FrameError(FormatError):
    """A torn or damaged frame.

    Attributes:
        offset: where in the buffer the frame begins.
        torn: the buffer ends inside the frame; what is there may still be whole.
    """

    def __init__(self, message: str, offset: int, *, torn: bool = False) -> None:
        super().__init__(f"{message} at byte {offset}")
        self.offset = offset
        self.torn = torn


class NoteError(FormatError):
    """A signed note that must not be trusted."""


class CheckpointError(FormatError):
    """The text of a note that is not a checkpoint of the expected log."""


class ProofError(FormatError):
    """A Merkle proof that does not lead from the leaf to the root."""


class TileError(FormatError):
    """A path that names no tile of a log, or bytes that are no entry bundle."""


class PolicyError(FormatError):
    """A trust policy (C2SP tlog-policy) that cannot be used."""


class ControlError(FormatError):
    """A control document that is not what its kind says."""


class PacketError(FormatError):
    """A member of an export packet that is not what its name says."""
