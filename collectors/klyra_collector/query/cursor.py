"""Page cursors: opaque, signed, and valid only for the organization, filters and order they were made for.

A cursor holds the sort key of the last entry given and the sizes of the ledgers at the first page: pages that follow
see neither what was stored since nor the same entry twice (DESIGN section 7).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import orjson

from klyra_collector.query.problems import Problem
from klyra_collector.store.searching import SortKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_collector.store.searching import Order

_DOMAIN = b"klyra/cursor/1"
_TAG_SIZE = 16
_MAX_CHARACTERS = 16 * 1024


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the next page begins.

    Attributes:
        after: key of the last entry given.
        snapshot: origin → size: what there was when the first page was given.
    """

    after: SortKey
    snapshot: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Listing:
    """What a cursor belongs to.

    Attributes:
        organization_id: whose entries are listed.
        filters: canonical text.
        order: of the list.
    """

    organization_id: str
    filters: str
    order: Order


class CursorCodec:
    """Writes and reads cursors under one secret key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encode(self, cursor: Cursor, listing: Listing) -> str:
        """Return the text of a cursor."""
        payload = orjson.dumps([*astuple(cursor.after), dict(cursor.snapshot)])
        return base64.urlsafe_b64encode(self._tag(payload, listing) + payload).rstrip(b"=").decode()

    def decode(self, text: str, listing: Listing) -> Cursor:
        """Return the cursor of a text.

        Raises:
            Problem: 400, it is of another listing, of another server, or altered.
        """
        raw = _decode(text)
        tag, payload = raw[:_TAG_SIZE], raw[_TAG_SIZE:]
        if not hmac.compare_digest(tag, self._tag(payload, listing)):
            raise _refused()
        timestamp_ns, origin, index, snapshot = orjson.loads(payload)
        return Cursor(SortKey(timestamp_ns, origin, index), snapshot)

    def _tag(self, payload: bytes, listing: Listing) -> bytes:
        belongs = orjson.dumps([listing.organization_id, listing.filters, listing.order])
        message = b"\0".join((_DOMAIN, belongs, payload))
        return hmac.digest(self._key, message, hashlib.sha256)[:_TAG_SIZE]


def _decode(text: str) -> bytes:
    if len(text) > _MAX_CHARACTERS:
        raise _refused()
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _refused() from None


def _refused() -> Problem:
    return Problem(
        400,
        "invalid_cursor",
        "cursor: it is altered, or was made for other filters, another order, organization or server.",
        remedy="Repeat the filters of the page before unchanged, or leave the cursor out for the first page.",
        parameter="cursor",
    )
