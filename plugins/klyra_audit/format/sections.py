"""Split a document into sections, join them again, and commit to them (DESIGN sections 4 and 5).

A section can be erased later: its commitment stays in the leaf's `commit`, its bytes and salt go. Joining needs
no catalog, so a verifier of any age can do it.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from klyra_audit.format import canonical
from klyra_audit.format.errors import ProfileError, SectionError

if TYPE_CHECKING:
    from klyra_audit.format.canonical import JsonObject

SectionName = Literal["core", "actor", "target"]

SALT_SIZE: Final = 16
SALTS_SIZE: Final = 3 * SALT_SIZE
ABSENT: Final = bytes(32)
OPERATOR_REFERENCE: Final = bytes(16)
OPERATOR_ORGANIZATION_ID: Final = "operator"
MAX_POINTER_CHARACTERS: Final = 1024

_ORGANIZATION_ID = re.compile(r"org_[0-9A-Za-z_-]{1,64}")
_METADATA = "/metadata/"
_ACTOR_POINTERS = ("/actor/id", "/actor/name", "/metadata/client_ip", "/metadata/user_agent")
_ACTOR_FIXED = frozenset({"/actor/id", "/actor/name"})
_TARGET_POINTERS = ("/resource/id", "/resource/name")
_TARGET_FIXED = frozenset(_TARGET_POINTERS)
_BAD_ESCAPE = re.compile(r"~(?![01])")

DOMAIN_CORE = b"klyra/kl1/core\0"
DOMAIN_ACTOR = b"klyra/kl1/actor\0"
DOMAIN_TARGET = b"klyra/kl1/target\0"
_DOMAINS: dict[SectionName, bytes] = {"core": DOMAIN_CORE, "actor": DOMAIN_ACTOR, "target": DOMAIN_TARGET}
DOMAIN_EVENT = b"klyra/kl1/event\0"
_DOMAIN_CONTROL = b"klyra/kl1/control\0"
_DOMAIN_ORGANIZATION = b"klyra/kl1/org\0"

_sha256 = hashlib.sha256


@dataclass(frozen=True, slots=True)
class Marks:
    """Metadata pointers that the catalog adds to the actor and target sections; all begin with /metadata/."""

    actor: tuple[str, ...] = ()
    target: tuple[str, ...] = ()


NO_MARKS: Final = Marks()


@dataclass(frozen=True, slots=True)
class Sections:
    """Canonical bytes of each section; None where a section is absent."""

    core: bytes
    actor: bytes | None = None
    target: bytes | None = None


@dataclass(frozen=True, slots=True)
class Salts:
    """16 random bytes for each section, drawn even for an absent one."""

    core: bytes
    actor: bytes
    target: bytes

    @classmethod
    def unpack(cls, salts: bytes) -> Salts:
        """Read the 48 bytes that travel with an event."""
        if len(salts) != SALTS_SIZE:
            raise SectionError(f"salts are {len(salts)} bytes long, not {SALTS_SIZE}")
        return cls(salts[:16], salts[16:32], salts[32:])

    @classmethod
    def draw(cls) -> Salts:
        """Draw fresh salts from the system."""
        return cls.unpack(os.urandom(SALTS_SIZE))

    def pack(self) -> bytes:
        """Return the 48 bytes that travel with an event."""
        return self.core + self.actor + self.target


@dataclass(frozen=True, slots=True)
class Commitments:
    """C_core, C_actor, C_target: 32 bytes each, zeros for an absent section."""

    core: bytes
    actor: bytes
    target: bytes

    def event_commit(self) -> bytes:
        """Return the leaf's `commit` of an event or quarantine record."""
        return _sha256(DOMAIN_EVENT + self.core + self.actor + self.target).digest()


def is_organization_id(text: str) -> bool:
    """Say whether `text` can name a customer; the operator's own name cannot."""
    return _ORGANIZATION_ID.fullmatch(text) is not None


