"""Entry ids: UUIDv7 in lower-case Crockford base32."""

from __future__ import annotations

import hashlib
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit import ids
from klyra_audit.format.base32 import ALPHABET, encode_base32

MILLISECONDS = st.integers(0, 2**48 - 1)
RANDOM = st.binary(min_size=10, max_size=10)


def decode_base32(text: str) -> int:
    """Read Crockford base32, most significant character first."""
    value = 0
    for character in text:
        value = value * 32 + ALPHABET.index(character)
    return value


@given(st.integers(0, 2**128 - 1))
def test_base32_reads_back(value) -> None:
    """26 characters of the alphabet carry every 128-bit number."""
    text = encode_base32(value)
    assert len(text) == 26
    assert decode_base32(text) == value


def test_the_alphabet_is_crockfords() -> None:
    """32 characters without i, l, o and u."""
    assert len(set(ALPHABET)) == 32
    assert set(ALPHABET).isdisjoint("ilou")
    assert sorted(ALPHABET) == list(ALPHABET)


@given(MILLISECONDS, RANDOM)
def test_a_uuid7_is_what_rfc_9562_says(milliseconds, random) -> None:
    """Time in front, then version 7, the variant and 74 random bits."""
    made = ids.uuid7(milliseconds, random)
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == milliseconds
    bits = int.from_bytes(random, "big")
    assert made.int >> 64 & 0xFFF == bits >> 62 & 0xFFF
    assert made.int & (2**62 - 1) == bits & (2**62 - 1)


@given(MILLISECONDS, RANDOM)
def test_an_entry_id_reads_back_to_its_uuid(milliseconds, random) -> None:
    """Nothing is lost on the way, and the id has the form that is accepted."""
    made = ids.uuid7(milliseconds, random)
    text = ids.log_id(made)
    assert ids.LOG_ID.fullmatch(text)
    assert uuid.UUID(int=decode_base32(text.removeprefix("log_"))) == made


@given(MILLISECONDS, MILLISECONDS, RANDOM, RANDOM)
def test_ids_sort_by_time(first, second, one, other) -> None:
    """As text, whatever their random bits."""
    if first != second:
        earlier = ids.log_id(ids.uuid7(first, one)) < ids.log_id(ids.uuid7(second, other))
        assert earlier is (first < second)


def test_fresh_ids_are_of_now_and_differ() -> None:
    """Two of the same millisecond as well."""
    before = time.time_ns() // 1_000_000
    fresh = [ids.new_uuid7() for _ in range(100)]
    after = time.time_ns() // 1_000_000
    assert len(set(fresh)) == 100
    assert all(before <= made.int >> 80 <= after for made in fresh)
    assert ids.LOG_ID.fullmatch(ids.new_log_id())


@pytest.mark.parametrize("text", ["log_1234567", "log_" + "a" * 41, "log_1A2B3C4D", "evt_12345678", "log_12345678\n"])
def test_other_forms_are_no_entry_ids(text) -> None:
    """8 to 40 lower-case letters and digits after the prefix."""
    assert ids.LOG_ID.fullmatch(text) is None


@given(st.text(max_size=50))
def test_a_foreign_id_becomes_the_digest_of_name_and_value(value) -> None:
    """Always the same, and of the accepted form."""
    made = ids.log_id_of_foreign("audit.record.id", value)
    digest = hashlib.sha256(b"audit.record.id\0" + value.encode()).digest()
    assert decode_base32(made.removeprefix("log_")) == int.from_bytes(digest[:16], "big")
    assert ids.LOG_ID.fullmatch(made)
    assert made != ids.log_id_of_foreign("log.record.uid", value)
