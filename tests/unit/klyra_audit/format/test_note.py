"""Signed notes and checkpoints."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.format import checkpoint, note
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import CheckpointError, FormatError, NoteError

KEY = note.SigningKey.from_seed("log.example/one/2026", bytes(range(32)))
OTHER = note.SigningKey.from_seed("log.example/two", bytes(reversed(range(32))))
SIGNED = note.sign("a text\nof lines\n", [KEY])


def test_opens_with_the_key_that_signed() -> None:
    """A signed note opens to its text and names who signed."""
    opened = note.open_note(SIGNED, [OTHER.verifying_key, KEY.verifying_key])
    assert opened.text == "a text\nof lines\n"
    assert opened.signed_by == (KEY.verifying_key,)


def test_a_key_line_reads_back() -> None:
    """A verifier key survives its notation."""
    assert note.VerifyingKey.parse(KEY.vkey) == KEY.verifying_key


def test_unknown_signatures_are_ignored() -> None:
    """A line by a key that is not ours neither helps nor hurts."""
    both = note.sign("text\n", [OTHER, KEY])
    assert note.open_note(both, [KEY.verifying_key]).signed_by == (KEY.verifying_key,)


def test_a_failing_known_key_condemns_the_note() -> None:
    """One bad signature of a trusted key outweighs a good one of another."""
    tampered = note.sign("text\n", [KEY]) + OTHER.signature_line("another\n").encode()
    with pytest.raises(NoteError, match="does not verify"):
        note.open_note(tampered, [KEY.verifying_key, OTHER.verifying_key])


@given(st.integers(0, len(SIGNED) * 8 - 1))
def test_every_flipped_bit_is_noticed(bit) -> None:
    """A note with any bit changed does not open."""
    flipped = bytearray(SIGNED)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(NoteError):
        note.open_note(bytes(flipped), [KEY.verifying_key])


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "no signatures"),
        (b"text\n", "no signatures"),
        (b"text\n\nnot a signature\n", "em dash"),
        ("text\n\n\u2014 name\n".encode(), "name base64"),
        ("text\n\n\u2014 name !!!!\n".encode(), "base64"),
        ("text\n\n\u2014 na+me AAAAAAAAAAA=\n".encode(), "key name"),
        ("te\x01xt\n\n\u2014 name AAAA\n".encode(), "control character"),
        (b"\xff\n\n\n", "UTF-8"),
        (b"x" * 70_000, "longer"),
        (SIGNED[:-1], "no signatures"),
        (SIGNED + OTHER.signature_line("x\n").encode() * 200, "signatures"),
    ],
)
def test_malformed_notes_are_refused(encoded, reason) -> None:
    """Malformed notes raise NoteError and say what is malformed."""
    with pytest.raises(NoteError, match=reason):
        note.open_note(encoded, [KEY.verifying_key])


@pytest.mark.parametrize("text", ["no newline", "bad\x07\n"])
def test_such_texts_are_not_signed(text) -> None:
    """What could not be opened again is not signed."""
    with pytest.raises(NoteError):
        note.sign(text, [KEY])


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        "name+00000000",
        KEY.vkey.replace("+", " ", 1),
        KEY.vkey[:-4],
        "other" + KEY.vkey,
        "name+00000000+" + base64.b64encode(b"\x06" + bytes(32)).decode(),
    ],
)
def test_malformed_verifier_keys_are_refused(vkey) -> None:
    """A key line that is malformed, misnamed or of another algorithm is refused."""
    with pytest.raises(NoteError):
        note.VerifyingKey.parse(vkey)


def test_base64_has_one_spelling() -> None:
    """Spare bits in the last character are refused, so a signature has one spelling."""
    with pytest.raises(NoteError, match="canonical spelling"):
        note.open_note("text\n\n\u2014 name AAAAAAB=\n".encode(), [KEY.verifying_key])


class TestCheckpoint:
    """Size and root of a log, signed."""

    HEAD = Checkpoint("log.example/one/2026", 7, bytes(range(32)))

    def test_round_trip(self) -> None:
        """A signed checkpoint opens to what was signed."""
        assert checkpoint.open_checkpoint(checkpoint.sign(self.HEAD, KEY), KEY.verifying_key) == self.HEAD

    def test_is_bound_to_its_origin(self) -> None:
        """A checkpoint of another log under the same key is refused."""
        foreign = Checkpoint("log.example/elsewhere", 7, bytes(32))
        with pytest.raises(CheckpointError, match="elsewhere"):
            checkpoint.open_checkpoint(checkpoint.sign(foreign, KEY), KEY.verifying_key)

    @pytest.mark.parametrize(
        "text",
        [
            "origin\n1\n",
            "origin\n01\nAAAA\n",
            "origin\n-1\n" + base64.b64encode(bytes(32)).decode() + "\n",
            "origin\n1\nAAAA\n",
            "origin\n1\n****\n",
            "\n1\n" + base64.b64encode(bytes(32)).decode() + "\n",
            Checkpoint("o", 1, bytes(32)).text() + "extension\n",
        ],
    )
    def test_malformed_texts_are_refused(self, text) -> None:
        """A text that is no checkpoint raises CheckpointError."""
        with pytest.raises(CheckpointError):
            Checkpoint.parse(text)

    @given(st.text(max_size=80))
    def test_arbitrary_text_raises_only_format_errors(self, text) -> None:
        """No text leads to another exception."""
        with contextlib.suppress(FormatError):
            Checkpoint.parse(text)
