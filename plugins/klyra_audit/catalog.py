"""The catalog: every event type, what is fixed for it, and the schema it must satisfy (DESIGN section 4).

The product's own types stand in `schemas/catalog.json` with one schema file each. An application adds types of its
own in one file of the same form, whose types carry the schema of their metadata with them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

import jsonschema_rs
import orjson

from klyra_audit import resources
from klyra_audit.errors import Rejected
from klyra_audit.event import SCHEMA
from klyra_audit.format.sections import NO_MARKS, Marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from klyra_audit.format.canonical import JsonObject

Group = Literal["moderation", "administrative", "system"]

ENTRY_SCHEMA: Final = f"{SCHEMA}#entry"
CONTROL_KINDS: Final = (
    *("start", "key", "policy", "schema", "shard", "heads", "expiry", "erasure", "extend", "hold", "release", "export"),
)

_FIXED_TO_THE_ACTOR = ("/metadata/client_ip", "/metadata/user_agent")
_OWN = "https://schemas.klyra.io/audit/1/own/"  # so that ../entry.schema.json means the same as in the product's files


class BadCatalog(Rejected):
    """An application's catalog file cannot be used."""

    code = "bad_catalog"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventType:
    """One kind of event.

    Attributes:
        name: such as `moderation.created`.
        title, description: for people.
        group: moderation, administrative or system.
        action, resource_type: fixed for the type.
        schema: id of the schema family, such as `klyra.audit/1`.
        marks: metadata that is personal data of the actor or of the target.
    """

    name: str
    title: str
    description: str
    group: Group
    action: str
    resource_type: str
    schema: str
    marks: Marks

    @property
    def schema_id(self) -> str:
        """The name of the type's own schema, such as `klyra.audit/1#moderation.created`."""
        return f"{self.schema}#{self.name}"


class Catalog:
    """All event types in force with their schemas. Immutable; `load` makes one.

    Attributes:
        event_types: by name, in the catalog's order.
    """

    def __init__(self, event_types: Iterable[EventType], schemas: Mapping[str, bytes]) -> None:
        self.event_types: Mapping[str, EventType] = MappingProxyType({item.name: item for item in event_types})
        self._schemas: Mapping[str, bytes] = MappingProxyType(dict(schemas))

    @classmethod
    def load(cls, extra: Path | None = None) -> Catalog:
        """Return the product's catalog, with the types of an application's own file added.

        Args:
            extra: a file in the form of `schemas/catalog.schema.json`; `schemas/README.md` shows one.

        Raises:
            BadCatalog: the file cannot be read, breaks its form, or redefines a name.
        """
        own = resources.load("schemas", "catalog.json")
        types = [_event_type(item) for item in own["event_types"]]
        schemas = {item.schema_id: _read("events", f"{item.name}.schema.json") for item in types}
        schemas[ENTRY_SCHEMA] = _read("entry.schema.json")
        for kind in CONTROL_KINDS:
            schemas[f"klyra.control/1#{kind}"] = _read("control", f"{kind}.schema.json")
        if extra is not None:
            for event_type, schema in _own_types(extra, frozenset(item.name for item in types)):
                types.append(event_type)
                schemas[event_type.schema_id] = schema
        return cls(types, schemas)

    def get(self, name: str) -> EventType | None:
        """Return an event type, None if the catalog has no such."""
        return self.event_types.get(name)

    def marks(self, name: str) -> Marks:
        """Return a type's marks, none for an unknown type."""
        known = self.event_types.get(name)
        return NO_MARKS if known is None else known.marks

    def names(self, group: Group | None = None) -> tuple[str, ...]:
        """Return the names of all types, or of one group's, in the catalog's order."""
        return tuple(item.name for item in self.event_types.values() if group in (None, item.group))

    def schemas(self) -> Mapping[str, bytes]:
        """Return the bytes of every schema in force by its id: entry, event types and control documents."""
        return self._schemas

    def schema_hashes(self) -> Mapping[str, str]:
        """Return the SHA-256 hex of every schema's bytes by its id: what SCHEMA records say (DESIGN section 5)."""
        return {schema_id: hashlib.sha256(encoded).hexdigest() for schema_id, encoded in self._schemas.items()}


