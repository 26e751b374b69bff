"""How an operator left a shard behind after a disaster: durable before the first leaf of the shard that goes on.

`state/consent` in the new shard's folder is what makes it the one to be written. With it, a start goes on opening
the shard wherever a crash stopped; without it, the damaged shard stays the newest and every start refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import orjson

from klyra_audit.format.control import Recovered, ShardOpen
from klyra_audit.format.errors import ControlError
from klyra_collector.errors import LedgerDamaged

if TYPE_CHECKING:
    from klyra_collector.data_directory import ShardDirectory


@dataclass(frozen=True, slots=True)
class Consent:
    """What the operator agreed to.

    Attributes:
        opened: the SHARD record that the new shard begins with.
        recovered: what its START says: signed leaves, how many of them are lost, and the operator's reason.
        readable: how many records of the damaged shard, from its first on, can still be read and are served.
    """

    opened: ShardOpen
    recovered: Recovered
    readable: int

    def encode(self) -> bytes:
        """Return the bytes of `state/consent`."""
        recovered = {"size": self.recovered.size, "cut": self.recovered.cut, "reason": self.recovered.reason}
        stored = {"opened": self.opened.document(), "recovered": recovered, "readable": self.readable}
        return orjson.dumps(stored, option=orjson.OPT_INDENT_2) + b"\n"

    @classmethod
    def parse(cls, encoded: bytes) -> Self:
        """Read `state/consent`; ValueError, KeyError, TypeError or ControlError if it is not what `encode` gives."""
        stored: dict[str, Any] = orjson.loads(encoded)
        return cls(ShardOpen.of_document(stored["opened"]), Recovered(**stored["recovered"]), stored["readable"])


def read_consent(shard: ShardDirectory) -> Consent | None:
    """Return the consent with which a shard was opened, None if the year opened it.

    Raises:
        LedgerDamaged: the file is there and cannot be read.
    """
    try:
        return Consent.parse(shard.consent.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, ControlError) as error:
        raise LedgerDamaged(
            f"{shard.consent} cannot be read: {error}.",
            remedy="Restore it from a copy; it says what was agreed to when this shard was opened after a disaster.",
        ) from error
