"""Check what emitters sign: each part of a batch at once, before the seal (DESIGN section 5, Emitter batches). No I/O.

An emitter of which a key was ever registered must sign: an event of its that no key in force vouches for is refused,
since whoever steals an API key can write the emitter's name into a request. The signature covers the commits of a whole
batch, which travel with every part of it, so it does not matter how a pipeline in between has cut or joined batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from klyra_audit.errors import InvalidEvent
from klyra_audit.format.batch import BatchNote, BatchTree, Evidence
from klyra_audit.format.errors import NoteError
from klyra_audit.format.keys import VerifyingKey
from klyra_audit.format.merkle import HASH_SIZE
from klyra_audit.otlp import BATCH, COMMITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from klyra_collector.registry.emitters import EmitterKey
    from klyra_collector.stages import Record

MAX_COMMITS = 65_536

_CODE = "emitter_signature"
_KINDS = str | bytes | None


@dataclass(frozen=True, slots=True)
class _Opened:
    """A batch whose signature was checked."""

    note: bytes
    batch: BatchNote
    commits: tuple[bytes, ...]
    tree: BatchTree


class EmitterSignatures:
    """Checks the events of one request; each batch in it is opened once, also where every event brings it along."""

    def __init__(self) -> None:
        self._opened: dict[tuple[object, ...], _Opened | InvalidEvent] = {}

    def evidence(self, record: Record, resource: dict[str, Any], keys: Sequence[EmitterKey]) -> bytes:
        """Return the evidence to keep with an event, empty for an emitter without keys.

        Args:
            record: the event; it has a position in its emitter's sequence.
            resource: the attributes it came with.
            keys: every key that was ever registered for the emitter's id.

        Raises:
            InvalidEvent: code `emitter_signature`: none of the keys in force vouches for it.
        """
        position = record.position
        owner = record.tenancy.organization_id
        known = [key for key in keys if key.organization_id in (None, owner)]
        if not known or position is None:
            return b""
        opened = self._open(resource, [key for key in known if key.revoked_at is None])
        batch = opened.batch
        place = position.sequence - batch.first_seq
        if (batch.emitter_id, batch.boot) != (position.emitter_id, position.boot) or not 0 <= place < batch.count:
            raise _refused("its emitter signed for other events than this one")
        if opened.commits[place] != record.commitments.event_commit():
            raise _refused("it is not what its emitter signed")
        return Evidence(opened.note, place, opened.tree.path(place)).encode()

    def _open(self, resource: dict[str, Any], keys: Sequence[EmitterKey]) -> _Opened:
        note, commits = resource.get(BATCH), resource.get(COMMITS)
        if not isinstance(note, _KINDS) or not isinstance(commits, _KINDS):
            raise _refused(f"resource attributes {BATCH} and {COMMITS} are no signed batch")
        same = (note, commits, *(key.vkey for key in keys))
        opened = self._opened.get(same)
        if opened is None:
            opened = self._opened[same] = _open(note, commits, keys)
        if isinstance(opened, InvalidEvent):
            raise opened
        return opened


def _open(note: str | bytes | None, commits: str | bytes | None, keys: Iterable[EmitterKey]) -> _Opened | InvalidEvent:
    encoded = note.encode() if isinstance(note, str) else note
    if encoded is None:
        return _refused("its emitter has a key, and it is not signed")
    if not isinstance(commits, bytes) or len(commits) % HASH_SIZE:
        return _refused(f"resource attributes {BATCH} and {COMMITS} are no signed batch")
    for key in keys:
        try:
            batch = BatchNote.open(encoded, VerifyingKey.parse(key.vkey))
        except NoteError:
            continue
        return _opened(encoded, batch, commits)
    return _refused("no key in force of its emitter has signed it")


def _opened(encoded: bytes, batch: BatchNote, commits: bytes) -> _Opened | InvalidEvent:
    if batch.count > MAX_COMMITS or len(commits) != batch.count * HASH_SIZE:
        return _refused(f"resource attribute {COMMITS} has not the commits of the batch")
    each = tuple(commits[place : place + HASH_SIZE] for place in range(0, len(commits), HASH_SIZE))
    tree = BatchTree(each)
    if tree.root != batch.root:
        return _refused(f"resource attribute {COMMITS} has not the commits that were signed")
    return _Opened(encoded, batch, each, tree)


def _refused(reason: str) -> InvalidEvent:
    return InvalidEvent(reason, code=_CODE)
