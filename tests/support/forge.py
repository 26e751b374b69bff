"""A forge of whole ledgers: everything a collector writes, and everything a thief of its signing key could.

`ForgedShard` seals records in memory through the format functions alone, `Forge` holds the shards of one collector and
its witnesses and puts them on disk as a data directory. Nothing here asks whether what it writes is right.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from klyra_audit import timestamps
from klyra_audit.format import control, frame, merkle, note, policy, sections
from klyra_audit.format.batch import BatchNote, Evidence
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.control import ControlDocument
from klyra_audit.format.frame import BlobFrame, BodyFrame
from klyra_audit.format.heads import Head, HeadsTree
from klyra_audit.format.keys import ALGORITHM_COSIGNATURE, ALGORITHM_ML_DSA_44, SigningKey
from klyra_audit.format.leaf import Flag, Kind, Leaf
from klyra_audit.format.policy import Group, LogLine, Policy
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID, SALT_SIZE, Sections
from support.ledgers import DAY_US, MARKS, LedgerBuilder, put, salts_of
from support.records import document

HELD = "held"
LEDGER = "klyra-audit.test"
COLLECTOR = "collector-1"
SECOND_US = 1_000_000
SCHEMA_ID = "klyra.audit/1#moderation.created"
PLANS = {30: "startup", 90: "business", 365: "enterprise"}


def seed_of(name: str) -> bytes:
    """Return the 32 secret bytes of a name, the same on every run."""
    return hashlib.sha256(name.encode()).digest()


@dataclass(frozen=True)
class ForgedWitness:
    """A witness that signs whatever it is shown."""

    name: str

    @property
    def key(self) -> SigningKey:
        """Its cosigning key."""
        return SigningKey.from_seed(self.name, seed_of(self.name), ALGORITHM_COSIGNATURE)

    def line(self, encoded: bytes, seconds: int) -> str:
        """Return its signature line for a signed note, at any time."""
        return self.key.signature_line(text_of(encoded), seconds)


WITNESSES = (ForgedWitness("witness.test/w1"), ForgedWitness("witness.test/w2"))


@dataclass
class ForgedEmitter:
    """A run of an emitter, with or without a key; `next_seq` moves as it sends."""

    emitter_id: str
    boot: str
    ordinal: int
    has_key: bool = True
    next_seq: int = 0

    @property
    def key(self) -> SigningKey:
        """What it signs batches with."""
        return SigningKey.from_seed(self.emitter_id, seed_of(self.emitter_id))

    @property
    def vkey(self) -> str | None:
        """The verifier key that its KEY record announces."""
        return self.key.vkey if self.has_key else None


def boot_id(number: int) -> str:
    """Return a boot's UUID."""
    return str(UUID(int=number))


