"""The checkpoints that are due to be cosigned, and the proofs that go with them, read from the ledger's files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from klyra_audit.format import merkle, note
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import FormatError
from klyra_audit.format.merkle import HASH_SIZE
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.errors import LedgerDamaged
from klyra_collector.seal.reader import shard_order
from klyra_collector.witness.lines import is_line_of
from klyra_collector.witnessed import witnessed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from klyra_audit.format.keys import SigningKey
    from klyra_audit.format.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A published checkpoint of ours.

    Attributes:
        shard: whose.
        checkpoint: what it says.
        encoded: the note with the log's own signature lines and no others.
        vkey: the shard's verifier key line, where it is known.
    """

    shard: ShardDirectory
    checkpoint: Checkpoint
    encoded: bytes
    vkey: str | None = None

    def signed_also_by(self, key: SigningKey, now: int) -> Head:
        """Return it with a cosignature of the log's own, in place of the one an earlier round put on it.

        Witnesses bound what they read, some to 10 KiB, and a line of ML-DSA-44 takes 3.3.
        """
        text = self.checkpoint.text()
        lines = [line for line in note.signature_lines(self.encoded) if not is_line_of(line, key.verifying_key)]
        return replace(self, encoded=_note(text, [*lines, key.signature_line(text, now)]))


def published_head(shard: ShardDirectory, vkey: str | None = None) -> Head | None:
    """Return the newest published checkpoint of a shard; None while there is none, or an empty one.

    Raises:
        LedgerDamaged: there is one that cannot be read.
    """
    try:
        encoded = shard.checkpoint.read_bytes()
    except FileNotFoundError:
        return None
    try:
        text = encoded.decode().rpartition("\n\n")[0] + "\n"
        checkpoint = Checkpoint.parse(text)
        lines = [line for line in note.signature_lines(encoded) if line.startswith(f"\u2014 {checkpoint.origin} ")]
    except (FormatError, UnicodeDecodeError) as error:
        raise LedgerDamaged(
            f"{shard.checkpoint} is no checkpoint.", remedy="Restart the collector; it signs a new one."
        ) from error
    if checkpoint.size == 0:
        return None
    return Head(shard=shard, checkpoint=checkpoint, encoded=_note(text, lines), vkey=vkey)


def due_heads(ledger: Path, current: str, vkey: str, policy: Policy) -> list[Head]:
    """Return the checkpoint of the open shard, and those of closed ones whose last a quorum has not cosigned.

    The open shard's is due each time, grown or not: a cosignature also says when. A shard that an operator left
    behind after a disaster is never written again, and what is damaged in it keeps nobody from witnessing the rest.

    Args:
        ledger: the folder of shards.
        current: name of the open shard.
        vkey: its verifier key line.
        policy: whose quorum counts.
    """
    heads = []
    for shard in _written(ledger):
        is_open = shard.root.name == current
        head = published_head(shard, vkey if is_open else None)
        if head is not None and (is_open or not _is_witnessed(head, policy)):
            heads.append(head)
    return heads


def _written(ledger: Path) -> Iterator[ShardDirectory]:
    """Yield the shards, oldest first, without those left behind."""
    folders = sorted((path for path in ledger.iterdir() if path.is_dir() and path.name[0].isdigit()), key=shard_order)
    shards = [ShardDirectory(folder) for folder in folders]
    for shard, following in zip(shards, (*shards[1:], None), strict=True):
        if following is None or not following.consent.exists():
            yield shard


def consistency_proof(head: Head, old_size: int) -> tuple[bytes, ...]:
    """Return the RFC 6962 proof that a head continues its shard's first `old_size` leaves; empty where none is needed.

    It is checked here first, so that files damaged on this side never look like a rewritten history to a witness.

    Raises:
        LedgerDamaged: the flat hashes give no proof, or not one that leads to the head.
    """
    size = head.checkpoint.size
    if old_size in (0, size):
        return ()

    def read(level: int, first: int, count: int) -> bytes:
        with head.shard.hashes(level).open("rb") as file:
            file.seek(first * HASH_SIZE)
            return file.read(count * HASH_SIZE)

    try:
        proof = merkle.consistency_proof_from(read, old_size, size)
        merkle.verify_consistency(old_size, merkle.root_from(read, old_size), size, head.checkpoint.root, proof)
    except (OSError, FormatError) as error:
        raise LedgerDamaged(
            f"The hashes of {head.checkpoint.origin} give no proof from {old_size} to {size}: {error}.",
            remedy="Restart the collector; it writes them again from the leaves.",
        ) from error
    return tuple(proof)


def _is_witnessed(head: Head, policy: Policy) -> bool:
    seen = witnessed(head.shard, policy)
    return seen is not None and seen.size >= head.checkpoint.size


def _note(text: str, lines: Sequence[str]) -> bytes:
    return f"{text}\n{''.join(lines)}".encode()
