"""Random tampering and random lives of a ledger, the same for the same seed."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_audit.format.merkle import HASH_SIZE
from support.baseline import ENTERPRISE, FIRST_DAY, HOUR_US, RETENTION, STARTUP
from support.forge import Forge, ForgedEmitter, ForgedShard, boot_id
from support.ledgers import DAY_US
from support.tampering import split_frames

Change = Callable[[random.Random, Path], None]


def vouched_files(root: Path) -> list[Path]:
    """Return the files that the ledger vouches for to the last byte.

    Not the signed heads, of which a damaged line of a witness is as good as none, and not the writer's own notes.
    """
    inside = [path for path in sorted(root.rglob("*")) if path.is_file()]
    names = ("leaves", "frames", "0", "1", "org-salt")
    return [path for path in inside if path.name in names or path.name.endswith(".frames")]


def frame_files(root: Path) -> list[Path]:
    """Return the files of frames with more than one in them."""
    return [path for path in vouched_files(root) if "frames" in path.name and len(split_frames(path)) > 1]


def flip_bit(chance: random.Random, root: Path) -> None:
    """Flip a bit anywhere."""
    path = chance.choice(vouched_files(root))
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def overwrite(chance: random.Random, root: Path) -> None:
    """Overwrite some bytes anywhere."""
    path = chance.choice(vouched_files(root))
    content = bytearray(path.read_bytes())
    at = chance.randrange(len(content))
    content[at : at + 16] = chance.randbytes(len(content[at : at + 16]))
    path.write_bytes(content)


def cut(chance: random.Random, root: Path) -> None:
    """Cut a file short."""
    path = chance.choice(vouched_files(root))
    os.truncate(path, chance.randrange(path.stat().st_size))


def append(chance: random.Random, root: Path) -> None:
    """Append to a file what looks like more of it, or does not."""
    path = chance.choice(vouched_files(root))
    content = path.read_bytes()
    more = chance.choice([chance.randbytes(chance.randrange(1, 300)), content[: chance.randrange(1, len(content) + 1)]])
    path.write_bytes(content + more)


def delete(chance: random.Random, root: Path) -> None:
    """Delete a file."""
    chance.choice(vouched_files(root)).unlink()


def exchange_files(chance: random.Random, root: Path) -> None:
    """Put two files in each other's place."""
    one, other = chance.sample(vouched_files(root), 2)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def replace_file(chance: random.Random, root: Path) -> None:
    """Replace a file by bytes that mean nothing."""
    path = chance.choice(vouched_files(root))
    path.write_bytes(chance.randbytes(chance.randrange(1, 2 * path.stat().st_size + 1)))


def exchange_frames(chance: random.Random, root: Path) -> None:
    """Put two frames of a file in each other's place."""
    path = chance.choice(frame_files(root))
    frames = split_frames(path)
    one, other = chance.sample(range(len(frames)), 2)
    frames[one], frames[other] = frames[other], frames[one]
    path.write_bytes(b"".join(frames))


def drop_frame(chance: random.Random, root: Path) -> None:
    """Leave a frame out."""
    path = chance.choice(frame_files(root))
    frames = split_frames(path)
    del frames[chance.randrange(len(frames))]
    path.write_bytes(b"".join(frames))


def double_frame(chance: random.Random, root: Path) -> None:
    """Put a frame in again, at its place or at another."""
    path = chance.choice(frame_files(root))
    frames = split_frames(path)
    frames.insert(chance.randrange(len(frames) + 1), chance.choice(frames))
    path.write_bytes(b"".join(frames))


def move_frame(chance: random.Random, root: Path) -> None:
    """Move a frame into another file."""
    source, target = chance.sample(frame_files(root), 2)
    frames = split_frames(source)
    moved = frames.pop(chance.randrange(len(frames)))
    source.write_bytes(b"".join(frames))
    target.write_bytes(target.read_bytes() + moved)


