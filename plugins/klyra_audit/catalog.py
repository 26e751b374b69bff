"""The catalog: every event type, what is fixed for it, and the schema it must satisfy (DESIGN section 4)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

import orjson

from klyra_audit import resources
from klyra_audit.errors import Rejected
from klyra_audit.format.sections import NO_MARKS, Marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from klyra_audit.format.canonical import JsonObject

Group = Literal["moderation", "administrative", "system"]
ENTRY_SCHEMA = "klyra.audit/1#entry"

_CONTROL = ("start", "key", "policy", "schema")
_METADATA = "/metadata/"


class BadCatalog(Rejected):
    """A catalog file of an application cannot be used."""

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
        marks: metadata that is personal data of the actor or the target.
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
        """The name of the type's own schema."""
        return f"{self.schema}#{self.name}"


class Catalog:
    """All event types in force with their schemas. Immutable; `load` makes one."""

    def __init__(self, event_types: Iterable[EventType], schemas: Mapping[str, bytes]) -> None:
        self.event_types: Mapping[str, EventType] = MappingProxyType({item.name: item for item in event_types})
        self._files = dict(schemas)

    @classmethod
    def load(cls, extra: Path | None = None) -> Catalog:
        """Return the product's catalog, with the types of an application's own file added.

        Args:
            extra: a JSON file like `catalog.json`, whose event types also have a `metadata_schema` each.

        Raises:
            BadCatalog: the file cannot be read, or redefines a name of the product.
        """
        own = resources.load("schemas", "catalog.json")
        event_types = [_event_type(item, own["schema"]) for item in own["event_types"]]
        files = {ENTRY_SCHEMA: _read("entry.schema.json")}
        files |= {item.schema_id: _read("events", f"{item.name}.schema.json") for item in event_types}
        files |= {f"klyra.control/1#{kind}": _read("control", f"{kind}.schema.json") for kind in _CONTROL}
        if extra is not None:
            _add_extra(extra, event_types, files)
        return cls(event_types, files)

    def get(self, name: str) -> EventType | None:
        """Return an event type, None if the catalog has no such."""
        return self.event_types.get(name)

    def marks(self, name: str) -> Marks:
        """Return a type's marks, none for an unknown type."""
        known = self.event_types.get(name)
        return NO_MARKS if known is None else known.marks

    def names(self, group: Group | None = None) -> list[str]:
        """Return the names of all types, or of one group, in the catalog's order."""
        return [item.name for item in self.event_types.values() if group in (None, item.group)]

    def schemas(self) -> dict[str, JsonObject]:
        """Return every schema by its id, parsed."""
        return {schema_id: orjson.loads(encoded) for schema_id, encoded in self._files.items()}

    def schema_hashes(self) -> dict[str, str]:
        """Return the SHA-256 hex of every schema file by its id: what SCHEMA records say."""
        return {schema_id: hashlib.sha256(encoded).hexdigest() for schema_id, encoded in self._files.items()}


def _read(*path: str) -> bytes:
    return resources.folder("schemas").joinpath(*path).read_bytes()


def _event_type(item: Mapping[str, Any], schema: str) -> EventType:
    return EventType(
        name=item["name"],
        title=item["title"],
        description=item["description"],
        group=cast("Group", item["group"]),
        action=item["action"],
        resource_type=item["resource_type"],
        schema=schema,
        marks=Marks(_pointers(item, "actor_metadata"), _pointers(item, "target_metadata")),
    )


def _pointers(item: Mapping[str, Any], member: str) -> tuple[str, ...]:
    listed = tuple(item.get(member, ()))
    if not all(isinstance(pointer, str) and pointer.startswith(_METADATA) for pointer in listed):
        raise BadCatalog(f"{member} of {item['name']} has a pointer outside {_METADATA}.", remedy="Mend the file.")
    return listed


def _add_extra(path: Path, event_types: list[EventType], files: dict[str, bytes]) -> None:
    try:
        content = orjson.loads(path.read_bytes())
        added = [(_event_type({"group": "administrative"} | item, content["schema"]), item) for item in content["event_types"]]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise BadCatalog(
            f"The catalog file {path} cannot be used: {type(error).__name__}: {error}.",
            remedy="Compare it with schemas/catalog.json.",
        ) from error
    taken = {item.name for item in event_types}
    for event_type, item in added:
        if event_type.name in taken:
            raise BadCatalog(
                f"{path} defines {event_type.name}, which exists already.", remedy="Give your type another name."
            )
        taken.add(event_type.name)
        event_types.append(event_type)
        files[event_type.schema_id] = orjson.dumps(_extra_schema(event_type, item.get("metadata_schema", {})))


def _extra_schema(event_type: EventType, metadata: JsonObject) -> JsonObject:
    """Return the schema of an application's own type: like the product's, over the common entry."""
    entry = orjson.loads(_read("entry.schema.json"))["$id"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:klyra:{event_type.schema_id.replace('#', ':')}",
        "title": event_type.title,
        "description": event_type.description,
        "$ref": entry,
        "properties": {
            "event_type": {"const": event_type.name},
            "action": {"const": event_type.action},
            "resource": {"properties": {"type": {"const": event_type.resource_type}}},
            "metadata": metadata,
        },
    }
