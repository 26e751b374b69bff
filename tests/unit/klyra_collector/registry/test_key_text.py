"""The text of an API key."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_collector.registry import key_text

KEY_ID = "key_9z8y7x6w5v4t"
TEXT = key_text.new_key_text(KEY_ID)


def test_a_key_has_the_published_form() -> None:
    """Prefix, 12 characters of id, 43 of secret, 6 of checksum."""
    assert TEXT.startswith("klyra_sk_9z8y7x6w5v4t_")
    assert len(TEXT) == len("klyra_sk_") + 12 + 1 + 43 + 1 + 6


def test_a_key_says_which_one_it_is() -> None:
    """Parsing gives the public id and the digest that is kept."""
    presented = key_text.parse(TEXT)
    assert presented == key_text.PresentedKey(KEY_ID, hashlib.sha256(TEXT.encode()).digest())


def test_ids_and_secrets_are_fresh() -> None:
    """No two keys share an id or a secret."""
    assert key_text.new_key_id() != key_text.new_key_id()
    assert key_text.new_key_text(KEY_ID) != key_text.new_key_text(KEY_ID)


def test_the_checksum_is_the_documented_one() -> None:
    """Six characters of lower-case Crockford base32 of the first 30 bits of SHA-256."""
    body, _, checksum = TEXT.rpartition("_")
    bits = f"{int.from_bytes(hashlib.sha256(body.encode()).digest(), 'big'):0256b}"[:30]
    expected = "".join("0123456789abcdefghjkmnpqrstvwxyz"[int(bits[i : i + 5], 2)] for i in range(0, 30, 5))
    assert checksum == expected


@given(st.integers(0, len(TEXT) - 1), st.characters(codec="ascii", categories=["L", "N"]))
def test_a_mistyped_character_is_noticed(position, character) -> None:
    """Changing any one character makes the key malformed."""
    mistyped = TEXT[:position] + character + TEXT[position + 1 :]
    assert key_text.parse(mistyped) is None or mistyped == TEXT


@pytest.mark.parametrize(
    "text",
    ["", " ", TEXT[:-1], TEXT + "0", TEXT + "\n", " " + TEXT, TEXT.upper(), "Bearer " + TEXT, "\ud800"],
    ids=["empty", "blank", "cut", "longer", "newline", "padded", "capitals", "header", "surrogate"],
)
def test_anything_else_is_malformed(text) -> None:
    """What is cut off, padded or of another form is no key."""
    assert key_text.parse(text) is None
