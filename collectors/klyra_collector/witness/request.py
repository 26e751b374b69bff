"""The body of `add-checkpoint` (C2SP tlog-witness v1.0.0), as a log writes it and as a witness reads it. Bytes only."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from klyra_audit.format.errors import FormatError
from klyra_audit.format.keys import decode_base64
from klyra_audit.format.merkle import HASH_SIZE
from klyra_audit.format.note import MAX_NOTE_BYTES

SIZE_MEDIA_TYPE: Final = "text/x.tlog.size"
MAX_PROOF_HASHES: Final = 63
MAX_REQUEST_BYTES: Final = MAX_NOTE_BYTES + 4096  # a note, and 64 lines of at most 45 bytes before it

_OLD_SIZE = re.compile(r"old (0|[1-9][0-9]{0,18})", re.ASCII)
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,18})\n")


class RequestError(FormatError):
    """A body that is no request of the protocol."""


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """What a log asks a witness to cosign.

    Attributes:
        old_size: of the checkpoint that the log believes the witness cosigned last; 0 for none.
        proof: consistency proof from there, 32-byte hashes; empty for old size 0 and for the same size.
        checkpoint: the signed note.
    """

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: bytes

    def encode(self) -> bytes:
        """Return the request's body."""
        lines = [f"old {self.old_size}", *(base64.b64encode(part).decode() for part in self.proof), "", ""]
        return "\n".join(lines).encode() + self.checkpoint

    @classmethod
    def parse(cls, body: bytes) -> AddCheckpoint:
        """Read a request's body; the checkpoint in it is not looked at.

        Raises:
            RequestError: it breaks the protocol.
            NoteError: a line of the proof is not base64.
        """
        head, separator, checkpoint = body.partition(b"\n\n")
        if not separator or not head.isascii():
            raise RequestError("there is no empty line between the proof and the checkpoint")
        first, *lines = head.decode().split("\n")
        old = _OLD_SIZE.fullmatch(first)
        if old is None:
            raise RequestError("the first line is not `old` and a size")
        if len(lines) > MAX_PROOF_HASHES:
            raise RequestError(f"the proof has more than {MAX_PROOF_HASHES} lines")
        proof = tuple(map(decode_base64, lines))
        if any(len(part) != HASH_SIZE for part in proof):
            raise RequestError("a line of the proof is not a 32-byte hash")
        return cls(int(old[1]), proof, checkpoint)


def parse_size(body: bytes) -> int:
    """Return the size in the answer to a request with another old size than the witness's; `RequestError`."""
    match = _SIZE.fullmatch(body)
    if match is None:
        raise RequestError("the answer is not a size")
    return int(match[1])
