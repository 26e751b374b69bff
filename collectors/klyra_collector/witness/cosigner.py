"""A witness (C2SP tlog-witness v1.0.0): remembers the newest checkpoint of each log and cosigns what continues it.

One file per log holds the newest cosigned checkpoint with this witness's signatures on it. It is replaced durably
before the signatures leave: a crash before that has given nothing away, a crash after it leaves a log that is told
409 with the new size and gets its cosignature by asking again.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import structlog

from klyra_audit.errors import Halted
from klyra_audit.format import merkle, note
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import CheckpointError, FormatError, NoteError, ProofError
from klyra_audit.format.merkle import EMPTY_ROOT
from klyra_collector.witness.lines import first_line_of
from klyra_collector.witness.request import SIZE_MEDIA_TYPE, AddCheckpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from klyra_audit.format.keys import SigningKey, VerifyingKey
    from klyra_collector.seal.durable import Disk
    from klyra_collector.witness.book import LogBook

TEXT_MEDIA_TYPE: Final = "text/plain; charset=utf-8"

_log = structlog.get_logger(__name__)


class WitnessStateDamaged(Halted):
    """A checkpoint that this witness keeps does not carry its own signature."""

    code = "witness_state_damaged"


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer."""

    status: HTTPStatus
    body: bytes
    media_type: str = TEXT_MEDIA_TYPE


@dataclass(frozen=True, slots=True)
class Kept:
    """The newest checkpoint cosigned for a log, and when (seconds since 1970)."""

    checkpoint: Checkpoint
    time: int


class Cosigner:
    """Decides, remembers, signs. Safe across threads; requests for one log go one after the other."""

    def __init__(
        self, *, keys: Sequence[SigningKey], book: LogBook, folder: Path, disk: Disk, now: Callable[[], float]
    ) -> None:
        """Build it.

        Args:
            keys: of a cosigner each, all of one name.
            book: the logs it cosigns.
            folder: where the newest checkpoints are kept, a file each.
            disk: how they are replaced.
            now: seconds since 1970.
        """
        self._keys = keys
        self._own = [key.verifying_key for key in keys]
        self._book = book
        self._folder = folder
        self._disk = disk
        self._now = now
        self._locks: dict[str, threading.Lock] = {}

    def add_checkpoint(self, body: bytes) -> Reply:
        """Answer a request, in the order of checks that the specification gives.

        Raises:
            WitnessStateDamaged: what is kept for the log cannot be trusted.
            OSError: it could not be kept, so nothing was signed away.
        """
        try:
            request = AddCheckpoint.parse(body)
            note.signature_lines(request.checkpoint)
            origin = request.checkpoint.partition(b"\n")[0].decode()
        except (FormatError, UnicodeDecodeError) as error:
            return _text(HTTPStatus.BAD_REQUEST, str(error))
        keys = self._book.keys(origin)
        if not keys:
            return _text(HTTPStatus.NOT_FOUND, f"this witness does not know the log {origin}")
        try:
            checkpoint = _open(request.checkpoint, keys)
        except NoteError as error:
            return _text(HTTPStatus.FORBIDDEN, str(error))
        except CheckpointError as error:
            return _text(HTTPStatus.BAD_REQUEST, str(error))
        with self._locks.setdefault(origin, threading.Lock()):
            return self._decide(request, checkpoint)

    def latest(self, origin_digest: str) -> bytes | None:
        """Return the newest checkpoint cosigned for a log, by the SHA-256 of its origin in hex; None for none."""
        known = {digest_of(key.name) for key in self._book.logs()}
        try:
            return (self._folder / origin_digest).read_bytes() if origin_digest in known else None
        except FileNotFoundError:
            return None

    def kept(self, origin: str) -> Kept | None:
        """Return what is kept for a log; `WitnessStateDamaged` if this witness did not sign it."""
        path = self._folder / digest_of(origin)
        try:
            encoded = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            opened = note.open_note(encoded, self._own)
            checkpoint = Checkpoint.parse(opened.text)
        except FormatError as error:
            raise WitnessStateDamaged(
                f"{path} is not signed by this witness: {error}.",
                remedy="Restore the witness's folder as a whole; if its name or key was changed, change it back.",
            ) from error
        return Kept(checkpoint, max(signature.time or 0 for signature in opened.signatures))

    def _decide(self, request: AddCheckpoint, checkpoint: Checkpoint) -> Reply:
        """Check against what is kept, keep the new one, then sign it away. The log's lock is held."""
        kept = self.kept(checkpoint.origin)
        refusal = refuse(request, checkpoint, kept.checkpoint if kept else None)
        if refusal is not None:
            # A log that lost count is told the size and comes again; anything else someone should look at.
            write = _log.info if refusal.status == HTTPStatus.CONFLICT else _log.warning
            known_size = kept.checkpoint.size if kept else 0
            status = int(refusal.status)
            write("checkpoint_refused", origin=checkpoint.origin, size=checkpoint.size, status=status, kept=known_size)
            return refusal
        time = max(int(self._now()), kept.time if kept else 0)
        lines = [key.signature_line(checkpoint.text(), time) for key in self._keys]
        bare = _with_lines_of(request.checkpoint, checkpoint, self._book.keys(checkpoint.origin))
        self._disk.replace(self._folder / digest_of(checkpoint.origin), note.append_lines(bare, lines))
        return Reply(HTTPStatus.OK, "".join(lines).encode())


def _with_lines_of(encoded: bytes, checkpoint: Checkpoint, keys: Sequence[VerifyingKey]) -> bytes:
    """Return the checkpoint with one line of each trusted key of the log that signed it, and nothing else."""
    present = note.signature_lines(encoded)
    lines = [line for key in keys if (line := first_line_of(present, key)) is not None]
    return f"{checkpoint.text()}\n{''.join(lines)}".encode()


def refuse(request: AddCheckpoint, checkpoint: Checkpoint, kept: Checkpoint | None) -> Reply | None:
    """Return why a checkpoint with a trusted signature is not cosigned; None if it is to be.

    Args:
        request: as received.
        checkpoint: the one in it.
        kept: the newest one cosigned for that log; None for none.
    """
    known_size = kept.size if kept else 0
    if request.old_size > checkpoint.size:
        return _text(HTTPStatus.BAD_REQUEST, "the old size is larger than the checkpoint's")
    if request.old_size != known_size:
        return Reply(HTTPStatus.CONFLICT, f"{known_size}\n".encode(), SIZE_MEDIA_TYPE)
    try:
        _check_continues(request.proof, checkpoint, kept)
    except ProofError as error:
        return _text(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
    return None


def _check_continues(proof: Sequence[bytes], checkpoint: Checkpoint, kept: Checkpoint | None) -> None:
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        raise ProofError("the root is not that of an empty tree")
    if kept is None or kept.size == 0:
        if proof:
            raise ProofError("a proof from size 0 must be empty")
        return
    merkle.verify_consistency(kept.size, kept.root, checkpoint.size, checkpoint.root, proof)


def digest_of(origin: str) -> str:
    """Return the name under which a log's newest checkpoint is kept and shown: SHA-256 of its origin in hex."""
    return hashlib.sha256(origin.encode()).hexdigest()


def _open(encoded: bytes, keys: Sequence[VerifyingKey]) -> Checkpoint:
    checkpoint = Checkpoint.parse(note.open_note(encoded, keys).text)
    if checkpoint.origin != keys[0].name:
        raise CheckpointError("the checkpoint's origin is not its first line")
    return checkpoint


def _text(status: HTTPStatus, reason: str) -> Reply:
    return Reply(status, f"{reason}\n".encode())
