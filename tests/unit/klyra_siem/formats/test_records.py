"""A record of any format, found alone and far from here, can be verified against the ledger."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from klyra_audit.audit_integrity import RecordKey
from klyra_audit.format import canonical
from klyra_audit.validation import Validator
from klyra_siem.errors import BadDestination
from klyra_siem.formats import NAMES, record_format
from klyra_siem.formats.integrity import NotACopy, integrity_of, read_copy, signed_bytes
from klyra_siem.formats.reading import Cut, Differs, compare, find_copy
from support.entries import TODAY_US
from support.siem.events import CATALOG, EVENT_TYPES, event, sealed, sealed_without

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = RecordKey(PRIVATE, certificate="key-1")


def record(name: str, entry, key=None) -> object:
    """Return what a SIEM has of an entry: a JSON object, or a line of text."""
    encoded = record_format(name, key).encode(entry)
    return json.loads(encoded) if record_format(name, None).content == "json" else encoded.decode()


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_the_events_of_these_tests_are_valid(event_type) -> None:
    """They satisfy the schema of their type."""
    document = event(event_type)
    Validator(CATALOG).check(document, canonical.encode(document), now_us=TODAY_US)


@pytest.mark.parametrize("name", NAMES)
class TestEveryFormat:
    """What holds whatever a record looks like."""

    def test_a_record_is_verified_by_itself(self, name) -> None:
        """The leaf is computed again from sections and salts, and it is the ledger's, for every event type."""
        for entry in sealed():
            copy, told = find_copy(record(name, entry))
            assert copy.mismatch() == ""
            assert (copy.log, copy.index, copy.leaf) == (entry.origin, entry.index, entry.leaf)
            assert copy.entry().encoded == entry.encoded
            compare(copy, told)

    @pytest.mark.parametrize("erased", [("actor",), ("target",), ("actor", "target")])
    def test_what_was_erased_is_not_in_it_and_it_is_verified_all_the_same(self, name, erased) -> None:
        """Of an erased section the record has the commitment."""
        entry = sealed_without("user.added", *erased)
        encoded = record_format(name, None).encode(entry).decode()
        personal = {"actor": ("usr_1", "Lovelace", "2001:db8::7"), "target": ("usr_2", "The user")}
        assert not any(word in encoded for section in erased for word in personal[section])
        copy, told = find_copy(record(name, entry))
        assert (copy.mismatch(), copy.redacted) == ("", erased)
        compare(copy, told)

    def test_a_changed_section_is_no_copy_of_its_leaf(self, name) -> None:
        """Whoever changes a word of the sealed text cannot make the leaf agree."""
        (entry,) = sealed(event("role.assigned"))
        parts = replace(entry.body.sections, core=entry.body.sections.core.replace(b"admin", b"Admin"))
        changed = replace(entry, body=replace(entry.body, sections=parts))
        copy, _ = find_copy(record(name, changed))
        assert copy.mismatch() == "its sections are not what its leaf commits to"

    def test_a_changed_field_differs_from_what_is_sealed(self, name) -> None:
        """What people search and see is compared with the sealed text too."""
        (entry,) = sealed(event("webhook.created"))
        text = record_format(name, None).encode(entry).decode()
        begin = text.index("Success" if '"Success"' in text else "success")
        changed = text[:begin] + text[begin] + "UCCESS" + text[begin + 7 :]
        copy, told = find_copy(changed)
        with pytest.raises(Differs) as raised:
            compare(copy, told)
        assert (raised.value.code, raised.value.remedy != "") == ("record_differs", True)

    def test_a_record_that_was_cut_off_says_so(self, name) -> None:
        """Vendors cut long records off; that is told apart from a change."""
        (entry,) = sealed(event("api_key.created"))
        text = record_format(name, None).encode(entry).decode()
        with pytest.raises(Cut) as raised:
            find_copy(text[: text.index('"sections') + 40].replace("=\n", "="))
        assert (raised.value.code, raised.value.remedy != "") == ("record_cut", True)

    def test_the_same_entry_gives_the_same_bytes(self, name) -> None:
        """Retries send what was sent before; a record has no line end."""
        (entry,) = sealed(event("moderation.appealed"))
        encoded = record_format(name, KEY).encode(entry)
        assert encoded == record_format(name, KEY).encode(entry)
        assert b"\n" not in encoded

    def test_a_signature_is_over_what_verification_reads(self, name) -> None:
        """The destination's key signs the integrity object; another object has another signature."""
        (entry,) = sealed(event("user.invited"))
        copy, told = find_copy(record(name, entry, KEY))
        signature = copy.members["signature"]
        value = base64.b64decode(signature["value"])
        assert (signature["algorithm"], signature["canonicalization"], signature["certificate"]) == (
            *("EdDSA", "jcs"),
            "key-1",
        )
        PRIVATE.public_key().verify(value, signed_bytes(copy.members))
        with pytest.raises(InvalidSignature):
            PRIVATE.public_key().verify(value, signed_bytes(copy.members | {"index": 7}))
        compare(copy, told)


class TestIntegrity:
    """The object that a copy is verified by."""

    def test_a_number_that_became_another_kind_of_number_is_read(self) -> None:
        """Some services give back 7 as 7.0 or as a text."""
        (entry,) = sealed(event("user.added"))
        members = integrity_of(entry, None)
        assert [read_copy(members | {"index": value}).index for value in (0, 0.0, "0")] == [0, 0, 0]

    @pytest.mark.parametrize(
        "change",
        [
            *({"leaf": "AA=="}, {"leaf": "!"}, {"salts": "AA=="}, {"sections": {}}, {"index": 1.5}, {"index": True}),
            *({"log": 1}, {"commitments": "AA=="}, {"sections": {"core": 1}}, {"sections": None}, {"index": "1e999"}),
            {"index": float("inf")},
        ],
    )
    def test_what_cannot_be_read_is_no_copy(self, change) -> None:
        """Hostile or damaged members are told from a copy."""
        (entry,) = sealed(event("user.added"))
        with pytest.raises(NotACopy) as raised:
            read_copy(integrity_of(entry, None) | change)
        assert (raised.value.code, raised.value.remedy != "") == ("not_a_copy", True)

    def test_another_entry_s_id_is_a_mismatch(self) -> None:
        """The id beside the sections is that inside them."""
        (entry,) = sealed(event("user.added"))
        copy = read_copy(integrity_of(entry, None) | {"id": "log_other"})
        assert copy.mismatch() == "its id or organization is not that of its sections"

    def test_a_record_without_it_is_no_copy(self) -> None:
        """A row that nobody here wrote is not taken for an entry."""
        for row in ({"message": "hello"}, "hello", {"klyra": 1}, [1, None], {"a": {"b": "{not json"}}):
            with pytest.raises(NotACopy):
                find_copy(row)


def test_an_unknown_format_names_those_there_are() -> None:
    """A misspelt format is refused when the destination is made."""
    with pytest.raises(BadDestination) as raised:
        record_format("ocsf", None)
    assert raised.value.code == "unknown_format"
    assert all(name in raised.value.remedy for name in NAMES)
