"""What proves one entry: its leaf, its sections with their salts, and the way to a signed checkpoint."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from klyra_audit.format.batch import Evidence
from klyra_audit.format.errors import ProofError
from klyra_audit.format.leaf import Leaf
from klyra_audit.format.sections import section_commitment
from klyra_collector.errors import LedgerDamaged
from klyra_collector.publish.bodies import find_body

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_audit.format.frame import BodyFrame
    from klyra_audit.format.proof import TlogProof
    from klyra_audit.format.sections import SectionName
    from klyra_collector.publish.published import PublishedShard

_REMEDY = "See what is wrong with: klyra-audit verify; then restore the file from a copy."


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryEvidence:
    """The evidence of one entry.

    Attributes:
        log: origin of its shard.
        leaf: its 112 bytes.
        body: its sections and salts, and the emitter's signature if there is one.
        proof: that the leaf is under a checkpoint.
        batch: the emitter's signature for it; None if it did not sign.
    """

    log: str
    leaf: bytes
    body: BodyFrame
    proof: TlogProof
    batch: Evidence | None

    def document(self) -> dict[str, Any]:
        """Return the JSON of DESIGN section 7."""
        return {
            "log": self.log,
            "index": self.proof.index,
            "leaf": base64.b64encode(self.leaf).decode(),
            "sections": sections_of(self.body),
            "tlog_proof": self.proof.encode().decode(),
            "batch": None if self.batch is None else self.batch.document(),
        }


def evidence_of(shard: PublishedShard, index: int) -> EntryEvidence | None:
    """Return the evidence of the entry at an index; None once its body is gone.

    Raises:
        NotPublished: no checkpoint covers it yet.
        LedgerDamaged: what is there is not what was sealed.
    """
    proof = shard.proof(index)
    encoded = shard.leaf(index)
    body = find_body(shard.directory, index, Leaf.unpack(encoded))
    if body is None:
        return None
    log = shard.head().origin
    if not _is_as_sealed(body):
        raise LedgerDamaged(f"The body of record {index} of {log} is not what was sealed.", remedy=_REMEDY)
    try:
        batch = Evidence.parse(body.attachment) if body.attachment else None
    except ProofError as error:
        raise LedgerDamaged(f"The emitter's signature of record {index} of {log}: {error}.", remedy=_REMEDY) from error
    return EntryEvidence(log=log, leaf=encoded, body=body, proof=proof, batch=batch)


def _is_as_sealed(body: BodyFrame) -> bool:
    """Say whether each section is the one that was committed to, or erased."""
    return all(
        encoded is None or _is_erased(encoded) or section_commitment(name, salt, encoded) == commitment
        for name, encoded, salt, commitment in _parts(body)
    )


def sections_of(body: BodyFrame) -> dict[str, Any]:
    """Return each section as evidence: opened with its salt, only committed to once it is erased, null if absent."""
    return {name: _section(encoded, salt, commitment) for name, encoded, salt, commitment in _parts(body)}


def _parts(body: BodyFrame) -> Iterator[tuple[SectionName, bytes | None, bytes, bytes]]:
    """Yield (name, canonical bytes or None where absent, salt, commitment) of each section."""
    parts, salts, proofs = body.sections, body.salts, body.commitments
    yield "core", parts.core, salts.core, proofs.core
    yield "actor", parts.actor, salts.actor, proofs.actor
    yield "target", parts.target, salts.target, proofs.target


def _section(encoded: bytes | None, salt: bytes, commitment: bytes) -> dict[str, str] | None:
    if encoded is None:
        return None
    if _is_erased(encoded):
        return {"c": base64.b64encode(commitment).decode()}
    return {"salt": base64.b64encode(salt).decode(), "canonical": encoded.decode()}


def _is_erased(encoded: bytes) -> bool:
    """An erasure leaves zeros, which are never canonical JSON."""
    return not encoded.strip(b"\0")
