"""Tell public keys that are no safe Ed25519 key: for a point of small order anyone can make a valid signature.

Arithmetic of RFC 8032 section 5.1 on public values only, so it need not run in constant time.
"""

from __future__ import annotations

from typing import Final

ENCODED_SIZE: Final = 32

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_SQRT_MINUS_ONE = pow(2, (_P - 1) // 4, _P)
_COFACTOR_DOUBLINGS = 3


def weakness(encoded: bytes) -> str | None:
    """Return why 32 bytes must not be trusted as a public key, None for a sound one.

    Refused are encodings that are no point of the curve or not the only one of their point (RFC 8032 section
    5.1.3), and the eight points whose order divides the cofactor.
    """
    if len(encoded) != ENCODED_SIZE:
        return f"it is {len(encoded)} bytes long, not {ENCODED_SIZE}"
    y = int.from_bytes(encoded, "little") & (1 << 255) - 1
    if y >= _P:
        return "it is not in its only canonical encoding"
    x = _recover_x(y)
    if x is None:
        return "it is no point of the curve"
    if x == 0 and encoded[-1] >> 7:
        return "it is not in its only canonical encoding"
    return "it is a point of small order, for which anyone can sign" if _has_small_order(x, y) else None


def _recover_x(y: int) -> int | None:
    """Return a square root of x² = (y² - 1) / (d y² + 1), None if there is none."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _SQRT_MINUS_ONE % _P
    return x if (x * x - square) % _P == 0 else None


def _has_small_order(x: int, y: int) -> bool:
    """Say whether eight times the point is the neutral element (0, 1)."""
    for _ in range(_COFACTOR_DOUBLINGS):
        product = _D * x * x * y * y % _P
        x, y = (
            2 * x * y * pow(1 + product, -1, _P) % _P,
            (y * y + x * x) * pow(1 - product, -1, _P) % _P,
        )
    return (x, y) == (0, 1)
