"""Keys, cosignatures, policies and proof files: whom a verifier believes."""

from __future__ import annotations

import base64
import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.format import checkpoint, ed25519_points, merkle, note, policy, proof
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import CheckpointError, FormatError, NoteError, PolicyError, ProofError
from klyra_audit.format.keys import ALGORITHM_COSIGNATURE, ALGORITHM_ML_DSA_44, SigningKey
from klyra_audit.format.note import VerifyingKey
from klyra_audit.format.proof import TlogProof

ORIGIN = "klyra-audit.test/collector-1/2026"
LOG = SigningKey.from_seed(ORIGIN, bytes(range(32)))
LATTICE = SigningKey.from_seed(ORIGIN, bytes(range(1, 33)), ALGORITHM_ML_DSA_44)
W1 = SigningKey.from_seed("w1.example", bytes([1]) * 32, ALGORITHM_COSIGNATURE)
W2 = SigningKey.from_seed("w2.example", bytes([2]) * 32, ALGORITHM_ML_DSA_44)
W4 = SigningKey.from_seed("w4.example", bytes([4]) * 32, ALGORITHM_COSIGNATURE)
W3 = SigningKey.from_seed("w3.example", bytes([3]) * 32, ALGORITHM_COSIGNATURE)
HEAD = Checkpoint(ORIGIN, 3, merkle.root_of([merkle.leaf_hash(bytes([n])) for n in range(3)]))
SIGNED = checkpoint.sign(HEAD, LOG)
POLICY = f"""# whom we believe
log {LOG.vkey} https://logs.example/
witness one {W1.vkey} https://w1.example/
witness two {W2.vkey}
witness three {W3.vkey}
group most 2 one two three
quorum most
"""


def cosigned(*lines: tuple[SigningKey, int], head: Checkpoint = HEAD) -> bytes:
    """Return the signed head with cosignatures made at some times."""
    return note.append_lines(checkpoint.sign(head, LOG), [key.signature_line(head.text(), time) for key, time in lines])


class TestWeakKeys:
    """Public keys for which anyone can sign."""

    P = 2**255 - 19
    Y8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7

    def encodings(self) -> list[bytes]:
        """Return the eight points of small order, x even and odd."""
        return [
            (y | sign << 255).to_bytes(32, "little")
            for y, signs in ((1, (0,)), (self.P - 1, (0,)), (0, (0, 1)), (self.Y8, (0, 1)), (self.P - self.Y8, (0, 1)))
            for sign in signs
        ]

    def test_all_eight_points_of_small_order_are_refused(self) -> None:
        """A signature of such a key verifies for any message."""
        encodings = self.encodings()
        assert len(set(encodings)) == 8
        for public in encodings:
            assert "small order" in str(ed25519_points.weakness(public))
            with pytest.raises(NoteError, match="anyone can sign"):
                VerifyingKey.parse(str(VerifyingKey("emitter", public)))

    @pytest.mark.parametrize(
        ("public", "reason"),
        [
            ((2**255 - 19).to_bytes(32, "little"), "canonical"),
            ((2**255 - 18).to_bytes(32, "little"), "canonical"),
            ((1 | 1 << 255).to_bytes(32, "little"), "canonical"),
            ((2**255 - 20 | 1 << 255).to_bytes(32, "little"), "canonical"),
            ((2).to_bytes(32, "little"), "no point"),
            (bytes(31), "bytes long"),
        ],
    )
    def test_malformed_points_are_refused(self, public, reason) -> None:
        """Encodings of no point, or not the only one of theirs."""
        assert reason in str(ed25519_points.weakness(public))

    @given(st.binary(min_size=32, max_size=32))
    def test_honest_keys_are_accepted(self, seed) -> None:
        """Every key that is drawn as it should be is sound."""
        key = SigningKey.from_seed("emitter", seed)
        assert VerifyingKey.parse(key.vkey) == key.verifying_key


