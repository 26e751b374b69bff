"""The schemas of control documents and the classes that write and read them say the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from klyra_audit import explanation
from klyra_audit.format import control
from klyra_audit.format.control import (
    DroppedShard,
    Erasure,
    Expiry,
    Export,
    Extend,
    Heads,
    Hold,
    Key,
    PolicyRecord,
    Recovered,
    Release,
    SchemaRecord,
    ShardClose,
    ShardOpen,
    Start,
)
from klyra_audit.format.errors import ControlError, FormatError, PacketError
from klyra_audit.format.packet import Counts, Manifest, Run, Window

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMAS = Path(__file__).resolve().parents[3] / "schemas"
ORG_REF, HASH = b"\x0f" * 16, b"\xab" * 32
HEXADECIMAL = set("0123456789abcdef")
VKEY = "klyra/c1/2027+0a0b0c0d+AQ=="
DOCUMENTS = [
    Heads(7, 2, HASH),
    Expiry(ORG_REF, 20_700, 3, HASH, ((4, 4), (6, 9))),
    Expiry(ORG_REF, 20_700, 0, HASH, (), "klyra/c1/2026"),
    Erasure(ORG_REF, ((1, 3),), (), "art17", 20_600),
    Erasure(ORG_REF, (), ((1, 3),), "art17", 20_600, "klyra/c1/2026"),
    Hold("hold_1", ORG_REF, 0, None, None),
    Hold("hold_1", ORG_REF, 5, 9, HASH),
    Release("hold_1"),
    Key(1, "c1", None, VKEY, None),
    Key(2, "api-1", "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b10", None, ORG_REF),
    Key(3, "api-1", None, VKEY, ORG_REF, 77),
    PolicyRecord(ORG_REF, "enterprise", "enterprise-730d", 730),
    DroppedShard("klyra/c1/2026", 5, HASH),
    SchemaRecord("klyra.audit/1#moderation.created", HASH),
    Export(HASH),
    ShardClose("klyra/c1/2027", VKEY),
    ShardOpen("klyra/c1/2026", 5, HASH, "year"),
    ShardOpen("klyra/c1/2026", 5, HASH, "disaster"),
    Extend(ORG_REF, 0, 9, 90),
    Extend(ORG_REF, 0, 9, 90, "klyra/c1/2026"),
    Start("klyra-audit 0.1.0", "synchronised", HASH),
    Start("klyra-audit 0.1.0", "synchronised", HASH, Recovered(7, 2, "torn")),
]
MANIFEST = Manifest(
    organization_id="org_acme",
    rendering="audit-logs.csv",
    window=Window(0, 9),
    filters={"actor_ids": ["usr_1"]},
    complete=False,
    counts=Counts(1, 2, 3),
    runs=(Run("klyra/c1/2026", 0, 2),),
    software="klyra-audit 0.1.0",
    members={"policy": HASH.hex()},
)


def named(document: control.ControlDocument) -> str:
    """Return a test's name."""
    return type(document).__name__


def schema_of(document: control.ControlDocument) -> Any:
    """Return what judges documents of the same kind."""
    kind = document.KIND.name.lower()
    return explanation.slow_validator(orjson.loads((SCHEMAS / "control" / f"{kind}.schema.json").read_bytes()))


def mutations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield documents that are none of any kind."""
    yield document | {"note": "x"}
    yield document | {"type": "another"}
    for name, value in document.items():
        if name != "log":
            yield {other: kept for other, kept in document.items() if other != name}
        if type(value) is not bool:
            yield document | {name: True}
        yield document | {name: 1.5}
        if value is not None:
            yield document | {name: "" if isinstance(value, str) else "x"}
        if type(value) is int:
            yield document | {name: -1}
        if isinstance(value, str) and set(value) <= HEXADECIMAL and len(value) in (32, 64):
            yield document | {name: value.upper().replace("0", "G")}
            yield document | {name: value[:-1]}
        if isinstance(value, list):
            yield document | {name: [[1]]}
            yield document | {name: [[1, 2, 3]]}
            yield document | {name: [["1", 2]]}


def test_every_kind_is_here() -> None:
    """Each kind that has a control document has an example, with and without what is optional."""
    assert {document.KIND for document in DOCUMENTS} == {kind for kind in control.Kind if not kind.has_body}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_what_is_written_satisfies_the_schema(document: control.ControlDocument) -> None:
    """And is read back as the same."""
    written = document.document()
    assert explanation.first_fault(schema_of(document), written) is None
    assert control.parse(document.KIND, written) == document


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_what_is_changed_is_refused_by_both(document: control.ControlDocument) -> None:
    """A member too many, one too few, one of another type: neither the schema nor the reader takes it."""
    schema = schema_of(document)
    for changed in mutations(document.document()):
        assert not schema.is_valid(changed), changed
        with pytest.raises(ControlError):
            control.parse(document.KIND, changed)


def test_a_manifest_satisfies_its_schema() -> None:
    """What the writer makes is what the schema describes, and is read back as the same."""
    schema = explanation.slow_validator(orjson.loads((SCHEMAS / "export-manifest.schema.json").read_bytes()))
    encoded = MANIFEST.encode()
    assert explanation.first_fault(schema, orjson.loads(encoded)) is None
    assert Manifest.parse(encoded) == MANIFEST


def test_a_changed_manifest_is_refused_by_both() -> None:
    """Whatever member is left out, added, or of another type, at any depth but in the filters."""
    schema = explanation.slow_validator(orjson.loads((SCHEMAS / "export-manifest.schema.json").read_bytes()))
    document = orjson.loads(MANIFEST.encode())
    for changed in (*mutations(document), *nested(document)):
        assert not schema.is_valid(changed), changed
        with pytest.raises(PacketError):
            Manifest.parse(orjson.dumps(changed, option=orjson.OPT_SORT_KEYS))


def nested(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield manifests with a mistake inside a member."""
    for name in ("window", "counts"):
        for changed in mutations(document[name]):
            yield document | {name: changed}
    yield document | {"logs": [document["logs"][0] | {"count": -1}]}
    yield document | {"logs": ["klyra/c1/2026"]}
    yield document | {"members": {"policy": "AB" * 32}}
    yield document | {"rendering": "audit-logs.xml"}
    yield document | {"format": "klyra.packet/2"}


def test_a_manifest_must_be_canonical() -> None:
    """White space, or members in another order, are refused: a manifest has one spelling."""
    with pytest.raises(FormatError):
        Manifest.parse(MANIFEST.encode().replace(b",", b", ", 1))
