"""The JSON and web folders that travel with the code: from the wheel, else from the checkout."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

Folder = Literal["schemas", "dashboards", "retention_policies", "examples"]
_CHECKOUT = Path(__file__).resolve().parents[2]


def folder(name: Folder) -> Traversable:
    """Return the folder `name`: from the wheel, else from the checkout (editable install)."""
    packaged = files("klyra_audit") / "_data" / name
    return packaged if packaged.is_dir() else _CHECKOUT / name


def load(name: Folder, *path: str) -> Any:  # noqa: ANN401 - JSON is whatever the file says
    """Parse one JSON file, e.g. ``load("schemas", "events", "moderation.created.schema.json")``."""
    return orjson.loads(folder(name).joinpath(*path).read_bytes())
