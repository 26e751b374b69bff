"""Control documents: what the ledger says about itself, one frozen class for each form (DESIGN section 5).

`document` and `parse` are each other's inverse; what is not exactly one of the forms is refused. The JSON Schemas in
`schemas/control/` say the same for other programs.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self

from klyra_audit.format import canonical
from klyra_audit.format.errors import ControlError
from klyra_audit.format.leaf import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from klyra_audit.format.canonical import JsonObject

Ranges = tuple[tuple[int, int], ...]  # inclusive, ascending

MAX_RANGES: Final = 1000
REASON_YEAR: Final = "year"
REASON_DISASTER: Final = "disaster"

_DOMAIN_HOLD = b"klyra/kl1/hold\0"
_MAX_TEXT = 4096
_ORIGIN_PARTS = 3  # ledger name, collector id, shard
_MAX_INTEGER = 2**53 - 1
_MAX_ORDINAL = 2**32 - 1
_HEX = re.compile(r"(?:[0-9a-f]{2})+", re.ASCII)


class _Form(NamedTuple):
    """How a member stands in a document; `read` raises ValueError or TypeError for what cannot stand there."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _same(value: object) -> object:
    return value


def _integer(most: int = _MAX_INTEGER, least: int = 0) -> _Form:
    def read(value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"it is no number from {least} to {most}")
        return value

    return _Form(_same, read)


def _hex(size: int) -> _Form:
    def read(value: object) -> bytes:
        if type(value) is not str or len(value) != 2 * size or _HEX.fullmatch(value) is None:
            raise ValueError(f"it is not {2 * size} lower-case hexadecimal digits")
        return bytes.fromhex(value)

    return _Form(bytes.hex, read)


def _read_text(value: object) -> str:
    if type(value) is not str or not 0 < len(value) <= _MAX_TEXT:
        raise ValueError(f"it is no text of 1 to {_MAX_TEXT} characters")
    return value


def _word(*words: str) -> _Form:
    def read(value: object) -> str:
        if value not in words:
            raise ValueError(f"it is none of {', '.join(words)}")
        return str(value)

    return _Form(_same, read)


def _or_null(form: _Form) -> _Form:
    return _Form(
        lambda value: None if value is None else form.write(value),
        lambda value: None if value is None else form.read(value),
    )


def _read_ranges(value: object) -> Ranges:
    if type(value) is not list or len(value) > MAX_RANGES:
        raise ValueError(f"it is no list of at most {MAX_RANGES} ranges")
    ranges = tuple((_COUNT.read(first), _COUNT.read(last)) for first, last in value)
    end = -1
    for first, last in ranges:
        if not end < first <= last:
            raise ValueError("its ranges are not ascending")
        end = last
    return ranges


_COUNT = _integer()
_HASH = _hex(32)
_ORG_REF = _hex(16)
_TEXT = _Form(_same, _read_text)
_RANGES = _Form(lambda ranges: [list(pair) for pair in ranges], _read_ranges)


