"""A cell outside this disk that remembers the newest signed head (DESIGN section 5, attacks: restored disk images).

A disk image restored from yesterday is whole in itself: only something that is not on the disk can tell. A cell
holds one value and replaces it only if it still is what the writer expects, so that of two writers one is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from klyra_audit.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_CELL_BYTES = 64 * 1024


class Cell(Protocol):
    """One value with compare-and-swap, kept where a restored disk image does not bring it back."""

    def read(self) -> bytes | None:
        """Return the value, None if nothing was ever written.

        Raises:
            CellUnreachable: it does not answer.
        """
        ...

    def compare_and_swap(self, expected: bytes | None, new: bytes) -> None:
        """Replace `expected` (None: nothing yet) by `new`, durably.

        Raises:
            CellConflict: the value is another one; nothing was written.
            CellUnreachable: it does not answer; `new` may or may not have been written.
        """
        ...


def open_cell(url: str, openers: Mapping[str, Callable[[str], Cell]] | None = None) -> Cell:
    """Return the cell at a URL; nothing is connected yet.

    Args:
        url: `file:/path/on/another/mount`, or `elasticsearch+http(s)://host:port/index/id`.
        openers: what makes a cell of a URL, by scheme; by default those of this package.

    Raises:
        Rejected: `bad_cell`: of a scheme or a form that is not known.
        SecretUnavailable: the credential it refers to is not there.
    """
    scheme = url.partition(":")[0]
    known = _openers() if openers is None else openers
    if scheme not in known:
        raise Rejected(
            f"ledger.cell: {scheme or url}: is no kind of cell.",
            remedy=f"Use one of {', '.join(sorted(known))}.",
            code="bad_cell",
        )
    return known[scheme](url)


def _openers() -> Mapping[str, Callable[[str], Cell]]:
    from klyra_collector.seal.cell_elasticsearch import ElasticsearchCell  # noqa: PLC0415 - loaded where configured
    from klyra_collector.seal.cell_file import FileCell  # noqa: PLC0415

    return {
        "file": FileCell.at,
        "elasticsearch+http": ElasticsearchCell.at,
        "elasticsearch+https": ElasticsearchCell.at,
    }
