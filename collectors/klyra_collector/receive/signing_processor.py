"""Check the signature that a record brought along (`audit.integrity.*` of the OpenTelemetry audit draft). Pure.

What is signed is `klyra_audit.audit_canonical`'s form, the one of the Collector's `signingprocessor`. A signature that
is wrong makes the record invalid: it is quarantined, or refused where the whole batch is. A signature that cannot be
checked, for want of a registered key above all, is kept and said to be unverified: whoever could forge it could also
have left it out.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.audit_canonical import NotCanonical, SignedFields, canonical_record
from klyra_audit.audit_integrity import ALGORITHM, CANONICALIZATION, CERTIFICATE, JCS, SIGNER, VALUE
from klyra_audit.errors import InvalidEvent
from klyra_audit.format import canonical
from klyra_audit.format.errors import ProfileError
from klyra_audit.format.sections import Marks
from klyra_collector.receive.signing_keys import ALGORITHMS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.mapping.foreign import Foreign
    from klyra_collector.receive.signing_keys import TrustedKey

BAD_SIGNATURE: Final = "bad_signature"
SIGNATURE_REQUIRED: Final = "signature_required"
SIGNATURE_FAULTS: Final = frozenset({BAD_SIGNATURE, SIGNATURE_REQUIRED})
PRODUCER: Final = "producer"  # who signed, when the record does not say

_POINTER = f"/attributes/{VALUE}"
_PLACED = (VALUE, SIGNER, CANONICALIZATION)
_MEMBER = "signature"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a record's signature turned out to be.

    Attributes:
        value: base64, as it came.
        algorithm: as the resource says, "" if it does not.
        certificate: the resource's reference to the key, "" for none.
        signer: `producer` or `collector`, as the record says.
        canonicalization: as the record says; `jcs` if it does not.
        key: the registered key that verified it, None if it could not be checked.
        reason: why it could not be checked, "" if it was.
        payload: the canonical bytes it covers, b"" if it could not be checked.
    """

    value: str
    algorithm: str
    certificate: str
    signer: str
    canonicalization: str
    key: TrustedKey | None
    reason: str
    payload: bytes

    def entry_member(self) -> JsonObject:
        """Return `metadata.signature`: with the payload and the public key, so that it can be verified again."""
        member: JsonObject = {
            "verified": self.key is not None,
            "algorithm": self.algorithm,
            "value": self.value,
            "signer": self.signer,
            "canonicalization": self.canonicalization,
        }
        if self.key is None:
            return member | {"reason": self.reason, "key": self.certificate}
        member["key"] = self.key.name
        public = self.key.public_der
        if public is not None:
            member["public_key"] = base64.b64encode(public).decode()
        return member | {"payload": self.payload.decode()}


class SignatureCheck:
    """Checks signatures with the registered keys. Immutable."""

    def __init__(self, keys: Sequence[TrustedKey] = ()) -> None:
        self._keys = tuple(keys)
        self._required = frozenset(key.organization_id for key in keys if key.required)

    def check(self, record: Foreign, resource: Mapping[str, Any], organization_id: str | None) -> Signature | None:
        """Return what the record's signature is; None if it carries none.

        Args:
            record: as it came, with its `audit.integrity.*` attributes.
            resource: attributes of its resource, which name algorithm and key.
            organization_id: whose record it is; keys of others are not looked at. None looks at everybody's keys only.

        Raises:
            InvalidEvent: `bad_signature`: it is not a signature of the key that it names over this record;
                `signature_required`: it has none that verifies, and the organization's records must have one.
        """
        signature = self._check(record, resource, organization_id)
        if self._required and not self._required.isdisjoint((None, organization_id)):
            _require(signature)
        return signature

    def _check(self, record: Foreign, resource: Mapping[str, Any], organization_id: str | None) -> Signature | None:
        value = record.attributes.get(VALUE)
        if value is None:
            return None
        words = {name: _word(source.get(name)) for name, source in _sources(record, resource)}
        found = Signature(
            value=value if isinstance(value, str) else "",
            algorithm=words[ALGORITHM],
            certificate=words[CERTIFICATE],
            signer=words[SIGNER] or PRODUCER,
            canonicalization=words[CANONICALIZATION] or JCS,
            key=None,
            reason="",
            payload=b"",
        )
        keys = [key for key in self._keys if key.organization_id in (None, organization_id)]
        candidates = [key for key in keys if _may_be_meant(key, found)]
        reason = "several_signatures" if isinstance(value, list) else _unverifiable(found, candidates)
        return _with(found, reason=reason) if reason else _verified(found, candidates, record)