@dataclass
class ForgedShard(LedgerBuilder):
    """One shard, sealed in memory.

    Attributes:
        signing_seeds: of the Ed25519 keys that sign its checkpoints, each one line.
        files: signed notes by their path below the shard's folder, as they stand at the end.
        witnesses: who cosigns.
        held: bodies that a hold keeps past their day.
        held_blobs: quarantined bytes likewise.
    """

    signing_seeds: list[bytes] = field(default_factory=lambda: [seed_of("collector")])
    files: dict[str, bytes] = field(default_factory=dict)
    witnesses: tuple[ForgedWitness, ...] = WITNESSES
    held: list[BodyFrame] = field(default_factory=list)
    held_blobs: list[BlobFrame] = field(default_factory=list)
    next_ordinal: int = 1
    _heads: dict[bytes, Head] = field(default_factory=dict)

    @property
    def keys(self) -> list[SigningKey]:
        """What signs its checkpoints."""
        return [SigningKey.from_seed(self.origin, seed) for seed in self.signing_seeds]

    @property
    def vkey(self) -> str:
        """The verifier key of its newest key."""
        return self.keys[-1].vkey

    @property
    def cosigning_key(self) -> SigningKey:
        """Its ML-DSA-44 key."""
        return SigningKey.from_seed(self.origin, seed_of(f"mldsa {self.origin}"), ALGORITHM_ML_DSA_44)

    @property
    def size(self) -> int:
        """How many records it has."""
        return len(self.leaves)

    @property
    def day(self) -> int:
        """Today, as its clock has it."""
        return self.now_us // DAY_US

    # Sealing.

    def seal(self, content: ControlDocument, organization_id: str = OPERATOR_ORGANIZATION_ID) -> int:
        """Seal a control document in an organization's chain."""
        return self.control(content.KIND, content.document(), organization_id)

    def leaf(self, kind: int, organization_id: str, commit: bytes, **fields: Any) -> int:
        """See `LedgerBuilder`; remembers the newest record of each organization for HEADS."""
        index = super().leaf(kind, organization_id, commit, **fields)
        made = Leaf.unpack(self.leaves[index])
        self._heads[made.org_ref] = Head(made.org_ref, made.org_seq, merkle.leaf_hash(self.leaves[index]), index)
        return index

    def start(self, software: str = "forge", clock_source: str = "synchronised") -> int:
        """Seal START."""
        return self.seal(control.Start(software, clock_source, hashlib.sha256(self.org_salt).digest()))

    def begin(self, *organization_ids: str) -> ForgedShard:
        """Seal what the first shard begins with."""
        self.start()
        self.collector_key()
        self.seal(control.SchemaRecord(SCHEMA_ID, bytes.fromhex("ab" * 32)))
        for organization_id in organization_ids:
            self.policy(organization_id, self.retention[organization_id])
        return self

    def policy(self, organization_id: str, days: int) -> int:
        """Seal a POLICY record."""
        plan = PLANS.get(days, "enterprise")
        name = plan if days in PLANS else f"enterprise-{days}d"
        self.retention[organization_id] = days
        return self.seal(
            control.PolicyRecord(self.reference(organization_id), plan, name, days),
            organization_id,
        )

    def ordinal(self) -> int:
        """Draw the next ordinal of a KEY record."""
        self.next_ordinal += 1
        return self.next_ordinal - 1

    def seal_key(self, key: control.Key, organization_id: str) -> control.Key:
        """Seal a KEY record, and return what it says."""
        self.seal(key, organization_id)
        return key

    def collector_key(self, *, revoked_after_seq: int | None = None, vkey: str | None = None) -> int:
        """Seal the KEY record of the collector's newest key, or of another one."""
        key = control.Key(self.ordinal(), COLLECTOR, None, vkey or self.vkey, None, revoked_after_seq)
        return self.seal(key)

    def emitter_key(self, emitter: ForgedEmitter, organization_id: str) -> control.Key:
        """Seal the KEY record of an emitter's key."""
        owner = self.reference(organization_id)
        key = control.Key(self.ordinal(), emitter.emitter_id, None, emitter.vkey, owner)
        return self.seal_key(key, organization_id)

    def boot(self, emitter: ForgedEmitter, organization_id: str) -> control.Key:
        """Seal the KEY record of an emitter's boot, which leaves name by its ordinal."""
        emitter.ordinal = self.ordinal()
        owner = self.reference(organization_id)
        key = control.Key(emitter.ordinal, emitter.emitter_id, emitter.boot, emitter.vkey, owner)
        return self.seal_key(key, organization_id)

    def batch(
        self,
        emitter: ForgedEmitter,
        organization_id: str,
        count: int,
        *,
        sealed: Sequence[int] | None = None,
        first_seq: int | None = None,
    ) -> list[int]:
        """Seal a batch of events as an emitter signed it.

        Args:
            emitter: whose.
            organization_id: whose events.
            count: how many events it signed.
            sealed: positions in the batch that are sealed, in this order; None for all.
            first_seq: another number than the emitter's next one, for a replay.
        """
        first = emitter.next_seq if first_seq is None else first_seq
        emitter.next_seq = max(emitter.next_seq, first + count)
        contents = [self._document(organization_id, f"{emitter.boot[-4:]}{first + n:08d}") for n in range(count)]
        parts = [sections.split(content, MARKS) for content in contents]
        salts = [salts_of(1_000_000 + first + n) for n in range(count)]
        commits = [sections.commitments(*pair).event_commit() for pair in zip(parts, salts, strict=True)]
        hashes = [merkle.leaf_hash(commit) for commit in commits]
        batch = BatchNote.over(emitter.emitter_id, emitter.boot, first, commits)
        signed = note.sign(batch.text(), [emitter.key])
        indexes = []
        for position in range(count) if sealed is None else sealed:
            path = tuple(merkle.inclusion_proof(hashes, position))
            evidence = Evidence(signed, position, path).encode() if emitter.has_key else b""
            indexes.append(
                self.body(
                    organization_id,
                    parts[position],
                    salts=salts[position],
                    attachment=evidence,
                    flags=Flag.BATCH_CHECKED if emitter.has_key else 0,
                    emitter=emitter.ordinal,
                    emitter_seq=first + position,
                )
            )
        return indexes

    def body(
        self,
        organization_id: str,
        parts: Sections,
        *,
        salts: sections.Salts | None = None,
        attachment: bytes = b"",
        days: int | None = None,
        flags: int = 0,
        **fields: Any,
    ) -> int:
        """Seal an event from its sections; `fields` replaces any of the leaf's."""
        salts = salts or salts_of(self.size)
        proofs = sections.commitments(parts, salts)
        flags |= (Flag.HAS_ACTOR if parts.actor else 0) | (Flag.HAS_TARGET if parts.target else 0)
        kept_for = self.retention[organization_id] if days is None else days
        expire_day = fields.pop("expire_day", self.day + 1 + kept_for)
        index = self.leaf(
            Kind.EVENT, organization_id, proofs.event_commit(), flags=int(flags), expire_day=expire_day, **fields
        )
        self.bodies.setdefault(expire_day, []).append(BodyFrame(index, parts, salts, proofs, attachment))
        return index

    def heads(self) -> int:
        """Seal HEADS over everything before it."""
        tree = HeadsTree()
        for head in self._heads.values():
            tree.put(head)
        return self.seal(control.Heads(self.size, tree.count, tree.root()))

    # What is kept for a time.

    def records_of(self, organization_id: str) -> dict[int, int]:
        """Return org_seq → index of an organization's records."""
        org_ref = self.reference(organization_id)
        found = ((Leaf.unpack(encoded), index) for index, encoded in enumerate(self.leaves))
        return {leaf.org_seq: index for leaf, index in found if leaf.org_ref == org_ref}

    def sequence(self, index: int) -> int:
        """Return a record's org_seq."""
        return Leaf.unpack(self.leaves[index]).org_seq

    def frame_of(self, index: int) -> BodyFrame:
        """Return the body of a record."""
        return next(body for _, _, body in self._placed() if body.index == index)

    def change_body(self, index: int, **changes: Any) -> None:
        """Replace parts of a stored body, not of what is sealed."""
        for frames, place, body in self._placed():
            if body.index == index:
                frames[place] = replace(body, **changes)

    def drop_bodies(self, indexes: Iterable[int]) -> None:
        """Delete bodies, and quarantined bytes, without a word."""
        gone = set(indexes)
        for frames in (*self.bodies.values(), self.held):
            frames[:] = [body for body in frames if body.index not in gone]
        for blobs in (*self.quarantined.values(), self.held_blobs):
            blobs[:] = [blob for blob in blobs if blob.index not in gone]

    def blob_of(self, index: int) -> list[BlobFrame]:
        """Return the quarantined bytes of a record, nothing for an event."""
        lists = (*self.quarantined.values(), self.held_blobs)
        return [blob for blobs in lists for blob in blobs if blob.index == index]

    def erase(
        self, organization_id: str, actor: Iterable[int] = (), target: Iterable[int] = (), *, into: ForgedShard
    ) -> int:
        """Seal ERASURE of sections, named by index, and overwrite them."""
        named = {name: sorted(indexes) for name, indexes in (("actor", actor), ("target", target))}
        ranges = {name: control.to_ranges(map(self.sequence, indexes)) for name, indexes in named.items()}
        index = into.seal(
            control.Erasure(
                self.reference(organization_id),
                ranges["actor"],
                ranges["target"],
                "art17",
                into.day,
                None if into is self else self.origin,
            ),
            organization_id,
        )
        for name, indexes in named.items():
            for erased in indexes:
                self.overwrite(erased, name)
        return index

    def overwrite(self, index: int, name: str) -> None:
        """Overwrite a section and its salt with zeros."""
        body = self.frame_of(index)
        zeros = bytes(len(getattr(body.sections, name)))
        self.change_body(
            index,
            sections=replace(body.sections, **{name: zeros}),
            salts=replace(body.salts, **{name: bytes(SALT_SIZE)}),
        )

    def _placed(self) -> list[tuple[list[BodyFrame], int, BodyFrame]]:
        lists = (*self.bodies.values(), self.held)
        return [(frames, place, body) for frames in lists for place, body in enumerate(frames)]

    def event(self, organization_id: str, days: int | None = None, **members: Any) -> int:
        """Seal an event that tells itself from every other one; `members` replace its own."""
        content = self._document(organization_id, f"{self.shard}{self.size:012d}") | members
        return self.body(organization_id, sections.split(content, MARKS), days=days)

    def about_user(self, organization_id: str) -> int:
        """Seal an event whose three sections are all present."""
        user = {"type": "user", "id": f"usr_{self.size % 7}", "name": "Ada"}
        metadata = {"subject": "usr_2", "client_ip": "192.0.2.1", "user_agent": "tests/2"}
        return self.event(organization_id, resource=user, metadata=metadata)

    def _document(self, organization_id: str, name: str) -> dict[str, Any]:
        metadata = {
            "client_ip": f"198.51.100.{self.size % 250}",
            "user_agent": "tests/1",
            "attempts": 3,
            "code": "3",
            "note": None,
            "city": "Z\u00fcrich",
        }
        return document(
            organization_id,
            id=f"log_{name:0>26}",
            timestamp=timestamps.from_microseconds(self.now_us),
            actor={"type": "user", "id": f"usr_{self.size % 5}", "name": "Grace"},
            metadata=metadata,
        )

    # What is signed.

    def head(self, size: int | None = None, *, keys: Sequence[SigningKey] | None = None) -> bytes:
        """Return the checkpoint over the first `size` records with the log's own lines."""
        covered = self.leaves[:size]
        root = merkle.root_of(map(merkle.leaf_hash, covered))
        return note.sign(Checkpoint(self.origin, len(covered), root).text(), keys or self.keys)

    def cosigned(
        self,
        encoded: bytes,
        *,
        seconds: int | None = None,
        witnesses: Iterable[ForgedWitness] | None = None,
    ) -> bytes:
        """Return a checkpoint with the log's ML-DSA-44 line and those of witnesses, at any time."""
        at = self.now_us // SECOND_US if seconds is None else seconds
        lines = [self.cosigning_key.signature_line(text_of(encoded), at)]
        lines += [witness.line(encoded, at) for witness in (self.witnesses if witnesses is None else witnesses)]
        return note.append_lines(encoded, lines)

    def keep_as(self, name: str, encoded: bytes | None = None) -> None:
        """Keep a checkpoint for good; by default a cosigned one over everything so far."""
        self.files[f"checkpoints/{name}"] = self.cosigned(self.head()) if encoded is None else encoded

    def publish(self, encoded: bytes | None = None, *, cosigned: bool = True) -> None:
        """Make a checkpoint the newest; by default over everything so far."""
        signed = encoded or self.head()
        self.files["state/last-signed"] = signed
        shown = self.cosigned(signed) if cosigned and encoded is None else signed
        self.files["checkpoint"] = shown
        if cosigned and encoded is None:
            self.files["state/witnessed"] = shown

    def resign(self) -> None:
        """Sign the present content as if nothing else had ever been signed: what a thief of the key does first."""
        self.files = {name: encoded for name, encoded in self.files.items() if name.startswith("checkpoints/")}
        self.publish(cosigned=False)

    def rechain(self) -> None:
        """Make every org_prev and org_seq fit again after leaves were changed, added or removed."""
        chains: dict[bytes, tuple[int, bytes]] = {}
        for index, encoded in enumerate(self.leaves):
            made = Leaf.unpack(encoded)
            org_seq, previous = chains.get(made.org_ref, (0, bytes(32)))
            self.leaves[index] = made._replace(org_seq=org_seq, org_prev=previous).pack()
            chains[made.org_ref] = org_seq + 1, merkle.leaf_hash(self.leaves[index])

    def change_leaf(self, index: int, **fields: Any) -> None:
        """Replace fields of a sealed leaf, nothing else."""
        self.leaves[index] = Leaf.unpack(self.leaves[index])._replace(**fields).pack()

    def write(self, root: Path, *, signed: int | None = None) -> Path:
        """Write this shard's files; those that were never signed get what `LedgerBuilder` signs."""
        super().write(root, signed=signed)
        shard = root / "ledger" / self.shard
        for name, encoded in self.files.items():
            put(shard / name, encoded)
        if self.held:
            put(shard / "bodies" / HELD / "frames", b"".join(map(frame.encode_body, self.held)))
        if self.held_blobs:
            path = root / "quarantine" / HELD / f"{self.shard}.frames"
            put(path, b"".join(map(frame.encode_blob, self.held_blobs)))
        return root


