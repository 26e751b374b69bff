"""Which checkpoints are due, and the proofs that go with them."""

from __future__ import annotations

import pytest

from klyra_audit.format import merkle, note, policy
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.keys import ALGORITHM_ML_DSA_44, SigningKey
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.errors import LedgerDamaged
from klyra_collector.seal.durable import Disk
from klyra_collector.witness.heads import consistency_proof, due_heads, published_head
from support.witnesses import NOW, Log, cosigning_key, policy_text


def shard_of(folder, log):
    """Lay a log down as a shard: hashes and checkpoint."""
    shard = ShardDirectory(folder / log.origin.rpartition("/")[2])
    frontier = merkle.Frontier()
    for hashed in log.hashes:
        frontier.append(hashed)
    for level, hashes in frontier.take_tile_hashes().items():
        Disk().replace(shard.hashes(level), hashes)
    Disk().replace(shard.checkpoint, log.signed())
    return shard


def test_every_proof_leads_to_the_head(tmp_path):
    """For all pairs of sizes around a tile's border, the proof verifies; none is needed from 0 or the same size."""
    sizes = (1, 2, 3, 7, 255, 256, 257, 300, 512, 600)
    for size in sizes:
        log = Log().grow(size)
        head = published_head(shard_of(tmp_path, log))
        for old in (one for one in sizes if one < size):
            root = merkle.root_of(log.hashes[:old])
            merkle.verify_consistency(old, root, size, head.checkpoint.root, consistency_proof(head, old))
        assert consistency_proof(head, 0) == consistency_proof(head, size) == ()


@pytest.mark.parametrize("fault", ["flip", "cut", "lost"])
def test_damaged_hashes_give_no_proof(tmp_path, fault):
    """A fault of our own files is named as such and never sent to a witness, where it would look like a fork."""
    shard = shard_of(tmp_path, Log().grow(300))
    path = shard.hashes(0)
    content = path.read_bytes()
    if fault == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif fault == "cut":
        path.write_bytes(content[:-32])
    else:
        path.unlink()
    with pytest.raises(LedgerDamaged) as caught:
        consistency_proof(published_head(shard), 200)
    assert (caught.value.code, "Restart" in caught.value.remedy) == ("ledger_damaged", True)


def test_only_the_logs_own_lines_go_to_a_witness(tmp_path):
    """Lines of witnesses on the published checkpoint are left out, the log's second key is put in."""
    log = Log().grow(3)
    shard = shard_of(tmp_path, log)
    line = cosigning_key().signature_line(log.checkpoint().text(), NOW)
    Disk().replace(shard.checkpoint, note.append_lines(log.signed(), [line]))
    second = SigningKey.from_seed(log.origin, b"m" * 32, ALGORITHM_ML_DSA_44)
    head = published_head(shard).signed_also_by(second, NOW)
    assert len(note.signature_lines(head.encoded)) == 2
    opened = note.open_note(head.encoded, [log.key.verifying_key, second.verifying_key])
    assert [signature.time for signature in opened.signatures] == [None, NOW]
    again = head.signed_also_by(second, NOW + 60)
    opened = note.open_note(again.encoded, [log.key.verifying_key, second.verifying_key])
    assert [signature.time for signature in opened.signatures] == [None, NOW + 60]
    assert len(note.signature_lines(again.encoded)) == 2


def test_nothing_is_due_before_there_is_something(tmp_path):
    """No checkpoint, or one over nothing, is not sent."""
    assert published_head(ShardDirectory(tmp_path / "2026")) is None
    assert published_head(shard_of(tmp_path, Log())) is None


@pytest.mark.parametrize("content", [b"", b"\xff\n\n", b"x\n\n\xe2\x80\x94 x AAAAAAAA\n"])
def test_an_unreadable_checkpoint_is_named(tmp_path, content):
    """What stands where the checkpoint should is never sent."""
    shard = shard_of(tmp_path, Log().grow(1))
    shard.checkpoint.write_bytes(content)
    with pytest.raises(LedgerDamaged):
        published_head(shard)


def test_a_closed_shard_is_due_until_its_last_is_cosigned(tmp_path):
    """The open shard is due each time; a closed one until a quorum has cosigned its final size."""
    old, new = Log("a/b/2026").grow(4), Log("a/b/2027", b"n" * 32).grow(2)
    shard = shard_of(tmp_path, old)
    shard_of(tmp_path, new)
    (tmp_path / "lock").touch()
    chosen = policy.parse(policy_text(new.key.vkey, ("w", cosigning_key().vkey, "http://w")).encode())

    def due():
        return [(head.checkpoint.origin, head.vkey) for head in due_heads(tmp_path, "2027", new.key.vkey, chosen)]

    assert due() == [("a/b/2026", None), ("a/b/2027", new.key.vkey)]
    for size in (3, 4):
        text = Checkpoint("a/b/2026", size, merkle.root_of(old.hashes[:size])).text()
        line = cosigning_key().signature_line(text, NOW)
        Disk().replace(shard.witnessed, note.append_lines(note.sign(text, [old.key]), [line]))
        assert len(due()) == (2 if size == 3 else 1)


def test_a_shard_left_behind_after_a_disaster_is_not_due(tmp_path):
    """It is never written again, and its damaged checkpoint keeps nobody from witnessing the shard that goes on."""
    old, new = Log("a/b/2026").grow(3), Log("a/b/2026-2", b"n" * 32).grow(3)
    Disk().replace(shard_of(tmp_path, old).checkpoint, b"damaged")
    Disk().replace(shard_of(tmp_path, new).consent, b"{}")
    chosen = policy.parse(policy_text(new.key.vkey, ("w", cosigning_key().vkey, "http://w")).encode())
    due = due_heads(tmp_path, "2026-2", new.key.vkey, chosen)
    assert [head.checkpoint.origin for head in due] == [new.origin]
