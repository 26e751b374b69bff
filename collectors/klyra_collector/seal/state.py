"""What the writer knows of its shard: rebuilt from leaves and control documents, advanced by every seal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from klyra_audit.format import control
from klyra_audit.format.control import Hold, Key, Release, ShardClose, ShardOpen
from klyra_audit.format.heads import HeadsTree
from klyra_audit.format.leaf import NO_PREVIOUS, Kind, Leaf
from klyra_audit.format.merkle import Frontier, leaf_hash
from klyra_audit.format.sections import OPERATOR_REFERENCE
from klyra_collector.seal.intervals import IntervalSet

if TYPE_CHECKING:
    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.control import ControlDocument


class BrokenChain(Exception):  # noqa: N818 - read as what it found
    """A leaf that does not continue what came before it."""


@dataclass(slots=True)
class Chain:
    """The end of one org_ref's chain.

    Attributes:
        next_seq: sequence number of its next leaf.
        previous: what its next leaf points back to.
        last: index of its newest leaf, -1 before the first.
    """

    next_seq: int = 0
    previous: bytes = NO_PREVIOUS
    last: int = -1


_UNBEGUN = Chain()


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
        keys: newest KEY record of every key, revoked or not, by its owner's id and verifier key; boots are not keys.
        key_leaves: index of each of those records.
        schemas: SHA-256 of each schema in force, by schema id.
        holds: legal holds in force, by hold id.
        hold_ids: every hold that was ever placed in the shard, released or not.
        heads: the tree of the last HEADS record.
        heads_at: its index, -1 before the first.
        started: a START is among the leaves.
        opened, closed: the shard's own SHARD records.
    """

    frontier: Frontier = field(default_factory=Frontier)
    last_us: int = 0
    chains: dict[bytes, Chain] = field(default_factory=dict)
    policies: dict[bytes, PolicyInForce] = field(default_factory=dict)
    boots: dict[Boot, int] = field(default_factory=dict)
    sequences: dict[int, IntervalSet] = field(default_factory=dict)
    last_ordinal: int = 0
    collector_vkeys: set[str] = field(default_factory=set)
    keys: dict[tuple[str, str], Key] = field(default_factory=dict)
    key_leaves: dict[tuple[str, str], int] = field(default_factory=dict)
    schemas: dict[str, str] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    hold_ids: set[str] = field(default_factory=set)
    heads: HeadsTree = field(default_factory=HeadsTree)
    heads_at: int = -1
    started: bool = False
    opened: ShardOpen | None = None
    closed: ShardClose | None = None

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

    def check_leaf(self, leaf: Leaf) -> None:
        """Raise `BrokenChain` if a leaf read from disk does not continue what came before it."""
        if self.closed is not None:
            raise BrokenChain("it follows the record that closed the shard")
        chain = self.chains.get(leaf.org_ref, _UNBEGUN)
        if leaf.ingest_us < self.last_us:
            raise BrokenChain("its ingest time goes back")
        if leaf.org_seq != chain.next_seq or leaf.org_prev != chain.previous:
            raise BrokenChain("it does not continue its organization's chain")

    def apply_leaf(self, encoded: bytes, leaf: Leaf) -> None:
        """Advance by one leaf read from disk; `BrokenChain` if it does not continue."""
        self.check_leaf(leaf)
        self.advance(self.chain(leaf.org_ref), leaf_hash(encoded), leaf.ingest_us)
        if leaf.emitter:
            self.sequence(leaf.emitter).add(leaf.emitter_seq)

    def advance(self, chain: Chain, hashed: bytes, ingest_us: int) -> None:
        """Advance by one sealed leaf of a chain."""
        chain.last = self.frontier.size
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
        """Advance by the content of the control record at `index`.

        Raises:
            ControlError: it is no document of its kind.
        """
        if kind == Kind.HEADS:  # one a minute: the tree itself is made from the chains when the next one is due
            self.heads_at = index
        elif kind == Kind.POLICY:
            if "org_ref" in document:
                self.policies[bytes.fromhex(document["org_ref"])] = PolicyInForce(document, index)
        elif kind == Kind.SCHEMA:
            self.schemas[document["id"]] = document["sha256"]
        elif kind == Kind.START:
            self.started = True
        elif kind in _READ_WHOLE:
            self._apply(control.parse(kind, document), index)

    def _apply(self, document: ControlDocument, index: int) -> None:
        match document:
            case Key():
                self._apply_key(document, index)
            case Hold():
                self.holds[document.hold_id] = document
                self.hold_ids.add(document.hold_id)
            case Release():
                self.holds.pop(document.hold_id, None)
            case ShardOpen():
                self.opened = document
            case ShardClose():
                self.closed = document

    def _apply_key(self, key: Key, index: int) -> None:
        self.last_ordinal = max(self.last_ordinal, key.ordinal)
        if key.boot is not None:
            scope = OPERATOR_REFERENCE if key.org_ref is None else key.org_ref
            self.boots[Boot(scope, key.emitter_id, key.boot)] = key.ordinal
        elif key.vkey is not None:
            self.keys[key.emitter_id, key.vkey] = key
            self.key_leaves[key.emitter_id, key.vkey] = index
            if key.org_ref is None:
                self.collector_vkeys.add(key.vkey)


_READ_WHOLE = frozenset({Kind.KEY, Kind.HOLD, Kind.RELEASE, Kind.SHARD})
