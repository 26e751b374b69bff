"""Signatures that records bring along: which are believed, which are refused, which are only kept."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from klyra_audit.errors import InvalidEvent
from klyra_audit.format import canonical, sections
from klyra_audit.format.errors import ProfileError
from klyra_audit.format.sections import NO_MARKS
from klyra_collector.config import SigningProcessorSettings
from klyra_collector.errors import SecretUnavailable
from klyra_collector.receive.signing_keys import BadSigningKey, TrustedKey, load_keys
from klyra_collector.receive.signing_processor import SignatureCheck, payload_of, place_signature, without_signature
from klyra_collector.receive.wire import decode_protobuf
from klyra_collector.receive.wire_json import decode_json
from support import otlp
from support.records import document
from support.signing import SECRET, Processor

PUBLISHED = json.loads((Path(__file__).parents[3] / "vectors" / "signing_processor.json").read_text())
ORGANIZATION = "org_acme"


@pytest.fixture(scope="module", params=["EdDSA", "ES256", "RS256", "RS512", "HMAC-SHA256"])
def processor(request) -> Processor:
    """A processor of each algorithm."""
    return Processor.of(request.param)


def keys_of(processor: Processor, folder: Path, **settings: Any) -> tuple[TrustedKey, ...]:
    """Return a processor's key as configured."""
    if processor.private is None:
        secret = folder / "secret"
        secret.write_text(base64.b64encode(SECRET).decode() + "\n")
        return load_keys([SigningProcessorSettings(hmac_key=f"file:{secret}", **settings)])
    return load_keys([SigningProcessorSettings(certificate=processor.write_certificate(folder), **settings)])


def checked(keys: tuple[TrustedKey, ...], request: bytes, **changes: Any) -> Any:
    """Return the verdict on a request's only record, some of its members changed."""
    [wire] = decode_protobuf(request)
    record = wire.foreign()
    attributes = record.attributes | changes.pop("attributes", {})
    resource = wire.resource | changes.pop("resource", {})
    return SignatureCheck(keys).check(record._replace(attributes=attributes, **changes), resource, ORGANIZATION)


class TestVectors:
    """Records of the processor itself."""

    @pytest.fixture
    def keys(self, tmp_path) -> tuple[TrustedKey, ...]:
        """Its published certificate, registered."""
        path = tmp_path / "certificate.pem"
        path.write_text(PUBLISHED["certificate_pem"])
        return load_keys([SigningProcessorSettings(certificate=path)])

    @pytest.mark.parametrize("encoding", ["protobuf", "json"])
    @pytest.mark.parametrize("vector", PUBLISHED["vectors"], ids=lambda vector: vector["name"])
    def test_each_verifies_in_both_encodings(self, keys, vector, encoding) -> None:
        """Protobuf and JSON give the same canonical bytes, and its signature verifies over them."""
        if encoding == "protobuf":
            [wire] = decode_protobuf(base64.b64decode(vector["protobuf"]))
        else:
            [wire] = decode_json(json.dumps(vector["json"]).encode())
        record = wire.foreign()
        assert payload_of(record) == vector["canonical"].encode()
        record.attributes["audit.integrity.value"] = vector["value"]
        resource = {
            "audit.integrity.algorithm": "EdDSA",
            "audit.integrity.certificate": PUBLISHED["certificate"],
        }
        signature = SignatureCheck(keys).check(record, resource, None)
        assert signature.key is keys[0]
        assert signature.payload == vector["canonical"].encode()


