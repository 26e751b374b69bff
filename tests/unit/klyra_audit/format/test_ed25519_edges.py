"""What our Ed25519 accepts at its edges, pinned: another library below us must not change it unnoticed."""

from __future__ import annotations

from collections import Counter

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from klyra_audit.format.errors import NoteError
from klyra_audit.format.keys import ALGORITHM_COSIGNATURE, ALGORITHM_ED25519, VerifyingKey
from support.ed25519_edges import ORDER, SMALL_ORDER, Case, cases, encodings, halves

SMALL = [encoded for point in SMALL_ORDER for encoded in encodings(point)]


@pytest.fixture(scope="module")
def every_case() -> list[Case]:
    """All edge cases."""
    return cases()


def accepts(public: bytes, signature: bytes, message: bytes) -> bool:
    """Say what the library below us says."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def test_the_cases_are_complete(every_case) -> None:
    """Fourteen encodings of eight points of small order, and eight mixed points, on both sides."""
    assert len(SMALL) == len(set(SMALL)) == 14
    assert len(halves(7)) == 22
    assert len(every_case) == 1112
    assert {(case.residue, case.reencoded) for case in every_case} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }


def test_the_table_of_what_is_accepted(every_case) -> None:
    """Of each class so many are accepted, as RFC 8032 without the cofactor and with R in its only encoding has it."""
    table: dict[tuple[bool, bool, bool, bool], Counter[bool]] = {}
    for case in every_case:
        accepted = accepts(case.key.encoded, case.signature, case.message)
        assert accepted == (case.fits and case.nonce.canonical), case
        row = case.key.canonical, case.nonce.canonical, case.residue, case.reencoded
        table.setdefault(row, Counter())[accepted] += 1
    assert {row: (found[True], found[False]) for row, found in table.items()} == ACCEPTED


# (A canonical, R canonical, residue, challenge re-encoded): how many are accepted and refused.
ACCEPTED = {
    (False, False, False, False): (0, 25),
    (False, False, False, True): (0, 25),
    (False, False, True, False): (0, 27),
    (False, False, True, True): (0, 27),
    (False, True, False, False): (26, 0),
    (False, True, False, True): (10, 16),
    (False, True, True, False): (0, 90),
    (False, True, True, True): (7, 83),
    (True, False, False, False): (0, 86),
    (True, False, False, True): (0, 86),
    (True, False, True, False): (0, 90),
    (True, False, True, True): (0, 90),
    (True, True, False, False): (172, 0),
    (True, True, True, False): (0, 252),
}


@pytest.mark.parametrize("algorithm", [ALGORITHM_ED25519, ALGORITHM_COSIGNATURE])
@pytest.mark.parametrize("public", SMALL, ids=bytes.hex)
def test_no_key_of_small_order_can_be_registered(public, algorithm) -> None:
    """A verifier key line with such a key is refused, however the point is encoded."""
    with pytest.raises(NoteError, match="refused"):
        VerifyingKey.parse(str(VerifyingKey("log.test", public, algorithm)))


def test_what_registration_keeps_out() -> None:
    """The library itself takes the neutral element as a key, for which one signature fits every message."""
    neutral = bytes([1]) + bytes(31)
    signature = neutral + bytes(32)
    assert all(accepts(neutral, signature, message) for message in (b"one", b"another"))


def test_a_second_spelling_of_a_signature_is_refused(every_case) -> None:
    """S plus the group's order is the same number to careless verifiers."""
    sound = next(case for case in every_case if case.key.scalar and case.nonce.scalar and not case.key.torsion)
    scalar = int.from_bytes(sound.signature[32:], "little")
    malleable = sound.signature[:32] + (scalar + ORDER).to_bytes(32, "little")
    assert accepts(sound.key.encoded, sound.signature, sound.message) == (not sound.residue)
    assert not accepts(sound.key.encoded, malleable, sound.message)
