"""Sign batches of events with the emitter's key (DESIGN section 5, Emitter batches)."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from klyra_audit.batch import SignedCommits
from klyra_audit.errors import Paused
from klyra_audit.format import note
from klyra_audit.format.batch import BatchNote
from klyra_audit.format.errors import NoteError
from klyra_audit.format.keys import SigningKey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from klyra_audit.otlp import EmitterIdentity
    from klyra_audit.spool.segment import SpooledEvent

_SEED_BYTES = 32
_OTHERS = 0o077
_MAKE_ONE = "Make one with `klyra-audit emitter new-key`."


class KeyUnusable(Paused):
    """The emitter's key cannot be used to sign."""

    code = "key_unusable"


class Unsigned:
    """For an emitter without a key."""

    def sign(self, identity: EmitterIdentity, events: Sequence[SpooledEvent]) -> None:
        """Sign nothing."""


class NoteSigner:
    """Signs one note for each batch.

    Args:
        key: named as the emitter; `SigningKey(emitter_id, signer, public)` takes any signer, such as a KMS.
        emitter_id: whose batches are signed.

    Raises:
        KeyUnusable: the key is another emitter's.
    """

    def __init__(self, key: SigningKey, emitter_id: str) -> None:
        name = key.verifying_key.name
        if name != emitter_id:
            raise KeyUnusable(
                f"The key is named {name}, the emitter {emitter_id}.",
                remedy="Give the emitter the name that its key was made for.",
            )
        self._key = key

    def sign(self, identity: EmitterIdentity, events: Sequence[SpooledEvent]) -> SignedCommits:
        """Return the signature over contiguous events of one boot.

        Raises:
            KeyUnusable: the signer failed.
        """
        commits = [spooled.event.commit for spooled in events]
        text = BatchNote.over(identity.emitter_id, identity.boot, events[0].sequence, commits).text()
        try:
            return SignedCommits(note.sign(text, [self._key]), b"".join(commits))
        except (OSError, NoteError) as error:
            raise KeyUnusable(f"The batch cannot be signed: {error}.", remedy="Mend the signer.") from error


def new_key(path: Path, emitter_id: str) -> SigningKey:
    """Draw a key and keep it in a new file of mode 0600; return it.

    Raises:
        KeyUnusable: the file is there already, or cannot be written.
    """
    seed = secrets.token_bytes(_SEED_BYTES)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(seed)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise KeyUnusable(
            f"The key {path} cannot be made: {error}.", remedy="Name a file that is not there."
        ) from error
    return SigningKey.from_seed(emitter_id, seed)


def load_key(path: Path, emitter_id: str) -> SigningKey:
    """Return the key in a file of 32 raw bytes, as `klyra-audit emitter new-key` writes it.

    Raises:
        KeyUnusable: it is not there, others can read it, or it is no key.
    """
    try:
        mode, seed = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise KeyUnusable(f"The key {path} cannot be read: {error}.", remedy="Check the path and the user.") from error
    if mode & _OTHERS:
        raise KeyUnusable(f"The key {path} can be used by others.", remedy=f"chmod 600 {path}")
    if len(seed) != _SEED_BYTES:
        raise KeyUnusable(f"{path} holds no key: it is {len(seed)} bytes long, not {_SEED_BYTES}.", remedy=_MAKE_ONE)
    return SigningKey.from_seed(emitter_id, seed)