class TestVerdicts:
    """What becomes of a signature."""

    def test_a_registered_key_verifies(self, processor, tmp_path) -> None:
        """Every algorithm of the processor is checked with the key configured for it."""
        keys = keys_of(processor, tmp_path)
        signature = checked(keys, processor.signed(otlp.foreign(otlp.MAPPED)))
        assert (signature.key, signature.reason, signature.signer) == (keys[0], "", "producer")

    @pytest.mark.parametrize(
        "change",
        [
            {"event_name": "user.added"},
            {"body": "removed by another hand"},
            {"body": None},
            {"attributes": {"audit.actor.id": "usr_2"}},
            {"attributes": {"another": None}},
            {"time_unix_nano": 1},
            {"trace_id": "ff" * 16},
            {"attributes": {"audit.integrity.value": base64.b64encode(bytes(64)).decode()}},
            {"attributes": {"audit.integrity.value": "no base64"}},
            {"attributes": {"audit.integrity.value": 5}},
        ],
        ids=str,
    )
    def test_a_changed_record_is_refused(self, processor, tmp_path, change) -> None:
        """Nothing that is signed can be changed, and no signature be replaced."""
        with pytest.raises(InvalidEvent) as caught:
            checked(keys_of(processor, tmp_path), processor.signed(otlp.foreign(otlp.MAPPED)), **change)
        assert caught.value.code == "bad_signature"
        assert caught.value.pointer == "/attributes/audit.integrity.value"

    def test_what_is_not_signed_may_differ(self, processor, tmp_path) -> None:
        """Severity, flags and other integrity attributes are not covered, as the processor has it."""
        request = processor.signed(otlp.foreign(otlp.MAPPED))
        keys = keys_of(processor, tmp_path)
        assert checked(keys, request, severity_number=9, attributes={"audit.integrity.note": "x"}).key is keys[0]

    def test_a_record_without_a_signature(self) -> None:
        """Most records carry none; that is nothing to remark."""
        assert checked((), otlp.foreign(otlp.MAPPED)) is None

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"resource": {"audit.integrity.certificate": "sha256:" + "0" * 64}}, "unknown_key"),
            ({"resource": {"audit.integrity.algorithm": "PS256"}}, "unknown_algorithm"),
            ({"resource": {"audit.integrity.algorithm": None}}, "no_algorithm"),
            ({"attributes": {"audit.integrity.canonicalization": "cbor"}}, "unknown_canonicalization"),
            ({"attributes": {"audit.integrity.value": ["a", "b"]}}, "several_signatures"),
        ],
        ids=["key", "algorithm", "none", "canonicalization", "several"],
    )
    def test_what_cannot_be_checked_is_said_so(self, tmp_path, change, reason) -> None:
        """A signature that is beyond us is kept as unverified, with the reason."""
        processor = Processor.of("EdDSA")
        signature = checked(keys_of(processor, tmp_path), processor.signed(otlp.foreign(otlp.MAPPED)), **change)
        assert (signature.key, signature.reason) == (None, reason)
        assert signature.entry_member()["verified"] is False
        assert signature.entry_member()["reason"] == reason

    def test_an_algorithm_that_is_not_the_keys(self, tmp_path) -> None:
        """A record cannot talk the check into using a key for something else."""
        processor = Processor.of("ES256")
        with pytest.raises(InvalidEvent):
            checked(
                keys_of(processor, tmp_path),
                processor.signed(otlp.foreign(otlp.MAPPED)),
                resource={"audit.integrity.algorithm": "HMAC-SHA256"},
            )

    def test_a_key_of_another_organization_is_unknown(self, tmp_path) -> None:
        """A key signs for the organization it is registered for, or for all."""
        processor = Processor.of("EdDSA")
        request = processor.signed(otlp.foreign(otlp.MAPPED))
        assert checked(keys_of(processor, tmp_path, organization_id="org_other"), request).reason == "unknown_key"
        assert checked(keys_of(processor, tmp_path, organization_id=ORGANIZATION), request).key is not None

    def test_a_signature_may_be_required(self, tmp_path) -> None:
        """Then a record without one that verifies is refused: leaving it out is no way around the check."""
        processor = Processor.of("EdDSA")
        keys = keys_of(processor, tmp_path, organization_id=ORGANIZATION, required=True)
        signed = processor.signed(otlp.foreign(otlp.MAPPED))
        assert checked(keys, signed).key is keys[0]
        for request in (otlp.foreign(otlp.MAPPED), Processor.of("ES256").signed(otlp.foreign(otlp.MAPPED))):
            with pytest.raises(InvalidEvent, match="of a registered key") as caught:
                checked(keys, request)
            assert caught.value.code == "signature_required"
            assert caught.value.pointer == "/attributes/audit.integrity.value"
        [wire] = decode_protobuf(otlp.foreign(otlp.MAPPED))
        assert SignatureCheck(keys).check(wire.foreign(), {}, "org_other") is None

    def test_a_signed_record_with_nan(self, tmp_path) -> None:
        """No processor can have signed it: it is refused, whoever sends it, and stops nothing."""
        processor = Processor.of("EdDSA")
        request = processor.signed(otlp.foreign(otlp.MAPPED))
        with pytest.raises(InvalidEvent, match="no canonical form") as caught:
            checked(keys_of(processor, tmp_path), request, attributes={"ratio": float("nan")})
        assert caught.value.code == "bad_signature"

    def test_every_way_to_name_a_certificate(self, tmp_path) -> None:
        """Fingerprint, whole certificate, subject key identifier, key id, or nothing at all."""
        processor = Processor.of("RS256")
        keys = keys_of(processor, tmp_path, key_id="signer-2026")
        request = processor.signed(otlp.foreign(otlp.MAPPED))
        certificate = processor.certificate
        der = certificate.public_bytes(Encoding.DER)
        names = [
            base64.b64encode(der).decode(),
            f"sha1:{hashlib.sha1(der, usedforsecurity=False).hexdigest()}",
            certificate.extensions[0].value.digest.hex(),
            "signer-2026",
            None,
        ]
        for name in names:
            assert checked(keys, request, resource={"audit.integrity.certificate": name}).key is keys[0]

    def test_a_bare_public_key(self, tmp_path) -> None:
        """A key without a certificate is known by its key id, or by its own fingerprint."""
        processor = Processor.of("ES256")
        path = processor.write_public_key(tmp_path)
        keys = load_keys([SigningProcessorSettings(public_key=path, key_id="edge")])
        request = processor.signed(otlp.foreign(otlp.MAPPED))
        for name in ("edge", keys[0].name):
            assert checked(keys, request, resource={"audit.integrity.certificate": name}).key is keys[0]


