"""What an entry document in Elasticsearch says, as a copy of an entry. Pure; the document may be anybody's.

A member that is missing, of another type or too many never raises: it makes the document another one than was sealed.
Metadata may be split in any way between `metadata`, which is indexed by name, and `metadata_other`: which names are
declared is the deployment's catalog's business, which a verifier need not have.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from klyra_audit.format.errors import FormatError
from klyra_audit.format.keys import decode_base64
from klyra_audit.format.leaf import LEAF_SIZE, Leaf
from klyra_audit.format.merkle import HASH_SIZE
from klyra_audit.format.packet_lines import Erased, Opened
from klyra_audit.format.sections import SALT_SIZE
from klyra_collector.verify.copies import CopyDocument, CopySections
from klyra_collector.verify.copies_sqlite import nanoseconds
from klyra_collector.verify.layout import shard_order
from klyra_collector.verify.retention import MICROSECONDS_PER_DAY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.packet_lines import Section
    from klyra_collector.verify.copies import Fields
    from klyra_collector.verify.elasticsearch_client import Hit

_PLAIN: Final = ("id", "timestamp", "event_type", "action", "status", "schema")
_SPECIAL: Final = frozenset(
    {"@timestamp", "organization_id", "actor", "resource", "metadata", "metadata_other", "klyra"}
)
_QUARANTINE_MEMBERS: Final = frozenset({"@timestamp", "quarantine", "klyra"})
_LATEST_NS: Final = 9_223_372_036 * 10**9  # 2262-04-11T23:47:16Z, the last whole second that a date_nanos can say
_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", re.ASCII)
_MICROSECONDS_PER_MILLISECOND: Final = 1000
_REWRITTEN: Final = re.compile(r"~(\d+[ds]|\d{4}(-\d+)?:\d+)\Z", re.ASCII)  # for more days, or erased
_BACKING: Final = re.compile(r"(?:.*\.ds-)?(.+?)(?:-\d{4}\.\d\d\.\d\d-\d{6,})?", re.ASCII)
_PREFIX: Final = "klyra-audit-"
_HELD: Final = "klyra-audit-held"  # what a legal hold keeps is moved there
_QUARANTINE: Final = "klyra-audit-quarantine-"
_QUARANTINE_HELD: Final = "klyra-audit-quarantine-held"
_MAX_INDEXED_TEXT: Final = 1024  # characters: `ignore_above` of names and metadata
_OFTEN_LONG: Final = ("actor.name", "resource.name", "metadata.", "metadata_other", "quarantine.reason")


def document_of(hit: Hit, log: str, index: int) -> CopyDocument:
    """Return what a document says.

    Args:
        hit: the document.
        log: origin of the shard by which it was found.
        index: of the record by which it was found.
    """
    source = hit.source
    sealing = members(source.get("klyra"))
    leaf = base64_of(sealing.get("leaf"), LEAF_SIZE)
    organization_id, stream = source.get("organization_id"), stream_of(hit.backing_index)
    named = organization_id if isinstance(organization_id, str) else ""
    held = stream == _HELD
    wrong = _contradictions(hit, log, index, leaf) | _misnamed(hit, log, index) | _unfindable(hit)
    if stream not in _streams_of_entry(sealing, named):
        wrong["_index"] = stream
    return CopyDocument(
        log=log,
        index=index,
        leaf=leaf,
        organization_id=named,
        expire_day=_day(sealing),
        fields=_shown(source, sealing) | wrong,
        sections=sections_of(sealing),
        held=held,
    )


def quarantined_of(hit: Hit, log: str, index: int) -> CopyDocument:
    """Return what the document of a quarantined input says; arguments as `document_of`."""
    sealing = members(hit.source.get("klyra"))
    leaf = base64_of(sealing.get("leaf"), LEAF_SIZE)
    stream = stream_of(hit.backing_index)
    wrong = _contradictions(hit, log, index, leaf) | _unfindable(hit)
    if stream not in {_QUARANTINE_HELD, f"{_QUARANTINE}{sealing.get('policy')}"}:
        wrong["_index"] = stream
    told = members(hit.source.get("quarantine"))
    shown: Fields = {name: value for name, value in hit.source.items() if name not in _QUARANTINE_MEMBERS}
    shown |= {f"quarantine.{name}": value for name, value in told.items()}
    if isinstance(told.get("raw"), str):
        shown["quarantine.raw"] = base64_of(told["raw"])
    shown["@timestamp"] = _moment(hit.source.get("@timestamp"))
    shown["klyra.timestamp_ns"] = sealing.get("timestamp_ns")
    return CopyDocument(
        log=log,
        index=index,
        leaf=leaf,
        organization_id="",
        expire_day=_day(sealing),
        fields=shown | wrong,
        sections=sections_of(sealing),
        held=stream == _QUARANTINE_HELD,
    )


def stream_of(backing_index: str) -> str:
    """Return the data stream of a backing index, however lifecycles have renamed that; other names as they are."""
    matched = _BACKING.fullmatch(backing_index)
    return backing_index if matched is None else matched[1]


def _streams_of_entry(sealing: JsonObject, organization_id: str) -> set[str]:
    """Return the streams in which an entry may stand: one of somebody else's would show it to them."""
    policy = sealing.get("policy")
    shared = f"{_PREFIX}{policy}"
    return {_HELD} if sealing.get("held") is True else {shared, f"{shared}-at-{organization_id.lower()}"}


