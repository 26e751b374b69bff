"""What an operator wants of a running delivery: files beside its cursor, which commands write and the delivery reads.

    NAME.paused.json    it is not delivered while this is there
    NAME.replay.json    it goes on from this place; the delivery deletes the file once its cursor stands there
    NAME.letters.json   its dead letters are sent again; the delivery deletes the file when it has tried them all

They work on a stopped server as on a running one, which looks every second. Each file has one writer and one remover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from klyra_audit.errors import Halted
from klyra_collector.fanout.cursor import Cursor

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.seal.durable import Disk

PAUSED: Final = ".paused.json"
REPLAY: Final = ".replay.json"
LETTERS: Final = ".letters.json"


class OrderDamaged(Halted):
    """What an operator has ordered cannot be read."""

    code = "order_damaged"


@dataclass(frozen=True, slots=True)
class Pause:
    """An operator's word not to deliver.

    Attributes:
        reason: in the operator's words.
        since_us: microseconds since 1970.
    """

    reason: str
    since_us: int


class Orders:
    """The orders for one destination."""

    def __init__(self, folder: Path, name: str, disk: Disk) -> None:
        self._pause = folder / f"{name}{PAUSED}"
        self._replay = folder / f"{name}{REPLAY}"
        self._letters = folder / f"{name}{LETTERS}"
        self._disk = disk

    def pause(self, order: Pause) -> None:
        """Have nothing delivered from now on; durable when this returns."""
        self._disk.replace(self._pause, orjson.dumps({"reason": order.reason, "since_us": order.since_us}))

    def resume(self) -> bool:
        """Take a pause back; False if there was none."""
        return self._removed(self._pause)

    def paused(self) -> Pause | None:
        """Return the pause in force; `OrderDamaged` if it cannot be read, which is one as well."""
        members = self._read(self._pause)
        return None if members is None else Pause(str(members.get("reason", "")), int(members.get("since_us", 0)))

    def replay(self, place: Cursor) -> None:
        """Have everything from a place on delivered again; durable when this returns."""
        self._disk.replace(self._replay, orjson.dumps({"origin": place.origin, "index": place.index}))

    def replay_from(self) -> Cursor | None:
        """Return where to go on from, if that was ordered; `OrderDamaged` if it cannot be read."""
        members = self._read(self._replay)
        return None if members is None else Cursor(str(members["origin"]), int(members["index"]))

    def replay_done(self) -> None:
        """Forget the order. A crash before leaves it: the same is then delivered once more."""
        self._removed(self._replay)

    def redeliver(self) -> None:
        """Have dead letters sent again; durable when this returns."""
        self._disk.replace(self._letters, b"{}")

    def wants_letters(self) -> bool:
        """Say whether dead letters are to be sent again."""
        return self._letters.exists()

    def redelivery_done(self) -> None:
        """Forget the order. A crash before leaves it: what is left of the letters is tried once more."""
        self._removed(self._letters)

    def has_any(self) -> bool:
        """Say whether there is an order that waits until nothing is under way."""
        return self._replay.exists() or self._letters.exists()

    def stamps(self) -> tuple[int, ...]:
        """Return what changes whenever an order is given or taken back; cheap."""
        return _stamp(self._pause), _stamp(self._replay), _stamp(self._letters)

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            members: dict[str, Any] = orjson.loads(path.read_bytes())
            return dict(members)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise OrderDamaged(
                f"{path} cannot be read: {error}.", remedy="Delete it, and give the order again."
            ) from error

    def _removed(self, path: Path) -> bool:
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        self._disk.sync_directory(path.parent)
        return True


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
