"""What the control documents of a ledger say, in its order, so that other records can be judged by it. Pure.

Documents are taken in by shard, oldest first, and within a shard by index. Only those that their leaves commit to
belong here: a document that is not strictly of one of the forms says nothing (`klyra_audit.format.control`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from klyra_audit.format import control
from klyra_audit.format.control import ControlDocument

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.leaf import Leaf

_Document_co = TypeVar("_Document_co", bound=ControlDocument, covariant=True)
_Document = TypeVar("_Document", bound=ControlDocument)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a record stands in a ledger of several shards: number of its shard, oldest 0, and index in it."""

    shard: int
    index: int


class Sealed(NamedTuple, Generic[_Document_co]):
    """A control document with the leaf that commits to it.

    Attributes:
        log: origin of the shard it stands in.
        place: orders it among the records of all shards.
        leaf: of the record.
        document: what it says.
    """

    log: str
    place: Place
    leaf: Leaf
    document: _Document_co


@dataclass(slots=True)
class ControlFacts:
    """The control documents of a ledger, by what they are.

    Attributes:
        logs: origins of the shards, oldest first; of a shard without a signed head, whatever it is called instead.
    """

    logs: list[str] = field(default_factory=list)
    _sealed: dict[type[ControlDocument], list[Sealed[ControlDocument]]] = field(default_factory=dict)

    def note(self, log: str, index: int, leaf: Leaf, document: ControlDocument) -> None:
        """Take in the next document."""
        if log not in self.logs:
            self.logs.append(log)
        sealed = Sealed(log, Place(self.logs.index(log), index), leaf, document)
        self._sealed.setdefault(type(document), []).append(sealed)

    def read(self, log: str, index: int, leaf: Leaf, document: JsonObject) -> ControlDocument:
        """Take in the next document, as JSON members; `ControlError` if it is none of the leaf's kind."""
        parsed = control.parse(leaf.kind, document)
        self.note(log, index, leaf, parsed)
        return parsed

    def of(self, kind: type[_Document]) -> Sequence[Sealed[_Document]]:
        """Return the documents of one class, in the ledger's order."""
        return self._sealed.get(kind, ())  # type: ignore[return-value] # each list holds its key's class

    def of_log(self, kind: type[_Document], log: str) -> Iterator[Sealed[_Document]]:
        """Yield the documents of one class that stand in one shard."""
        return (sealed for sealed in self.of(kind) if sealed.log == log)