@dataclass(frozen=True, slots=True)
class ControlDocument:
    """What the forms have in common; `log` is left out of a document where it is None."""

    KIND: ClassVar[Kind]
    FORMS: ClassVar[Mapping[str, _Form]]
    FIXED: ClassVar[Mapping[str, str]] = {}

    def document(self) -> JsonObject:
        """Return the JSON document, with its type."""
        members: JsonObject = {"type": self.KIND.name.lower(), **self.FIXED}
        for name, form in self.FORMS.items():
            value = getattr(self, name)
            if name != "log" or value is not None:
                members[name] = form.write(value)
        return members

    def encode(self) -> bytes:
        """Return the canonical bytes that a leaf commits to."""
        return canonical.encode(self.document())

    @classmethod
    def of_document(cls, document: JsonObject) -> Self:
        """Read a document; `ControlError` says what is wrong with it."""
        expected = {"type", *cls.FIXED, *cls.FORMS}
        differing = expected.symmetric_difference(document) - (expected & {"log"})
        if differing:
            raise ControlError(f"a {cls.KIND.name} document has wrong members: {', '.join(sorted(differing))}")
        fixed = {"type": cls.KIND.name.lower(), **cls.FIXED}
        if any(document[name] != value for name, value in fixed.items()):
            raise ControlError(f"it is no {cls.KIND.name} document")
        values: dict[str, Any] = {}
        for name in cls.FORMS.keys() & document.keys():
            try:
                values[name] = cls.FORMS[name].read(document[name])
            except (ValueError, TypeError) as error:
                raise ControlError(f"{name} of a {cls.KIND.name} document: {error}") from error
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Heads(ControlDocument):
    """The newest record of each organization up to here, under one root (`klyra_audit.format.heads`).

    Attributes:
        size: number of leaves before this one, its own index.
        count: how many organizations, the operator included.
        root: over their heads.
    """

    KIND: ClassVar[Kind] = Kind.HEADS
    FORMS: ClassVar[Mapping[str, _Form]] = {"size": _COUNT, "count": _COUNT, "root": _HASH}

    size: int
    count: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Expiry(ControlDocument):
    """Bodies of an organization are deleted now, because their time has come.

    Attributes:
        org_ref: whose.
        cutoff_day: the UTC day since 1970 up to which they were due.
        count: how many bodies go.
        seq_digest: see `seq_digest`, over the org_seq of those that go.
        held: those that are due and kept by a legal hold; a later record names them.
        log: the shard they are in, None for the one this record stands in.
    """

    KIND: ClassVar[Kind] = Kind.EXPIRY
    FORMS: ClassVar[Mapping[str, _Form]] = {
        "org_ref": _ORG_REF,
        "cutoff_day": _integer(_MAX_ORDINAL),
        "count": _COUNT,
        "seq_digest": _HASH,
        "held": _RANGES,
        "log": _TEXT,
    }

    org_ref: bytes
    cutoff_day: int
    count: int
    seq_digest: bytes
    held: Ranges = ()
    log: str | None = None


@dataclass(frozen=True, slots=True)
class Erasure(ControlDocument):
    """Personal data of an organization's events is erased.

    Attributes:
        org_ref: whose.
        actor, target: the events, by org_seq, that lose the section.
        basis: the legal ground, such as ``art17``.
        requested_day: UTC day since 1970 of the request.
        log: as in `Expiry`.
    """

    KIND: ClassVar[Kind] = Kind.ERASURE
    FORMS: ClassVar[Mapping[str, _Form]] = {
        "org_ref": _ORG_REF,
        "actor": _RANGES,
        "target": _RANGES,
        "basis": _TEXT,
        "requested_day": _integer(_MAX_ORDINAL),
        "log": _TEXT,
    }

    org_ref: bytes
    actor: Ranges
    target: Ranges
    basis: str
    requested_day: int
    log: str | None = None


@dataclass(frozen=True, slots=True)
class Hold(ControlDocument):
    """A legal hold stops expiry and erasure of an organization's records.

    Attributes:
        hold_id: what RELEASE names.
        org_ref: whose records.
        from_us, to_us: ingest times it covers, both included, in microseconds; `to_us` None for no end.
        selection_c: commitment to a narrower selection (`hold_commitment`), None for all records of the window.
    """

    KIND: ClassVar[Kind] = Kind.HOLD
    FORMS: ClassVar[Mapping[str, _Form]] = {
        "hold_id": _TEXT,
        "org_ref": _ORG_REF,
        "from_us": _COUNT,
        "to_us": _or_null(_COUNT),
        "selection_c": _or_null(_HASH),
    }

    hold_id: str
    org_ref: bytes
    from_us: int
    to_us: int | None = None
    selection_c: bytes | None = None

    def covers(self, ingest_us: int) -> bool:
        """Say whether the window includes a record's ingest time."""
        return self.from_us <= ingest_us and (self.to_us is None or ingest_us <= self.to_us)


@dataclass(frozen=True, slots=True)
class Release(ControlDocument):
    """A legal hold ends."""

    KIND: ClassVar[Kind] = Kind.RELEASE
    FORMS: ClassVar[Mapping[str, _Form]] = {"hold_id": _TEXT}

    hold_id: str


