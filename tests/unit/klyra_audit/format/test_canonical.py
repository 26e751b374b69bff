"""Canonical JSON of the restricted profile."""

from __future__ import annotations

import contextlib
import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.format import canonical
from klyra_audit.format.errors import ProfileError

KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SCALARS = st.none() | st.booleans() | TEXT | st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=8).filter(lambda document: depth(document) <= canonical.MAX_DEPTH)


def depth(value: object) -> int:
    """Return how many containers are nested in `value`, itself included."""
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(DOCUMENTS)
def test_equals_rfc_8785_on_every_document_of_the_profile(document) -> None:
    """The output is RFC 8785, judged by an independent implementation."""
    assert canonical.encode(document) == rfc8785.dumps(document)


@given(DOCUMENTS)
def test_parsing_returns_the_document(document) -> None:
    """Canonical bytes and any other spelling parse back to the same document."""
    assert canonical.parse_canonical(canonical.encode(document)) == document
    assert canonical.parse(json.dumps(document, indent=2).encode()) == document


@given(DOCUMENTS)
def test_only_canonical_bytes_are_canonical(document) -> None:
    """Another spelling of the same document is refused where canonical bytes are asked for."""
    with pytest.raises(ProfileError, match="not in canonical form"):
        canonical.parse_canonical(canonical.encode(document) + b" ")


def nested(levels: int):
    """Return an object of `levels` nested objects."""
    return {"a": nested(levels - 1)} if levels > 1 else {}


@pytest.mark.parametrize(
    ("document", "pointer", "reason"),
    [
        ({"score": 0.5}, "/score", "floating-point"),
        ({"list": [1, 2.0]}, "/list/1", "floating-point"),
        ({"n": 2**53}, "/n", "2\\^53"),
        ({"n": -(2**53)}, "/n", "2\\^53"),
        ({"a b": 1}, "", "key"),
        ({"": 1}, "", "key"),
        ({"k\u00e9": 1}, "", "key"),
        ({"x": {"k" * 129: 1}}, "/x", "key"),
        ({"a/b": {"c~d": 1.5}}, "/a~1b/c~0d", "floating-point"),
        (nested(9), "/a" * 8, "nested deeper"),
        ({"s": "\ud800"}, "", "surrogate"),
        ({"s": "x" * canonical.MAX_BYTES}, "", "limit"),
        ([], "", "not a JSON object"),
        ({"b": b"bytes"}, "/b", "not a JSON value"),
    ],
)
def test_refuses_what_breaks_the_profile(document, pointer, reason) -> None:
    """A document outside the profile is refused with the pointer of the place."""
    with pytest.raises(ProfileError, match=reason) as caught:
        canonical.encode(document)
    assert caught.value.pointer == pointer


def test_accepts_the_limits_themselves() -> None:
    """Depth 8, a key of 128 characters and integers of 2^53 - 1 are of the profile."""
    canonical.encode(nested(8))
    canonical.encode({"k" * 128: canonical.MAX_INTEGER, "m": -canonical.MAX_INTEGER})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a":1,"a":1}', "same key twice"),
        (b'{"x":{"a":1,"a":2}}', "same key twice"),
        (b'{"a":1.0}', "floating-point"),
        (b'{"a":1e2}', "floating-point"),
        (b'{"a":NaN}', "floating-point"),
        (b'{"a":Infinity}', "floating-point"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":123456789012345678901234}', "2\\^53"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a":1', "not JSON at character"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'\xef\xbb\xbf{"a":1}', "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"1", "not a JSON object"),
        (b'{"a":' * 100_000, "nested deeper|not JSON"),
        (b'{"a":"' + b"x" * canonical.MAX_TEXT_BYTES + b'"}', "limit"),
    ],
)
def test_refuses_hostile_text(text, reason) -> None:
    """Text that is no document of the profile is refused, whatever it is."""
    for parse in (canonical.parse, canonical.parse_canonical):
        with pytest.raises(ProfileError, match=reason):
            parse(text)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_only_profile_errors(text) -> None:
    """No input leads to another exception."""
    with contextlib.suppress(ProfileError):
        canonical.parse(text)
