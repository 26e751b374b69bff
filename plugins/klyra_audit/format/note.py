"""Signed notes (C2SP signed-note v1.0.0): a text with signature lines of named keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.format.errors import NoteError
from klyra_audit.format.keys import (
    ALGORITHM_COSIGNATURE,
    ALGORITHM_ED25519,
    ALGORITHM_ML_DSA_44,
    KEY_ID_SIZE,
    Signer,
    SigningKey,
    VerifyingKey,
    checked_name,
    decode_base64,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ALGORITHM_COSIGNATURE",
    "ALGORITHM_ED25519",
    "ALGORITHM_ML_DSA_44",
    "Note",
    "Signature",
    "Signer",
    "SigningKey",
    "VerifyingKey",
    "append_lines",
    "open_note",
    "sign",
    "signature_lines",
]

MAX_NOTE_BYTES: Final = 64 * 1024
MAX_SIGNATURES: Final = 100

_PREFIX = "\u2014 "


class Signature(NamedTuple):
    """A signature that was checked; `time` is that of a cosignature in seconds since 1970, else None."""

    key: VerifyingKey
    time: int | None


@dataclass(frozen=True, slots=True)
class Note:
    """A note of which at least one trusted key's signature was checked.

    Attributes:
        text: what was signed, with its final newline.
        signatures: those of trusted keys, in the order of their lines.
    """

    text: str
    signatures: tuple[Signature, ...]

    @property
    def signed_by(self) -> tuple[VerifyingKey, ...]:
        """The trusted keys whose signatures verified."""
        return tuple(signature.key for signature in self.signatures)


def sign(text: str, keys: Sequence[SigningKey]) -> bytes:
    """Return the signed note over `text`, which ends with a newline; the keys are none of cosigners."""
    _check_text(text)
    return (text + "\n" + "".join(key.signature_line(text) for key in keys)).encode()


def append_lines(encoded: bytes, lines: Iterable[str]) -> bytes:
    """Return a note with further signature lines, each with its newline; lines that it has are not repeated.

    Raises:
        NoteError: the note or a line is malformed, or the note would be too long.
    """
    _, present = _split(encoded)
    added = [line for line in dict.fromkeys(lines) if line.removesuffix("\n") not in present]
    extended = encoded + "".join(added).encode()
    _, every = _split(extended)
    for line in every:
        _parse_line(line)
    return extended


def signature_lines(encoded: bytes) -> list[str]:
    """Return a note's signature lines, each with its newline; `NoteError` if it is malformed."""
    return [f"{line}\n" for line in _split(encoded)[1]]


def open_note(encoded: bytes, keys: Sequence[VerifyingKey]) -> Note:
    """Return the note if one of `keys` signed it.

    Lines of unknown keys are ignored; a known key whose signature fails condemns the whole note.

    Raises:
        NoteError: malformed, a known key's signature fails, or none of the keys signed.
    """
    text, lines = _split(encoded)
    known = {(key.name, key.key_id): key for key in keys}
    signatures: dict[VerifyingKey, int | None] = {}
    for name, key_id, signature in map(_parse_line, lines):
        key = known.get((name, key_id))
        if key is not None:
            time = key.check(text, signature)
            signatures.setdefault(key, time)
    if not signatures:
        raise NoteError("no trusted key signed this note")
    return Note(text, tuple(Signature(key, time) for key, time in signatures.items()))


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
    material = decode_base64(encoded)
    if not separator or len(material) <= KEY_ID_SIZE:
        raise NoteError("a signature line is not of the form name base64")
    return checked_name(name), material[:KEY_ID_SIZE], material[KEY_ID_SIZE:]


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise NoteError("the text of a note must end with a newline")
    if any(character < " " and character != "\n" for character in text):
        raise NoteError("the text of a note has a control character")
