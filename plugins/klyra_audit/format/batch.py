"""Emitter batches: a signed note over the root of a batch's commitments (DESIGN section 5, Emitter batches)."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from klyra_audit.format import canonical, note
from klyra_audit.format.errors import FormatError, NoteError, ProofError
from klyra_audit.format.keys import decode_base64
from klyra_audit.format.merkle import HASH_SIZE, leaf_hash, node_hash, root_of, verify_inclusion

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from klyra_audit.format.keys import VerifyingKey

MAX_SEQUENCE: Final = 2**32 - 2

_FIRST_LINE = "klyra-audit/batch/v1"
_RANGE = re.compile(r"([0-9a-f-]{36}) (0|[1-9][0-9]{0,9}) ([1-9][0-9]{0,9})", re.ASCII)
_LINES = 4


@dataclass(frozen=True, slots=True)
class BatchNote:
    """What an emitter signs of a batch.

    Attributes:
        emitter_id: which is the signing key's name too.
        boot: UUID of its run, lower-case.
        first_seq: sequence number of the batch's first event.
        count: how many events, at least 1.
        root: RFC 6962 root over the events' commits as leaf data.
    """

    emitter_id: str
    boot: str
    first_seq: int
    count: int
    root: bytes

    @classmethod
    def over(cls, emitter_id: str, boot: str, first_seq: int, commits: Sequence[bytes]) -> BatchNote:
        """Return the note of a batch's commits, in the order of their sequence numbers."""
        return cls(emitter_id, boot, first_seq, len(commits), batch_root(commits))

    def text(self) -> str:
        """Return the four lines that are signed."""
        root = base64.b64encode(self.root).decode()
        return f"{_FIRST_LINE}\n{self.emitter_id}\n{self.boot} {self.first_seq} {self.count}\n{root}\n"

    @classmethod
    def parse(cls, text: str) -> BatchNote:
        """Read the four lines; `NoteError` if they are no batch."""
        lines = text.split("\n")
        matched = _RANGE.fullmatch(lines[2]) if len(lines) == _LINES + 1 else None
        if matched is None or lines[0] != _FIRST_LINE or lines[-1] or not lines[1]:
            raise NoteError("the text is no batch of an emitter")
        boot, first_seq, count = matched[1], int(matched[2]), int(matched[3])
        root = decode_base64(lines[3])
        if len(root) != HASH_SIZE or first_seq + count - 1 > MAX_SEQUENCE or not _is_uuid(boot):
            raise NoteError("the text is no batch of an emitter")
        return cls(lines[1], boot, first_seq, count, root)

    @classmethod
    def open(cls, encoded: bytes, key: VerifyingKey) -> BatchNote:
        """Return the batch that an emitter's key signed; `NoteError` if it did not, or signed for another emitter."""
        batch = cls.parse(note.open_note(encoded, [key]).text)
        if batch.emitter_id != key.name:
            raise NoteError("the batch names another emitter than the key that signed it")
        return batch


class BatchTree:
    """The tree over a batch's commits, from which every event's path is taken without hashing again.

    Args:
        commits: of the batch's events, in the order of their sequence numbers; at least one.
    """

    def __init__(self, commits: Sequence[bytes]) -> None:
        level = [leaf_hash(commit) for commit in commits]
        self._levels = [level]
        while len(level) > 1:
            above = [node_hash(*level[place : place + 2]) for place in range(0, len(level) - 1, 2)]
            level = above + level[len(above) * 2 :]  # the last one without a neighbour moves up as it is
            self._levels.append(level)

    @property
    def root(self) -> bytes:
        """The RFC 6962 root."""
        return self._levels[-1][0]

    def path(self, position: int) -> tuple[bytes, ...]:
        """Return the audit path of the event at a position, from the bottom up."""
        path: list[bytes] = []
        for level in self._levels[:-1]:
            neighbour = position ^ 1
            if neighbour < len(level):
                path.append(level[neighbour])
            position >>= 1
        return tuple(path)


def batch_root(commits: Iterable[bytes]) -> bytes:
    """Return the RFC 6962 root over commits as leaf data."""
    return root_of(leaf_hash(commit) for commit in commits)


@dataclass(frozen=True, slots=True)
class Evidence:
    """An emitter's signature for one event, as kept with its body.

    Attributes:
        note: the batch's signed note.
        position: of the event in the batch, from 0.
        path: audit path of its commit to the batch's root.
    """

    note: bytes
    position: int
    path: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Return canonical JSON: the attachment of a body frame, and `batch` in proofs and packets."""
        return canonical.encode(self.document())

    def document(self) -> canonical.JsonObject:
        """Return the JSON members."""
        return {
            "note": self.note.decode(),
            "position": self.position,
            "path": [base64.b64encode(node).decode() for node in self.path],
        }

    @classmethod
    def parse(cls, encoded: bytes) -> Evidence:
        """Read an attachment; `ProofError` if it is none."""
        try:
            return cls.of_document(canonical.parse_canonical(encoded))
        except FormatError as error:
            raise ProofError(f"the emitter's evidence cannot be read: {error}") from error

    @classmethod
    def of_document(cls, document: canonical.JsonObject) -> Evidence:
        """Read the JSON members; `ProofError` if they are no evidence."""
        if document.keys() != {"note", "position", "path"}:
            raise ProofError("the emitter's evidence has other members than it should")
        text, position, path = document["note"], document["position"], document["path"]
        if type(text) is not str or type(position) is not int or type(path) is not list:
            raise ProofError("the emitter's evidence has members of wrong types")
        try:
            return cls(text.encode(), position, tuple(map(decode_base64, path)))
        except (NoteError, TypeError, AttributeError, UnicodeEncodeError) as error:
            raise ProofError("the path in the emitter's evidence cannot be read") from error

    def verify(self, commit: bytes, key: VerifyingKey) -> BatchNote:
        """Check that the emitter's key signed for an event with this commit.

        Whether boot and sequence (`first_seq + position`) are the leaf's is for the caller to look at.

        Raises:
            NoteError: the key did not sign.
            ProofError: the event is not in the batch.
        """
        batch = BatchNote.open(self.note, key)
        verify_inclusion(leaf_hash(commit), self.position, batch.count, self.path, batch.root)
        return batch


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