def compile_schema(schema: JsonObject, entry: JsonObject) -> jsonschema_rs.Validator:
    """Return the fast validator of an event type's schema, which may refer to the entry's; formats are checked.

    Raises:
        jsonschema_rs.ValidationError: it is no JSON Schema 2020-12.
        jsonschema_rs.ReferencingError: it refers to something else; nothing is ever fetched.
    """
    registry = jsonschema_rs.Registry([(entry["$id"], entry)], retriever=_no_retrieval)
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True, registry=registry, retriever=_no_retrieval)


def _no_retrieval(uri: str) -> JsonObject:
    raise LookupError(f"{uri} is not part of this catalog")


def _read(*path: str) -> bytes:
    return resources.folder("schemas").joinpath(*path).read_bytes()


def _event_type(item: Mapping[str, Any]) -> EventType:
    return EventType(
        name=item["name"],
        title=item["title"],
        description=item["description"],
        group=item["group"],
        action=item["action"],
        resource_type=item["resource_type"],
        schema=SCHEMA,
        marks=Marks(tuple(item.get("actor_metadata", ())), tuple(item.get("target_metadata", ()))),
    )


def _own_types(path: Path, taken: frozenset[str]) -> Iterator[tuple[EventType, bytes]]:
    """Yield the types of an application's file with the bytes of their schemas, each checked."""
    seen = set(taken)
    for item in _read_own(path)["event_types"]:
        event_type = _event_type(item)
        if event_type.name in seen:
            raise _bad(path, f"defines {event_type.name}, which exists already", "Give your type another name.")
        if event_type.group == "system":
            raise _bad(
                path, f"puts {event_type.name} into the group system", "That group is the product's; choose another."
            )
        _check_marks(path, event_type)
        seen.add(event_type.name)
        yield event_type, _own_schema(path, event_type, item.get("metadata_schema", {}))


def _read_own(path: Path) -> JsonObject:
    from klyra_audit import explanation  # noqa: PLC0415 - slow to import, and few applications have own types

    remedy = "Compare it with the example in schemas/README.md."
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise _bad(path, f"cannot be read: {error.strerror}", "Check the setting `catalog`.") from error
    except orjson.JSONDecodeError as error:
        raise _bad(path, f"is not JSON: {error}", remedy) from error
    fault = explanation.first_fault(
        explanation.slow_validator(resources.load("schemas", "catalog.schema.json")), content
    )
    if fault is not None:
        raise _bad(path, f"{fault.pointer or 'the file'} {fault.reason}", remedy)
    return content  # type: ignore[no-any-return] # the schema has just said that it is an object


def _check_marks(path: Path, event_type: EventType) -> None:
    """Refuse pointers of which one lies in another: such sections could not be joined again."""
    marks = event_type.marks
    always = set(_FIXED_TO_THE_ACTOR) - set(marks.actor)
    pointers = sorted(f"{pointer}/" for pointer in (*marks.actor, *marks.target, *always))
    for first, second in pairwise(pointers):
        if second.startswith(first):
            raise _bad(
                path,
                f"marks {second[:-1]} of {event_type.name}, which is marked already or lies in what is",
                "Mark each member of the metadata once; client_ip and user_agent are the actor's in every type.",
            )


def _own_schema(path: Path, event_type: EventType, metadata: JsonObject) -> bytes:
    """Return the schema of an application's type: like the product's files, over the common entry."""
    schema: JsonObject = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{_OWN}{event_type.name}.schema.json",
        "title": event_type.title,
        "description": event_type.description,
        "$ref": "../entry.schema.json",
        "properties": {
            "event_type": {"const": event_type.name},
            "action": {"const": event_type.action},
            "resource": {"properties": {"type": {"const": event_type.resource_type}}},
            "metadata": metadata,
        },
    }
    try:
        compile_schema(schema, orjson.loads(_read("entry.schema.json")))
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise _bad(
            path,
            f"has a metadata_schema of {event_type.name} that is no usable JSON Schema 2020-12: {error}",
            "Refer to nothing but ../entry.schema.json#/$defs/….",
        ) from error
    return orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)


def _bad(path: Path, problem: str, remedy: str) -> BadCatalog:
    return BadCatalog(f"The catalog file {path} {problem}.", remedy=remedy)