class TestKeys:
    """Keys of the three algorithms."""

    @pytest.mark.parametrize("key", [LOG, LATTICE, W1, W2], ids=lambda key: str(key.verifying_key.algorithm))
    def test_signs_and_checks(self, key) -> None:
        """A line verifies for its text and its time, and for no other."""
        time = 1_800_000_000 if key.verifying_key.is_cosigner else None
        line = key.signature_line(HEAD.text(), time)
        opened = note.open_note(note.append_lines(SIGNED, [line]), [key.verifying_key])
        assert opened.signatures[-1] == (key.verifying_key, time)
        other = note.append_lines(checkpoint.sign(Checkpoint(ORIGIN, 4, HEAD.root), LOG), [line])
        with pytest.raises(NoteError, match="does not verify"):
            note.open_note(other, [key.verifying_key])

    def test_a_time_that_was_changed_is_noticed(self) -> None:
        """The time is signed."""
        line = W1.signature_line(HEAD.text(), 1_800_000_000)
        material = bytearray(base64.b64decode(line.split(" ")[2]))
        material[11] ^= 1
        forged = f"\u2014 w1.example {base64.b64encode(bytes(material)).decode()}\n"
        with pytest.raises(NoteError, match="does not verify"):
            note.open_note(note.append_lines(SIGNED, [forged]), [W1.verifying_key])

    def test_key_ids_depend_on_the_algorithm(self) -> None:
        """The same public key under another algorithm is another key."""
        public = LOG.verifying_key.public
        assert len({VerifyingKey(ORIGIN, public, kind).key_id for kind in (1, 4, 6)}) == 3

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda: W1.signature_line(HEAD.text()), "with a time"),
            (lambda: LOG.signature_line(HEAD.text(), 5), "without a time"),
            (lambda: W2.signature_line("no head\n", 5), "no head"),
            (lambda: W2.signature_line("o\n1\nAAAA\n", 5), "no head"),
            (lambda: W2.signature_line(Checkpoint("o" * 256, 1, bytes(32)).text(), 5), "255"),
            (lambda: SigningKey.from_seed("n", bytes(31)), "seed"),
            (lambda: VerifyingKey.parse("name+00000000+Ag=="), "not supported"),
            (lambda: VerifyingKey.parse("name+00000000+"), "form"),
        ],
    )
    def test_misuse_is_refused(self, make, reason) -> None:
        """NoteError says what is wrong."""
        with pytest.raises(NoteError, match=reason):
            make()

    def test_a_signer_that_lies_is_not_shown(self) -> None:
        """What another program signs must verify before anyone sees it."""

        class Liar:
            def sign(self, message: bytes) -> bytes:
                return hashlib.sha512(message).digest()

        with pytest.raises(NoteError, match="does not verify"):
            SigningKey(ORIGIN, Liar(), LOG.verifying_key.public).signature_line(HEAD.text())

    def test_lines_are_added_once(self) -> None:
        """A line that is there is not repeated; a malformed one is refused."""
        line = W1.signature_line(HEAD.text(), 7)
        once = note.append_lines(SIGNED, [line, line])
        assert note.append_lines(once, [line]) == once
        assert note.signature_lines(once)[1:] == [line]
        with pytest.raises(NoteError, match="em dash"):
            note.append_lines(SIGNED, ["nonsense\n"])