def _day(sealing: JsonObject) -> int:
    expire_day = sealing.get("expire_day")
    return expire_day if type(expire_day) is int else -1


def _unfindable(hit: Hit) -> Fields:
    """Return what keeps a document from being found by a field that it has."""
    wrong: Fields = {f"_ignored {name}": True for name in hit.ignored if not _is_rightly_ignored(name, hit.source)}
    # Of all metadata this is what everybody searches by; which others have a field depends on the catalog.
    address = members(hit.source.get("metadata_other")).get("client_ip", 0)
    if address is None or isinstance(address, str):
        wrong["metadata.client_ip"] = "it stands where no search by address finds it"
    return wrong


def _is_rightly_ignored(name: str, source: JsonObject) -> bool:
    """Say whether a value cannot be indexed: a text longer than any index takes, or an address that is none."""
    value: object = source
    for part in name.split("."):
        value = members(value).get(part)
    if name == "metadata.client_ip":
        return not _is_address(value)
    return name.startswith(_OFTEN_LONG) and any(len(text) > _MAX_INDEXED_TEXT for text in _texts(value))


def _is_address(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a value."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def justifies(hit: Hit, day: int, place: tuple[tuple[int, int], int]) -> bool:
    """Say whether a document hides another one of its id until some day.

    Args:
        hit: the document.
        day: until which it should be kept.
        place: order of the other one's shard, and its index there.
    """
    sealing = members(hit.source.get("klyra"))
    log, index, expire_day = (sealing.get(name) for name in ("log", "index", "expire_day"))
    if not isinstance(log, str) or type(index) is not int or type(expire_day) is not int:
        return False
    try:
        return expire_day >= day and (order_of(log), index) < place
    except ValueError:
        return False


def order_of(log: str) -> tuple[int, int]:
    """Return the order of a shard among others, by year and number; ValueError if that is none."""
    return shard_order(Path(log.rpartition("/")[2]))


def fields_of(entry: JsonObject) -> Fields:
    """Return the fields that the document of an entry must have, as `CopyDocument.fields`.

    Raises:
        KeyError, TypeError, ValueError: it is no event document.
    """
    moment = nanoseconds(entry["timestamp"])
    return {name: entry[name] for name in _PLAIN} | {
        "@timestamp": min(max(moment, 0), _LATEST_NS),
        "actor": _party(entry["actor"]),
        "resource": _party(entry["resource"]),
        "metadata": _canonical(members(entry["metadata"])),
        "klyra.timestamp_ns": moment,
    }


def sections_of(sealing: JsonObject) -> CopySections:
    """Return the sections that a document's `klyra` member carries; what cannot be read counts as absent."""
    texts, salts, proofs = (members(sealing.get(name)) for name in ("sections", "salts", "c"))
    core, actor, target = (
        _section(texts.get(name), salts.get(name), proofs.get(name)) for name in ("core", "actor", "target")
    )
    return CopySections(core, actor, target)


def base64_of(text: object, size: int | None = None) -> bytes:
    """Return the bytes behind a member in base64; none if it is anything else, or of another size."""
    if not isinstance(text, str):
        return b""
    try:
        decoded = decode_base64(text)
    except FormatError:
        return b""
    return decoded if size is None or len(decoded) == size else b""


def members(value: object) -> JsonObject:
    """Return a JSON object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _section(text: object, salt: object, proof: object) -> Section:
    if isinstance(text, str):
        return Opened(base64_of(salt, SALT_SIZE), text.encode())
    try:
        commitment = bytes.fromhex(proof) if isinstance(proof, str) else b""
    except ValueError:
        return None
    return Erased(commitment) if len(commitment) == HASH_SIZE else None


def _shown(source: JsonObject, sealing: JsonObject) -> Fields:
    """Return all members of a document that show an entry, and any that no entry has."""
    named, other = members(source.get("metadata")), members(source.get("metadata_other"))
    fields: Fields = {name: value for name, value in source.items() if name not in _SPECIAL}
    fields |= {
        "@timestamp": _moment(source.get("@timestamp")),
        "actor": _party(source.get("actor")),
        "resource": _party(source.get("resource")),
        "metadata": _canonical(named | other),
        "klyra.timestamp_ns": sealing.get("timestamp_ns"),
    }
    if named.keys() & other.keys():
        fields["metadata_other"] = b"says what metadata says as well"
    return fields


def _contradictions(hit: Hit, log: str, index: int, encoded: bytes) -> Fields:
    """Return those members about the sealing that are not what place and leaf say: no entry has fields of that name."""
    sealing = members(hit.source.get("klyra"))
    expected: dict[str, object] = {"log": log, "index": index}
    try:
        leaf = Leaf.unpack(encoded)
    except FormatError:
        return {}  # which is all there is to say of it
    expected |= {
        "org_ref": leaf.org_ref.hex(),
        "org_seq": leaf.org_seq,
        "sealing_day": leaf.ingest_us // MICROSECONDS_PER_DAY,
        "ingested_at": leaf.ingest_us // _MICROSECONDS_PER_MILLISECOND,
        "flags": leaf.flags,
    }
    wrong: Fields = {
        f"klyra.{name}": sealing.get(name)
        for name, value in expected.items()
        if type(sealing.get(name)) is not type(value) or sealing.get(name) != value
    }
    held, stream = sealing.get("held"), stream_of(hit.backing_index)
    if type(held) is not bool or held != (stream in {_HELD, _QUARANTINE_HELD}):
        wrong["klyra.held"] = held
    return wrong


def _misnamed(hit: Hit, log: str, index: int) -> Fields:
    """Return the id of a document, as a field that no entry has, if it is not that of the entry."""
    organization_id, entry_id = hit.source.get("organization_id"), hit.source.get("id")
    plain = f"{organization_id}:{entry_id}" if isinstance(organization_id, str) and isinstance(entry_id, str) else ""
    is_right = _REWRITTEN.sub("", hit.id) in (plain, f"{plain}:{log}:{index}")
    return {} if is_right else {"_id": hit.id}


def _party(value: object) -> bytes:
    """Return who acted or what was acted upon, in one spelling; what is null is as good as absent."""
    return _canonical({name: member for name, member in members(value).items() if member is not None})


def _canonical(value: Any) -> bytes:  # noqa: ANN401 - any JSON
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # nested deeper than any entry
        return b""


def _moment(text: object) -> int | None:
    """Return a date with up to nine fractional digits in nanoseconds since 1970."""
    matched = _MOMENT.fullmatch(text) if isinstance(text, str) else None
    if matched is None:
        return None
    try:
        seconds = int(datetime.fromisoformat(f"{matched[1]}+00:00").timestamp())
    except ValueError:
        return None
    return seconds * 10**9 + int((matched[2] or "0").ljust(9, "0"))
