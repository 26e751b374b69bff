"""What every copy of an entry carries so that it can be verified, wherever it was found and whatever it looks like.

It is one JSON object, `klyra` in most formats, and holds nothing that a SIEM can reorder or round: the canonical
sections are texts, everything binary is base64. With it alone the commitment in the leaf is computed again
(`Copy.mismatch`); with the leaf of the ledger it is known that this is what was sealed.

A signature, where the destination has a key, is Ed25519 over the canonical JSON of this object without its member
`signature`. It says which collector sent the copy; that the entry is in the ledger is said by the leaf.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from klyra_audit import timestamps
from klyra_audit.audit_integrity import EDDSA, JCS
from klyra_audit.errors import Rejected
from klyra_audit.format import canonical, sections
from klyra_audit.format.errors import FormatError
from klyra_audit.format.frame import BodyFrame
from klyra_audit.format.leaf import Leaf
from klyra_audit.format.sections import Commitments, Salts, Sections
from klyra_siem.destination import SealedEntry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_audit.audit_integrity import RecordKey
    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.sections import SectionName

MEMBER: Final = "klyra"
SIGNATURE: Final = "signature"
NAMES: Final = ("log", "index", "id", "organization", "leaf", "salts", "sections", "redacted", "commitments", SIGNATURE)

_HASH_SIZE = 32
_REDACTABLE: tuple[SectionName, ...] = ("actor", "target")


class NotACopy(Rejected):
    """A record has no integrity members, or such as nothing can be verified by."""

    code = "not_a_copy"


def integrity_of(entry: SealedEntry, key: RecordKey | None) -> JsonObject:
    """Return what an entry's copy is verified by, signed by `key` if there is one."""
    parts = (("core", entry.body.sections.core), *_optional(entry.body.sections))
    members: JsonObject = {
        "id": entry.entry_id,
        "index": entry.index,
        "leaf": _text(entry.leaf),
        "log": entry.origin,
        "organization": entry.organization_id,
        "salts": _text(entry.body.salts.pack()),
        "sections": {name: encoded.decode() for name, encoded in parts},
    }
    if entry.redacted:
        proofs = entry.body.commitments
        members["commitments"] = _text(proofs.core + proofs.actor + proofs.target)
        members["redacted"] = list(entry.redacted)
    if key is not None:
        members[SIGNATURE] = {
            "algorithm": EDDSA,
            "canonicalization": JCS,
            "certificate": key.certificate,
            "value": _text(key.signer.sign(signed_bytes(members))),
        }
    return members


def signed_bytes(members: Mapping[str, Any]) -> bytes:
    """Return what the signature of such an object is over."""
    return canonical.encode_part({name: members[name] for name in NAMES if name in members and name != SIGNATURE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """An entry as a copy of it tells of it; nothing of it has been verified by reading it.

    Attributes:
        log, index: where its leaf stands.
        entry_id, organization_id: whose it is, by its own words.
        leaf: 112 bytes.
        salts, sections: of the content; an erased or absent section is None.
        redacted: the sections that were erased.
        commitments: of all sections, for those that were erased; None if none was.
        members: the object it was read from.
    """

    log: str
    index: int
    entry_id: str
    organization_id: str
    leaf: bytes
    salts: Salts
    sections: Sections
    redacted: tuple[SectionName, ...]
    commitments: Commitments | None
    members: Mapping[str, Any]

    def mismatch(self) -> str:
        """Return why this is not what its own leaf commits to, "" if it is."""
        try:
            commit = Leaf.unpack(self.leaf).commit
            if self._computed().event_commit() != commit:
                return "its sections are not what its leaf commits to"
            document = sections.join(self.sections)
        except FormatError as error:
            return str(error)
        if document.get("id") != self.entry_id or document.get("organization_id") != self.organization_id:
            return "its id or organization is not that of its sections"
        return ""

    def entry(self) -> SealedEntry:
        """Return the entry that this is a copy of; only for one without a `mismatch`."""
        document = sections.join(self.sections)
        ingest_us = Leaf.unpack(self.leaf).ingest_us
        return SealedEntry(
            origin=self.log,
            index=self.index,
            leaf=self.leaf,
            ingest_us=ingest_us,
            filed_ns=timestamps.to_nanoseconds(document["timestamp"]),
            document=document,
            encoded=canonical.encode(document),
            body=BodyFrame(self.index, self.sections, self.salts, self._computed()),
            redacted=self.redacted,
        )

    def _computed(self) -> Commitments:
        """Return the commitments: computed of what is there, taken as given of what was erased."""
        computed = sections.commitments(self.sections, self.salts)
        given = self.commitments
        if given is None:
            return computed
        return replace(computed, **{name: getattr(given, name) for name in self.redacted})


def read_copy(members: object) -> Copy:
    """Return what an object says that `integrity_of` made; `NotACopy` if it says something else."""
    if not isinstance(members, dict):
        raise _not_a_copy("it has no object klyra")
    try:
        return _read(members)
    except (KeyError, TypeError, ValueError, OverflowError, FormatError) as error:
        raise _not_a_copy(f"its object klyra cannot be read: {type(error).__name__} {error}") from error


def _read(members: Mapping[str, Any]) -> Copy:
    named = members.get("redacted") or ()
    parts = members["sections"]
    leaf = _bytes(members["leaf"])
    Leaf.unpack(leaf)
    return Copy(
        log=_string(members["log"]),
        index=_whole(members["index"]),
        entry_id=_string(members["id"]),
        organization_id=_string(members["organization"]),
        leaf=leaf,
        salts=Salts.unpack(_bytes(members["salts"])),
        sections=Sections(_string(parts["core"]).encode(), _encoded(parts.get("actor")), _encoded(parts.get("target"))),
        redacted=tuple(name for name in _REDACTABLE if name in named),
        commitments=_commitments(members.get("commitments")),
        members=members,
    )


def _optional(parts: Sections) -> list[tuple[str, bytes]]:
    return [(name, encoded) for name, encoded in (("actor", parts.actor), ("target", parts.target)) if encoded]


def _commitments(text: object) -> Commitments | None:
    if text is None:
        return None
    packed = _bytes(text)
    if len(packed) != 3 * _HASH_SIZE:
        raise ValueError("commitments are three hashes")
    return Commitments(packed[:_HASH_SIZE], packed[_HASH_SIZE : 2 * _HASH_SIZE], packed[2 * _HASH_SIZE :])


def _encoded(text: object) -> bytes | None:
    return None if text is None else _string(text).encode()


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a name is no text")
    return value


def _whole(value: object) -> int:
    """Return a whole number, which some services give back as a text or as a floating-point number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or int(value) != float(value):
        raise ValueError("an index is no whole number")
    return int(value)


def _bytes(value: object) -> bytes:
    return base64.b64decode(_string(value), validate=True)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _not_a_copy(reason: str) -> NotACopy:
    return NotACopy(f"A record cannot be verified: {reason}.", remedy="Export the record whole, as it was sent.")
