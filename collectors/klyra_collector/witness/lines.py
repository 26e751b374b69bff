"""Signature lines of notes, one by one: which key each is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klyra_audit.format.keys import KEY_ID_SIZE, decode_base64

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klyra_audit.format.keys import VerifyingKey


def first_line_of(lines: Iterable[str], key: VerifyingKey) -> str | None:
    """Return the first signature line that names a key, unchecked; None if there is none.

    Raises:
        NoteError: a line of the key's name is not base64.
    """
    return next((line for line in lines if is_line_of(line, key)), None)


def is_line_of(line: str, key: VerifyingKey) -> bool:
    """Say whether a signature line, with or without its newline, names a key; raises as `first_line_of`."""
    dash, name, material = (*line.rstrip("\n").split(" "), "", "")[:3]
    return (dash, name) == ("\u2014", key.name) and decode_base64(material)[:KEY_ID_SIZE] == key.key_id
