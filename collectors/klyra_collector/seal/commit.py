"""Plan one group commit: which leaves and frames a list of submissions becomes. Bytes only, no files.

The plan advances the state as it goes. If its writing fails, the state is thrown away and read again from the
files, through the same recovery that every start runs.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, NamedTuple

from klyra_audit.format import canonical, frame, sections
from klyra_audit.format.control import Key
from klyra_audit.format.frame import BlobFrame, BodyFrame
from klyra_audit.format.leaf import LEAF_SIZE, NEVER, Flag, Kind, Leaf
from klyra_audit.format.merkle import leaf_hash
from klyra_audit.format.quarantined import KeptInput
from klyra_audit.timestamps import day_of
from klyra_collector.errors import Conflict, IntakeHalted
from klyra_collector.quarantine import DOCUMENT, REPEAT, quarantine_record
from klyra_collector.seal.heads import heads_record
from klyra_collector.seal.recent import Seen
from klyra_collector.seal.state import Boot
from klyra_collector.stages import ControlRecord, Outcome, Sealed, Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.control import ControlDocument
    from klyra_collector.seal.closed import EarlierShards, LeafFiles
    from klyra_collector.seal.files import ShardFiles
    from klyra_collector.seal.identity import Identity
    from klyra_collector.seal.recent import RecentIds
    from klyra_collector.seal.state import LedgerState
    from klyra_collector.stages import Record, Submission, Tenancy


_RETRY_AFTER = 5.0


class _Candidate(NamedTuple):
    """A record with what tells it from others: its organization's reference, its key and its content's tag."""

    record: Record
    org_ref: bytes
    key: bytes
    tag: bytes


class CommitPlan:
    """The records of one commit, all with one ingest time.

    Attributes:
        leaves: what to append to `leaves`.
        contents: what to append to each frame file, before the leaves.
    """

    def __init__(
        self,
        *,
        state: LedgerState,
        recent: RecentIds,
        files: ShardFiles,
        identity: Identity,
        earlier: EarlierShards,
        leaf_files: LeafFiles,
        ingest_us: int,
    ) -> None:
        self.leaves = bytearray()
        self.contents: dict[Path, bytearray] = {}
        self._state = state
        self._recent = recent
        self._files = files
        self._identity = identity
        self._shard = files.shard.root.name
        self._origin = identity.origin(self._shard)
        self._earlier = earlier
        self._leaf_files = leaf_files
        self._ingest_us = ingest_us
        self._ingest_day = day_of(ingest_us)
        self._first = state.size
        self._references: dict[str, bytes] = {}
        self._body_paths: dict[int, Path] = {}

    @property
    def count(self) -> int:
        """How many leaves the plan has."""
        return self._state.size - self._first

    def add(self, submission: Submission) -> list[Outcome] | Conflict:
        """Plan a submission; a strict one with a conflict is left out whole."""
        candidates = [self._candidate(record) for record in submission.records]
        earlier = self._recent.find_all([candidate.key for candidate in candidates])
        if submission.strict:
            positions = self._find_conflicts(candidates, earlier)
            if positions:
                return Conflict(positions)
        return [self._add(candidate, earlier) for candidate in candidates]

    def add_control(self, record: ControlRecord) -> Outcome:
        """Plan a control record."""
        return self._add_document(record.kind, record.document, self._reference(record.organization_id))

    def add_document(self, document: ControlDocument) -> Outcome:
        """Plan a control document in the chain of the organization that it names, else in the operator's."""
        org_ref: bytes | None = getattr(document, "org_ref", None)
        return self._add_document(document.KIND, document.document(), org_ref or sections.OPERATOR_REFERENCE)

    def _add_document(self, kind: int, document: JsonObject, org_ref: bytes) -> Outcome:
        encoded = canonical.encode(document)
        self._append_content(self._files.shard.control, frame.encode_blob(BlobFrame(self._state.size, encoded)))
        commit = sections.control_commit(encoded)
        sealed = self._append_leaf(kind, 0, NEVER, org_ref, 0, 0, commit)
        self._state.apply_control(kind, document, sealed.index)
        return Outcome(Status.SEALED, sealed)

    def add_heads(self) -> Outcome:
        """Plan the HEADS record of everything planned and sealed so far."""
        return self.add_control(heads_record(self._state))

    def add_policy(self, tenancy: Tenancy) -> Outcome:
        """Plan the POLICY record of an organization; one that is in force already is not sealed again."""
        org_ref = self._reference(tenancy.organization_id)
        control = policy_record(tenancy, org_ref)
        present = self._state.policies.get(org_ref)
        if present is not None and present.document == control.document:
            return Outcome(Status.DUPLICATE, self._sealed_at(self._shard, present.leaf))
        return self.add_control(control)

    def add_key(
        self, emitter_id: str, vkey: str, organization_id: str | None, revoked_after_seq: int | None
    ) -> Outcome:
        """Plan the KEY record of a key without a boot; what is announced, or revoked, already is not sealed again."""
        present = self._state.keys.get((emitter_id, vkey))
        if present is not None and present.revoked_after_seq == revoked_after_seq:
            return Outcome(Status.DUPLICATE, self._sealed_at(self._shard, self._state.key_leaves[emitter_id, vkey]))
        ordinal = self._state.last_ordinal + 1 if present is None else present.ordinal
        org_ref = None if organization_id is None else self._reference(organization_id)
        return self.add_document(Key(ordinal, emitter_id, None, vkey, org_ref, revoked_after_seq))

    def _candidate(self, record: Record) -> _Candidate:
        org_ref = self._reference(record.tenancy.organization_id)
        tag = hmac.digest(self._identity.tag_key, record.content, "sha256")
        return _Candidate(record, org_ref, org_ref + record.record_id.encode(), tag)

    def _add(self, candidate: _Candidate, earlier: Mapping[bytes, Seen]) -> Outcome:
        first = self._find_first(candidate, earlier)
        if first is None:
            return self._seal(candidate)
        if first.tag == candidate.tag:
            sealed = self._sealed_at(first.shard, first.leaf)
            if self._is_elsewhere(candidate):
                self._seal(self._candidate(_repeat(candidate.record, sealed)))
            return Outcome(Status.DUPLICATE, sealed)
        conflicting = self._candidate(
            quarantine_record(
                candidate.record.tenancy,
                _kept(candidate.record),
                reason="an event with this id or sequence number was sealed before with other content",
                pointer="/id",
                position=candidate.record.position if self._is_elsewhere(candidate) else None,
                key_id=candidate.record.key_id,
            )
        )
        return self._add(conflicting, self._recent.find_all([conflicting.key]))

    def _find_conflicts(self, candidates: Sequence[_Candidate], earlier: Mapping[bytes, Seen]) -> list[int]:
        positions = []
        in_batch: dict[bytes, bytes] = {}
        for position, candidate in enumerate(candidates):
            first = self._find_first(candidate, earlier)
            sealed_otherwise = first is not None and first.tag != candidate.tag
            if in_batch.setdefault(candidate.key, candidate.tag) != candidate.tag or sealed_otherwise:
                positions.append(position)
        return positions

    def _find_first(self, candidate: _Candidate, earlier: Mapping[bytes, Seen]) -> Seen | None:
        """Return the first sealing of this id, or of this place in the emitter's sequence."""
        seen = self._recent.find_unwritten(candidate.key) or earlier.get(candidate.key)
        position = candidate.record.position
        if seen is not None or position is None:
            return seen
        place = self._find_sequence(self._boot(candidate), position.sequence)
        return None if place is None else Seen(*place, self._tag_of(*place, candidate))

    def _is_elsewhere(self, candidate: _Candidate) -> bool:
        """Say whether a repeat has a place in its emitter's sequence that nothing was sealed at yet."""
        position = candidate.record.position
        if position is None:
            return False
        ordinal = self._ordinal(self._boot(candidate))
        if ordinal is None:
            return True
        taken = position.sequence in self._state.sequence(ordinal)
        return not taken and self._earlier.holder(ordinal, position.sequence) is None

    def _find_sequence(self, boot: Boot, sequence: int) -> tuple[str, int] | None:
        """Return the shard and index of an emitter's event, recognised for ever by its place in the sequence."""
        ordinal = self._ordinal(boot)
        if ordinal is None:
            return None
        if sequence in self._state.sequence(ordinal):
            index = self._leaf_files.find(self._shard, self._first, ordinal, sequence)
            if index is None:
                raise _sealed_just_now(ordinal, sequence)
            return self._shard, index
        holder = self._earlier.holder(ordinal, sequence)
        if holder is None:
            return None
        index = self._leaf_files.find(holder.name, holder.size, ordinal, sequence)
        return None if index is None else (holder.name, index)

    def _ordinal(self, boot: Boot) -> int | None:
        """Return the ordinal of a boot that was seen before, in this shard or an earlier one."""
        ordinal = self._state.boots.get(boot)
        return self._earlier.ordinal(boot) if ordinal is None else ordinal

    def _tag_of(self, shard: str, index: int, candidate: _Candidate) -> bytes:
        """Return the tag of what was sealed at a place, where only the leaf still tells.

        The record is the same exactly if its commitments are; they bind the salts, which a repeat carries.
        """
        sealed = Leaf.unpack(self._sealed_at(shard, index).leaf)
        return candidate.tag if sealed.commit == candidate.record.commitments.event_commit() else b""

    def _seal(self, candidate: _Candidate) -> Outcome:
        record, org_ref = candidate.record, candidate.org_ref
        if org_ref not in self._state.policies:
            self.add_control(policy_record(record.tenancy, org_ref))
        ordinal, sequence = self._emitter(candidate)
        index = self._state.size
        expire_day = self._ingest_day + 1 + int(self._state.policies[org_ref].document["retention_days"])
        body = BodyFrame(index, record.sections, record.salts, record.commitments, record.evidence)
        self._append_content(self._body_path(expire_day), frame.encode_body(body))
        kind = Kind.EVENT
        if record.quarantined is not None:
            kind = Kind.QUARANTINE
            raw = frame.encode_blob(BlobFrame(index, record.quarantined))
            self._append_content(self._files.quarantine_path(expire_day), raw)
        flags = 0 if record.sections.actor is None else Flag.HAS_ACTOR.value
        flags |= 0 if record.sections.target is None else Flag.HAS_TARGET.value
        flags |= Flag.BATCH_CHECKED.value if record.evidence else 0
        commit = record.commitments.event_commit()
        sealed = self._append_leaf(kind, flags, expire_day, org_ref, ordinal, sequence, commit)
        self._recent.remember(candidate.key, Seen(self._shard, index, candidate.tag))
        return Outcome(Status.SEALED if record.quarantined is None else Status.QUARANTINED, sealed)

    def _emitter(self, candidate: _Candidate) -> tuple[int, int]:
        """Return the boot's ordinal and the sequence, announcing a boot that is new to the shard."""
        position = candidate.record.position
        if position is None:
            return 0, 0
        boot = self._boot(candidate)
        ordinal = self._state.boots.get(boot)
        if ordinal is None:
            known = self._earlier.ordinal(boot)
            self.add_control(boot_record(known or self._state.last_ordinal + 1, boot, candidate.record))
            ordinal = self._state.boots[boot]
        seen = self._state.sequence(ordinal)
        if position.sequence in seen:
            # Only a quarantined conflict comes here with a place that is taken; it stands outside the sequence.
            return 0, 0
        seen.add(position.sequence)
        return ordinal, position.sequence

    @staticmethod
    def _boot(candidate: _Candidate) -> Boot:
        position = candidate.record.position
        assert position is not None  # noqa: S101 - callers have looked
        scope = sections.OPERATOR_REFERENCE if position.shared else candidate.org_ref
        return Boot(scope, position.emitter_id, position.boot)

    def _append_leaf(
        self, kind: int, flags: int, expire_day: int, org_ref: bytes, emitter: int, emitter_seq: int, commit: bytes
    ) -> Sealed:
        state = self._state
        chain = state.chain(org_ref)
        index = state.size
        encoded = Leaf(
            kind,
            flags,
            expire_day,
            org_ref,
            chain.next_seq,
            self._ingest_us,
            emitter,
            emitter_seq,
            chain.previous,
            commit,
        ).pack()
        state.advance(chain, leaf_hash(encoded), self._ingest_us)
        self.leaves += encoded
        return Sealed(self._origin, index, encoded)

    def _body_path(self, expire_day: int) -> Path:
        path = self._body_paths.get(expire_day)
        if path is None:
            path = self._body_paths[expire_day] = self._files.body_path(expire_day)
        return path

    def _append_content(self, path: Path, encoded: bytes) -> None:
        content = self.contents.get(path)
        if content is None:
            content = self.contents[path] = bytearray()
        content += encoded

    def _sealed_at(self, shard: str, index: int) -> Sealed:
        """Return where a record stands, in this plan or in the files."""
        if shard != self._shard or index < self._first:
            return Sealed(self._identity.origin(shard), index, self._leaf_files.leaf(shard, index))
        position = (index - self._first) * LEAF_SIZE
        return Sealed(self._origin, index, bytes(self.leaves[position : position + LEAF_SIZE]))

    def _reference(self, organization_id: str) -> bytes:
        reference = self._references.get(organization_id)
        if reference is None:
            reference = sections.organization_reference(self._identity.org_salt, organization_id)
            self._references[organization_id] = reference
        return reference


