"""What became of the documents that were sent, in a file that the API's metrics read.

The follower has no port of its own. Nothing durable depends on the file; the counts begin with the process.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from klyra_collector.store.elasticsearch.results import Result

FILE: Final = "store.counts.json"
PUBLISH_SECONDS: Final = 1.0


class Counts:
    """Implements `BulkObserver`. One thread uses it."""

    def __init__(self, cursors: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = cursors / FILE
        self._monotonic = monotonic
        self._counts: Counter[str] = Counter()
        self._next = 0.0

    def stored(self, documents: int, sent_bytes: int, seconds: float) -> None:
        """See `BulkObserver`."""
        self._counts.update(stored=documents, requests=1, bytes=sent_bytes, milliseconds=round(seconds * 1000))

    def happened(self, result: Result, documents: int) -> None:
        """See `BulkObserver`."""
        self._counts[result.value] += documents

    def publish(self) -> None:
        """Replace the file if that was not done a moment ago; `OSError` if the disk refuses."""
        if self._monotonic() < self._next:
            return
        self._next = self._monotonic() + PUBLISH_SECONDS
        temporary = self._path.with_name(f"{FILE}.new")
        temporary.write_bytes(orjson.dumps(self._counts))
        temporary.replace(self._path)


def read_counts(cursors: Path) -> Mapping[str, int]:
    """Return the counts of the newest process that has published some; none if there are none that can be read."""
    try:
        return {str(name): int(count) for name, count in orjson.loads((cursors / FILE).read_bytes()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