class TestPolicy:
    """C2SP tlog-policy."""

    READ = policy.parse(POLICY.encode())

    def test_reads_and_writes(self) -> None:
        """A policy is written as a file that reads back the same."""
        assert self.READ.log_keys(ORIGIN) == (LOG.verifying_key,)
        assert self.READ.logs[0].url == "https://logs.example/"
        assert self.READ.witnesses["one"].url == "https://w1.example/"
        assert policy.parse(policy.render(self.READ).encode()) == self.READ
        assert self.READ.needs_witnesses

    @pytest.mark.parametrize(
        ("times", "expected"),
        [
            ({}, None),
            ({"one": 5}, None),
            ({"one": 5, "three": 9}, 9),
            ({"one": 5, "two": 7, "three": 9}, 7),
            ({"one": 5, "stranger": 6}, None),
        ],
    )
    def test_the_quorum_is_met_by_the_time_of_the_last_that_it_needs(self, times, expected) -> None:
        """Not of the last that came."""
        assert self.READ.quorum_time(times) == expected

    def test_groups_may_hold_groups(self) -> None:
        """Thresholds in one another."""
        text = POLICY.replace("quorum most", "group both all most four\nquorum both")
        text = text.replace("group most", f"witness four {W4.vkey}\ngroup most")
        read = policy.parse(text.encode())
        assert read.quorum_time({"one": 4, "three": 5}) is None
        assert read.quorum_time({"one": 4, "three": 5, "four": 3}) == 5

    def test_without_a_quorum_none_is_needed(self) -> None:
        """It must be said."""
        assert policy.parse(f"log {LOG.vkey}\nquorum none".encode()).quorum_time({}) == 0
        assert not policy.parse(f"log {LOG.vkey}\nquorum none\n".encode()).needs_witnesses

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "quorum none\n",
            "log\n",
            f"log {LOG.vkey} a b\n",
            f"log {LOG.vkey}\nlog {LOG.vkey}\nquorum none\n",
            f"log {LOG.vkey}\nwitness w\n",
            f"log {LOG.vkey}\nwitness none {W1.vkey}\n",
            f"log {LOG.vkey}\nwitness w {W1.vkey}\nwitness w {W3.vkey}\n",
            f"log {LOG.vkey}\ngroup g 1\n",
            f"log {LOG.vkey}\ngroup g 1 stranger\n",
            f"log {LOG.vkey}\nwitness w {W1.vkey}\ngroup g 2 w\n",
            f"log {LOG.vkey}\nwitness w {W1.vkey}\ngroup g 2 w w\n",
            f"log {LOG.vkey}\nwitness w {W1.vkey}\ngroup g 01 w\n",
            f"log {LOG.vkey}\n",
            f"log {W1.vkey}\nquorum none\n",
            f"log {LOG.vkey}\nwitness w {W1.vkey}\nwitness v {W1.vkey}\nquorum w\n",
            f"log {LOG.vkey}\nwitness w {W1.vkey}\ngroup g 1 w\ngroup h 1 w g\nquorum h\n",
            f"log {LOG.vkey}\nquorum stranger\n",
            f"log {LOG.vkey}\nquorum none\nquorum none\n",
            f"log {LOG.vkey}\nrule x\n",
            f"log {LOG.vkey}\r\n",
            "log nonsense\n",
            "#" * (policy.MAX_POLICY_BYTES + 1),
        ],
    )
    def test_what_is_no_policy_is_refused(self, text) -> None:
        """PolicyError, which names the line."""
        with pytest.raises(PolicyError):
            policy.parse(text.encode())

    def test_a_witness_of_an_unknown_algorithm_never_counts(self) -> None:
        """The quorum that needs it is not met."""
        unknown = "w+01020304+" + base64.b64encode(b"\x05" + bytes(32)).decode()
        read = policy.parse(f"log {LOG.vkey}\nwitness w {unknown}\nquorum w\n".encode())
        assert read.quorum_time({}) is None

    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_policy_or_a_policy_error(self, encoded) -> None:
        """Nothing else is raised."""
        with contextlib.suppress(PolicyError):
            policy.parse(encoded)