def without_signature(record: Foreign) -> Foreign:
    """Return the record without the attributes that `metadata.signature` takes up; several signatures stay."""
    if isinstance(record.attributes.get(VALUE), list):
        return record
    rest = {name: value for name, value in record.attributes.items() if name not in _PLACED}
    return record._replace(attributes=rest)


def place_signature(document: JsonObject, signature: Signature | None, marks: Marks) -> tuple[bytes, Marks]:
    """Put `metadata.signature` into a mapped document; return its canonical bytes and where to split it.

    The signature covers what actor and target sections hold, so it must go when they are erased: it stands in the
    target section of an entry about a user, in the actor section of any other. A payload that would make the entry
    too long is left out.

    Raises:
        ProfileError: the document breaks the JSON profile, with or without it.
    """
    metadata = document["metadata"]
    if _MEMBER in metadata:  # the sender's own must not pass for what was checked here
        name = f"sent_{_MEMBER}"
        while name in metadata:
            name = f"sent_{name}"
        metadata[name] = metadata.pop(_MEMBER)
    if signature is None:
        return canonical.encode(document), marks
    metadata[_MEMBER] = member = signature.entry_member()
    about_user = document["resource"]["type"] == "user"
    place = (f"/metadata/{_MEMBER}",)
    marks = Marks(marks.actor, marks.target + place) if about_user else Marks(marks.actor + place, marks.target)
    try:
        return canonical.encode(document), marks
    except ProfileError:
        if member.pop("payload", None) is None:
            raise
        return canonical.encode(document), marks


def payload_of(record: Foreign) -> bytes:
    """Return the canonical bytes of a record; `NotCanonical` if it has none."""
    return canonical_record(
        SignedFields(
            record.event_name,
            record.body,
            record.attributes,
            record.time_unix_nano,
            record.observed_time_unix_nano,
            record.trace_id,
            record.span_id,
        )
    )


def _verified(found: Signature, candidates: Sequence[TrustedKey], record: Foreign) -> Signature:
    try:
        payload = payload_of(record)
        raw = base64.b64decode(found.value, validate=True)
    except NotCanonical as error:
        raise InvalidEvent(
            f"is a signature over a record that has no canonical form: {error}", pointer=_POINTER, code=BAD_SIGNATURE
        ) from error
    except (binascii.Error, ValueError) as error:
        raise InvalidEvent("is no base64", pointer=_POINTER, code=BAD_SIGNATURE) from error
    for key in candidates:
        if key.verifies(found.algorithm, raw, payload):
            return _with(found, key=key, payload=payload)
    raise InvalidEvent("is not the named key's signature over this record", pointer=_POINTER, code=BAD_SIGNATURE)


def _require(signature: Signature | None) -> None:
    if signature is None or signature.key is None:
        why = f" ({signature.reason})" if signature is not None else ""
        raise InvalidEvent(f"must be a signature of a registered key{why}", pointer=_POINTER, code=SIGNATURE_REQUIRED)


def _may_be_meant(key: TrustedKey, found: Signature) -> bool:
    """Say whether a record means this key: it names it, or names none and the algorithm fits."""
    if found.certificate:
        return found.certificate in key.references
    return found.algorithm in key.algorithms


def _unverifiable(found: Signature, candidates: Sequence[TrustedKey]) -> str:
    """Return why a signature cannot be checked here, "" if it can."""
    if not found.algorithm:
        return "no_algorithm"
    if found.algorithm not in ALGORITHMS:
        return "unknown_algorithm"
    if found.canonicalization != JCS:
        return "unknown_canonicalization"
    return "" if candidates else "unknown_key"


def _sources(record: Foreign, resource: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    of_record = [(name, record.attributes) for name in (SIGNER, CANONICALIZATION)]
    return [*of_record, (ALGORITHM, resource), (CERTIFICATE, resource)]


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _with(found: Signature, *, reason: str = "", key: TrustedKey | None = None, payload: bytes = b"") -> Signature:
    return Signature(
        value=found.value,
        algorithm=found.algorithm,
        certificate=found.certificate,
        signer=found.signer,
        canonicalization=found.canonicalization,
        key=key,
        reason=reason,
        payload=payload,
    )