def _kept(record: Record) -> bytes:
    """Return what to keep of a record that another stands in the way of."""
    return record.quarantined or KeptInput(DOCUMENT, record.key_id, record.content).pack()


def _sealed_just_now(ordinal: int, sequence: int) -> IntakeHalted:
    return IntakeHalted(
        f"Sequence {sequence} of emitter {ordinal} is being sealed in this very commit.",
        remedy="Send it again.",
        retry_after=_RETRY_AFTER,
    )


def policy_record(tenancy: Tenancy, org_ref: bytes) -> ControlRecord:
    """Return the POLICY record of an organization."""
    document: JsonObject = {
        "type": "policy",
        "org_ref": org_ref.hex(),
        "plan": tenancy.plan,
        "policy": tenancy.policy,
        "retention_days": tenancy.retention_days,
    }
    return ControlRecord(Kind.POLICY, document, tenancy.organization_id)


def _repeat(record: Record, sealed: Sealed) -> Record:
    """Return the record that fills the place of a repeat in its emitter's sequence, which otherwise were a gap.

    An emitter that starts again and emits an event of an earlier run anew gives it another place.
    """
    position = record.position
    assert position is not None  # noqa: S101 - callers have looked
    raw = canonical.encode(
        {
            "repeats": {"log": sealed.log, "index": sealed.index},
            "emitter": position.emitter_id,
            "boot": position.boot,
            "sequence": position.sequence,
        }
    )
    return quarantine_record(
        record.tenancy,
        KeptInput(REPEAT, record.key_id, raw).pack(),
        reason="an event with this id and content was sealed before, and is not sealed again",
        pointer="/id",
        position=position,
        key_id=record.key_id,
    )


def boot_record(ordinal: int, boot: Boot, record: Record) -> ControlRecord:
    """Return the KEY record that announces an emitter's boot."""
    shared = boot.scope == sections.OPERATOR_REFERENCE
    document: JsonObject = {
        "type": "key",
        "ordinal": ordinal,
        "emitter_id": boot.emitter_id,
        "boot": boot.boot,
        "vkey": None,
        "org_ref": None if shared else boot.scope.hex(),
        "revoked_after_seq": None,
    }
    owner = sections.OPERATOR_ORGANIZATION_ID if shared else record.tenancy.organization_id
    return ControlRecord(Kind.KEY, document, owner)
