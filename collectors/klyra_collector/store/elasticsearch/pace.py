"""How much is sent at once: as much as the server takes well, found out by trying."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LEAST_BYTES: Final = 64 * 1024
FIRST_BYTES: Final = 1024 * 1024
MOST_BYTES: Final = 8 * 1024 * 1024  # a couple of tens of megabytes gain nothing (reference, "Bulk API", tips)

_SLOW_SECONDS: Final = 2.0


@dataclass(slots=True)
class Pace:
    """Bytes of one request and requests under way. Used by one thread.

    A request that was taken fast lets the next be larger, back-pressure makes it half as large and leaves one request
    less under way. What was too large once is never reached again.

    Attributes:
        request_bytes: of the next request, before compression.
        in_flight: requests under way at once.
        most_bytes, most_in_flight: bounds.
    """

    request_bytes: int = FIRST_BYTES
    in_flight: int = 2
    most_bytes: int = MOST_BYTES
    most_in_flight: int = 2

    def __post_init__(self) -> None:
        """Begin within the bounds."""
        self.request_bytes = min(self.request_bytes, self.most_bytes)
        self.in_flight = min(self.in_flight, self.most_in_flight)

    def taken(self, sent_bytes: int, seconds: float) -> None:
        """Note that a request was taken whole."""
        if seconds > _SLOW_SECONDS:
            self.request_bytes = max(LEAST_BYTES, min(self.request_bytes, int(sent_bytes / seconds)))
        elif sent_bytes * 2 > self.request_bytes:  # a small one says nothing about larger ones
            self.request_bytes = min(self.most_bytes, self.request_bytes * 3 // 2)
        self.in_flight = min(self.most_in_flight, self.in_flight + 1)

    def pushed_back(self) -> None:
        """Note that the server, or the way to it, has too much to do."""
        self.request_bytes = max(LEAST_BYTES, self.request_bytes // 2)
        self.in_flight = max(1, self.in_flight - 1)

    def too_large(self, sent_bytes: int) -> None:
        """Note that a request was refused for its size."""
        self.most_bytes = max(LEAST_BYTES, sent_bytes // 2)
        self.request_bytes = min(self.request_bytes, self.most_bytes)
