"""Write `evidence.json` again: what is built upon leaves, from fixed keys: `python tests/vectors/generate_evidence.py`.

ML-DSA-44 signatures are drawn anew each time they are made, so that one is kept: it must verify for ever.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from klyra_audit.format import checkpoint, control, merkle, note, policy, sections, tile
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.heads import Head, HeadsTree, head_proof
from klyra_audit.format.keys import ALGORITHM_COSIGNATURE, ALGORITHM_ML_DSA_44, SigningKey
from klyra_audit.format.policy import Group, LogLine, Policy, Witness
from klyra_audit.format.proof import TlogProof

if TYPE_CHECKING:
    from klyra_audit.format.heads import PlacedHead

DESTINATION = Path(__file__).parent / "evidence.json"
ORIGIN = "audit.example/collector-1/2026"
SEED = bytes(range(32))
TIME = 1_795_382_045
SIZES = (1, 2, 255, 256, 257, 700)
LEAVES = 700
ORG_REFS = [hashlib.sha256(bytes([number])).digest()[:16] for number in range(5)]
HASH = hashlib.sha256(b"any").digest()

LOG = SigningKey.from_seed(ORIGIN, SEED)
WITNESS = SigningKey.from_seed("witness.example", SEED[::-1], ALGORITHM_COSIGNATURE)
LATTICE = SigningKey.from_seed(ORIGIN, SEED, ALGORITHM_ML_DSA_44)

CONTROL = (
    control.Heads(3, 2, HASH),
    control.Expiry(ORG_REFS[0], 20_600, 5, control.seq_digest([1, 2, 3, 7, 9]), ((4, 6), (8, 8))),
    control.Expiry(ORG_REFS[0], 20_601, 1, control.seq_digest([10]), (), "audit.example/collector-1/2025"),
    control.Erasure(ORG_REFS[1], ((1, 3),), ((2, 2),), "art17", 20_500),
    control.Hold("hold_1", ORG_REFS[1], 5, None, control.hold_commitment(bytes(16), {"actor_id": "usr_1"})),
    control.Release("hold_1"),
    control.Extend(ORG_REFS[2], 0, 9, 365),
    control.Key(1, "collector-1", None, LOG.vkey, None),
    control.Key(2, "api-1", "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b10", None, ORG_REFS[0]),
    control.Key(3, "collector-1", None, LOG.vkey, None, 17),
    control.PolicyRecord(ORG_REFS[0], "startup", "startup", 30),
    control.DroppedShard("audit.example/collector-1/2024", 9, HASH),
    control.SchemaRecord("klyra.audit/1#moderation.created", HASH),
    control.Export(HASH),
    control.ShardClose("audit.example/collector-1/2027", LOG.vkey),
    control.ShardOpen("audit.example/collector-1/2025", 9, HASH, control.REASON_YEAR),
    control.Start("klyra-audit 1.0", "synchronised", HASH, control.Recovered(7, 2, "the last leaf is torn")),
)


def tree_vectors() -> dict[str, Any]:
    """Return roots, inclusion and consistency proofs over leaves that are the numbers 0, 1 … as 112 bytes."""
    frontier = merkle.Frontier()
    for number in range(LEAVES):
        frontier.append(merkle.leaf_hash(number.to_bytes(112)))
    levels = frontier.take_tile_hashes()

    def read(level: int, first: int, count: int) -> bytes:
        return levels.get(level, b"")[first * 32 : (first + count) * 32]

    return {
        "roots_hex": {str(size): merkle.root_from(read, size).hex() for size in SIZES},
        "inclusion": [
            {"index": index, "size": size, "path_hex": [part.hex() for part in path]}
            for size in SIZES
            for index in sorted({0, size // 2, size - 1})
            for path in [merkle.inclusion_proof_from(read, index, size)]
        ],
        "consistency": [
            {"old": old, "new": new, "path_hex": [part.hex() for part in path]}
            for old in SIZES
            for new in SIZES
            if old < new
            for path in [merkle.consistency_proof_from(read, old, new)]
        ],
        "tiles": {
            str(size): [
                {"path": found.path, "sha256": hashlib.sha256(_tile_bytes(found, levels)).hexdigest()}
                for found in tile.tiles_of(size)
            ]
            for size in (1, 256, LEAVES)
        },
    }


def _tile_bytes(found: tile.Tile, levels: dict[int, bytes]) -> bytes:
    if found.level == tile.ENTRIES:
        return tile.bundle(b"".join(n.to_bytes(112) for n in range(found.first, found.first + found.width)))
    return levels[found.level][found.first * 32 : (found.first + found.width) * 32]


def heads_vectors() -> dict[str, Any]:
    """Return a HEADS tree over five organizations, a proof of presence and one of absence."""
    heads = [
        Head(org_ref, number, hashlib.sha256(org_ref).digest(), 10 + number) for number, org_ref in enumerate(ORG_REFS)
    ]
    tree = HeadsTree()
    for head in heads:
        tree.put(head)
    present, absent = head_proof(heads, ORG_REFS[1]), head_proof(heads, bytes(16))
    return {
        "entries_hex": [head.encode().hex() for head in tree.heads()],
        "root_hex": tree.root().hex(),
        "presence": {"org_ref_hex": ORG_REFS[1].hex(), "entry": _placed(present.present)},
        "absence": {"org_ref_hex": bytes(16).hex(), "before": _placed(absent.before), "after": _placed(absent.after)},
    }


def _placed(placed: PlacedHead | None) -> dict[str, Any] | None:
    if placed is None:
        return None
    return {
        "entry_hex": placed.head.encode().hex(),
        "place": placed.place,
        "path_hex": [part.hex() for part in placed.path],
    }


def trust_vectors(lattice_line: str) -> dict[str, Any]:
    """Return a cosigned checkpoint, the policy it satisfies, and a proof file that ends in it."""
    hashes = [merkle.leaf_hash(number.to_bytes(112)) for number in range(257)]
    head = Checkpoint(ORIGIN, 257, merkle.root_of(hashes))
    cosigned = note.append_lines(checkpoint.sign(head, LOG), [lattice_line, WITNESS.signature_line(head.text(), TIME)])
    trusted = Policy(
        (LogLine(LOG.verifying_key, "https://audit.example/log/collector-1/2026"),),
        {"one": Witness(WITNESS.verifying_key, "https://witness.example/")},
        {"any-of-us": Group(1, ("one",))},
        "any-of-us",
    )
    return {
        "ed25519_seed_hex": SEED.hex(),
        "log_vkey": LOG.vkey,
        "witness_vkey": WITNESS.vkey,
        "ml_dsa_44_vkey": LATTICE.vkey,
        "ml_dsa_44_line": lattice_line,
        "time": TIME,
        "checkpoint": cosigned.decode(),
        "policy": policy.render(trusted),
        "tlog_proof_index_200": TlogProof(200, tuple(merkle.inclusion_proof(hashes, 200)), cosigned).encode().decode(),
    }


def build(lattice_line: str) -> dict[str, Any]:
    """Return all vectors, with an ML-DSA-44 signature line that was made once."""
    return {
        "tree": tree_vectors(),
        "heads": heads_vectors(),
        "trust": trust_vectors(lattice_line),
        "control": [
            {
                "kind": made.KIND.value,
                "canonical": made.encode().decode(),
                "commit_hex": sections.control_commit(made.encode()).hex(),
            }
            for made in CONTROL
        ],
    }


def render(lattice_line: str) -> bytes:
    """Return the bytes of the vector file."""
    return json.dumps(build(lattice_line), indent=1).encode() + b"\n"


def draw_lattice_line() -> str:
    """Sign once more; only a new file has a use for it."""
    hashes = [merkle.leaf_hash(number.to_bytes(112)) for number in range(257)]
    return LATTICE.signature_line(Checkpoint(ORIGIN, 257, merkle.root_of(hashes)).text(), TIME)


if __name__ == "__main__":
    kept = json.loads(DESTINATION.read_bytes())["trust"]["ml_dsa_44_line"] if DESTINATION.exists() else None
    DESTINATION.write_bytes(render(kept or draw_lattice_line()))
