"""Reads a ledger's control records on, piece by piece, into what they say about retention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from klyra_audit.format import canonical, control
from klyra_audit.format.errors import FormatError
from klyra_audit.format.leaf import Kind
from klyra_collector.errors import LedgerDamaged
from klyra_collector.seal.expiry_facts import RetentionFacts

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

DOCUMENTS_AT_ONCE = 4096  # a few milliseconds of work

_TELLING: Final = (Kind.POLICY, Kind.EXPIRY, Kind.HOLD, Kind.RELEASE, Kind.EXTEND)
_KINDS: Final = {kind.name.lower(): kind for kind in _TELLING}
_HEADS = b'"type":"heads"'  # by far the most; nothing in canonical JSON but this member reads so


class ControlSource(Protocol):
    """Where control records are read: a `LedgerReader`."""

    def origins(self) -> list[str]:
        """Return the origins of all shards, oldest first."""
        ...

    def committed(self, origin: str) -> int:
        """Return how many records of a shard may be read."""
        ...

    def controls(self, origin: str, start: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """Return up to `limit` committed control documents from index `start` on, each with its index."""
        ...


class ControlLog:
    """What all control records up to now say about retention.

    Attributes:
        facts: as far as was read on.
    """

    def __init__(self, source: ControlSource) -> None:
        self.facts = RetentionFacts()
        self._source = source
        self._next: dict[str, int] = {}

    def catch_up(self) -> RetentionFacts:
        """Read all that is committed; return the facts. Raises as `read_on` does."""
        for _ in self.read_on():
            pass
        return self.facts

    def read_on(self) -> Generator[None, None, None]:
        """Read all that is committed, yielding after each piece of it.

        Raises:
            LedgerDamaged: a control record cannot be read, so nothing may be decided by those behind it.
        """
        for origin in self._source.origins():
            # Taken before the reading: what is committed in the meantime comes next time.
            committed = self._source.committed(origin)
            start = self._next.get(origin, 0)
            while start < committed and (found := self._source.controls(origin, start, DOCUMENTS_AT_ONCE)):
                for index, encoded in found:
                    self._add(origin, index, encoded)
                start = self._next[origin] = found[-1][0] + 1
                yield
            self._next[origin] = max(start, committed)

    def _add(self, origin: str, index: int, encoded: bytes) -> None:
        if _HEADS in encoded:
            return
        try:
            document = canonical.parse_canonical(encoded)
            kind = _KINDS.get(str(document.get("type")))
            parsed = None if kind is None else control.parse(kind, document)
        except FormatError as error:
            raise LedgerDamaged(
                f"The control document of record {index} of {origin} cannot be read: {error}.",
                remedy="See what is wrong with: klyra-audit verify; then restore the file from a copy.",
            ) from error
        if parsed is not None:
            self.facts.add(origin, index, parsed)
