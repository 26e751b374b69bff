"""The formats of exports that are one file: from entries as the store has them to bytes (DESIGN section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from klyra_audit.format.rendering import comma_separated, json_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Rendering:
    """A format of export files.

    Attributes:
        media_type: Content-Type of the file.
        render: turns batches of entries (JSON text each) into chunks of the file, the last with its end.
    """

    media_type: str
    render: Callable[[Iterable[list[bytes]]], Iterator[bytes]]


def ndjson(batches: Iterable[list[bytes]]) -> Iterator[bytes]:
    """Yield one entry on each line and nothing else."""
    for batch in batches:
        if batch:
            yield b"\n".join(batch) + b"\n"


PACKET: Final = "packet"  # made in another way: `packets`
RENDERINGS: Final[Mapping[str, Rendering]] = MappingProxyType(
    {
        "json": Rendering("application/json", json_array),
        "ndjson": Rendering("application/x-ndjson", ndjson),
        "csv": Rendering("text/csv; charset=utf-8; header=present", comma_separated),
    }
)