@dataclass(frozen=True, slots=True)
class Extend(ControlDocument):
    """Sealed records are kept longer than their leaves say.

    Attributes:
        org_ref: whose.
        first_seq, last_seq: which, both included.
        retention_days: counted from the day each was sealed.
        log: as in `Expiry`.
    """

    KIND: ClassVar[Kind] = Kind.EXTEND
    FORMS: ClassVar[Mapping[str, _Form]] = {
        "org_ref": _ORG_REF,
        "first_seq": _COUNT,
        "last_seq": _COUNT,
        "retention_days": _integer(_MAX_ORDINAL),
        "log": _TEXT,
    }

    org_ref: bytes
    first_seq: int
    last_seq: int
    retention_days: int
    log: str | None = None


@dataclass(frozen=True, slots=True)
class Key(ControlDocument):
    """A key of the collector, or a key or boot of an emitter, is known from here on or revoked.

    Attributes:
        ordinal: what leaves call the boot; unique in the ledger.
        emitter_id: whose; the collector's id for its own keys.
        boot: UUID of the emitter's run, None for a key alone.
        vkey: verifier key line, None for an emitter without a key.
        org_ref: the organization it is bound to; None for none.
        revoked_after_seq: the last sequence number still believed (of an emitter's boots; of the operator's chain for
            a key of the collector); None while in force.
    """

    KIND: ClassVar[Kind] = Kind.KEY
    FORMS: ClassVar[Mapping[str, _Form]] = {
        "ordinal": _integer(_MAX_ORDINAL, 1),
        "emitter_id": _TEXT,
        "boot": _or_null(_TEXT),
        "vkey": _or_null(_TEXT),
        "org_ref": _or_null(_ORG_REF),
        "revoked_after_seq": _or_null(_COUNT),
    }

    ordinal: int
    emitter_id: str
    boot: str | None
    vkey: str | None
    org_ref: bytes | None
    revoked_after_seq: int | None = None

    def signs_log(self, origin: str) -> bool:
        """Say whether it is about a key of the collector whose log `origin` is, rather than about an emitter's.

        Emitters choose their own names, so that a key's name alone says nothing.
        """
        parts = origin.split("/")
        own = self.boot is None and self.org_ref is None and self.vkey is not None
        return own and len(parts) >= _ORIGIN_PARTS and parts[-2] == self.emitter_id


@dataclass(frozen=True, slots=True)
class PolicyRecord(ControlDocument):
    """What an organization's retention policy is from here on."""

    KIND: ClassVar[Kind] = Kind.POLICY
    FORMS: ClassVar[Mapping[str, _Form]] = {
        "org_ref": _ORG_REF,
        "plan": _TEXT,
        "policy": _TEXT,
        "retention_days": _integer(_MAX_ORDINAL),
    }

    org_ref: bytes
    plan: str
    policy: str
    retention_days: int


@dataclass(frozen=True, slots=True)
class DroppedShard(ControlDocument):
    """A closed shard is deleted whole: no body in it was in force any more."""

    KIND: ClassVar[Kind] = Kind.POLICY
    FORMS: ClassVar[Mapping[str, _Form]] = {"dropped_origin": _TEXT, "size": _COUNT, "root": _HASH}

    dropped_origin: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class SchemaRecord(ControlDocument):
    """A schema is in force: its id, such as ``klyra.audit/1#moderation.created``, and the SHA-256 of its file."""

    KIND: ClassVar[Kind] = Kind.SCHEMA
    FORMS: ClassVar[Mapping[str, _Form]] = {"id": _TEXT, "sha256": _HASH}

    id: str
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Export(ControlDocument):
    """An export packet was made whose manifest has this SHA-256."""

    KIND: ClassVar[Kind] = Kind.EXPORT
    FORMS: ClassVar[Mapping[str, _Form]] = {"sha256": _HASH}

    sha256: bytes


@dataclass(frozen=True, slots=True)
class ShardClose(ControlDocument):
    """Nothing follows in this shard; the next one has this origin and key."""

    KIND: ClassVar[Kind] = Kind.SHARD
    FIXED: ClassVar[Mapping[str, str]] = {"role": "close"}
    FORMS: ClassVar[Mapping[str, _Form]] = {"next_origin": _TEXT, "next_vkey": _TEXT}

    next_origin: str
    next_vkey: str


