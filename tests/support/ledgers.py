"""A whole data directory with a sealed ledger, written by the format functions alone, to be tampered with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from klyra_audit.format import canonical, checkpoint, frame, merkle, sections
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.control import REASON_YEAR, ShardClose, ShardOpen
from klyra_audit.format.frame import BlobFrame, BodyFrame
from klyra_audit.format.leaf import LEAF_SIZE, NEVER, NO_PREVIOUS, Flag, Kind, Leaf
from klyra_audit.format.merkle import Frontier
from klyra_audit.format.note import SigningKey
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID, Marks, Salts, Sections
from support.records import document

DAY_US = 86_400_000_000
FIRST_US = 20_500 * DAY_US + 12 * 3_600_000_000  # noon of a day in February 2026
SHARD = "2026"
ORIGIN = f"klyra-audit.test/collector-1/{SHARD}"
ORG_SALT = bytes(range(32))
SEED = bytes(range(100, 132))
ACME, UMBRELLA = "org_acme", "org_umbrella"
RETENTION = {ACME: 30, UMBRELLA: 365}
MARKS = Marks(target=("/metadata/subject",))


def signing_key(seed: bytes = SEED, origin: str = ORIGIN) -> SigningKey:
    """Return the collector's key of a shard."""
    return SigningKey.from_seed(origin, seed)


def salts_of(index: int) -> Salts:
    """Return salts that are the same on every run."""
    return Salts.unpack(hashlib.sha384(index.to_bytes(8)).digest())


