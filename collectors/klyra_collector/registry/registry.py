"""The registry: who may do what, and what the product has to tell the log about itself (DESIGN sections 5 and 7)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal, Self

from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_audit.validation import Validator
from klyra_collector.registry.database import Database
from klyra_collector.registry.denials import MAX_ENDPOINT_CHARACTERS, Denial, Denials
from klyra_collector.registry.destinations import Destinations
from klyra_collector.registry.emitters import EmitterKeys
from klyra_collector.registry.keys import KeyRequest, Keys
from klyra_collector.registry.last_use import LastUse
from klyra_collector.registry.organizations import Organizations
from klyra_collector.registry.origin import Origin
from klyra_collector.registry.outbox import Outbox
from klyra_collector.registry.policies import Policies
from klyra_collector.registry.reads import Read, Reads
from klyra_collector.registry.scopes import check_scopes
from klyra_collector.registry.sessions import (
    SESSION_LIFETIME,
    SIGN_IN_LIFETIME,
    Sessions,
    SignInRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import timedelta
    from types import TracebackType

    from klyra_audit.catalog import Catalog
    from klyra_audit.event import Actor, AuditEvent
    from klyra_collector.registry.emitters import EmitterKey
    from klyra_collector.registry.keys import ApiKey, IssuedKey
    from klyra_collector.registry.organizations import Organization
    from klyra_collector.registry.outbox import OutboxCommand, RefusedCommand
    from klyra_collector.registry.sessions import Session


def wall_us() -> int:
    """Return the wall clock in microseconds since 1970."""
    return time.time_ns() // 1000


class Registry:
    """Organizations, keys, sessions and the outbox in one database; safe with several threads and processes.

    Every change is durable when its method returns, together with the outbox rows that tell the log of it; when a
    method raises, neither happened. Beside the errors each method names, all of them raise `RegistryUnavailable`
    when the database does not answer and `InvalidEvent` when what is to be recorded breaks its schema.
    Times are microseconds since 1970. An organization id of None is the operator.
    """

    def __init__(self, database: Database, validator: Validator, policies: Policies, clock: Callable[[], int]) -> None:
        self._database = database
        self._outbox = Outbox(database, validator, clock)
        self._organizations = Organizations(database, self._outbox, policies, clock)
        self._last_use = LastUse(database)
        self._keys = Keys(database, self._outbox, self._last_use, clock)
        self._emitter_keys = EmitterKeys(database, self._outbox, clock)
        self._sessions = Sessions(database, self._outbox, clock)
        self._reads = Reads(database, self._outbox, clock)
        self._denials = Denials(database, self._outbox, clock)
        self._destinations = Destinations(database, self._outbox, clock)

    @classmethod
    def open(
        cls,
        url: str,
        catalog: Catalog,
        *,
        policies: Policies | None = None,
        clock: Callable[[], int] = wall_us,
    ) -> Self:
        """Open the registry at an SQLAlchemy URL, making its tables on first use.

        Args:
            url: `sqlite:////path/registry.sqlite`, or PostgreSQL's.
            catalog: what the entries it records must satisfy.
            policies: the plans on sale; by default those in `retention_policies/`.
            clock: microseconds since 1970.

        Raises:
            RegistryTooNew: a later version of this software wrote it.
            RegistryDamaged: it is no registry, or broken.
            RegistryUnreachable: it cannot be opened; an operator must act.
        """
        database = Database.open(url)
        return cls(database, Validator(catalog), policies or Policies.load(), clock)

    def close(self) -> None:
        """Write what is still in memory and close every connection."""
        try:
            self._denials.flush()
        finally:
            self._last_use.close()
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Organizations

    def create_organization(
        self, organization_id: str, plan: str, retention_days: int | None = None, *, by: Actor
    ) -> Organization:
        """Register an organization.

        Raises:
            Rejected: `bad_organization_id`, `bad_plan`, `bad_retention`, `organization_exists`, or
                `too_many_retentions` for a ninth retention length.
        """
        return self._organizations.create(organization_id, plan, retention_days, by=by)

    def set_plan(
        self, organization_id: str, plan: str, retention_days: int | None = None, *, by: Actor
    ) -> Organization:
        """Change an organization's plan; setting the one it has changes and records nothing.

        Raises:
            Rejected: `unknown_organization`, `bad_plan`, `bad_retention`, `too_many_retentions`.
        """
        return self._organizations.set_plan(organization_id, plan, retention_days, by=by)

    def organization(self, organization_id: str) -> Organization | None:
        """Return an organization, None if there is no such."""
        return self._organizations.get(organization_id)

    def organizations(self) -> list[Organization]:
        """Return every organization by id."""
        return self._organizations.all()

    # Keys

    def create_key(
        self,
        *,
        organization_id: str | None,
        scopes: Iterable[str],
        label: str = "",
        emitter_ids: Iterable[str] = (),
        expires_at: int | None = None,
        by: Actor,
    ) -> IssuedKey:
        """Issue an API key; its secret text is in the answer and nowhere else.

        Raises:
            Rejected: `unknown_organization`, `bad_scope`, `bad_label`, `bad_emitter_id`, `bad_expiry`.
        """
        request = KeyRequest(
            organization_id=organization_id,
            scopes=check_scopes(scopes),
            label=label,
            emitter_ids=tuple(emitter_ids),
            expires_at=expires_at,
        )
        return self._keys.create(request, by=by)

    def keys(self, organization_id: str | None = None) -> list[ApiKey]:
        """Return one organization's keys (the operator's under its own name, `operator`), or all, oldest first."""
        return self._keys.all(organization_id)

    def rotate_key(self, key_id: str, overlap: timedelta, by: Actor) -> IssuedKey:
        """Give a key a new secret; those it has are valid for `overlap` more.

        Raises:
            Rejected: `unknown_key`, `key_not_in_force` for one revoked or expired, `bad_overlap`.
        """
        return self._keys.rotate(key_id, overlap, by=by)

    def revoke_key(self, key_id: str, by: Actor) -> ApiKey:
        """Refuse a key and its sessions from now on; revoking it again changes and records nothing.

        Raises:
            Rejected: `unknown_key`.
        """
        return self._keys.revoke(key_id, by=by)

    def authenticate(self, bearer_text: str) -> ApiKey:
        """Return the key that a bearer text proves, with one indexed query.

        A mistyped key is refused without a query. Who authenticates on a hot path may remember an answer for up to
        5 seconds under SHA-256 of the text, never under the text; a revocation then takes that long to be felt.
        Check scopes on the answer. `last_used_at` is written later and to the minute.

        Raises:
            KeyRefused: with its reason; record it with `record_access_denied`.
        """
        return self._keys.authenticate(bearer_text)

    # Emitters' signing keys

    def add_emitter_key(
        self, emitter_id: str, vkey: str, organization_id: str | None, *, by: Actor
    ) -> tuple[EmitterKey, str]:
        """Register an emitter's public key; return it with its outbox command, see `outbox_position`.

        Args:
            emitter_id: as the emitter calls itself, and the key's name.
            vkey: the verifier key line.
            organization_id: whose events it signs; None for an emitter that organizations share.
            by: who adds it.

        Raises:
            Rejected: `bad_emitter_id`, `bad_vkey`, `emitter_key_exists`, `unknown_organization`.
        """
        return self._emitter_keys.add(emitter_id, vkey, organization_id, by=by)

    def emitter_keys(self, organization_id: str | None = None) -> list[EmitterKey]:
        """Return one organization's emitter keys (shared ones under the name `operator`), or all, oldest first."""
        return self._emitter_keys.all(organization_id)

    def keys_of_emitter(self, emitter_id: str) -> list[EmitterKey]:
        """Return the keys that are or were registered under an emitter's id, oldest first."""
        return self._emitter_keys.of(emitter_id)

    def revoke_emitter_key(
        self, vkey: str, untrusted_from: int | None = None, *, by: Actor
    ) -> tuple[EmitterKey, str | None]:
        """Believe an emitter's key no longer; return it with its outbox command, None if it was revoked before.

        Args:
            vkey: which.
            untrusted_from: sequence number from which on, in each of its boots, not even what was sealed is believed.
            by: who revokes it.

        Raises:
            Rejected: `unknown_emitter_key`, `bad_sequence`.
        """
        return self._emitter_keys.revoke(vkey, untrusted_from, by=by)

    @property
    def destinations(self) -> Destinations:
        """The destinations that organizations have set up for themselves."""
        return self._destinations

    # The outbox

    def record_collector_key(self, action: Literal["rotate", "revoke"], vkey: str) -> str:
        """Have the collector rotate from one of its own keys, or revoke it; return the command's id.

        It refuses by `outbox_position` what cannot be done: see `Ledger.rotate_key` and `Ledger.revoke_key`.
        """
        return self._outbox.record_collector_key(action, vkey)

    def record_event(self, organization_id: str | None, event: AuditEvent) -> str:
        """Have the collector seal an entry about the product itself; return the command's id.

        The event's id is replaced by one that derives from the command's. When this returns, the row is durable.

        Raises:
            Rejected: `unknown_organization`.
        """
        return self._outbox.record_event(organization_id, event)

    def record_heads(self) -> str:
        """Have the collector seal HEADS if anything is newer than the last one; return the command's id."""
        return self._outbox.record_heads()

    def record_export(self, organization_id: str, sha256: bytes, events: Iterable[AuditEvent]) -> str:
        """Have the collector seal the EXPORT record of a packet and the entries that tell of it, all or none.

        Returns:
            The id of the EXPORT record's command; `outbox_position` says where it stands once it is sealed.

        Raises:
            Rejected: `unknown_organization`.
        """
        return self._outbox.record_export(organization_id, sha256, events)

    def record_replays(
        self, organization_id: str, inputs: Iterable[tuple[str, int, str]], by: Actor, origin: Mapping[str, str]
    ) -> list[str]:
        """Have quarantined inputs of an organization taken in again; return one command's id for each.

        The `quarantine.replayed` entry that tells of a replay has the id that derives from its command's.

        Args:
            organization_id: whose inputs, or the operator's own name.
            inputs: log, index and reference of each.
            by: who asks.
            origin: `client_ip` and `user_agent`, as far as known.
        """
        return self._outbox.record_replays(organization_id, inputs, by, origin)

    def pending_commands(self, limit: int) -> list[OutboxCommand]:
        """Return the oldest commands that are neither sealed nor refused, in the order of their creation."""
        return self._outbox.pending(limit)

    def mark_sealed(self, positions: Iterable[tuple[str, str, int]]) -> None:
        """Note where commands were sealed: (command id, origin, index); the first such note of a command stays."""
        self._outbox.mark_sealed(positions)

    def mark_refused(self, command_id: str, reason: str) -> None:
        """Note that the seal will never take a command, and why."""
        self._outbox.mark_refused(command_id, reason)

    def refused_commands(self) -> list[RefusedCommand]:
        """Return every command the seal would not take, with the reason."""
        return self._outbox.refused()

    def outbox_position(self, command_id: str) -> tuple[str, int] | None:
        """Return (origin, index) of a sealed command, None while it waits; forgotten a day after sealing.

        Raises:
            Rejected: `command_refused`, if the seal will never take it.
        """
        return self._outbox.position(command_id)

    # Browsers

    def create_sign_in(
        self,
        organization_id: str | None,
        scopes: Iterable[str],
        by: Actor,
        lifetime: timedelta = SIGN_IN_LIFETIME,
        *,
        actor: Actor | None = None,
        session_lifetime: timedelta = SESSION_LIFETIME,
        event: AuditEvent | None = None,
    ) -> str:
        """Return a token that opens one session.

        Args:
            organization_id: whose entries the session may see.
            scopes: what it may do; not emit.
            by: who makes the token. If it is an API key, the session ends with that key.
            lifetime: how long the token can be used.
            actor: who is named as the actor of what the session does; `by` unless given.
            session_lifetime: how long the session lasts.
            event: recorded in the same transaction, such as `viewer_token.created`.

        Raises:
            Rejected: `unknown_organization`, `bad_scope`, `bad_lifetime`.
        """
        request = SignInRequest(
            organization_id=organization_id,
            scopes=frozenset(scopes),
            by=by,
            actor=actor or by,
            lifetime=lifetime,
            session_lifetime=session_lifetime,
        )
        return self._sessions.create_sign_in(request, event)

    def redeem_sign_in(self, token: str) -> tuple[Session, str]:
        """Open the session of a token, once; return it with the text of its cookie.

        Raises:
            SignInRefused: with its reason.
        """
        return self._sessions.redeem(token)

    def open_session(self, key: ApiKey) -> tuple[Session, str]:
        """Open a session for a key that has just authenticated; return it with the text of its cookie.

        Raises:
            Rejected: `bad_scope` for a key that may only emit.
        """
        return self._sessions.open(key)

    def session(self, cookie_text: str) -> Session | None:
        """Return the session of a cookie, None if there is none or it, or the key it came from, has ended."""
        return self._sessions.get(cookie_text)

    def end_session(self, cookie_text: str) -> None:
        """End the session of a cookie, if there is one."""
        self._sessions.end(cookie_text)

    # Self-auditing

    def note_read(
        self,
        organization_id: str,
        actor: Actor,
        filters: Mapping[str, Any],
        returned: int,
        *,
        client_ip: str | None = None,
        user_agent: str | None = None,
    ) -> None:
        """Record a read of an organization's entries by one of its own keys or sessions; answer only after this.

        The first read in 5 minutes by one actor from one address with the same filters is recorded at once, later
        ones are counted for the closing entry. What the operator reads is never merged: record `operator.accessed`.

        Args:
            organization_id: whose entries.
            actor: the key or the session's actor.
            filters: the canonical filters, without the cursor.
            returned: how many entries the answer holds.
            client_ip: from where.
            user_agent: with what.

        Raises:
            Rejected: `unknown_organization`.
        """
        self._reads.note(
            Read(
                organization_id=organization_id,
                actor=actor,
                filters=filters,
                returned=returned,
                origin=Origin.of(client_ip, user_agent),
            )
        )

    def record_access_denied(
        self,
        reason: str,
        endpoint: str,
        key_id: str | None = None,
        organization_id: str | None = None,
        *,
        client_ip: str | None = None,
        user_agent: str | None = None,
    ) -> None:
        """Record a refused attempt, merged with others of the same organization, key and endpoint for 5 minutes.

        Args:
            reason: a fixed word, such as `KeyRefused.reason` or `scope_missing`.
            endpoint: the route that was tried, not the path as sent.
            key_id: whose key, if known: `KeyRefused.key_id`.
            organization_id: whose key that is; None tells it in the operator's chain.
            client_ip: from where.
            user_agent: with what.
        """
        self._denials.note(
            Denial(
                reason=reason,
                endpoint=endpoint[:MAX_ENDPOINT_CHARACTERS],
                key_id=key_id or "",
                organization_id=organization_id or OPERATOR_ORGANIZATION_ID,
                origin=Origin.of(client_ip, user_agent),
            )
        )

    def close_read_windows(self) -> int:
        """Record the counts of every window of reads and refusals whose time is over; return how many entries.

        Call it at start and about once a minute, from any number of processes.
        """
        return self._reads.close_due() + self._denials.close_due()
