"""The edge cases of Ed25519 verification, made from their definitions (the classes of C2SP CCTV, RFC 8032).

Public keys A and first halves R of signatures are points of small order in every encoding, or points with a component
of small order. S fits in the part of prime order, so whether a verifier accepts depends only on how it treats the rest.
Slow arithmetic in affine coordinates: for tests only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import count, product

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SIGN = 1 << 255
COFACTOR = 8
Point = tuple[int, int]
NEUTRAL: Point = (0, 1)


def add(one: Point, other: Point) -> Point:
    """Return the sum of two points."""
    (x1, y1), (x2, y2) = one, other
    both = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + both, -1, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - both, -1, P) % P
    return x, y


def times(scalar: int, point: Point) -> Point:
    """Return a multiple of a point."""
    result = NEUTRAL
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def recover(y: int, odd: int) -> Point | None:
    """Return the point with a y and the parity of its x, None if there is none."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P:
        return None
    return (x if x & 1 == odd else -x % P), y


def encode(point: Point) -> bytes:
    """Return the canonical 32 bytes of a point."""
    x, y = point
    return (y | (SIGN if x & 1 else 0)).to_bytes(32, "little")


def encodings(point: Point) -> list[bytes]:
    """Return every encoding that decodes to a point, the canonical one first."""
    x, y = point
    signs = (x & 1,) if x else (0, 1)
    heights = (y, y + P) if y + P < SIGN else (y,)
    return [(height | sign << 255).to_bytes(32, "little") for height in heights for sign in signs]


def _base() -> Point:
    base = recover(4 * pow(5, -1, P) % P, 0)
    assert base is not None
    return base


def _small_order() -> list[Point]:
    """Return the eight points whose order divides the cofactor, as multiples of one of order eight."""
    for y in count(2):
        point = recover(y, 0)
        generator = None if point is None else times(ORDER, point)
        if generator is not None and times(4, generator) != NEUTRAL:
            return [times(factor, generator) for factor in range(COFACTOR)]
    raise AssertionError


BASE = _base()
SMALL_ORDER = _small_order()
SECRET = int.from_bytes(hashlib.sha256(b"secret").digest(), "little") % ORDER
NONCE = int.from_bytes(hashlib.sha256(b"nonce").digest(), "little") % ORDER


@dataclass(frozen=True)
class Half:
    """A or R of a case.

    Attributes:
        encoded: 32 bytes.
        scalar: of the part of prime order; 0 for a point of small order.
        torsion: which point of small order, as a multiple of the generator.
        canonical: the only encoding that RFC 8032 allows.
    """

    encoded: bytes
    scalar: int
    torsion: int
    canonical: bool


@dataclass(frozen=True)
class Case:
    """A signature that some verifiers accept and others refuse.

    Attributes:
        residue: under the challenge it was made with, the parts of small order do not cancel out: only a verifier that
            multiplies by the cofactor accepts.
        reencoded: the challenge was computed from canonical encodings instead of those that were sent.
        fits: S B = R + k A holds to the letter under the challenge of what was sent.
    """

    key: Half
    nonce: Half
    residue: bool
    reencoded: bool
    fits: bool
    message: bytes
    signature: bytes


def halves(scalar: int) -> list[Half]:
    """Return small-order points in every encoding, and the point of a scalar with every small-order component."""
    small = [
        Half(encoded, 0, torsion, place == 0)
        for torsion, point in enumerate(SMALL_ORDER)
        for place, encoded in enumerate(encodings(point))
    ]
    prime = times(scalar, BASE)
    mixed = [
        Half(encode(add(prime, point)), scalar, torsion, canonical=True) for torsion, point in enumerate(SMALL_ORDER)
    ]
    return small + mixed


def cases() -> list[Case]:
    """Return every case that exists: each pair of halves, with and without residue, challenge re-encoded or not."""
    found = []
    for key, nonce in product(halves(SECRET), halves(NONCE)):
        is_plain = key.canonical and nonce.canonical
        for residue, reencoded in product((False, True), (False,) if is_plain else (False, True)):
            case = _case(key, nonce, residue=residue, reencoded=reencoded)
            if case is not None:
                found.append(case)
    return found


def _case(key: Half, nonce: Half, *, residue: bool, reencoded: bool) -> Case | None:
    """Look for a message with or without residue; None where no message can have it."""
    for number in range(64):
        message = f"ed25519 edge {number}".encode()
        sent = _challenge(nonce.encoded, key.encoded, message)
        canonical = _challenge(_canonical(nonce), _canonical(key), message)
        challenge = canonical if reencoded else sent
        left = (nonce.torsion + challenge * key.torsion) % COFACTOR
        if (left != 0) == residue:
            scalar = (nonce.scalar + challenge * key.scalar) % ORDER
            is_equal = (nonce.scalar + sent * key.scalar) % ORDER == scalar
            fits = is_equal and (nonce.torsion + sent * key.torsion) % COFACTOR == 0
            signature = nonce.encoded + scalar.to_bytes(32, "little")
            return Case(key, nonce, residue, reencoded, fits, message, signature)
    return None


def _canonical(half: Half) -> bytes:
    return half.encoded if half.canonical else encode(SMALL_ORDER[half.torsion])


def _challenge(nonce: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(nonce + key + message).digest(), "little") % ORDER
