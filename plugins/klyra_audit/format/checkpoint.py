"""Checkpoints (C2SP tlog-checkpoint): the signed size and root of a shard; the key name equals the origin."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit.format import note
from klyra_audit.format.errors import CheckpointError
from klyra_audit.format.merkle import HASH_SIZE

if TYPE_CHECKING:
    from klyra_audit.format.note import SigningKey, VerifyingKey

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_LINES = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log.

    Attributes:
        origin: name of the shard, ``<ledger name>/<collector id>/<shard>``.
        size: number of leaves.
        root: 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the three lines; extension lines are refused, since nothing covers them (tlog-checkpoint)."""
        lines = text.split("\n")
        if len(lines) != _LINES + 1 or lines[-1]:
            raise CheckpointError("a checkpoint has three lines: origin, size and root")
        origin, size, encoded_root, _ = lines
        if not origin or _SIZE.fullmatch(size) is None:
            raise CheckpointError("a checkpoint's second line is its size, decimal without leading zeros")
        try:
            root = base64.b64decode(encoded_root, validate=True)
        except (binascii.Error, ValueError) as error:
            raise CheckpointError("a checkpoint's root is not base64") from error
        if len(root) != HASH_SIZE or base64.b64encode(root).decode() != encoded_root:
            raise CheckpointError("a checkpoint's root is not a 32-byte hash")
        return cls(origin, int(size), root)


def sign(checkpoint: Checkpoint, key: SigningKey) -> bytes:
    """Return the checkpoint as a signed note."""
    return note.sign(checkpoint.text(), [key])


def open_checkpoint(encoded: bytes, key: VerifyingKey) -> Checkpoint:
    """Return the checkpoint that `key` signed and that names it as its origin.

    Raises:
        NoteError: malformed or not signed by `key`.
        CheckpointError: signed, but no checkpoint of the log that the key is named for.
    """
    checkpoint = Checkpoint.parse(note.open_note(encoded, [key]).text)
    if checkpoint.origin != key.name:
        raise CheckpointError(f"the checkpoint is of {checkpoint.origin}, not of {key.name}")
    return checkpoint