class TestOpenCheckpoint:
    """A checkpoint under a policy."""

    def test_says_who_signed_and_when_witnesses_did(self) -> None:
        """The log's own ML-DSA line is no witness's."""
        own = LATTICE.signature_line(HEAD.text(), 3)
        encoded = note.append_lines(cosigned((W1, 5), (W2, 9)), [own])
        opened = policy.open_checkpoint(encoded, TestPolicy.READ)
        assert opened.checkpoint == HEAD
        assert opened.key == LOG.verifying_key
        assert opened.cosignatures == {"one": 5, "two": 9}
        assert opened.quorum_time == 9
        assert opened.quorum_met

    def test_fewer_witnesses_than_asked_for_is_no_quorum(self) -> None:
        """The head is signed all the same."""
        assert not policy.open_checkpoint(cosigned((W1, 5)), TestPolicy.READ).quorum_met

    def test_a_cosignature_of_another_head_condemns_the_checkpoint(self) -> None:
        """Of another log or size."""
        line = W1.signature_line(Checkpoint("other/log", 3, HEAD.root).text(), 5)
        with pytest.raises(NoteError, match="does not verify"):
            policy.open_checkpoint(note.append_lines(SIGNED, [line]), TestPolicy.READ)

    def test_witnesses_alone_do_not_make_a_head(self) -> None:
        """A log's key must have signed."""
        only = (HEAD.text() + "\n" + W1.signature_line(HEAD.text(), 5)).encode()
        with pytest.raises(NoteError, match="no trusted key of a log"):
            policy.open_checkpoint(only, TestPolicy.READ)

    def test_a_key_signs_for_its_own_log_only(self) -> None:
        """A head of another log by a trusted key is refused."""
        foreign = checkpoint.sign(Checkpoint("other/log", 3, HEAD.root), LOG)
        with pytest.raises(CheckpointError, match="other/log"):
            policy.open_checkpoint(foreign, TestPolicy.READ)

    def test_a_key_that_was_vouched_for_counts_too(self) -> None:
        """As after a rotation."""
        new = SigningKey.from_seed(ORIGIN, bytes([9]) * 32)
        encoded = checkpoint.sign(HEAD, new)
        with pytest.raises(NoteError):
            policy.open_checkpoint(encoded, TestPolicy.READ)
        assert policy.open_checkpoint(encoded, TestPolicy.READ, [new.verifying_key]).key == new.verifying_key


class TestProofFile:
    """C2SP tlog-proof."""

    HASHES = tuple(merkle.leaf_hash(bytes([n])) for n in range(3))
    PROOF = TlogProof(1, tuple(merkle.inclusion_proof(HASHES, 1)), cosigned((W1, 5), (W3, 6)), b"extra")

    def test_reads_back_and_verifies(self) -> None:
        """The file is the same bytes again, with and without the unauthenticated part."""
        for made in (self.PROOF, TlogProof(self.PROOF.index, self.PROOF.path, self.PROOF.checkpoint)):
            assert TlogProof.parse(made.encode()) == made
            assert made.verify(b"\x01", TestPolicy.READ).quorum_time == 6

    def test_another_leaf_or_index_does_not_verify(self) -> None:
        """The position is bound."""
        with pytest.raises(ProofError):
            self.PROOF.verify(b"\x02", TestPolicy.READ)
        with pytest.raises(ProofError):
            TlogProof(2, self.PROOF.path, self.PROOF.checkpoint).verify(b"\x01", TestPolicy.READ)

    @pytest.mark.parametrize(
        "encoded",
        [
            b"",
            b"c2sp.org/tlog-proof@v1\n\n",
            b"c2sp.org/tlog-proof@v2\nindex 1\n\nx",
            b"c2sp.org/tlog-proof@v1\nextra A\nindex 1\n\nx",
            b"c2sp.org/tlog-proof@v1\nextra AAAA\n\nx",
            b"c2sp.org/tlog-proof@v1\nindex 01\n\nx",
            b"c2sp.org/tlog-proof@v1\nindex 1\nAAAA\n\nx",
            b"c2sp.org/tlog-proof@v1\nindex 1\n\xff\n\nx",
            b"c2sp.org/tlog-proof@v1\nindex 1\n" + b"AAAA\n" * 64 + b"\nx",
            b"x" * (proof.MAX_PROOF_BYTES + 1),
        ],
    )
    def test_malformed_files_are_refused(self, encoded) -> None:
        """ProofError says what is malformed."""
        with pytest.raises(ProofError):
            TlogProof.parse(encoded)

    @given(st.data())
    def test_every_flipped_bit_is_noticed(self, data) -> None:
        """In the authenticated part of the file."""
        encoded = bytearray(TlogProof(1, self.PROOF.path, SIGNED).encode())
        bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
        encoded[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            TlogProof.parse(bytes(encoded)).verify(b"\x01", TestPolicy.READ)
