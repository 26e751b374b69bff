"""The text of an API key: pure functions, no database (DESIGN section 7).

    klyra_sk_<12-character id>_<43-character base64url secret>_<6-character checksum>

The id is 60 random bits and public; the secret is 256. The checksum is the first 30 bits of SHA-256 of everything
before its underscore, as six characters of lower-case Crockford base32: it tells a typing error from an unknown
key without asking the registry, and proves nothing else. What is stored is SHA-256 of the whole text: the secret
has too much entropy to be guessed from it, so nothing slower is needed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Final

from klyra_audit.format.base32 import ALPHABET

KEY_ID_PREFIX: Final = "key_"

_ID_LENGTH = 12
_SECRET_BYTES = 32  # 43 characters of base64url
_CHECKSUM_LENGTH = 6
_SHAPE = re.compile(r"(klyra_sk_([0-9a-z]{12})_[0-9A-Za-z_-]{43})_([0-9a-z]{6})", re.ASCII)


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A well-formed key as someone presents it: which one it claims to be, and the digest that would prove it."""

    key_id: str
    digest: bytes


def new_key_id() -> str:
    """Return a fresh public id, `key_…`."""
    return KEY_ID_PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(_ID_LENGTH))


def new_key_text(key_id: str) -> str:
    """Return a key with a fresh secret for a public id."""
    body = f"klyra_sk_{key_id.removeprefix(KEY_ID_PREFIX)}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return f"{body}_{_checksum(body)}"


def parse(text: str) -> PresentedKey | None:
    """Return what a text claims, or None if its form or its checksum is wrong."""
    match = _SHAPE.fullmatch(text)
    if match is None or match[3] != _checksum(match[1]):
        return None
    return PresentedKey(KEY_ID_PREFIX + match[2], digest_of(text))


def digest_of(text: str) -> bytes:
    """Return what the registry keeps of a secret text: its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()  # whatever a header may hold


def _checksum(body: str) -> str:
    bits = int.from_bytes(digest_of(body)[:4], "big") >> 2
    return "".join(ALPHABET[bits >> shift & 31] for shift in range(5 * (_CHECKSUM_LENGTH - 1), -1, -5))
