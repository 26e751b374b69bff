"""Where a ledger's files lie (DESIGN sections 5 and 10), found from a data, ledger or shard directory."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_collector.verify import files
from klyra_collector.verify.errors import CannotVerify
from klyra_collector.verify.files import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SHARD: Final = re.compile(r"(\d{4})(?:-(\d{1,4}))?", re.ASCII)
_DAY: Final = re.compile(r"0|[1-9]\d{0,9}", re.ASCII)
_LEVEL: Final = re.compile(r"\d", re.ASCII)
_FRAMES: Final = "frames"
HELD: Final = -2  # the file of bodies under a legal hold, where other files are named by their day
_HELD: Final = "held"
_WHAT: Final = "Name a data directory (with ledger/ in it), a ledger directory, or the directory of one shard."


@dataclass(frozen=True, slots=True)
class ShardFolder:
    """The files of one shard, and of the data directory around it.

    Attributes:
        target: what the names in findings are relative to.
        root: the shard's directory.
        data: the data directory; None when the shard stands alone.
        is_whole: the data directory was the target, so that everything in it is expected to be there.
        is_named: the directory bears the shard's name.
        is_ledger: the target is no single shard, so that all shards there are should be there.
    """

    target: Path
    root: Path
    data: Path | None
    is_whole: bool
    is_named: bool
    is_ledger: bool = True

    @property
    def leaves(self) -> Path:
        """112 bytes for each record."""
        return self.root / "leaves"

    def hashes(self, level: int) -> Path:
        """Hashes of one tile level."""
        return self.root / "hashes" / str(level)

    @property
    def control(self) -> Path:
        """Frames of control documents."""
        return self.root / "control" / _FRAMES

    def bodies(self, day: int) -> Path:
        """Frames of the bodies that may go on a day, or `HELD`."""
        return self.root / "bodies" / _folder(day) / _FRAMES

    @property
    def checkpoint(self) -> Path:
        """The newest published head."""
        return self.root / "checkpoint"

    @property
    def checkpoints(self) -> Path:
        """Heads kept for good."""
        return self.root / "checkpoints"

    @property
    def state(self) -> Path:
        """What the writer keeps for itself."""
        return self.root / "state"

    @property
    def last_signed(self) -> Path:
        """The newest head ever signed."""
        return self.state / "last-signed"

    @property
    def witnessed(self) -> Path:
        """The newest head that witnesses have cosigned."""
        return self.state / "witnessed"

    @property
    def committed(self) -> Path:
        """How many records followers may read."""
        return self.state / "committed"

    @property
    def collector_vkey(self) -> Path | None:
        """The collector's verifier key, as it says itself."""
        return None if self.data is None else self.data / "keys" / "collector.vkey"

    @property
    def org_salt(self) -> Path | None:
        """The salt behind every org_ref."""
        return None if self.data is None else self.data / "keys" / "org-salt"

    @property
    def run_json(self) -> Path | None:
        """Where a running collector says what it serves; a clean stop removes it."""
        return None if self.data is None else self.data / "run.json"

    @property
    def quarantine(self) -> Path | None:
        """The folder of quarantined bytes."""
        return None if self.data is None else self.data / "quarantine"

    def quarantined(self, day: int) -> Path | None:
        """Frames of the quarantined bytes of this shard that may go on a day, or `HELD`."""
        return None if self.quarantine is None else self.quarantine / _folder(day) / f"{self.root.name}.{_FRAMES}"

    def body_days(self) -> Iterator[int]:
        """Yield the days for which there is a folder of bodies, and `HELD`; raises `Unreadable`."""
        return _days(self.root / "bodies")

    def quarantine_days(self) -> Iterator[int]:
        """Yield the days for which there is a folder of quarantined bytes, and `HELD`; raises `Unreadable`."""
        return iter(()) if self.quarantine is None else _days(self.quarantine)

    def other_body_folders(self) -> Iterator[Path]:
        """Yield what stands among the folders of bodies and is none."""
        return (path for path in files.entries(self.root / "bodies") if _day(path.name) is None)

    def hash_levels(self) -> list[int]:
        """Return the levels for which there is a file of hashes; raises `Unreadable`."""
        return [int(path.name) for path in files.entries(self.root / "hashes") if _LEVEL.fullmatch(path.name)]

    def name(self, path: Path) -> str:
        """Return how findings call a file."""
        inside = path.relative_to(self.target) if path.is_relative_to(self.target) else path
        return os.fsencode(inside).decode("utf-8", "backslashreplace")


def find_shards(target: Path) -> list[ShardFolder]:
    """Return the shards of a target, oldest first.

    Raises:
        CannotVerify: nothing there looks like a ledger.
    """
    try:
        target = target.resolve()
        if not target.is_dir():
            raise CannotVerify(f"{target} is no directory.", code="no_ledger", remedy=_WHAT)
        found = list(_shards(target))
    except (OSError, ValueError, Unreadable) as error:
        raise CannotVerify(f"{target} cannot be read: {error}.", code="no_ledger", remedy=_WHAT) from error
    if not found:
        raise CannotVerify(f"There is no ledger in {target}.", code="no_ledger", remedy=_WHAT)
    return found


def _shards(target: Path) -> Iterator[ShardFolder]:
    if (target / "ledger").is_dir():
        yield from _shards_in(target, (target / "ledger").resolve(), target)
    elif files.exists(target / "leaves") or files.exists(target / "checkpoint"):
        named = _SHARD.fullmatch(target.name) is not None and (target.parent / "identity.json").is_file()
        yield ShardFolder(target, target, _data_around(target.parent), is_whole=False, is_named=named, is_ledger=False)
    else:
        yield from _shards_in(target, target, None)


def _shards_in(target: Path, ledger: Path, data: Path | None) -> Iterator[ShardFolder]:
    paths = [path for path in files.entries(ledger) if _SHARD.fullmatch(path.name) and files.is_folder(path)]
    for path in sorted(paths, key=shard_order):
        around = data or _data_around(ledger)
        yield ShardFolder(target, path, around, is_whole=data is not None, is_named=True)


def _data_around(ledger: Path) -> Path | None:
    """Return the data directory that a ledger directory stands in, if it does."""
    data = ledger.parent
    return data if ledger.name == "ledger" and (data / "keys").is_dir() else None


def shard_order(path: Path) -> tuple[int, int]:
    """Return what sorts the folders of shards by age."""
    year, _, number = path.name.partition("-")
    return int(year), int(number or 1)


def _days(folder: Path) -> Iterator[int]:
    return (day for path in files.entries(folder) if (day := _day(path.name)) is not None)


def _day(name: str) -> int | None:
    if name == _HELD:
        return HELD
    return int(name) if _DAY.fullmatch(name) else None


def _folder(day: int) -> str:
    return _HELD if day == HELD else str(day)
