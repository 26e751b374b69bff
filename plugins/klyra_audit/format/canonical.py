"""Canonical JSON: the only encoder whose output is ever hashed or signed (DESIGN section 4).

The output is RFC 8785. Its input is restricted to a profile in which `orjson` with sorted keys *is* RFC 8785:
printable ASCII keys (byte order equals UTF-16 order), no floats (no number formatting), integers within
2^53 - 1. What breaks the profile is refused with the JSON Pointer of the place, never coerced.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NoReturn

import orjson

from klyra_audit.format.errors import ProfileError

MAX_BYTES = 32 * 1024
MAX_DEPTH = 8
MAX_INTEGER = 2**53 - 1
MAX_KEY_CHARACTERS = 128
MAX_TEXT_BYTES = 1024 * 1024  # of JSON text before it is made canonical: white space may be generous

JsonObject = dict[str, Any]

_LOWEST, _HIGHEST = "\u0021", "\u007e"


def encode(document: JsonObject, *, max_key_characters: int = MAX_KEY_CHARACTERS) -> bytes:
    """Return the canonical bytes of a document.

    Args:
        document: a JSON object of the profile.
        max_key_characters: sections hold JSON Pointers as keys and allow 1,024.

    Raises:
        ProfileError: with the pointer of the first member that breaks the profile.
    """
    if type(document) is not dict or not _fits(document, MAX_DEPTH, max_key_characters):
        _explain(document, "", MAX_DEPTH, max_key_characters)
    encoded = _dump(document)
    if len(encoded) > MAX_BYTES:
        raise ProfileError(f"is {len(encoded)} bytes long; the limit is {MAX_BYTES}")
    return encoded


def encode_part(part: JsonObject) -> bytes:
    """Return the canonical bytes of a part of a document that was checked already."""
    return orjson.dumps(part, option=orjson.OPT_SORT_KEYS)


def parse(text: bytes) -> JsonObject:
    """Return the document of any JSON text of the profile, canonical or not.

    Raises:
        ProfileError: also for duplicate keys, floats, lone surrogates and text that is not JSON.
    """
    document = _load_canonical(text)
    if document is not None:
        return document
    loaded = _load_strictly(text)
    encode(loaded)
    return loaded


def parse_canonical(encoded: bytes, *, max_key_characters: int = MAX_KEY_CHARACTERS) -> JsonObject:
    """Return the document whose canonical bytes are exactly `encoded`.

    Raises:
        ProfileError: the bytes are not canonical, or not of the profile.
    """
    document = _load_canonical(encoded, max_key_characters)
    if document is None:
        encode(_load_strictly(encoded), max_key_characters=max_key_characters)
        raise ProfileError("is not in canonical form (RFC 8785)")
    return document


def _load_canonical(encoded: bytes, max_key_characters: int = MAX_KEY_CHARACTERS) -> JsonObject | None:
    """Return the document if `encoded` is canonical and of the profile: the hot path, without explanations."""
    if len(encoded) > MAX_BYTES:
        return None
    try:
        document = orjson.loads(encoded)
        # Equality also rules out duplicate keys, of which orjson keeps the last without a word.
        if orjson.dumps(document, option=orjson.OPT_SORT_KEYS) != encoded:
            return None
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    if type(document) is dict and _fits(document, MAX_DEPTH, max_key_characters):
        return document
    return None


def _fits(value: dict[str, Any] | list[Any], depth: int, max_key_characters: int) -> bool:
    if depth == 0:
        return False
    members: Any = value
    if type(value) is dict:
        for key in value:
            if not _is_key(key, max_key_characters):
                return False
        members = value.values()
    for member in members:
        kind = type(member)
        if kind is str or kind is bool or member is None:
            continue
        if kind is int:
            if -MAX_INTEGER <= member <= MAX_INTEGER:
                continue
            return False
        if (kind is not dict and kind is not list) or not _fits(member, depth - 1, max_key_characters):
            return False
    return True


@lru_cache(maxsize=4096)
def _is_key(key: object, max_characters: int) -> bool:
    return (
        type(key) is str
        and 0 < len(key) <= max_characters
        and all(_LOWEST <= character <= _HIGHEST for character in key)
    )


def _explain(value: object, pointer: str, depth: int, max_key_characters: int) -> None:
    """Raise for the first member that breaks the profile; the slow twin of `_fits`."""
    kind = type(value)
    if pointer == "" and kind is not dict:
        raise ProfileError("is not a JSON object")
    if kind is dict or kind is list:
        _explain_members(value, pointer, depth, max_key_characters)
    elif kind is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:  # type: ignore[operator] # kind is int
            raise ProfileError("is an integer beyond 2^53 - 1; write it as a string", pointer)
    elif kind is float:
        raise ProfileError("is a floating-point number; write it as a decimal string", pointer)
    elif kind is not str and kind is not bool and value is not None:
        raise ProfileError("is not a JSON value", pointer)


def _explain_members(value: Any, pointer: str, depth: int, max_key_characters: int) -> None:  # noqa: ANN401 - any JSON
    if depth == 0:
        raise ProfileError(f"is nested deeper than {MAX_DEPTH} levels", pointer)
    if type(value) is list:
        for position, member in enumerate(value):
            _explain(member, f"{pointer}/{position}", depth - 1, max_key_characters)
        return
    for key, member in value.items():
        if not _is_key(key, max_key_characters):
            raise ProfileError(
                f"has a key that is not 1 to {max_key_characters} printable ASCII characters without space",
                pointer,
            )
        _explain(member, f"{pointer}/{escape(key)}", depth - 1, max_key_characters)


def escape(token: str) -> str:
    """Return one reference token of a JSON Pointer (RFC 6901 section 3)."""
    return token.replace("~", "~0").replace("/", "~1")


def _dump(document: JsonObject) -> bytes:
    try:
        return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise ProfileError("has a string with a lone surrogate, which UTF-8 cannot carry") from error


def _load_strictly(text: bytes) -> JsonObject:
    """Parse JSON text with the standard library, whose hooks see what orjson resolves silently."""
    if len(text) > MAX_TEXT_BYTES:
        raise ProfileError(f"is {len(text)} bytes long; the limit is {MAX_TEXT_BYTES}")
    try:
        loaded = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_refuse_float,
            parse_constant=_refuse_float,
        )
    except UnicodeDecodeError as error:
        raise ProfileError("is not UTF-8") from error
    except RecursionError as error:
        raise ProfileError(f"is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        position = getattr(error, "pos", None)
        where = "" if position is None else f" at character {position}"
        raise ProfileError(f"is not JSON{where}") from error
    if type(loaded) is not dict:
        raise ProfileError("is not a JSON object")
    return loaded


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ProfileError("has the same key twice in one object")
    return members


def _refuse_float(_: str) -> NoReturn:
    raise ProfileError("has a floating-point number; write it as a decimal string")