def organization_reference(org_salt: bytes, organization_id: str) -> bytes:
    """Return `org_ref`, the 16 bytes that stand for an organization in leaves."""
    if organization_id == OPERATOR_ORGANIZATION_ID:
        return OPERATOR_REFERENCE
    return _sha256(_DOMAIN_ORGANIZATION + org_salt + organization_id.encode()).digest()[:16]


def section_commitment(name: SectionName, salt: bytes, encoded: bytes) -> bytes:
    """Return C_name of one section's canonical bytes."""
    return _sha256(_DOMAINS[name] + salt + encoded).digest()


def commitments(sections: Sections, salts: Salts) -> Commitments:
    """Return the three commitments of an event."""
    actor, target = sections.actor, sections.target
    return Commitments(
        _sha256(DOMAIN_CORE + salts.core + sections.core).digest(),
        ABSENT if actor is None else _sha256(DOMAIN_ACTOR + salts.actor + actor).digest(),
        ABSENT if target is None else _sha256(DOMAIN_TARGET + salts.target + target).digest(),
    )


def control_commit(encoded: bytes) -> bytes:
    """Return the leaf's `commit` of a control document's canonical bytes."""
    return _sha256(_DOMAIN_CONTROL + encoded).digest()


def split(document: JsonObject, marks: Marks = NO_MARKS) -> Sections:
    """Split a document into its sections, by the fixed pointers and the catalog's `marks`.

    The document must have passed `canonical.encode` or `canonical.parse_canonical`: it is not checked again.
    """
    resource = document.get("resource")
    about_user = type(resource) is dict and resource.get("type") == "user"
    return _extract(document, _plan(marks, about_user=about_user), required=False)


def has_marked(document: JsonObject, marks: Marks) -> bool:
    """Say whether a document, checked as for `split`, has anything that the catalog's marks move."""
    return any(_is_present(document, pointer) for listed in (marks.actor, marks.target) for pointer in listed)


def split_at(document: JsonObject, actor: tuple[str, ...], target: tuple[str, ...]) -> Sections:
    """Split a document, checked as for `split`, at exactly the pointers an emitter listed.

    Raises:
        SectionError: a pointer that may not be in its section, or that the document does not have.
    """
    listed = [(pointer, True) for pointer in _allowed("actor", actor)]
    listed += [(pointer, False) for pointer in _allowed("target", target)]
    return _extract(document, _by_parent(listed), required=True)