@dataclass
class Forge:
    """The ledger of one collector: its shards, oldest first, and the policy that its readers pin."""

    shards: list[ForgedShard] = field(default_factory=list)
    witnesses: tuple[ForgedWitness, ...] = WITNESSES
    holds: list[control.Hold] = field(default_factory=list)
    extensions: list[tuple[str, control.Extend]] = field(default_factory=list)
    emitters: list[ForgedEmitter] = field(default_factory=list)
    keys: list[tuple[control.Key, str]] = field(default_factory=list)

    @classmethod
    def opened(cls, shard: str, now_us: int, retention: dict[str, int]) -> Forge:
        """Return a ledger whose first shard has begun."""
        first = ForgedShard(
            origin=f"{LEDGER}/{COLLECTOR}/{shard}",
            now_us=now_us,
            retention=dict(retention),
            signing_seeds=[seed_of(f"collector {shard}")],
        )
        return cls([first.begin(*retention)])

    @property
    def newest(self) -> ForgedShard:
        """Where records are sealed now."""
        return self.shards[-1]

    def copy(self) -> Forge:
        """Return another forge in the same state."""
        return copy.deepcopy(self)

    def open_next(self, shard: str, now_us: int) -> ForgedShard:
        """Close the newest shard and begin the next one, as on the first moment of a year."""
        old = self.newest
        new = ForgedShard(
            origin=f"{LEDGER}/{COLLECTOR}/{shard}",
            now_us=now_us,
            retention=dict(old.retention),
            signing_seeds=[seed_of(f"collector {shard}")],
            next_ordinal=old.next_ordinal,
        )
        old.heads()
        old.seal(control.ShardClose(new.origin, new.vkey))
        old.keep_as("close")
        old.publish()
        root = merkle.root_of(map(merkle.leaf_hash, old.leaves))
        new.seal(control.ShardOpen(old.origin, old.size, root, control.REASON_YEAR))
        new.start()
        new.collector_key()
        new.seal(control.SchemaRecord(SCHEMA_ID, bytes.fromhex("ab" * 32)))
        for organization_id, days in new.retention.items():
            new.policy(organization_id, days)
        for key, organization_id in self.keys:
            new.seal_key(key, organization_id)
        for hold in self.holds:
            new.seal(hold, self._name_of(hold.org_ref))
        self.shards.append(new)
        return new

    def add_emitter(self, emitter: ForgedEmitter, organization_id: str) -> ForgedEmitter:
        """Announce an emitter's boot, and its key if it has one."""
        if emitter.has_key and emitter.emitter_id not in {known.emitter_id for known in self.emitters}:
            self.keys.append((self.newest.emitter_key(emitter, organization_id), organization_id))
        self.keys.append((self.newest.boot(emitter, organization_id), organization_id))
        self.emitters.append(emitter)
        return emitter

    def hold(self, hold_id: str, organization_id: str, from_us: int, to_us: int | None) -> int:
        """Place a legal hold."""
        placed = control.Hold(hold_id, self.newest.reference(organization_id), from_us, to_us)
        self.holds.append(placed)
        return self.newest.seal(placed, organization_id)

    def release(self, hold_id: str) -> int:
        """Release a legal hold."""
        (released,) = [hold for hold in self.holds if hold.hold_id == hold_id]
        self.holds.remove(released)
        return self.newest.seal(control.Release(hold_id), self._name_of(released.org_ref))

    def expire(self, *, cutoff_day: int | None = None, drop: bool = True) -> list[int]:
        """Seal EXPIRY for every organization and shard with something due, then delete it; return the indexes."""
        sealed = []
        for shard in self.shards:
            for organization_id in shard.retention:
                due = Due.of(self, shard, organization_id, self.newest.day if cutoff_day is None else cutoff_day)
                if due.gone or due.newly_held:
                    sealed.append(self._expire(shard, organization_id, due, drop=drop))
        for index in sealed:
            self.newest.keep_as(f"expiry-{index}")
        return sealed

    def _expire(self, shard: ForgedShard, organization_id: str, due: Due, *, drop: bool) -> int:
        sequences = sorted(map(shard.sequence, due.gone))
        index = self.newest.seal(
            control.Expiry(
                shard.reference(organization_id),
                due.cutoff_day,
                len(sequences),
                control.seq_digest(sequences),
                control.to_ranges(sorted(map(shard.sequence, due.held))),
                None if shard is self.newest else shard.origin,
            ),
            organization_id,
        )
        if drop:
            due.apply(shard)
        return index

    def extend(self, shard: ForgedShard, organization_id: str, indexes: Sequence[int], days: int) -> int:
        """Seal EXTEND over records from the first to the last of some indexes."""
        first, last = shard.sequence(min(indexes)), shard.sequence(max(indexes))
        log = None if shard is self.newest else shard.origin
        content = control.Extend(shard.reference(organization_id), first, last, days, log)
        self.extensions.append((shard.origin, content))
        return self.newest.seal(content, organization_id)

    def effective_expire(self, shard: ForgedShard, index: int) -> int:
        """Return the first day on which a body may be absent, EXTENDs included."""
        made = Leaf.unpack(shard.leaves[index])
        later = [
            made.ingest_us // DAY_US + 1 + extend.retention_days
            for origin, extend in self.extensions
            if origin == shard.origin
            and extend.org_ref == made.org_ref
            and extend.first_seq <= made.org_seq <= extend.last_seq
        ]
        return max([made.expire_day, *later])

    def is_held(self, shard: ForgedShard, index: int) -> bool:
        """Say whether a hold in force covers a record."""
        made = Leaf.unpack(shard.leaves[index])
        return any(hold.org_ref == made.org_ref and hold.covers(made.ingest_us) for hold in self.holds)

    def policy(self, *, quorum: str = "both", logs: Sequence[ForgedShard] | None = None) -> Policy:
        """Return what a reader pins: both keys of every shard, and the two witnesses in a group `both`."""
        lines = [
            LogLine(key.verifying_key)
            for shard in (self.shards if logs is None else logs)
            for key in (shard.keys[0], shard.cosigning_key)
        ]
        witnesses = {witness.name: policy.Witness(witness.key.verifying_key) for witness in self.witnesses}
        return Policy(tuple(lines), witnesses, {"both": Group(len(witnesses), tuple(witnesses))}, quorum)

    def write(self, root: Path) -> Path:
        """Write the data directory."""
        for shard in self.shards:
            shard.write(root)
        names = {"ledger_name": LEDGER, "collector_id": COLLECTOR}
        put(root / "ledger" / "identity.json", orjson.dumps(names))
        put(root / "keys" / "org-salt", self.newest.org_salt)
        put(root / "keys" / "collector.vkey", f"{self.shards[0].vkey}\n".encode())
        return root

    def _name_of(self, org_ref: bytes) -> str:
        return next(name for name in self.newest.retention if self.newest.reference(name) == org_ref)


