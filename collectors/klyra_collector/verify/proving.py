"""Prove in the fewest steps that bodies are what their leaves commit to; say nothing about those where that fails.

Nearly all bodies of a ledger are ordinary: an event, with nothing erased, without evidence of its emitter, of an
organization that was seen before. For those, what `contents.py` would find out is decided here in a sixth of the time;
any other, and any that is wrong in any way, is left to `contents.py`, which alone says what is wrong. So nothing may be
proven here that would not be found to be right there; a test compares the two.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import orjson

from klyra_audit.format.canonical import MAX_DEPTH, MAX_INTEGER, MAX_KEY_CHARACTERS
from klyra_audit.format.frame import BODY_HEADER_SIZE
from klyra_audit.format.leaf import LEAF_SIZE, VERSION, Flag, Kind
from klyra_audit.format.ordinary import read_ordinary
from klyra_audit.format.sections import SALT_SIZE
from klyra_collector.verify.walk import WINDOW_BYTES

if TYPE_CHECKING:
    from klyra_collector.verify.contents import BodyChecker
    from klyra_collector.verify.filing import FrameReport
    from klyra_collector.verify.scan import LeafReader
    from klyra_collector.verify.walk import Source

_LENGTHS: Final = struct.Struct(">12x4I")  # of a body's header
_LEAF: Final = struct.Struct(">BBHI16s56x32s")  # version, kind, flags, expire_day, org_ref, commit
_EVENT: Final = (VERSION, Kind.EVENT.value)
_BACKFILLED: Final = Flag.BACKFILLED.value
_HAS_ACTOR: Final = Flag.HAS_ACTOR.value
_HAS_TARGET: Final = Flag.HAS_TARGET.value
_PARENTS: Final = {"actor": {"actor", "metadata"}, "target": {"resource", "metadata"}}
_MEMBERS: Final = {"id", "name"}  # those of a person outside the metadata
_SCALARS: Final = {str, type(None)}
_PLAIN: Final = {str, type(None), bool}  # values of which every one is of the profile
_POINTER_PARTS: Final = 3
_MAX_KNOWN: Final = 4096  # keys and sets of pointers that are remembered; a hostile file may have any number

_loads = orjson.loads
_dumps = orjson.dumps
_SORTED: Final = orjson.OPT_SORT_KEYS

_Plan = tuple[tuple[str, str], ...]  # (name of the parent in core, name of the member)


class BodyProver:
    """Goes over one day's bodies as far as they are ordinary.

    Args:
        source: the file.
        leaves: of the shard.
        checker: knows the organizations that were seen.
        day: of the file.
        limit: how many records are looked at.
    """

    def __init__(self, source: Source, leaves: LeafReader, checker: BodyChecker, day: int, limit: int) -> None:
        self._source = source
        self._leaves = leaves
        self._checker = checker
        self._day = day
        self._limit = limit
        self._window = b""
        self._base = 0
        self._keys: set[str] = set()
        self._plans: dict[tuple[tuple[str, ...], tuple[str, ...]], _Plan] = {}

    def prove(self, offset: int, stop: int, report: FrameReport) -> int:
        """Add the bodies from an offset on that can be proven; return where the first one begins that cannot."""
        while offset < stop:
            place = offset - self._base
            end = self._prove_at(place, report) if 0 <= place < len(self._window) else None
            if end is not None:
                offset = self._base + end
            elif (place == 0 and self._window) or not self._refill(offset, place):
                break
        return offset

    def _refill(self, offset: int, place: int) -> bool:
        """Read on from an offset; False if the frame there is in the window, and could not be proven."""
        if 0 <= place <= len(self._window) - BODY_HEADER_SIZE:
            lengths = _LENGTHS.unpack_from(self._window, place)
            if place + BODY_HEADER_SIZE + sum(lengths) + 3 * SALT_SIZE <= len(self._window):
                return False
        self._base = offset
        self._window = self._source.read(offset, WINDOW_BYTES)
        return len(self._window) >= BODY_HEADER_SIZE

    def _prove_at(self, place: int, report: FrameReport) -> int | None:
        """Prove the body at a place of the window; return where it ends, None if it cannot be proven."""
        body = read_ordinary(self._window, place)
        if body is None or body.leaf_index >= self._limit:
            return None
        actor = None if body.actor is None else body.actor[SALT_SIZE:]
        target = None if body.target is None else body.target[SALT_SIZE:]
        flags = (0 if actor is None else _HAS_ACTOR) | (0 if target is None else _HAS_TARGET)
        org_ref = self._prove_leaf(body.leaf_index, flags, body.commit)
        if org_ref is None or not self._prove_sections(body.core[SALT_SIZE:], actor, target, org_ref):
            return None
        report.indexes.append(body.leaf_index)
        report.offsets.append(self._base + place)
        return body.end

    def _prove_leaf(self, index: int, flags: int, commit: bytes) -> bytes | None:
        """Return the org_ref of the leaf that commits to an event of this day's file, None if none is known to."""
        encoded = self._leaves.at(index)
        if encoded is None or len(encoded) != LEAF_SIZE:
            return None
        version, kind, leaf_flags, expire_day, org_ref, leaf_commit = _LEAF.unpack(encoded)
        known = (version, kind) == _EVENT and leaf_flags & ~_BACKFILLED == flags
        return org_ref if known and expire_day == self._day and leaf_commit == commit else None

    def _prove_sections(self, core: bytes, actor: bytes | None, target: bytes | None, org_ref: bytes) -> bool:
        """Say whether sections are canonical and join to a document of the organization."""
        try:
            document = _loads(core)
            actor_members = {} if actor is None else _loads(actor)
            target_members = {} if target is None else _loads(target)
        except orjson.JSONDecodeError:
            return False
        return (
            type(document) is dict
            and _dumps(document, option=_SORTED) == core
            and self._fits(document, MAX_DEPTH)
            and self._checker.agrees(document.get("organization_id"), org_ref)
            and _is_flat(actor_members, actor)
            and _is_flat(target_members, target)
            and self._joins(document, (tuple(actor_members), tuple(target_members)))
        )

    def _joins(self, document: dict[str, Any], pointers: tuple[tuple[str, ...], tuple[str, ...]]) -> bool:
        """Say whether every pointer has a place in the core, which is free."""
        plan = self._plans.get(pointers) or self._plan(pointers)
        if plan is None:
            return False
        for parent, member in plan:
            holder = document.get(parent)
            if type(holder) is not dict or member in holder:
                return False
            if parent == "resource" and holder.get("type") != "user":
                return False
        return True

    def _plan(self, pointers: tuple[tuple[str, ...], tuple[str, ...]]) -> _Plan | None:
        """Return which members pointers name; None if they are out of the ordinary."""
        if len(self._plans) >= _MAX_KNOWN:
            self._plans.clear()
        plan: list[tuple[str, str]] = []
        for name, listed in zip(("actor", "target"), pointers, strict=True):
            for pointer in listed:
                place = self._place(name, pointer)
                if place is None or place in plan:
                    return None
                plan.append(place)
        self._plans[pointers] = tuple(plan)
        return tuple(plan)

    def _place(self, name: str, pointer: str) -> tuple[str, str] | None:
        parts = pointer.split("/")
        if len(parts) != _POINTER_PARTS or parts[0] or "~" in pointer or parts[1] not in _PARENTS[name]:
            return None
        if not _is_key(parts[2]) or (parts[1] != "metadata" and parts[2] not in _MEMBERS):
            return None
        return parts[1], parts[2]

    def _fits(self, value: dict[str, Any] | list[Any], depth: int) -> bool:
        """Say whether a value is of the profile (`klyra_audit.format.canonical`)."""
        if depth == 0:
            return False
        members: Any = value
        if type(value) is dict:
            if not self._keys.issuperset(value) and not self._learn(value):
                return False
            members = value.values()
        if _PLAIN.issuperset(map(type, members)):
            return True
        for member in members:
            kind = type(member)
            if kind in _PLAIN:
                continue
            if kind is int:
                if not -MAX_INTEGER <= member <= MAX_INTEGER:
                    return False
            elif (kind is not dict and kind is not list) or not self._fits(member, depth - 1):
                return False
        return True

    def _learn(self, value: dict[str, Any]) -> bool:
        """Remember the keys of an object; False if one of them is none."""
        if not all(map(_is_key, value)):
            return False
        if len(self._keys) < _MAX_KNOWN:
            self._keys.update(value)
        return True


def _is_key(key: str) -> bool:
    return 0 < len(key) <= MAX_KEY_CHARACTERS and key.isascii() and key.isprintable() and " " not in key


def _is_flat(members: object, encoded: bytes | None) -> bool:
    """Say whether a section is absent, or a canonical object of strings and nulls that is not empty."""
    if encoded is None:
        return True
    if type(members) is not dict or not members or _dumps(members, option=_SORTED) != encoded:
        return False
    return _SCALARS.issuperset(map(type, members.values()))