def pointers(sections: Sections) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the sorted pointers of the actor section and of the target section."""
    return (
        tuple(_section_object("actor", sections.actor)),
        tuple(_section_object("target", sections.target)),
    )


def join(sections: Sections) -> JsonObject:
    """Return the document that was split.

    Raises:
        SectionError: a pointer that no split produces, is present in core already, or has no parent there.
        ProfileError: a section is not canonical.
    """
    core = canonical.parse_canonical(sections.core)
    moved: list[tuple[JsonObject, str, object]] = []
    seen: set[str] = set()
    for name, encoded in (("actor", sections.actor), ("target", sections.target)):
        members = _section_object(name, encoded)
        for pointer in _allowed(name, tuple(members)):
            if pointer in seen:
                raise SectionError(f"{pointer} stands in two sections")
            seen.add(pointer)
            parent, member = _place(core, pointer)
            moved.append((parent, member, members[pointer]))
    if seen & _TARGET_FIXED and core["resource"].get("type") != "user":
        raise SectionError("the resource is no user, yet the target section names it")
    for parent, member, value in moved:
        parent[member] = value
    return core


class _Move(NamedTuple):
    """One member that a split may move: its name in its parent, its pointer, and into which section."""

    member: str
    pointer: str
    is_actor: bool


_Plan = tuple[tuple[tuple[str, ...], tuple[_Move, ...]], ...]  # by the path of the parent


@lru_cache(maxsize=256)
def _plan(marks: Marks, *, about_user: bool) -> _Plan:
    """Return everything a split may move."""
    actor = dict.fromkeys((*_ACTOR_POINTERS, *marks.actor))
    target = dict.fromkeys((*(_TARGET_POINTERS if about_user else ()), *marks.target))
    return _by_parent([*((pointer, True) for pointer in actor), *((p, False) for p in target if p not in actor)])


def _by_parent(listed: list[tuple[str, bool]]) -> _Plan:
    groups: dict[tuple[str, ...], list[_Move]] = {}
    for pointer, is_actor in listed:
        *path, member = _tokens(pointer)
        groups.setdefault(tuple(path), []).append(_Move(member, pointer, is_actor))
    return tuple((path, tuple(moves)) for path, moves in groups.items())


def _extract(document: JsonObject, plan: _Plan, *, required: bool) -> Sections:
    core = dict(document)
    copied: dict[tuple[str, ...], JsonObject] = {}
    actor: JsonObject = {}
    target: JsonObject = {}
    for path, moves in plan:
        parent = _copied_parent(core, path, copied)
        for member, pointer, is_actor in moves:
            if parent is not None and member in parent:
                (actor if is_actor else target)[pointer] = parent.pop(member)
            elif required:
                raise SectionError(f"the document has no {pointer}")
    # Parts of a document of the profile are of the profile, so nothing is checked twice on the hot path.
    return Sections(
        canonical.encode_part(core),
        canonical.encode_part(actor) if actor else None,
        canonical.encode_part(target) if target else None,
    )


def _copied_parent(
    core: JsonObject, path: tuple[str, ...], copied: dict[tuple[str, ...], JsonObject]
) -> JsonObject | None:
    """Return the object at `path` inside `core`, copied once so that the document stays as it was."""
    parent = core
    for depth in range(1, len(path) + 1):
        child = copied.get(path[:depth])
        if child is None:
            original = parent.get(path[depth - 1])
            if type(original) is not dict:
                return None
            child = dict(original)
            parent[path[depth - 1]] = copied[path[:depth]] = child
        parent = child
    return parent


def _is_present(document: JsonObject, pointer: str) -> bool:
    parent: object = document
    for token in _tokens(pointer):
        if type(parent) is not dict or token not in parent:
            return False
        parent = parent[token]
    return True


def _section_object(name: str, encoded: bytes | None) -> JsonObject:
    if encoded is None:
        return {}
    members = canonical.parse_canonical(encoded, max_key_characters=MAX_POINTER_CHARACTERS)
    if not members:
        raise SectionError(f"the {name} section is empty; an empty section is absent")
    return members


def _allowed(name: str, listed: tuple[str, ...]) -> tuple[str, ...]:
    fixed = _ACTOR_FIXED if name == "actor" else _TARGET_FIXED
    for pointer in listed:
        is_metadata = pointer.startswith(_METADATA) and len(_METADATA) < len(pointer) <= MAX_POINTER_CHARACTERS
        if pointer not in fixed and not is_metadata:
            raise SectionError(f"{pointer} cannot be in the {name} section")
    return listed


@lru_cache(maxsize=4096)
def _tokens(pointer: str) -> tuple[str, ...]:
    if _BAD_ESCAPE.search(pointer):
        raise SectionError("a pointer has a tilde that escapes nothing (RFC 6901 section 3)")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/"))


def _place(core: JsonObject, pointer: str) -> tuple[JsonObject, str]:
    """Return the parent in core and the member's name; a pointer inside another one finds no parent."""
    *path, member = _tokens(pointer)
    parent: object = core
    for token in path:
        parent = parent.get(token) if type(parent) is dict else None
    if type(parent) is not dict:
        raise SectionError(f"{pointer} has no parent object in the core section")
    if member in parent:
        raise SectionError(f"{pointer} is present in the core section already")
    return parent, member


__all__ = [
    "ABSENT",
    "NO_MARKS",
    "OPERATOR_ORGANIZATION_ID",
    "OPERATOR_REFERENCE",
    "SALTS_SIZE",
    "Commitments",
    "Marks",
    "ProfileError",
    "Salts",
    "SectionName",
    "Sections",
    "commitments",
    "control_commit",
    "has_marked",
    "is_organization_id",
    "join",
    "organization_reference",
    "pointers",
    "section_commitment",
    "split",
    "split_at",
]