@dataclass(frozen=True, slots=True)
class ShardOpen(ControlDocument):
    """The first record of a shard that goes on where another ended.

    Attributes:
        previous_origin, previous_size, previous_root: the head of the shard before.
        reason: ``year``, or ``disaster`` when an operator went on after a loss.
    """

    KIND: ClassVar[Kind] = Kind.SHARD
    FIXED: ClassVar[Mapping[str, str]] = {"role": "open"}
    FORMS: ClassVar[Mapping[str, _Form]] = {
        "previous_origin": _TEXT,
        "previous_size": _COUNT,
        "previous_root": _HASH,
        "reason": _word(REASON_YEAR, REASON_DISASTER),
    }

    previous_origin: str
    previous_size: int
    previous_root: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a start had to cut: leaves from `size` on, `cut` of them, and why."""

    size: int
    cut: int
    reason: str


def _read_recovered(value: object) -> Recovered:
    if type(value) is not dict or value.keys() != {"size", "cut", "reason"}:
        raise ValueError("it is not size, cut and reason")
    return Recovered(_COUNT.read(value["size"]), _COUNT.read(value["cut"]), _read_text(value["reason"]))


def _write_recovered(recovered: Recovered) -> JsonObject:
    return {member.name: getattr(recovered, member.name) for member in fields(recovered)}


@dataclass(frozen=True, slots=True)
class Start(ControlDocument):
    """A collector starts to write.

    Attributes:
        software: name and version.
        clock_source: what the kernel says of the clock, and whether the operator confirmed it.
        org_salt_sha256: SHA-256 of the salt behind every org_ref.
        recovered: what this start had to cut, None for nothing.
    """

    KIND: ClassVar[Kind] = Kind.START
    FORMS: ClassVar[Mapping[str, _Form]] = {
        "software": _TEXT,
        "clock_source": _TEXT,
        "org_salt_sha256": _HASH,
        "recovered": _or_null(_Form(_write_recovered, _read_recovered)),
    }

    software: str
    clock_source: str
    org_salt_sha256: bytes
    recovered: Recovered | None = None


_CLASSES: Mapping[Kind, tuple[type[ControlDocument], ...]] = {
    Kind.HEADS: (Heads,),
    Kind.EXPIRY: (Expiry,),
    Kind.ERASURE: (Erasure,),
    Kind.HOLD: (Hold,),
    Kind.RELEASE: (Release,),
    Kind.KEY: (Key,),
    Kind.POLICY: (PolicyRecord, DroppedShard),
    Kind.SCHEMA: (SchemaRecord,),
    Kind.EXPORT: (Export,),
    Kind.SHARD: (ShardClose, ShardOpen),
    Kind.START: (Start,),
    Kind.EXTEND: (Extend,),
}


def parse(kind: int, document: JsonObject) -> ControlDocument:
    """Return the document of a leaf's kind as its class; `ControlError` if it is no document of that kind."""
    try:
        classes = _CLASSES[Kind(kind)]
    except (ValueError, KeyError) as error:
        raise ControlError(f"records of kind {kind} have no control document") from error
    try:
        return classes[0].of_document(document)
    except ControlError:
        if len(classes) == 1:
            raise
    return classes[1].of_document(document)


def to_ranges(sequences: Iterable[int]) -> Ranges:
    """Return ascending numbers as inclusive ranges."""
    return tuple((first, last) for first, last in _runs(sequences))


def _runs(sequences: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = None
    for sequence in sequences:
        if first is None or last is None or sequence != last + 1:
            if first is not None and last is not None:
                yield first, last
            first = sequence
        last = sequence
    if first is not None and last is not None:
        yield first, last


def in_ranges(ranges: Ranges, sequence: int) -> bool:
    """Say whether a number lies in any of some ranges."""
    return any(first <= sequence <= last for first, last in ranges)


def seq_digest(sequences: Sequence[int]) -> bytes:
    """Return the SHA-256 over ascending org_seqs as 64-bit numbers (EXPIRY)."""
    return hashlib.sha256(struct.pack(f">{len(sequences)}Q", *sequences)).digest()


def hold_commitment(salt: bytes, selection: JsonObject) -> bytes:
    """Return `selection_c` of a hold that covers a selection (HOLD)."""
    return hashlib.sha256(_DOMAIN_HOLD + salt + canonical.encode(selection)).digest()
