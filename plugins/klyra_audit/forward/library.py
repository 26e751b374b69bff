"""The libraries of the extra `forward`, loaded when they are first needed: the base install stays small."""

from __future__ import annotations

import importlib
from typing import Any

from klyra_audit.forward.errors import MissingExtra


def msgpack() -> Any:  # noqa: ANN401 - the library ships no types
    """Return the library `msgpack`; `MissingExtra` names the extra."""
    return load("msgpack")


def zstandard() -> Any:  # noqa: ANN401 - loaded by its name
    """Return the library `zstandard`; `MissingExtra` names the extra."""
    return load("zstandard")


def load(name: str) -> Any:  # noqa: ANN401 - a module
    """Return a library by its name; `MissingExtra` names the extra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"Fluent Forward needs the library {name}, which is not installed.",
            remedy="Install klyra-audit[forward].",
        ) from error
