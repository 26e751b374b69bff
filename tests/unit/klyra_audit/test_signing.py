"""Signing batches: a note over every commit, by a key that only its emitter can use."""

from __future__ import annotations

import pytest

from klyra_audit.format.batch import BatchNote, BatchTree, Evidence, batch_root
from klyra_audit.format.keys import SigningKey
from klyra_audit.format.merkle import inclusion_proof, leaf_hash
from klyra_audit.signing import KeyUnusable, NoteSigner, load_key, new_key
from klyra_audit.spool.segment import SpooledEvent
from support.spooling import IDENTITY, prepared

SEED = bytes(range(32))
KEY = SigningKey.from_seed(IDENTITY.emitter_id, SEED)


def test_each_event_of_a_batch_is_vouched_for() -> None:
    """The note names emitter, boot and places, and its root covers every commit."""
    events = [SpooledEvent(7 + place, prepared()) for place in range(5)]
    signed = NoteSigner(KEY, IDENTITY.emitter_id).sign(IDENTITY, events)
    batch = BatchNote.open(signed.note, KEY.verifying_key)
    assert (batch.emitter_id, batch.boot, batch.first_seq, batch.count) == (
        IDENTITY.emitter_id,
        IDENTITY.boot,
        7,
        5,
    )
    tree = BatchTree([spooled.event.commit for spooled in events])
    for place, spooled in enumerate(events):
        Evidence(signed.note, place, tree.path(place)).verify(spooled.event.commit, KEY.verifying_key)


@pytest.mark.parametrize("count", range(1, 20))
def test_the_tree_of_a_batch_is_that_of_rfc_6962(count: int) -> None:
    """Root and paths are those of the general functions, for every size."""
    commits = [bytes([place]) * 32 for place in range(count)]
    hashes = [leaf_hash(commit) for commit in commits]
    tree = BatchTree(commits)
    assert tree.root == batch_root(commits)
    assert [list(tree.path(place)) for place in range(count)] == [
        inclusion_proof(hashes, place) for place in range(count)
    ]


def test_another_emitters_key_is_refused() -> None:
    """When the emitter is made, with both names."""
    with pytest.raises(KeyUnusable, match="emitter") as caught:
        NoteSigner(SigningKey.from_seed("somebody", SEED), IDENTITY.emitter_id)
    assert (caught.value.code, bool(caught.value.remedy)) == ("key_unusable", True)


def test_a_signer_that_fails_pauses_the_delivery() -> None:
    """An operator must act; nothing is sent unsigned."""

    class Broken:
        def sign(self, message: bytes) -> bytes:
            raise OSError("the key service is away")

    key = SigningKey(IDENTITY.emitter_id, Broken(), KEY.verifying_key.public)
    with pytest.raises(KeyUnusable, match="away") as caught:
        NoteSigner(key, IDENTITY.emitter_id).sign(IDENTITY, [SpooledEvent(0, prepared())])
    assert (caught.value.code, bool(caught.value.remedy)) == ("key_unusable", True)


class TestKeyFile:
    """32 bytes, for this user alone."""

    def test_is_read(self, tmp_path) -> None:
        """The key signs under the emitter's name."""
        path = tmp_path / "key"
        path.write_bytes(SEED)
        path.chmod(0o600)
        assert load_key(path, IDENTITY.emitter_id).vkey == KEY.vkey

    def test_is_drawn_once(self, tmp_path) -> None:
        """For this user alone; a key that is there is never written over."""
        path = tmp_path / "key"
        drawn = new_key(path, "shop")
        assert (load_key(path, "shop").vkey, path.stat().st_mode & 0o777) == (drawn.vkey, 0o600)
        with pytest.raises(KeyUnusable, match="cannot be made") as caught:
            new_key(path, "shop")
        assert (caught.value.code, bool(caught.value.remedy)) == ("key_unusable", True)
        assert load_key(path, "shop").vkey == drawn.vkey

    @pytest.mark.parametrize(
        ("content", "mode", "message"),
        [(SEED, 0o640, "used by others"), (SEED[:-1], 0o600, "31 bytes"), (None, 0o600, "cannot be read")],
    )
    def test_that_is_none_is_refused(self, tmp_path, content, mode, message) -> None:
        """Readable by others, of another length, or not there."""
        path = tmp_path / "key"
        if content is not None:
            path.write_bytes(content)
            path.chmod(mode)
        with pytest.raises(KeyUnusable, match=message) as caught:
            load_key(path, IDENTITY.emitter_id)
        assert (caught.value.code, bool(caught.value.remedy)) == ("key_unusable", True)
