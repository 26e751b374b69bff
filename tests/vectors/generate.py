"""Write the KL1 test vectors again from fixed keys, salts and documents: `python tests/vectors/generate.py`.

The output must equal `kl1.json` byte for byte; `tests/unit/klyra_audit/format/test_vectors.py` checks that.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from klyra_audit.format import canonical, checkpoint, merkle, note, sections
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.leaf import NEVER, NO_PREVIOUS, Flag, Kind, Leaf

DESTINATION = Path(__file__).parent / "kl1.json"
SEED = bytes(range(32))
ORG_SALT = bytes(range(32))
ORGANIZATION_ID = "org_7f3a"
FIRST_INGEST_US = 1795382045123456
CONTROL_INGEST_US = FIRST_INGEST_US + 4
FIRST_EXPIRE_DAY = 20870
EMITTER_ORDINAL = 5
EMITTER_SEQUENCE = 42
ORIGIN = "audit.example/collector-1/2026"
EMITTER_ID = "emitter.example/api-1"
BOOT = "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b10"

DOCUMENTS: list[dict[str, Any]] = [
    {
        "id": "log_1a2b3c4d5e6f",
        "timestamp": "2023-06-15T14:30:45Z",
        "event_type": "moderation.created",
        "actor": {"type": "api_key", "id": "key_9z8y7x6w5v4u", "name": "Production API Key"},
        "resource": {"type": "moderation", "id": "mod_5t4r3q2p1o0n", "name": None},
        "action": "create",
        "status": "success",
        "metadata": {
            "client_ip": "198.51.100.123",
            "user_agent": "klyra-sdk/1.0.0 node/16.15.0",
            "content_type": "text",
            "content_hash": "a1b2c3d4e5f6",
            "categories": ["toxic", "harassment"],
        },
        "organization_id": ORGANIZATION_ID,
        "schema": "klyra.audit/1",
    },
    {
        "id": "log_0192f3c17c3e7d1a9a552f6c1d",
        "timestamp": "2026-11-22T21:14:05.123Z",
        "event_type": "user.invited",
        "actor": {"type": "user", "id": "usr_1", "name": "Zo\u00eb \u20ac \U0001f600 \u2028"},
        "resource": {"type": "user", "id": "usr_2", "name": 'a"\\\b\t\x01\x7f/'},
        "action": "create",
        "status": "failure",
        "metadata": {
            "client_ip": "2001:db8::1",
            "attempt": 3,
            "big": canonical.MAX_INTEGER,
            "neg": -canonical.MAX_INTEGER,
            "empty": {},
            "list": [],
            "flag": False,
        },
        "organization_id": ORGANIZATION_ID,
        "schema": "klyra.audit/1",
    },
    {
        "id": "log_0192f3c17c3e7d1a9a552f6c1e",
        "timestamp": "2026-11-22T21:14:06Z",
        "event_type": "settings.updated",
        "actor": {"type": "system"},
        "resource": {"type": "settings", "id": "set_1"},
        "action": "update",
        "status": "success",
        "metadata": {},
        "organization_id": ORGANIZATION_ID,
        "schema": "klyra.audit/1",
    },
]
EMITTERS = [(0, 0), (EMITTER_ORDINAL, EMITTER_SEQUENCE), (0, 0)]


def salts_of(position: int) -> sections.Salts:
    """Return the fixed salts of event `position`: bytes 10, 11, 12 … in hexadecimal notation."""
    return sections.Salts(*(bytes([16 * position + part]) * 16 for part in range(3)))


def text_of(encoded: bytes | None) -> str | None:
    """Return section bytes as text."""
    return None if encoded is None else encoded.decode()


def event_vector(position: int, org_ref: bytes, previous: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the vector of one event and its leaf hash."""
    document = DOCUMENTS[position]
    parts = sections.split(document)
    salts = salts_of(position)
    proofs = sections.commitments(parts, salts)
    flags = (Flag.HAS_ACTOR if parts.actor else 0) | (Flag.HAS_TARGET if parts.target else 0)
    emitter, emitter_seq = EMITTERS[position]
    flags |= Flag.BATCH_CHECKED if emitter else 0
    leaf = Leaf(
        Kind.EVENT,
        flags,
        FIRST_EXPIRE_DAY + position,
        org_ref,
        position,
        FIRST_INGEST_US + position,
        emitter,
        emitter_seq,
        previous,
        proofs.event_commit(),
    ).pack()
    hashed = merkle.leaf_hash(leaf)
    return {
        "document": document,
        "canonical": canonical.encode(document).decode(),
        "salts_hex": salts.pack().hex(),
        "sections": {name: text_of(getattr(parts, name)) for name in ("core", "actor", "target")},
        "c_hex": {name: getattr(proofs, name).hex() for name in ("core", "actor", "target")},
        "commit_hex": proofs.event_commit().hex(),
        "leaf_hex": leaf.hex(),
        "leaf_hash_hex": hashed.hex(),
    }, hashed


