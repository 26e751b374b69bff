"""What the writer knows of its shard: rebuilt from leaves and control documents, advanced by every seal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from klyra_audit.format.leaf import NO_PREVIOUS, Kind, Leaf
from klyra_audit.format.merkle import Frontier, leaf_hash
from klyra_audit.format.sections import OPERATOR_REFERENCE
from klyra_collector.seal.intervals import IntervalSet

if TYPE_CHECKING:
    from klyra_audit.format.canonical import JsonObject


class BrokenChain(Exception):  # noqa: N818 - read as what it found
    """A leaf that does not continue what came before it."""


@dataclass(slots=True)
class Chain:
    """The end of one org_ref's chain: the next sequence number and the hash the next leaf points back to."""

    next_seq: int = 0
    previous: bytes = NO_PREVIOUS


class Boot(NamedTuple):
    """What names an emitter's boot: its scope (an org_ref, the operator's if shared), its id and its UUID."""

    scope: bytes
    emitter_id: str
    boot: str


class PolicyInForce(NamedTuple):
    """An organization's POLICY document and the index of its leaf."""

    document: JsonObject
    leaf: int


@dataclass(slots=True)
class LedgerState:
    """Everything a commit decides with. Owned by the sealing thread.

    Attributes:
        frontier: the tree over all leaves.
        last_us: ingest time of the last leaf.
        chains: by org_ref.
        policies: the policy in force, by org_ref.
        boots: ordinal of each emitter boot seen.
        sequences: sequence numbers sealed, by boot ordinal.
        last_ordinal: highest KEY ordinal given.
        collector_vkeys: the collector's own announced keys.
        schemas: SHA-256 of each schema in force, by schema id.
    """

    frontier: Frontier = field(default_factory=Frontier)
    last_us: int = 0
    chains: dict[bytes, Chain] = field(default_factory=dict)
    policies: dict[bytes, PolicyInForce] = field(default_factory=dict)
    boots: dict[Boot, int] = field(default_factory=dict)
    sequences: dict[int, IntervalSet] = field(default_factory=dict)
    last_ordinal: int = 0
    collector_vkeys: set[str] = field(default_factory=set)
    schemas: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self.frontier.size

    def chain(self, org_ref: bytes) -> Chain:
        """Return the end of an org_ref's chain, a fresh one for its first record."""
        chain = self.chains.get(org_ref)
        if chain is None:
            chain = self.chains[org_ref] = Chain()
        return chain

    def apply_leaf(self, encoded: bytes, leaf: Leaf) -> None:
        """Advance by one leaf read from disk; `BrokenChain` if it does not continue."""
        chain = self.chain(leaf.org_ref)
        if leaf.ingest_us < self.last_us:
            raise BrokenChain("its ingest time goes back")
        if leaf.org_seq != chain.next_seq or leaf.org_prev != chain.previous:
            raise BrokenChain("it does not continue its organization's chain")
        self.advance(chain, leaf_hash(encoded), leaf.ingest_us)
        if leaf.emitter:
            self.sequence(leaf.emitter).add(leaf.emitter_seq)

    def advance(self, chain: Chain, hashed: bytes, ingest_us: int) -> None:
        """Advance by one sealed leaf of a chain."""
        self.frontier.append(hashed)
        self.last_us = ingest_us
        chain.next_seq += 1
        chain.previous = hashed

    def sequence(self, ordinal: int) -> IntervalSet:
        """Return the sequence numbers sealed for a boot."""
        seen = self.sequences.get(ordinal)
        if seen is None:
            seen = self.sequences[ordinal] = IntervalSet()
        return seen

    def apply_control(self, kind: int, document: JsonObject, index: int) -> None:
        """Advance by the content of the control record at `index`."""
        if kind == Kind.POLICY and "org_ref" in document:
            self.policies[bytes.fromhex(document["org_ref"])] = PolicyInForce(document, index)
        elif kind == Kind.SCHEMA:
            self.schemas[document["id"]] = document["sha256"]
        elif kind == Kind.KEY:
            self._apply_key(document)

    def _apply_key(self, document: JsonObject) -> None:
        self.last_ordinal = max(self.last_ordinal, document["ordinal"])
        if document["boot"] is not None:
            scope = OPERATOR_REFERENCE if document["org_ref"] is None else bytes.fromhex(document["org_ref"])
            boot = Boot(scope, document["emitter_id"], document["boot"])
            self.boots[boot] = document["ordinal"]
        elif document["vkey"] is not None and document["org_ref"] is None:
            self.collector_vkeys.add(document["vkey"])