class TestEntry:
    """What of a signature is kept."""

    @pytest.fixture
    def signature(self, tmp_path):
        """A verified signature."""
        processor = Processor.of("ES256")
        return checked(keys_of(processor, tmp_path), processor.signed(otlp.foreign(otlp.MAPPED)))

    def test_it_can_be_verified_again_from_the_entry_alone(self, signature) -> None:
        """Payload, value and public key stand in it, as text; a shared secret never does."""
        member = json.loads(canonical.encode({"signature": signature.entry_member()}))["signature"]
        public = load_der_public_key(base64.b64decode(member["public_key"]))
        public.verify(base64.b64decode(member["value"]), member["payload"].encode(), ec.ECDSA(hashes.SHA256()))
        assert member["verified"] is True
        assert json.loads(member["payload"])["event_name"] == "user.removed"

    def test_a_shared_secret_is_not_shown(self, tmp_path) -> None:
        """An entry verified by a shared secret names no key material."""
        processor = Processor.of("HMAC-SHA256")
        member = checked(keys_of(processor, tmp_path), processor.signed(otlp.foreign(otlp.MAPPED))).entry_member()
        assert set(member) == {"verified", "algorithm", "value", "signer", "canonicalization", "key", "payload"}
        assert member["key"] == "hmac"

    @pytest.mark.parametrize(("resource_type", "section"), [("user", "target"), ("ruleset", "actor")])
    def test_it_goes_with_the_personal_data_it_covers(self, signature, resource_type, section) -> None:
        """It stands in a section that can be erased, and joins back to the same document."""
        whole = document(ORGANIZATION)
        whole["resource"] = {"type": resource_type, "id": "x1", "name": None}
        encoded, marks = place_signature(whole, signature, NO_MARKS)
        parts = sections.split(whole, marks)
        assert b"/metadata/signature" in getattr(parts, section)
        assert b"signature" not in parts.core
        assert canonical.encode(sections.join(parts)) == encoded

    def test_a_payload_too_long_for_the_entry_is_left_out(self, signature) -> None:
        """The entry then keeps value and key; it is never refused for our own addition."""
        whole = document(ORGANIZATION)
        whole["metadata"]["note"] = "x" * (canonical.MAX_BYTES - len(canonical.encode(whole)) - 700)
        place_signature(whole, signature, NO_MARKS)
        assert whole["metadata"]["signature"]["value"] == signature.value
        assert "payload" not in whole["metadata"]["signature"]
        whole["metadata"]["note"] = "x" * canonical.MAX_BYTES
        with pytest.raises(ProfileError):
            place_signature(whole, signature, NO_MARKS)

    def test_the_senders_own_word_does_not_pass_for_ours(self) -> None:
        """A record cannot bring a `metadata.signature` of its own; it is kept under another name."""
        whole = document(ORGANIZATION)
        whole["metadata"] = {"signature": {"verified": True}, "sent_signature": "x"}
        encoded, marks = place_signature(whole, None, NO_MARKS)
        assert whole["metadata"] == {"sent_signature": "x", "sent_sent_signature": {"verified": True}}
        assert (json.loads(encoded)["metadata"], marks) == (whole["metadata"], NO_MARKS)

    def test_its_attributes_stand_in_one_place(self) -> None:
        """What the entry's signature says is not said again among its attributes; several signatures stay there."""
        [wire] = decode_protobuf(Processor.of("EdDSA").signed(otlp.foreign(otlp.MAPPED)))
        record = wire.foreign()
        assert "audit.integrity.value" not in without_signature(record).attributes
        several = record._replace(attributes={"audit.integrity.value": ["a", "b"]})
        assert without_signature(several) is several