def control_vector(position: int, org_ref: bytes, previous: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the vector of an EXPIRY record and its leaf hash."""
    document: dict[str, Any] = {
        "cutoff_day": 20900,
        "count": 2,
        "held": [],
        "org_ref": org_ref.hex(),
        "seq_digest": hashlib.sha256(struct.pack(">QQ", 0, 1)).hexdigest(),
        "type": "expiry",
    }
    encoded = canonical.encode(document)
    commit = sections.control_commit(encoded)
    leaf = Leaf(Kind.EXPIRY, 0, NEVER, org_ref, position, CONTROL_INGEST_US, 0, 0, previous, commit).pack()
    hashed = merkle.leaf_hash(leaf)
    return {
        "document": document,
        "canonical": encoded.decode(),
        "commit_hex": commit.hex(),
        "leaf_hex": leaf.hex(),
        "leaf_hash_hex": hashed.hex(),
    }, hashed


def batch_vector(commits: list[bytes]) -> dict[str, Any]:
    """Return the vector of an emitter's signed batch over the three events."""
    hashes = [merkle.leaf_hash(commit) for commit in commits]
    root = merkle.root_of(hashes)
    first_seq = 40
    encoded_root = base64.b64encode(root).decode()
    text = f"klyra-audit/batch/v1\n{EMITTER_ID}\n{BOOT} {first_seq} {len(commits)}\n{encoded_root}\n"
    return {
        "emitter_id": EMITTER_ID,
        "boot": BOOT,
        "first_seq": first_seq,
        "count": len(commits),
        "root_hex": root.hex(),
        "note": note.sign(text, [note.SigningKey.from_seed(EMITTER_ID, SEED)]).decode(),
        "path_position_1_hex": [part.hex() for part in merkle.inclusion_proof(hashes, 1)],
        "remark": "the root is RFC 6962 over the commits as leaf data: leaf = SHA-256(0x00 || commit)",
    }


def build() -> dict[str, Any]:
    """Return all vectors."""
    org_ref = sections.organization_reference(ORG_SALT, ORGANIZATION_ID)
    events: list[dict[str, Any]] = []
    hashes: list[bytes] = []
    for position in range(len(DOCUMENTS)):
        vector, hashed = event_vector(position, org_ref, hashes[-1] if hashes else NO_PREVIOUS)
        events.append(vector)
        hashes.append(hashed)
    control, hashed = control_vector(len(events), org_ref, hashes[-1])
    hashes.append(hashed)
    roots = [merkle.root_of(hashes[:size]) for size in range(len(hashes) + 1)]
    key = note.SigningKey.from_seed(ORIGIN, SEED)
    return {
        "events": events,
        "org": {
            "org_salt_hex": ORG_SALT.hex(),
            "organization_id": ORGANIZATION_ID,
            "org_ref_hex": org_ref.hex(),
        },
        "control": control,
        "roots_hex_by_size": [root.hex() for root in roots],
        "checkpoint": {
            "ed25519_seed_hex": SEED.hex(),
            "vkey": key.vkey,
            "note": checkpoint.sign(Checkpoint(ORIGIN, len(hashes), roots[-1]), key).decode(),
        },
        "batch": batch_vector([bytes.fromhex(event["commit_hex"]) for event in events]),
    }


def render() -> bytes:
    """Return the bytes of the vector file."""
    return json.dumps(build(), indent=1).encode()


if __name__ == "__main__":
    DESTINATION.write_bytes(render())
