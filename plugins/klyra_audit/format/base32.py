"""128-bit numbers as people read them: 26 characters of lower-case Crockford base32."""

from __future__ import annotations

from typing import Final

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"

_LENGTH: Final = 26  # 130 bits of base32 carry 128
_PAIRS: Final = tuple(first + second for first in ALPHABET for second in ALPHABET)  # 10 bits at a time


def encode_base32(value: int) -> str:
    """Return a 128-bit number as 26 characters, most significant first."""
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(5 * _LENGTH - 10, -1, -10)])