@dataclass(frozen=True)
class Due:
    """What an EXPIRY would say of one organization in one shard.

    Attributes:
        cutoff_day: up to which day records are due.
        gone: indexes of bodies that go.
        held: indexes of those that are due and held.
        newly_held: those of them that still stand under their day.
        moved: index → later day of those that an EXTEND keeps.
    """

    cutoff_day: int
    gone: tuple[int, ...]
    held: tuple[int, ...]
    newly_held: tuple[int, ...]
    moved: dict[int, int]

    @classmethod
    def of(cls, forge: Forge, shard: ForgedShard, organization_id: str, cutoff_day: int) -> Due:
        """Return what is due on a day."""
        org_ref = shard.reference(organization_id)
        filed = [body.index for day, frames in shard.bodies.items() if day <= cutoff_day for body in frames]
        kept = [body.index for body in shard.held]
        own = [index for index in (*filed, *kept) if Leaf.unpack(shard.leaves[index]).org_ref == org_ref]
        due = [index for index in own if forge.effective_expire(shard, index) <= cutoff_day]
        held = [index for index in due if forge.is_held(shard, index)]
        return cls(
            cutoff_day,
            tuple(index for index in due if index not in held),
            tuple(held),
            tuple(index for index in held if index in filed),
            {index: forge.effective_expire(shard, index) for index in own if index not in due},
        )

    def apply(self, shard: ForgedShard) -> None:
        """Move and delete bodies."""
        later = [(day, shard.frame_of(index)) for index, day in self.moved.items()]
        held = [shard.frame_of(index) for index in self.newly_held]
        held_blobs = [blob for index in self.newly_held for blob in shard.blob_of(index)]
        later_blobs = [(day, blob) for index, day in self.moved.items() for blob in shard.blob_of(index)]
        shard.drop_bodies((*self.gone, *self.moved, *self.newly_held))
        shard.held += held
        shard.held_blobs += held_blobs
        for day, body in later:
            shard.bodies.setdefault(day, []).append(body)
        for day, blob in later_blobs:
            shard.quarantined.setdefault(day, []).append(blob)
        for day in [day for day, frames in shard.bodies.items() if not frames]:
            del shard.bodies[day]
        for day in [day for day, blobs in shard.quarantined.items() if not blobs]:
            del shard.quarantined[day]


def text_of(encoded: bytes) -> str:
    """Return the text of a signed note, with its final newline, without looking at the signatures."""
    return encoded.decode().rpartition("\n\n")[0] + "\n"
