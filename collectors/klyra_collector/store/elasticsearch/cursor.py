"""How far an Elasticsearch store is: durable, and moved only after the bulk answer.

A crash leaves the file before a change or after it. What was stored and is not in it yet is sent again, and is
recognised: by its place if a search finds it already, else by the answer 409.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from klyra_audit.errors import Halted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from klyra_collector.seal.durable import Disk

FILE: Final = "store.json"

_FORMAT: Final = "klyra-store-cursor/1"


class StoreCursorDamaged(Halted):
    """The store's cursor cannot be read: how far it was is not known."""

    code = "store_cursor_damaged"


@dataclass(frozen=True, slots=True)
class StoreCursor:
    """Sizes by origin.

    Attributes:
        applied: records that the store has, or was told to have no more.
        searchable: those of them that a search finds; Elasticsearch shows what it has some seconds later.
    """

    applied: Mapping[str, int] = field(default_factory=dict)
    searchable: Mapping[str, int] = field(default_factory=dict)

    def moved(self, origin: str, end: int) -> StoreCursor:
        """Return the cursor after the records of a shard up to `end` were applied."""
        return replace(self, applied={**self.applied, origin: end})

    def seen(self, sizes: Mapping[str, int]) -> StoreCursor:
        """Return the cursor after a search has found the records of shards up to these sizes."""
        return replace(self, searchable={**self.searchable, **sizes})


def load(cursors: Path) -> StoreCursor:
    """Return the cursor in a folder of cursors; an empty one if there never was any.

    Raises:
        StoreCursorDamaged: the file is there and cannot be read.
    """
    path = cursors / FILE
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return StoreCursor()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreCursorDamaged(
            f"{path} cannot be read: {error}.",
            remedy="Delete it: everything still kept is compared with the store again, and what is missing is written.",
        ) from error


def save(cursors: Path, cursor: StoreCursor, disk: Disk) -> None:
    """Replace the cursor; durable when this returns."""
    members = {"format": _FORMAT, "applied": dict(cursor.applied), "searchable": dict(cursor.searchable)}
    disk.replace(cursors / FILE, orjson.dumps(members))


def _parse(content: bytes) -> StoreCursor:
    members = orjson.loads(content)
    if members["format"] != _FORMAT:
        raise ValueError("it is of another version")
    return StoreCursor(_sizes(members["applied"]), _sizes(members["searchable"]))


def _sizes(members: Mapping[Any, Any]) -> dict[str, int]:
    sizes = dict(members.items())
    if not all(type(origin) is str and type(size) is int and size >= 0 for origin, size in sizes.items()):
        raise ValueError("it names something that is no size")
    return sizes
