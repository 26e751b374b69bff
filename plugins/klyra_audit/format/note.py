"""Signed notes (C2SP signed-note v1.0.0) with Ed25519 signatures, algorithm 0x01."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from klyra_audit.format.errors import NoteError

if TYPE_CHECKING:
    from collections.abc import Sequence

ALGORITHM_ED25519: Final = 0x01
MAX_NOTE_BYTES: Final = 64 * 1024
MAX_SIGNATURES: Final = 100

_PREFIX = "\u2014 "
_KEY_ID_SIZE = 4
_PUBLIC_KEY_SIZE = 32


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key with its name, as written in a policy: ``<name>+<key id>+<base64>``."""

    name: str
    public: bytes

    @classmethod
    def parse(cls, vkey: str) -> VerifyingKey:
        """Read a verifier key line; `NoteError` if it is malformed or of another algorithm."""
        name, separator, rest = vkey.partition("+")
        key_id, separator2, encoded = rest.partition("+")
        material = _decode_base64(encoded)
        if not separator or not separator2 or len(material) != 1 + _PUBLIC_KEY_SIZE:
            raise NoteError("a verifier key is not of the form name+id+base64")
        if material[0] != ALGORITHM_ED25519:
            raise NoteError(f"signature algorithm 0x{material[0]:02x} is not supported here")
        key = cls(_checked_name(name), material[1:])
        if key.key_id.hex() != key_id:
            raise NoteError("a verifier key's id does not belong to its name and key")
        return key

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that select this key on a signature line."""
        material = self.name.encode() + b"\n" + bytes([ALGORITHM_ED25519]) + self.public
        return hashlib.sha256(material).digest()[:_KEY_ID_SIZE]

    def __str__(self) -> str:
        material = bytes([ALGORITHM_ED25519]) + self.public
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(material).decode()}"

    def check(self, message: bytes, signature: bytes) -> None:
        """Raise `NoteError` unless `signature` is this key's over `message`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise NoteError(f"the signature of {self.name} does not verify") from error


class SigningKey:
    """An Ed25519 private key with the name it signs under."""

    def __init__(self, name: str, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifying_key = VerifyingKey(_checked_name(name), self._private.public_key().public_bytes_raw())

    @property
    def vkey(self) -> str:
        """The verifier key line to publish."""
        return str(self.verifying_key)

    def signature_line(self, text: str) -> str:
        """Return the signature line of this key for a note's text."""
        signature = self._private.sign(text.encode())
        encoded = base64.b64encode(self.verifying_key.key_id + signature).decode()
        return f"{_PREFIX}{self.verifying_key.name} {encoded}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note of which at least one trusted key's signature was checked.

    Attributes:
        text: what was signed, with its final newline.
        signed_by: the trusted keys whose signatures verified, in the order of their lines.
    """

    text: str
    signed_by: tuple[VerifyingKey, ...]


def sign(text: str, keys: Sequence[SigningKey]) -> bytes:
    """Return the signed note over `text`, which ends with a newline."""
    _check_text(text)
    return (text + "\n" + "".join(key.signature_line(text) for key in keys)).encode()


def open_note(encoded: bytes, keys: Sequence[VerifyingKey]) -> Note:
    """Return the note if one of `keys` signed it.

    Lines of unknown keys are ignored; a known key whose signature fails condemns the whole note.

    Raises:
        NoteError: malformed, a known key's signature fails, or none of the keys signed.
    """
    text, lines = _split(encoded)
    known = {(key.name, key.key_id): key for key in keys}
    signed_by: list[VerifyingKey] = []
    for name, key_id, signature in map(_parse_line, lines):
        key = known.get((name, key_id))
        if key is not None and key not in signed_by:
            key.check(text.encode(), signature)
            signed_by.append(key)
    if not signed_by:
        raise NoteError("no trusted key signed this note")
    return Note(text, tuple(signed_by))


def _split(encoded: bytes) -> tuple[str, list[str]]:
    if len(encoded) > MAX_NOTE_BYTES:
        raise NoteError(f"a note is longer than {MAX_NOTE_BYTES} bytes")
    try:
        decoded = encoded.decode()
    except UnicodeDecodeError as error:
        raise NoteError("a note is not UTF-8") from error
    text, separator, signatures = decoded.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise NoteError("a note has no signatures")
    text += "\n"
    _check_text(text)
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"a note has more than {MAX_SIGNATURES} signatures")
    return text, lines


def _parse_line(line: str) -> tuple[str, bytes, bytes]:
    if not line.startswith(_PREFIX):
        raise NoteError("a signature line does not begin with an em dash and a space")
    name, separator, encoded = line.removeprefix(_PREFIX).partition(" ")
    material = _decode_base64(encoded)
    if not separator or len(material) <= _KEY_ID_SIZE:
        raise NoteError("a signature line is not of the form name base64")
    return _checked_name(name), material[:_KEY_ID_SIZE], material[_KEY_ID_SIZE:]


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise NoteError("the text of a note must end with a newline")
    if any(character < " " and character != "\n" for character in text):
        raise NoteError("the text of a note has a control character")


def _checked_name(name: str) -> str:
    if not name or "+" in name or any(character.isspace() or character < " " for character in name):
        raise NoteError("a key name must not be empty or have spaces or a plus sign")
    return name


def _decode_base64(encoded: str) -> bytes:
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteError("base64 is malformed") from error
    # Python ignores spare bits in the last character; two spellings of one signature must not both pass.
    if base64.b64encode(decoded).decode() != encoded:
        raise NoteError("base64 is not in its only canonical spelling")
    return decoded
