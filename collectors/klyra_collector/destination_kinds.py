"""Finds the module of a kind of destination through the entry point group `klyra_audit.destinations`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from klyra_siem.destination import ENTRY_POINTS
from klyra_siem.errors import BadDestination

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klyra_siem.destination import Destination, DestinationOptions


def make_destination(kind: str, options: DestinationOptions, found: Iterable[EntryPoint] | None = None) -> Destination:
    """Return a destination.

    Args:
        kind: of the configuration.
        options: what it is made of.
        found: the modules to choose from; None for those that are installed.

    Raises:
        BadDestination: no installed module has that kind (`unknown_kind`), or it cannot use the options.
        MissingExtra: a library it needs is not installed.
    """
    kinds = {point.name: point for point in (entry_points(group=ENTRY_POINTS) if found is None else found)}
    if kind not in kinds:
        raise BadDestination(
            f"Destination {options.name} is of kind {kind}, which no installed module knows.",
            remedy=f"Choose one of {', '.join(sorted(kinds)) or 'none: reinstall klyra-audit'}.",
            code="unknown_kind",
        )
    made: Destination = kinds[kind].load()(options)
    return made