@dataclass
class LedgerBuilder:
    """Seals records in memory; `write` puts the data directory on disk, signed.

    Each method that seals returns the record's index.
    """

    origin: str = ORIGIN
    seed: bytes = SEED
    org_salt: bytes = ORG_SALT
    now_us: int = FIRST_US
    leaves: list[bytes] = field(default_factory=list)
    bodies: dict[int, list[BodyFrame]] = field(default_factory=dict)
    controls: list[BlobFrame] = field(default_factory=list)
    quarantined: dict[int, list[BlobFrame]] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)
    retention: dict[str, int] = field(default_factory=lambda: dict(RETENTION))
    _chains: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)

    @property
    def shard(self) -> str:
        """The shard's name."""
        return self.origin.rpartition("/")[2]

    def reference(self, organization_id: str) -> bytes:
        """Return an organization's org_ref."""
        return sections.organization_reference(self.org_salt, organization_id)

    def begin(self, *organization_ids: str) -> LedgerBuilder:
        """Seal what every shard begins with, and the policies of organizations."""
        digest = hashlib.sha256(self.org_salt).hexdigest()
        start = {"type": "start", "software": "test", "clock_source": "synchronised", "recovered": None}
        self.control(Kind.START, start | {"org_salt_sha256": digest})
        key = {"type": "key", "ordinal": 1, "emitter_id": "collector-1", "boot": None, "vkey": self.vkey}
        self.control(Kind.KEY, key | {"org_ref": None, "revoked_after_seq": None})
        self.control(Kind.SCHEMA, {"type": "schema", "id": "klyra.audit/1#moderation.created", "sha256": "ab" * 32})
        for organization_id in organization_ids:
            self.policy(organization_id, self.retention[organization_id])
        return self

    @property
    def vkey(self) -> str:
        """The verifier key of the shard."""
        return signing_key(self.seed, self.origin).vkey

    def policy(self, organization_id: str, days: int) -> int:
        """Seal a POLICY record."""
        plan = {"plan": "enterprise", "policy": f"enterprise-{days}d", "retention_days": days}
        org_ref = self.reference(organization_id).hex()
        return self.control(Kind.POLICY, {"type": "policy", "org_ref": org_ref} | plan, organization_id)

    def control(self, kind: int, content: dict[str, Any], organization_id: str = OPERATOR_ORGANIZATION_ID) -> int:
        """Seal a control document."""
        encoded = canonical.encode(content)
        index = self.leaf(kind, organization_id, sections.control_commit(encoded))
        self.controls.append(BlobFrame(index, encoded))
        return index

    def event(self, organization_id: str = ACME, days: int | None = None, **members: Any) -> int:
        """Seal an event with an actor section, and with a target section if its metadata has a `subject`."""
        number = len(self.leaves)
        content = document(organization_id, id=f"log_{number:026d}", **members)
        return self._body(Kind.EVENT, organization_id, sections.split(content, MARKS), days)

    def about_user(self, organization_id: str = ACME) -> int:
        """Seal an event whose three sections are all present."""
        user = {"type": "user", "id": "usr_1", "name": "Ada"}
        return self.event(organization_id, resource=user, metadata={"subject": "usr_2", "client_ip": "192.0.2.1"})

    def quarantine(self, organization_id: str = ACME, raw: bytes = b"not an event") -> int:
        """Seal a QUARANTINE record with its raw bytes."""
        core = {"reason": "is not JSON", "pointer": "", "sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
        index = self._body(Kind.QUARANTINE, organization_id, Sections(canonical.encode(core)), None)
        self.quarantined.setdefault(self.day_of(index), []).append(BlobFrame(index, raw))
        return index

    def keep(self) -> None:
        """Keep a checkpoint over what is sealed so far for good."""
        self.kept.append(len(self.leaves))

    def day_of(self, index: int) -> int:
        """Return the expiry day of a record."""
        return Leaf.unpack(self.leaves[index]).expire_day

    def leaf(
        self, kind: int, organization_id: str, commit: bytes, *, flags: int = 0, expire_day: int = NEVER, **fields: Any
    ) -> int:
        """Append a leaf to its organization's chain; `fields` replaces any of its fields."""
        org_ref = self.reference(organization_id)
        org_seq, previous = self._chains.get(org_ref, (0, NO_PREVIOUS))
        made = Leaf(kind, flags, expire_day, org_ref, org_seq, self.now_us, 0, 0, previous, commit)
        encoded = made._replace(**fields).pack()
        self._chains[org_ref] = (org_seq + 1, merkle.leaf_hash(encoded))
        self.leaves.append(encoded)
        self.now_us += 1_000
        return len(self.leaves) - 1

    def checkpoint(self, size: int | None = None, key: SigningKey | None = None) -> bytes:
        """Return a signed head over the first `size` records."""
        covered = self.leaves[:size]
        root = merkle.root_of(merkle.leaf_hash(encoded) for encoded in covered)
        return checkpoint.sign(Checkpoint(self.origin, len(covered), root), key or signing_key(self.seed, self.origin))

    def write(self, root: Path, *, signed: int | None = None) -> Path:
        """Write the data directory, with a head over the first `signed` records; return it."""
        shard = root / "ledger" / self.shard
        signed = len(self.leaves) if signed is None else signed
        put(shard / "leaves", b"".join(self.leaves))
        for level, hashes in tile_hashes(self.leaves[:signed]).items():
            put(shard / "hashes" / str(level), hashes)
        for day, frames in self.bodies.items():
            put(shard / "bodies" / str(day) / "frames", b"".join(map(frame.encode_body, frames)))
        put(shard / "control" / "frames", b"".join(map(frame.encode_blob, self.controls)))
        for day, blobs in self.quarantined.items():
            put(root / "quarantine" / str(day) / f"{self.shard}.frames", b"".join(map(frame.encode_blob, blobs)))
        for size in self.kept:
            put(
                shard / "checkpoints" / f"2026-02-{10 + len(list((shard / 'checkpoints').glob('*')))}",
                self.checkpoint(size),
            )
        head = self.checkpoint(signed)
        put(shard / "state" / "last-signed", head)
        put(shard / "state" / "committed", len(self.leaves).to_bytes(8))
        put(shard / "checkpoint", head)
        put(root / "keys" / "org-salt", self.org_salt)
        put(root / "keys" / "collector.vkey", f"{self.vkey}\n".encode())
        return root

    def _body(self, kind: int, organization_id: str, parts: Sections, days: int | None) -> int:
        index = len(self.leaves)
        salts = salts_of(index)
        proofs = sections.commitments(parts, salts)
        flags = (Flag.HAS_ACTOR if parts.actor else 0) | (Flag.HAS_TARGET if parts.target else 0)
        kept_for = self.retention[organization_id] if days is None else days
        expire_day = self.now_us // DAY_US + 1 + kept_for
        self.leaf(kind, organization_id, proofs.event_commit(), flags=flags, expire_day=expire_day)
        self.bodies.setdefault(expire_day, []).append(BodyFrame(index, parts, salts, proofs))
        return index


def put(path: Path, content: bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def tile_hashes(leaves: list[bytes]) -> dict[int, bytes]:
    """Return the content of `hashes/<L>` by level."""
    frontier = Frontier()
    for encoded in leaves:
        frontier.append(merkle.leaf_hash(encoded))
    return frontier.take_tile_hashes()


def small_ledger() -> LedgerBuilder:
    """Return a ledger with one of everything: two organizations, all sections, quarantined bytes, a kept head."""
    builder = LedgerBuilder().begin(ACME, UMBRELLA)
    builder.event(ACME)
    builder.event(UMBRELLA)
    builder.about_user(ACME)
    builder.quarantine(ACME)
    builder.keep()
    builder.now_us += DAY_US
    builder.about_user(UMBRELLA)
    builder.event(ACME)
    builder.quarantine(UMBRELLA, b"\xff" * 40)
    builder.event(ACME)
    builder.policy(ACME, 90)
    builder.event(ACME, days=90)
    builder.event(UMBRELLA)
    return builder


def large_ledger(events: int = 700) -> LedgerBuilder:
    """Return a ledger of several tiles."""
    builder = LedgerBuilder().begin(ACME, UMBRELLA)
    for number in range(events):
        builder.event(ACME if number % 3 else UMBRELLA)
        if number == events // 2:
            builder.keep()
            builder.now_us += DAY_US
    return builder


def leaf_at(index: int) -> slice:
    """Return where a leaf stands in the file."""
    return slice(index * LEAF_SIZE, (index + 1) * LEAF_SIZE)


def shards_in_a_row(*names: str) -> list[LedgerBuilder]:
    """Return a ledger's shards, each but the last closed, each but the first opened by what the one before said."""
    origins = [f"klyra-audit.test/collector-1/{name}" for name in names]
    seeds = [bytes([number]) * 32 for number in range(len(names))]
    builders: list[LedgerBuilder] = []
    for number, origin in enumerate(origins):
        builder = LedgerBuilder(origin=origin, seed=seeds[number])
        if builders:
            before = builders[-1]
            root = merkle.root_of(map(merkle.leaf_hash, before.leaves))
            builder.now_us = before.now_us
            opened = ShardOpen(before.origin, len(before.leaves), root, REASON_YEAR)
            builder.control(Kind.SHARD, opened.document())
        builder.begin(ACME)
        builder.event(ACME)
        if number + 1 < len(origins):
            following = signing_key(seeds[number + 1], origins[number + 1])
            builder.control(Kind.SHARD, ShardClose(origins[number + 1], following.vkey).document())
        builders.append(builder)
    return builders
