"""Proof files (C2SP tlog-proof): one leaf's audit path with the checkpoint it leads to."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.format import policy as policies
from klyra_audit.format.errors import NoteError, ProofError
from klyra_audit.format.keys import decode_base64
from klyra_audit.format.merkle import HASH_SIZE, leaf_hash, verify_inclusion

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klyra_audit.format.keys import VerifyingKey
    from klyra_audit.format.policy import Opened, Policy

MAX_PROOF_BYTES: Final = 128 * 1024
MAX_PATH: Final = 63

_FIRST_LINE = "c2sp.org/tlog-proof@v1"
_EXTRA = "extra "
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class TlogProof:
    """That a leaf stands in a log.

    Attributes:
        index: of the leaf.
        path: audit path, leaf to root, 32 bytes each.
        checkpoint: the signed note it leads to, verbatim, with whatever cosignatures it has.
        extra: bytes that nothing authenticates; None without any.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """Return the file."""
        lines = [_FIRST_LINE]
        if self.extra is not None:
            lines.append(_EXTRA + base64.b64encode(self.extra).decode())
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(node).decode() for node in self.path]
        return "\n".join([*lines, "", ""]).encode() + self.checkpoint

    @classmethod
    def parse(cls, encoded: bytes) -> TlogProof:
        """Read a file; `ProofError` if it is malformed. The checkpoint is not looked at yet."""
        if len(encoded) > MAX_PROOF_BYTES:
            raise ProofError(f"a proof file is longer than {MAX_PROOF_BYTES} bytes")
        head, separator, checkpoint = encoded.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise ProofError("a proof file's head is not ASCII") from error
        if not separator or lines.pop(0) != _FIRST_LINE or not lines:
            raise ProofError("it is no proof file of version 1")
        extra = None
        if lines[0].startswith(_EXTRA):
            extra = _decode(lines.pop(0).removeprefix(_EXTRA))
        matched = _INDEX.fullmatch(lines.pop(0)) if lines else None
        if matched is None or len(lines) > MAX_PATH:
            raise ProofError("a proof file says the leaf's index, then at most 63 hashes")
        path = tuple(map(_decode, lines))
        if any(len(node) != HASH_SIZE for node in path):
            raise ProofError("a hash is not 32 bytes long")
        return cls(int(matched[1]), path, checkpoint, extra)

    def verify(self, leaf: bytes, policy: Policy, keys: Iterable[VerifyingKey] = ()) -> Opened:
        """Check that `leaf` stands at `index` of the log whose checkpoint a trusted key signed.

        Whether the witnesses' quorum was met is for the caller to look at.

        Raises:
            NoteError, CheckpointError: as `policy.open_checkpoint`.
            ProofError: the path does not lead there.
        """
        opened = policies.open_checkpoint(self.checkpoint, policy, keys)
        head = opened.checkpoint
        verify_inclusion(leaf_hash(leaf), self.index, head.size, self.path, head.root)
        return opened


def _decode(encoded: str) -> bytes:
    try:
        return decode_base64(encoded)
    except NoteError as error:
        raise ProofError(f"a line of a proof file cannot be read: {error}") from error
