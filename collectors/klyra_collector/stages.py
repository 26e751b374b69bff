"""The values that pass between stages, and the protocols at their edges.

Receivers make a `Submission`, the seal answers with one `Outcome` for each of its records. Only the seal makes
a `Sealed`, so that nothing unsealed can be acknowledged or followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.sections import Commitments, Salts, Sections


@dataclass(frozen=True, slots=True)
class Tenancy:
    """What the seal must know of an organization: who it is and what its plan keeps.

    Attributes:
        organization_id: `org_…`, or the operator's own name.
        plan: startup, business or enterprise.
        policy: name of the retention policy, such as `enterprise-730d`.
        retention_days: how long its entries are kept.
    """

    organization_id: str
    plan: str
    policy: str
    retention_days: int


@dataclass(frozen=True, slots=True)
class EmitterPosition:
    """Where an event stands in its emitter's own sequence.

    Attributes:
        emitter_id: as the emitter calls itself.
        boot: UUID of its run.
        sequence: 0, 1, 2 … within the boot.
        shared: the key may emit for many organizations, so the boot belongs to none of them.
    """

    emitter_id: str
    boot: str
    sequence: int
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One validated event, or one quarantined input, ready to be sealed.

    Attributes:
        tenancy: whose record it is.
        record_id: unique within the organization: the entry's id, or a digest of the quarantined bytes.
        content: what a repeat must equal: the document's canonical bytes, or the digest of quarantined ones.
        sections, salts, commitments: the body.
        position: in the emitter's sequence; None for a source without one.
        quarantined: what is kept of an input that is no valid event; None for an event.
        key_id: whose key brought it; None for what the product says of itself.
        evidence: of an emitter's signature that was checked (`format.batch.Evidence`); empty where there is none.
    """

    tenancy: Tenancy
    record_id: str
    content: bytes
    sections: Sections
    salts: Salts
    commitments: Commitments
    position: EmitterPosition | None = None
    quarantined: bytes | None = None
    key_id: str | None = None
    evidence: bytes = b""


@dataclass(frozen=True, slots=True)
class ControlRecord:
    """A control document to seal.

    Attributes:
        kind: the leaf's kind.
        document: with its `type`.
        organization_id: in whose chain; the operator's unless the document names an org_ref.
    """

    kind: int
    document: JsonObject
    organization_id: str


@dataclass(frozen=True, slots=True)
class Submission:
    """Records that one request brought, sealed in one commit.

    Attributes:
        records: in the request's order.
        strict: an id that was sealed before with other content refuses the whole submission (`Conflict`);
            otherwise that record is quarantined and the rest is sealed.
        size: bytes it holds in memory, for the bound on what may wait.
    """

    records: tuple[Record, ...]
    strict: bool
    size: int


class Status(Enum):
    """What became of one record."""

    SEALED = "sealed"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Sealed:
    """Where a record stands in the ledger: what a receipt says.

    Attributes:
        log: origin of the shard.
        index: of the leaf in it.
        leaf: its 112 bytes.
    """

    log: str
    index: int
    leaf: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """The seal's answer for one record, given only when it is durable."""

    status: Status
    sealed: Sealed


class Seal(Protocol):
    """The edge between receiving and the ledger."""

    async def seal(self, submission: Submission) -> Sequence[Outcome]:
        """Return once every record is durable, one outcome each in order.

        Raises:
            RetryLater: nothing was acknowledged; the same submission may be sent again.
            Conflict: a strict submission names an id that was sealed with other content.
        """
        ...
