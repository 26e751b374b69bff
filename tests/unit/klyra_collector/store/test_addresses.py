"""Addresses as keys, blocks as ranges."""

from __future__ import annotations

import pytest

from klyra_collector.store.addresses import key_of, range_of, text_of


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("198.51.100.7", "00000000000000000000ffffc6336407"),
        ("::ffff:198.51.100.7", "00000000000000000000ffffc6336407"),
        ("2001:db8::1", "20010db8000000000000000000000001"),
        ("2001:DB8:0::1", "20010db8000000000000000000000001"),
    ],
)
def test_an_address_is_16_bytes(text: str, key: str) -> None:
    """IPv4 and its IPv4-mapped form are the same key, IPv6 in any notation is its bytes."""
    found = key_of(text)
    assert found is not None
    assert found.hex() == key


@pytest.mark.parametrize("text", ["", "198.51.100", "198.51.100.007", "localhost", "198.51.100.7/24", "1.2.3.4\0"])
def test_what_is_no_address_has_no_key(text: str) -> None:
    """An entry may say anything in client_ip; only addresses can be searched for."""
    assert key_of(text) is None


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("198.51.100.0/24", ["198.51.100.0", "198.51.100.255"], ["198.51.99.255", "198.51.101.0", "::1"]),
        ("198.51.100.77/24", ["198.51.100.0"], ["198.51.101.0"]),
        ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255"], ["::", "2001:db8::1"]),
        ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff::1"], ["2001:db9::", "198.51.100.7"]),
        ("198.51.100.7", ["198.51.100.7", "::ffff:198.51.100.7"], ["198.51.100.8"]),
    ],
)
def test_a_block_is_a_range(text: str, inside: list[str], outside: list[str]) -> None:
    """A block holds exactly its addresses."""
    block = range_of(text)
    assert all(block.low <= (key_of(address) or b"") <= block.high for address in inside)
    assert not any(block.low <= (key_of(address) or b"") <= block.high for address in outside)


@pytest.mark.parametrize("text", ["198.51.100.0/33", "nowhere", "", "2001:db8::/129"])
def test_what_is_no_block_is_refused(text: str) -> None:
    """A text that names no addresses raises ValueError."""
    with pytest.raises(ValueError, match=r".*"):
        range_of(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("198.51.100.77/24", "198.51.100.0/24"),
        ("198.51.100.7/32", "198.51.100.7"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("::/0", "::/0"),
        ("::/80", "::/80"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
    ],
)
def test_a_range_has_one_notation(text: str, canonical: str) -> None:
    """The same addresses are always written the same."""
    assert text_of(range_of(text)) == canonical
