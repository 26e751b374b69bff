"""What a copy of the entries shows to verification: one document for each, wherever it is stored.

A copy is a store, or anything else that holds entries beside the ledger. Its reader yields documents with the place
they claim in the ledger; `copies_documents` judges one, `copies_join` all of them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.packet_lines import Section
    from klyra_audit.format.sections import SectionName
    from klyra_collector.verify.verdicts import Problem

Fields = dict[str, object]


class CopySections(NamedTuple):
    """The sections that a document carries, each with its salt, erased to its commitment, or None for absent."""

    core: Section
    actor: Section
    target: Section


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyDocument:
    """One entry in a copy.

    Attributes:
        log: origin of the shard that it says it was sealed in.
        index: of its leaf there.
        leaf: the 112 bytes kept with it.
        organization_id: among whose entries it is found.
        expire_day: until which UTC day it is shown, the first day on which it is not.
        fields: everything that it is shown by or found by.
        sections: what its commitments are over; None where the copy keeps only what it shows.
        hidden_until: the UTC day from which it is shown, 0 for one that is; what another entry of its id hides is.
        held: whether it stands where only a legal hold keeps it; None where a copy does not tell these apart.
    """

    log: str
    index: int
    leaf: bytes
    organization_id: str
    expire_day: int
    fields: Fields
    sections: CopySections | None = None
    hidden_until: int = 0
    held: bool | None = None


class CopyReader(Protocol):
    """A copy, as it stands at one moment.

    Raises:
        CannotVerify: (every method) it cannot be read.
    """

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def personal(self) -> Mapping[SectionName, tuple[str, ...]]:
        """The fields that always come from a section when it is there."""
        ...

    def cursors(self) -> Mapping[str, int]:
        """Return origin → how many records of that shard the copy has applied."""
        ...

    def documents(self, log: str) -> Iterator[CopyDocument]:
        """Yield the documents of a shard, in order of index."""
        ...

    def quarantined(self, log: str) -> Iterator[CopyDocument] | None:
        """Yield the documents of a shard's quarantined input, in order of index; None where a copy has no such."""
        ...

    def strays(self, known: Collection[str]) -> Iterator[Problem]:
        """Yield what is wrong with the copy as a whole: things that are no document of any known shard, and such."""
        ...

    def fields_of(self, entry: JsonObject) -> Fields:
        """Return the fields that an event document must have here, as `CopyDocument.fields`.

        Raises:
            KeyError, TypeError, ValueError: it is no event document.
        """
        ...
