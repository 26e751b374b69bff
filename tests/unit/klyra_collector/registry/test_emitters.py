"""Signing keys of emitters: which are refused, how they are added and revoked, and what the log is told."""

from __future__ import annotations

import base64
import hashlib

import pytest
from sqlalchemy import create_engine, text

from klyra_audit.errors import Rejected
from klyra_audit.format.note import ALGORITHM_COSIGNATURE, SigningKey
from klyra_collector.registry import Registry
from klyra_collector.registry.database import SCHEMA_VERSION

EMITTER = "billing"
KEY = SigningKey.from_seed(EMITTER, b"\x07" * 32).vkey
OTHER_KEY = SigningKey.from_seed(EMITTER, b"\x08" * 32).vkey

_P = 2**255 - 19
_EIGHTH = int.from_bytes(  # y of points of order 8
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)


def _encoded(y: int, sign: int = 0) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


# The eight points whose order divides the cofactor.
SMALL_ORDER = {
    "order 1": _encoded(1),
    "order 2": _encoded(_P - 1),
    "order 4": _encoded(0),
    "order 4, negative": _encoded(0, 1),
    "order 8, a": _encoded(_EIGHTH),
    "order 8, a, negative": _encoded(_EIGHTH, 1),
    "order 8, b": _encoded(_P - _EIGHTH),
    "order 8, b, negative": _encoded(_P - _EIGHTH, 1),
}
NON_CANONICAL = {
    "1 with a sign": _encoded(1, 1),
    "-1 with a sign": _encoded(_P - 1, 1),
    "p": _encoded(_P),
    "p with a sign": _encoded(_P, 1),
    "p + 1": _encoded(_P + 1),
    "p + 1 with a sign": _encoded(_P + 1, 1),
    "2^255 - 1": _encoded(2**255 - 1),
}
NO_POINT = {"y = 2": _encoded(2)}


def vkey_of(public: bytes, name: str = EMITTER, algorithm: int = 1) -> str:
    """Return a well-formed verifier key line of any bytes."""
    material = bytes([algorithm]) + public
    key_id = hashlib.sha256(name.encode() + b"\n" + material).digest()[:4]
    return f"{name}+{key_id.hex()}+{base64.b64encode(material).decode()}"


def key_commands(told) -> list[dict]:
    """Return the payloads of the new commands that announce keys."""
    return [command.payload for command in told.new() if command.kind == "emitter_key"]


def test_added(registry, admin, told) -> None:
    """It is listed, and the log is told twice: by a KEY record and by an entry."""
    key, command_id = registry.add_emitter_key(EMITTER, KEY, "org_a", by=admin)
    assert registry.emitter_keys("org_a") == registry.keys_of_emitter(EMITTER) == [key]
    announcement, entry = told.new()
    assert (announcement.command_id, announcement.kind, announcement.organization_id) == (
        command_id,
        "emitter_key",
        "org_a",
    )
    assert announcement.payload == {
        "emitter_id": EMITTER,
        "vkey": KEY,
        "organization_id": "org_a",
        "revoked_after_seq": None,
    }
    document = entry.payload["document"]
    assert (document["event_type"], document["resource"]["id"]) == ("emitter_key.added", EMITTER)
    assert document["metadata"] == {"vkey": KEY}


def test_shared(registry, admin, told) -> None:
    """An emitter that organizations share is the operator's."""
    key, _ = registry.add_emitter_key(EMITTER, KEY, None, by=admin)
    assert registry.emitter_keys("operator") == registry.emitter_keys() == [key]
    assert registry.emitter_keys("org_a") == []
    assert {command.organization_id for command in told.new()} == {"operator"}


@pytest.mark.parametrize("encodings", [SMALL_ORDER, NON_CANONICAL, NO_POINT], ids=["small", "non-canonical", "none"])
def test_keys_under_which_anyone_could_sign(registry, admin, told, encodings) -> None:
    """All eight small-order points, other spellings of points, and what is no point at all."""
    for public in encodings.values():
        with pytest.raises(Rejected) as caught:
            registry.add_emitter_key(EMITTER, vkey_of(public), "org_a", by=admin)
        assert (caught.value.code, bool(caught.value.remedy)) == ("bad_vkey", True)
    assert (registry.emitter_keys(), told.new()) == ([], [])


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "billing",
        KEY[:-4],
        KEY.replace("billing+", "billinG+"),
        SigningKey.from_seed("another", b"\x07" * 32).vkey,
        SigningKey.from_seed(EMITTER, b"\x07" * 32, ALGORITHM_COSIGNATURE).vkey,
        vkey_of(bytes(31)),
        vkey_of(bytes(32), algorithm=9),
    ],
)
def test_lines_that_are_no_key_of_the_emitter(registry, admin, vkey) -> None:
    """Malformed, cut off, named for another, of another kind."""
    with pytest.raises(Rejected) as caught:
        registry.add_emitter_key(EMITTER, vkey, "org_a", by=admin)
    assert (caught.value.code, bool(caught.value.remedy)) == ("bad_vkey", True)


