"""Who sends: from a bearer key to the organization it may emit for, remembered for a moment."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from klyra_audit.errors import Paused
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_collector.stages import Tenancy

if TYPE_CHECKING:
    from klyra_collector.registry.emitters import EmitterKey
    from klyra_collector.registry.keys import ApiKey
    from klyra_collector.registry.organizations import Organization

EMIT = "emit"
REMEMBERED_SECONDS = 2.0  # how long a revoked key may still be believed
_MAX_REMEMBERED = 10_000
OPERATOR_TENANCY = Tenancy(OPERATOR_ORGANIZATION_ID, "enterprise", "enterprise", 365)


class Forbidden(Paused):
    """The key is valid but may not emit."""

    code = "scope_missing"


@dataclass(frozen=True, slots=True)
class Sender:
    """What a key allows.

    Attributes:
        key_id: public id, `key_…`.
        organization_id: whose events it sends; None for a key that may emit for many.
        emitter_ids: the emitters it may speak for; empty for any.
    """

    key_id: str
    organization_id: str | None
    emitter_ids: tuple[str, ...]


class Registry(Protocol):
    """What receiving asks of the registry; calls may block on its database."""

    def authenticate(self, bearer_text: str) -> ApiKey:
        """Return the key, or raise `KeyRefused`."""
        ...

    def organization(self, organization_id: str) -> Organization | None:
        """Return an organization, None if there is no such."""
        ...

    def keys_of_emitter(self, emitter_id: str) -> list[EmitterKey]:
        """Return the signing keys of the emitters of that id, revoked ones too."""
        ...


class Senders:
    """Asks the registry off the event loop and remembers the answers for `REMEMBERED_SECONDS`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._senders: dict[bytes, tuple[float, Sender]] = {}
        self._tenancies: dict[str, tuple[float, Tenancy | None]] = {}
        self._emitter_keys: dict[str, tuple[float, tuple[EmitterKey, ...]]] = {}

    async def authenticate(self, bearer_text: str) -> Sender:
        """Return what the key allows.

        Raises:
            KeyRefused: malformed, unknown, expired or revoked.
            Forbidden: without the scope `emit`.
        """
        digest = hashlib.sha256(bearer_text.encode("utf-8", "replace")).digest()
        found = self._senders.get(digest)
        if found is not None and found[0] > time.monotonic():
            return found[1]
        key = await asyncio.to_thread(self._registry.authenticate, bearer_text)
        if EMIT not in key.scopes:
            raise Forbidden(f"Key {key.key_id} may not emit.", remedy="Use a key created with --scope emit.")
        sender = Sender(key.key_id, key.organization_id, key.emitter_ids)
        _remember(self._senders, digest, sender)
        return sender

    async def emitter_keys(self, emitter_id: str) -> tuple[EmitterKey, ...]:
        """Return the signing keys of the emitters of that id, revoked ones too."""
        found = self._emitter_keys.get(emitter_id)
        if found is not None and found[0] > time.monotonic():
            return found[1]
        keys = tuple(await asyncio.to_thread(self._registry.keys_of_emitter, emitter_id))
        _remember(self._emitter_keys, emitter_id, keys)
        return keys

    async def tenancy(self, organization_id: str) -> Tenancy | None:
        """Return the organization and its plan, None if there is no such organization."""
        if organization_id == OPERATOR_ORGANIZATION_ID:
            return OPERATOR_TENANCY
        found = self._tenancies.get(organization_id)
        if found is not None and found[0] > time.monotonic():
            return found[1]
        organization = await asyncio.to_thread(self._registry.organization, organization_id)
        tenancy = None if organization is None else tenancy_of(organization)
        _remember(self._tenancies, organization_id, tenancy)
        return tenancy


def tenancy_of(organization: Organization) -> Tenancy:
    """Return what the seal must know of an organization."""
    return Tenancy(organization.organization_id, organization.plan, organization.policy, organization.retention_days)


def _remember(memory: dict, key: object, value: object) -> None:  # type: ignore[type-arg] # of either memory
    if len(memory) >= _MAX_REMEMBERED:
        memory.clear()
    memory[key] = (time.monotonic() + REMEMBERED_SECONDS, value)