def exchange_leaves(chance: random.Random, root: Path) -> None:
    """Put two leaves, and perhaps their hashes, in each other's place."""
    path = chance.choice([path for path in vouched_files(root) if path.name == "leaves"])
    one, other = sorted(chance.sample(range(path.stat().st_size // LEAF_SIZE), 2))
    exchange_parts(path, one, other, LEAF_SIZE)
    if chance.random() < 0.5:
        exchange_parts(path.parent / "hashes" / "0", one, other, HASH_SIZE)


def exchange_parts(path: Path, one: int, other: int, size: int) -> None:
    """Put two parts of a file in each other's place; nothing in a file that is too short or gone by now."""
    content = path.read_bytes() if path.exists() else b""
    if len(content) >= (other + 1) * size:
        first, second = content[one * size : (one + 1) * size], content[other * size : (other + 1) * size]
        changed = bytearray(content)
        changed[one * size : (one + 1) * size] = second
        changed[other * size : (other + 1) * size] = first
        path.write_bytes(changed)


ANYWHERE: tuple[Change, ...] = (flip_bit, overwrite, cut, append, delete, exchange_files, replace_file)
STRUCTURED: tuple[Change, ...] = (exchange_frames, drop_frame, double_frame, move_frame, exchange_leaves)


def tamper_with_store(chance: random.Random, store: Path) -> None:
    """Change one row of a store in one column, or delete it, or move it."""
    with closing(sqlite3.connect(store)) as connection, connection:
        positions = [position for (position,) in connection.execute("SELECT position FROM entries")]
        at = chance.choice(positions)
        column = chance.choice(
            [
                *("id", "timestamp", "event_type", "actor_type", "actor_id", "resource_id", "action", "status"),
                *("client_ip", "expire_day", "leaf", "entry", "organization", "shown", "position", "delete"),
            ]
        )
        if column == "delete":
            connection.execute("DELETE FROM entries WHERE position = ?", (at,))
            return
        (old,) = connection.execute(f"SELECT {column} FROM entries WHERE position = ?", (at,)).fetchone()  # noqa: S608 - above
        connection.execute(
            f"UPDATE OR REPLACE entries SET {column} = ? WHERE position = ?",  # noqa: S608 - names from the list above
            (other_value(chance, old), at),
        )


def other_value(chance: random.Random, old: object) -> object:
    """Return another value of the same kind."""
    if isinstance(old, int):
        return 0 if old == 1 else old + chance.randrange(1, 5)
    if isinstance(old, bytes):
        changed = bytearray(old)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    return f"{old}x"


class Life:
    """A ledger to which random things happen, none of them wrong."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.forge = Forge.opened("2025", FIRST_DAY * DAY_US + HOUR_US, RETENTION)
        self._emitter = self.forge.add_emitter(ForgedEmitter("moderation-1", boot_id(7), 0), ENTERPRISE)
        self._holds = 0

    def live(self, steps: int) -> Forge:
        """Let some things happen, delete what is due, and publish."""
        events = (self._seal, self._seal, self._erase, self._erase, self._pass, self._hold, self._release, self._extend)
        for _ in range(steps):
            self._chance.choice(events)()
            self.forge.newest.now_us += self._chance.randrange(1, 5) * 1000
        self.forge.expire()
        self.forge.newest.heads()
        self.forge.newest.publish()
        return self.forge

    def _seal(self) -> None:
        newest = self.forge.newest
        for _ in range(3):
            newest.about_user(self._organization())
            newest.quarantine(self._organization(), self._chance.randbytes(20))
        newest.batch(self._emitter, ENTERPRISE, 2)

    def _erase(self) -> None:
        shard = self._chance.choice(self.forge.shards)
        organization_id = self._organization()
        own = set(shard.records_of(organization_id).values())
        here = sorted(
            body.index
            for frames in shard.bodies.values()
            for body in frames
            if body.index in own and body.sections.actor
        )
        free = [index for index in here if not self.forge.is_held(shard, index) and is_event(shard, index)]
        chosen = self._chance.sample(free, min(2, len(free)))
        targets = [index for index in chosen if shard.frame_of(index).sections.target is not None]
        if chosen:
            shard.erase(organization_id, actor=chosen, target=targets[:1], into=self.forge.newest)

    def _pass(self) -> None:
        """Let days pass, over the year's end if it comes, and delete what is due."""
        newest = self.forge.newest
        newest.heads()
        newest.keep_as(f"{newest.now_us}")
        days = self._chance.randrange(1, 40)
        later = newest.now_us + days * DAY_US
        if len(self.forge.shards) == 1 and self._chance.random() < 0.4:
            self.forge.open_next("2026", later)
        else:
            newest.now_us = later
        self.forge.expire()

    def _hold(self) -> None:
        if len(self.forge.holds) < 3:
            self._holds += 1
            now_us = self.forge.newest.now_us
            begin = now_us - self._chance.randrange(1, 30) * DAY_US
            end = self._chance.choice([None, now_us - DAY_US // 2])
            self.forge.hold(f"hold_{self._holds}", self._organization(), begin, end)

    def _release(self) -> None:
        if self.forge.holds:
            self.forge.release(self._chance.choice(self.forge.holds).hold_id)

    def _extend(self) -> None:
        shard = self._chance.choice(self.forge.shards)
        own = set(shard.records_of(STARTUP).values())
        here = [body.index for frames in shard.bodies.values() for body in frames if body.index in own]
        if here:
            self.forge.extend(shard, STARTUP, [self._chance.choice(here)], self._chance.choice([45, 60]))

    def _organization(self) -> str:
        return self._chance.choice([STARTUP, STARTUP, ENTERPRISE])


def is_event(shard: ForgedShard, index: int) -> bool:
    """Say whether a record is an event, not a quarantined input."""
    return Leaf.unpack(shard.leaves[index]).kind == Kind.EVENT
