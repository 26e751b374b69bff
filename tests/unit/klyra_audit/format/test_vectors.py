"""The published vectors of KL1."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from klyra_audit.format import canonical, checkpoint, control, merkle, note, policy, sections
from klyra_audit.format.leaf import Leaf
from klyra_audit.format.proof import TlogProof

VECTORS = Path(__file__).parents[3] / "vectors"
KL1 = json.loads((VECTORS / "kl1.json").read_text())
EVIDENCE = json.loads((VECTORS / "evidence.json").read_text())


def generator(name: str):
    """Return a generator module beside the vectors."""
    spec = importlib.util.spec_from_file_location(f"vectors_{name}", VECTORS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoded_sections(vector) -> sections.Sections:
    """Return a vector's sections as bytes."""
    return sections.Sections(**{k: v.encode() if v is not None else None for k, v in vector["sections"].items()})


def test_generator_reproduces_the_vectors() -> None:
    """The generator writes kl1.json byte for byte."""
    assert generator("generate").render() == (VECTORS / "kl1.json").read_bytes()


@pytest.mark.parametrize("vector", KL1["events"], ids=lambda vector: vector["document"]["event_type"])
class TestEvents:
    """Each event of the vectors."""

    def test_canonical(self, vector) -> None:
        """The document has exactly the published canonical bytes."""
        assert canonical.encode(vector["document"]).decode() == vector["canonical"]
        assert canonical.parse_canonical(vector["canonical"].encode()) == vector["document"]

    def test_sections(self, vector) -> None:
        """The document splits into the published sections, and they join to it."""
        assert sections.split(vector["document"]) == encoded_sections(vector)
        assert sections.join(encoded_sections(vector)) == vector["document"]

    def test_commitments(self, vector) -> None:
        """Sections and salts give the published commitments and commit."""
        salts = sections.Salts.unpack(bytes.fromhex(vector["salts_hex"]))
        proofs = sections.commitments(encoded_sections(vector), salts)
        assert {name: getattr(proofs, name).hex() for name in vector["c_hex"]} == vector["c_hex"]
        assert proofs.event_commit().hex() == vector["commit_hex"]

    def test_leaf(self, vector) -> None:
        """The leaf's 112 bytes unpack, pack and hash as published."""
        encoded = bytes.fromhex(vector["leaf_hex"])
        assert Leaf.unpack(encoded).pack() == encoded
        assert merkle.leaf_hash(encoded).hex() == vector["leaf_hash_hex"]


def test_organization_reference() -> None:
    """The organization's reference is the published one."""
    org = KL1["org"]
    salt = bytes.fromhex(org["org_salt_hex"])
    assert sections.organization_reference(salt, org["organization_id"]).hex() == org["org_ref_hex"]


def test_control_record() -> None:
    """A control document commits as published."""
    encoded = canonical.encode(KL1["control"]["document"])
    assert encoded.decode() == KL1["control"]["canonical"]
    assert sections.control_commit(encoded).hex() == KL1["control"]["commit_hex"]


def test_checkpoint_opens_with_its_key() -> None:
    """The published checkpoint verifies under the published key and says the published root."""
    key = note.VerifyingKey.parse(KL1["checkpoint"]["vkey"])
    opened = checkpoint.open_checkpoint(KL1["checkpoint"]["note"].encode(), key)
    assert opened.root.hex() == KL1["roots_hex_by_size"][opened.size]


def test_batch_note_opens_and_its_path_verifies() -> None:
    """The published emitter batch verifies, and its middle commit is included under its root."""
    batch = KL1["batch"]
    key = note.SigningKey.from_seed(batch["emitter_id"], bytes.fromhex(KL1["checkpoint"]["ed25519_seed_hex"]))
    opened = note.open_note(batch["note"].encode(), [key.verifying_key])
    assert opened.text.startswith("klyra-audit/batch/v1\n")
    commit = bytes.fromhex(KL1["events"][1]["commit_hex"])
    path = [bytes.fromhex(part) for part in batch["path_position_1_hex"]]
    merkle.verify_inclusion(merkle.leaf_hash(commit), 1, 3, path, bytes.fromhex(batch["root_hex"]))


def test_evidence_is_written_again_byte_for_byte() -> None:
    """Proofs, tiles, heads, policies and control documents come out as published."""
    encoded = (VECTORS / "evidence.json").read_bytes()
    assert generator("generate_evidence").render(json.loads(encoded)["trust"]["ml_dsa_44_line"]) == encoded


def test_the_published_proofs_verify() -> None:
    """Every inclusion and consistency proof leads from root to root."""
    tree = EVIDENCE["tree"]
    roots = {int(size): bytes.fromhex(root) for size, root in tree["roots_hex"].items()}
    for each in tree["inclusion"]:
        path = [bytes.fromhex(part) for part in each["path_hex"]]
        leaf = merkle.leaf_hash(each["index"].to_bytes(112))
        merkle.verify_inclusion(leaf, each["index"], each["size"], path, roots[each["size"]])
    for each in tree["consistency"]:
        path = [bytes.fromhex(part) for part in each["path_hex"]]
        merkle.verify_consistency(each["old"], roots[each["old"]], each["new"], roots[each["new"]], path)


def test_the_published_cosignatures_satisfy_the_policy() -> None:
    """Ed25519, ML-DSA-44 and the witness's line on one checkpoint, and the proof file that ends in it."""
    trust = EVIDENCE["trust"]
    trusted = policy.parse(trust["policy"].encode())
    opened = policy.open_checkpoint(trust["checkpoint"].encode(), trusted)
    assert opened.quorum_time == trust["time"]
    lattice = note.VerifyingKey.parse(trust["ml_dsa_44_vkey"])
    assert note.open_note(trust["checkpoint"].encode(), [lattice]).signatures == ((lattice, trust["time"]),)
    found = TlogProof.parse(trust["tlog_proof_index_200"].encode())
    assert found.verify((200).to_bytes(112), trusted).checkpoint == opened.checkpoint


def test_the_published_control_documents_read() -> None:
    """Each is of its kind and commits as published."""
    for each in EVIDENCE["control"]:
        encoded = each["canonical"].encode()
        assert control.parse(each["kind"], canonical.parse_canonical(encoded)).encode() == encoded
        assert sections.control_commit(encoded).hex() == each["commit_hex"]