class TestRegistration:
    """Which keys may be registered."""

    def test_weak_and_unknown_keys_are_refused(self, tmp_path) -> None:
        """RSA below 2048 bits, other curves, and what is no key at all."""
        path = tmp_path / "key.pem"
        weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
        for private in (weak, ec.generate_private_key(ec.SECP384R1())):
            path.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
            refused(SigningProcessorSettings(public_key=path), "neither Ed25519, P-256 nor RSA")
        path.write_text("no PEM")
        refused(SigningProcessorSettings(public_key=path), "is no public key")
        refused(SigningProcessorSettings(certificate=path), "is no certificate")
        refused(SigningProcessorSettings(certificate=tmp_path / "absent"), "cannot be read")

    def test_shared_secrets_are_checked_and_never_repeated(self, tmp_path) -> None:
        """They are base64 of at least 16 bytes, and no message shows one."""
        path = tmp_path / "secret"
        for text, reason in (("not base64!", "is not base64"), ("c2hvcnQ=", "fewer than 16 bytes")):
            path.write_text(text)
            assert text not in str(refused(SigningProcessorSettings(hmac_key=f"file:{path}"), reason))
        with pytest.raises(SecretUnavailable):
            load_keys([SigningProcessorSettings(hmac_key="env:KLYRA_TEST_NO_SUCH_VARIABLE")])

    @pytest.mark.parametrize(
        "members", [{}, {"certificate": "a", "public_key": "b"}, {"hmac_key": "c2VjcmV0"}], ids=str
    )
    def test_settings_name_exactly_one_key(self, members) -> None:
        """None, two, or a secret instead of a reference to one are errors of the configuration."""
        with pytest.raises(ValueError, match=r"exactly one|not the secret itself"):
            SigningProcessorSettings(**members)

    def test_a_key_never_verifies_by_another_algorithm(self) -> None:
        """An Ed25519 key is for EdDSA alone."""
        private = ed25519.Ed25519PrivateKey.generate()
        key = TrustedKey(name="k", references=frozenset(), public=private.public_key())
        assert key.verifies("EdDSA", private.sign(b"x"), b"x")
        assert not key.verifies("ES256", private.sign(b"x"), b"x")


def refused(settings: SigningProcessorSettings, reason: str) -> BadSigningKey:
    """Return the error for a key that is not taken; it names the setting and what to do."""
    with pytest.raises(BadSigningKey, match=reason) as caught:
        load_keys([settings])
    assert caught.value.code == "bad_signing_key"
    assert str(caught.value).startswith("signing_processor[0] ")
    assert "docs/opentelemetry-audit.md" in caught.value.remedy
    return caught.value