@pytest.mark.parametrize("emitter_id", ["", "two words", "a+b", "ä", "x" * 257, "tab\t"])
def test_names_that_cannot_sign(registry, admin, emitter_id) -> None:
    """What cannot stand as a key's name in a signed note."""
    with pytest.raises(Rejected) as caught:
        registry.add_emitter_key(emitter_id, KEY, "org_a", by=admin)
    assert (caught.value.code, bool(caught.value.remedy)) == ("bad_emitter_id", True)


def test_twice(registry, admin, told) -> None:
    """Refused, also for another organization and after it was revoked."""
    registry.add_emitter_key(EMITTER, KEY, "org_a", by=admin)
    registry.revoke_emitter_key(KEY, by=admin)
    told.new()
    with pytest.raises(Rejected) as caught:
        registry.add_emitter_key(EMITTER, KEY, None, by=admin)
    assert (caught.value.code, bool(caught.value.remedy), told.new()) == ("emitter_key_exists", True, [])


def test_an_unknown_organization(registry, admin) -> None:
    """Nothing is registered."""
    with pytest.raises(Rejected) as caught:
        registry.add_emitter_key(EMITTER, KEY, "org_nobody", by=admin)
    assert (caught.value.code, registry.emitter_keys()) == ("unknown_organization", [])


@pytest.mark.parametrize(("untrusted_from", "last"), [(None, 2**32 - 1), (1, 0), (18210, 18209)])
def test_revoked(registry, admin, told, untrusted_from, last) -> None:
    """What is believed ends with the number before; without one, with whatever was sealed before."""
    registry.add_emitter_key(EMITTER, KEY, "org_a", by=admin)
    registry.add_emitter_key(EMITTER, OTHER_KEY, "org_a", by=admin)
    told.new()
    key, command_id = registry.revoke_emitter_key(KEY, untrusted_from, by=admin)
    assert (key.revoked_after_seq, key.revoked_at is None) == (last, False)
    commands = told.new()
    assert (commands[0].command_id, commands[0].payload["revoked_after_seq"]) == (command_id, last)
    assert commands[1].payload["document"]["event_type"] == "emitter_key.revoked"
    assert commands[1].payload["document"]["metadata"] == {"vkey": KEY, "revoked_after_seq": last}
    assert [key.revoked_at is None for key in registry.keys_of_emitter(EMITTER)].count(True) == 1


def test_revoked_again(registry, admin, told) -> None:
    """Nothing changes and nothing is recorded."""
    registry.add_emitter_key(EMITTER, KEY, "org_a", by=admin)
    first, _ = registry.revoke_emitter_key(KEY, 5, by=admin)
    told.new()
    assert registry.revoke_emitter_key(KEY, 3, by=admin) == (first, None)
    assert told.new() == []


def test_an_unknown_key(registry, admin) -> None:
    """Named, with the command that lists those there are."""
    with pytest.raises(Rejected) as caught:
        registry.revoke_emitter_key(KEY, by=admin)
    assert (caught.value.code, "emitter list" in caught.value.remedy) == ("unknown_emitter_key", True)


@pytest.mark.parametrize("untrusted_from", [0, -1, 2**32])
def test_sequence_numbers_that_are_none(registry, admin, untrusted_from) -> None:
    """A KEY record cannot say that not even number 0 is believed."""
    registry.add_emitter_key(EMITTER, KEY, "org_a", by=admin)
    with pytest.raises(Rejected) as caught:
        registry.revoke_emitter_key(KEY, untrusted_from, by=admin)
    assert (caught.value.code, bool(caught.value.remedy)) == ("bad_sequence", True)


def test_a_registry_from_before_there_were_emitter_keys(url, catalog, admin) -> None:
    """Opening it adds the table and keeps everything else."""
    with Registry.open(url, catalog) as registry:
        registry.create_organization("org_a", "business", by=admin)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE emitter_keys"))
        connection.execute(text("UPDATE registry SET schema_version = 1"))
    engine.dispose()
    with Registry.open(url, catalog) as registry:
        registry.add_emitter_key(EMITTER, KEY, "org_a", by=admin)
        assert registry.organization("org_a") is not None
    engine = create_engine(url)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT schema_version FROM registry")).scalar_one() == SCHEMA_VERSION
    engine.dispose()
