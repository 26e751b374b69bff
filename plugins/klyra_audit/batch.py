"""Events of one boot on their way to a collector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from klyra_audit.otlp import EmitterIdentity
    from klyra_audit.spool.segment import SpooledEvent

MAX_BATCH_EVENTS: Final = 512


@dataclass(frozen=True, slots=True)
class SignedCommits:
    """What an emitter's key says of a batch (DESIGN section 5, Emitter batches).

    Attributes:
        note: the signed note.
        commits: of every event that the note speaks of, 32 bytes each, one behind the other.
    """

    note: bytes
    commits: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """What is sent at once.

    Attributes:
        identity: of the boot whose events they are.
        events: ascending by sequence; gaps where others were taken out.
        signed: what their emitter signed; None without a key. It may speak of more events than are sent.
    """

    identity: EmitterIdentity
    events: tuple[SpooledEvent, ...]
    signed: SignedCommits | None = None

    def only(self, events: tuple[SpooledEvent, ...]) -> Batch:
        """Return a part of the batch, under the same signature."""
        return Batch(self.identity, events, self.signed)
