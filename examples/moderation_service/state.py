"""What the service knows: all of it in memory, forgotten when it ends."""

from __future__ import annotations

import hashlib
import secrets
import threading
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from fastapi import HTTPException

if TYPE_CHECKING:
    from collections.abc import Mapping

Role = Literal["viewer", "moderator", "admin"]
Decision = Literal["approved", "flagged", "rejected"]

Found = TypeVar("Found")

OWNER_ID: Final = "usr_owner"
MAX_MODERATIONS: Final = 10_000  # older decisions are forgotten; the audit log keeps them


@dataclass(frozen=True, slots=True)
class User:
    """A person with an account, or an invitation to one."""

    id: str
    email: str
    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """An API key of this service; its secret is kept as SHA-256."""

    id: str
    name: str
    sha256: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address to be told of events. This example stores it and calls nobody."""

    id: str
    url: str
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moderation:
    """A decision on one text. The text itself is not kept."""

    id: str
    decision: Decision
    scores: Mapping[str, Decimal]
    categories: tuple[str, ...]
    appealed: bool = False


@dataclass(slots=True)
class State:
    """Everything by its id.

    Hold `lock` from looking something up until it is changed: what is recorded in between is then what happened.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    flag_threshold: Decimal = Decimal("0.50")
    users: dict[str, User] = field(default_factory=dict)
    invitations: dict[str, User] = field(default_factory=dict)  # by the token that accepts them
    keys: dict[str, ServiceKey] = field(default_factory=dict)
    webhooks: dict[str, Webhook] = field(default_factory=dict)
    moderations: dict[str, Moderation] = field(default_factory=dict)

    @classmethod
    def begin(cls) -> State:
        """Return the state of a new organization: one administrator, who can make everything else."""
        owner = User(OWNER_ID, "ada@example.com", "Ada Moreau", "admin")
        return cls(users={owner.id: owner})

    def key_of(self, secret: str) -> ServiceKey | None:
        """Return the key that a secret proves."""
        digest = sha256_of(secret)
        return next((key for key in list(self.keys.values()) if key.sha256 == digest), None)

    def remember(self, moderation: Moderation) -> None:
        """Keep a decision, and forget the oldest once there are too many."""
        with self.lock:
            self.moderations[moderation.id] = moderation
            if len(self.moderations) > MAX_MODERATIONS:
                del self.moderations[next(iter(self.moderations))]


def find(among: Mapping[str, Found], wanted: str) -> Found:
    """Return what has an id; answer 404 if nothing has."""
    if wanted not in among:
        raise HTTPException(404, f"There is no {wanted} here.")
    return among[wanted]


def new_id(prefix: str) -> str:
    """Return a fresh id, such as ``mod_`` and 12 hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(6)}"


def user_id_of(email: str) -> str:
    """Return the id of a person, the same each time they join."""
    return f"usr_{sha256_of(email.lower())[:12]}"


def new_key(name: str) -> tuple[ServiceKey, str]:
    """Return a fresh key and its secret, which is shown once."""
    secret = f"mod_sk_{secrets.token_urlsafe(24)}"
    return ServiceKey(new_id("key"), name, sha256_of(secret)), secret


def sha256_of(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
