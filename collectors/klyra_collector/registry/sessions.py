"""Browsers: sign-in tokens that work once, and the sessions they or a key open (DESIGN section 7).

Tokens and cookies are 256 random bits and stand in the registry as SHA-256 alone.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select

from klyra_audit.errors import Rejected
from klyra_audit.event import Actor
from klyra_collector.registry import keys, organizations, self_audit
from klyra_collector.registry.errors import SignInRefused
from klyra_collector.registry.key_text import digest_of
from klyra_collector.registry.scopes import EMIT, check_scopes, in_order
from klyra_collector.registry.tables import SESSIONS, SIGN_INS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, RowMapping, Table

    from klyra_audit.event import AuditEvent
    from klyra_collector.registry.database import Database
    from klyra_collector.registry.keys import ApiKey
    from klyra_collector.registry.outbox import Outbox

SIGN_IN_LIFETIME: Final = timedelta(minutes=10)
SESSION_LIFETIME: Final = timedelta(hours=12)
MAX_LIFETIME: Final = timedelta(days=30)

_SECRET_BYTES: Final = 32
_PRUNED_AT_ONCE: Final = 100
_KEPT_US: Final = timedelta(days=1) // timedelta(microseconds=1)  # to say of an old link why it does not work


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A browser that signed in. Times are microseconds since 1970.

    Attributes:
        session_id: `ses_…`, its public name; never the cookie.
        organization_id: whose entries it may see; None for the operator.
        actor: who is named as the actor of what it does.
        scopes: what it may do; never emit.
        key_id: the API key it came from, whose end is the session's end; None if it came from none.
        created_at: when it was opened.
        expires_at: from when on it is refused.
    """

    session_id: str
    organization_id: str | None
    actor: Actor
    scopes: frozenset[str]
    key_id: str | None
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInRequest:
    """Whom a sign-in token shall let in, and for how long.

    Attributes:
        organization_id: whose entries may be seen; None for the operator.
        scopes: what may be done.
        by: who makes the token; if an API key, its end ends the session.
        actor: who is named as the actor of what the session does.
        lifetime: how long the token can be used.
        session_lifetime: how long the session lasts that it opens.
    """

    organization_id: str | None
    scopes: frozenset[str]
    by: Actor
    actor: Actor
    lifetime: timedelta
    session_lifetime: timedelta


class Sessions:
    """Makes and redeems sign-in tokens and keeps the sessions."""

    def __init__(self, database: Database, outbox: Outbox, clock: Callable[[], int]) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock

    def create_sign_in(self, request: SignInRequest, event: AuditEvent | None) -> str:
        """Return a new token; `event`, if given, is recorded in the same transaction."""
        scopes = _browser_scopes(check_scopes(request.scopes), exactly=True)
        now = self._clock()
        token = secrets.token_urlsafe(_SECRET_BYTES)
        row = {
            "sha256": digest_of(token),
            "organization_id": request.organization_id,
            **_actor_columns(request.actor),
            "scopes": in_order(scopes),
            "key_id": request.by.id if request.by.type == "api_key" else None,
            "created_at": now,
            "expires_at": now + _whole_microseconds(request.lifetime),
            "session_lifetime": _whole_microseconds(request.session_lifetime),
        }
        with self._database.writing() as connection:
            if request.organization_id is not None:
                organizations.require(connection, request.organization_id)
            _prune(connection, SIGN_INS, now - _KEPT_US)
            connection.execute(SIGN_INS.insert().values(row))
            if event is not None:
                self._outbox.add_event(connection, request.organization_id, event)
        return token

    def redeem(self, token: str) -> tuple[Session, str]:
        """Open a session with a token, which then is used up; return it with its cookie."""
        now = self._clock()
        same = SIGN_INS.c.sha256 == digest_of(token)
        with self._database.writing() as connection:
            row = connection.execute(select(SIGN_INS).where(same)).mappings().one_or_none()
            if row is None:
                raise SignInRefused("unknown")
            if row["used_at"] is not None:
                raise SignInRefused("used")
            key = _key_of(connection, row)
            if row["expires_at"] <= now or not _lasts(key, now):
                raise SignInRefused("expired")
            connection.execute(SIGN_INS.update().where(same).values(used_at=now))
            opened = _session(row, now, key)
            return opened, self._keep(connection, opened, "link")

    def open(self, key: ApiKey) -> tuple[Session, str]:
        """Open a session with a key that has just authenticated; return it with its cookie."""
        now = self._clock()
        opened = Session(
            session_id=_new_session_id(),
            organization_id=key.organization_id,
            actor=Actor.api_key(key.key_id, key.label or None),
            scopes=_browser_scopes(key.scopes, exactly=False),
            key_id=key.key_id,
            created_at=now,
            expires_at=_end(now, SESSION_LIFETIME // timedelta(microseconds=1), key),
        )
        with self._database.writing() as connection:
            return opened, self._keep(connection, opened, "key")

    def get(self, cookie: str) -> Session | None:
        """Return the session of a cookie, None if there is none, it has ended or its key has."""
        now = self._clock()
        query = select(SESSIONS).where(SESSIONS.c.sha256 == digest_of(cookie))
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
            if row is None or row["expires_at"] <= now or not _lasts(_key_of(connection, row), now):
                return None
        return _session_of(row)

    def end(self, cookie: str) -> None:
        """End a session; ending it again changes nothing."""
        with self._database.writing() as connection:
            connection.execute(SESSIONS.delete().where(SESSIONS.c.sha256 == digest_of(cookie)))

    def _keep(self, connection: Connection, session: Session, method: str) -> str:
        """Write a session and its event; return its cookie."""
        cookie = secrets.token_urlsafe(_SECRET_BYTES)
        row = {
            "sha256": digest_of(cookie),
            "session_id": session.session_id,
            "organization_id": session.organization_id,
            **_actor_columns(session.actor),
            "scopes": in_order(session.scopes),
            "key_id": session.key_id,
            "created_at": session.created_at,
            "expires_at": session.expires_at,
        }
        _prune(connection, SESSIONS, session.created_at)
        connection.execute(SESSIONS.insert().values(row))
        self._outbox.add_event(connection, session.organization_id, self_audit.session_created(session, method))
        return cookie


def _browser_scopes(scopes: frozenset[str], *, exactly: bool) -> frozenset[str]:
    """Return scopes without emit, which no browser has; refuse it if asked for, or if it is all there is."""
    allowed = scopes - {EMIT}
    if allowed == scopes or (allowed and not exactly):
        return allowed
    raise Rejected(
        "A browser cannot be given the scope emit.",
        remedy="Sign in with scopes such as read and export.",
        code="bad_scope",
    )


def _whole_microseconds(lifetime: timedelta) -> int:
    if timedelta(0) < lifetime <= MAX_LIFETIME:
        return lifetime // timedelta(microseconds=1)
    raise Rejected(
        "The lifetime is not positive or too long.",
        remedy=f"Choose up to {MAX_LIFETIME.days} days.",
        code="bad_lifetime",
    )


def _key_of(connection: Connection, row: RowMapping) -> ApiKey | None:
    """Return the API key a token or session came from."""
    return None if row["key_id"] is None else keys.find(connection, row["key_id"])


def _lasts(key: ApiKey | None, now: int) -> bool:
    """Say whether what came from `key`, or from none, may still be used."""
    return key is None or key.in_force(now)


def _end(now: int, lifetime: int, key: ApiKey | None) -> int:
    """Return when a session ends: after its lifetime, or with its key."""
    ends = now + lifetime
    return ends if key is None or key.expires_at is None else min(ends, key.expires_at)


def _new_session_id() -> str:
    return f"ses_{secrets.token_hex(8)}"


def _session(sign_in: RowMapping, now: int, key: ApiKey | None) -> Session:
    """Return the session that a sign-in token opens."""
    return Session(
        session_id=_new_session_id(),
        organization_id=sign_in["organization_id"],
        actor=_actor(sign_in),
        scopes=frozenset(sign_in["scopes"]),
        key_id=sign_in["key_id"],
        created_at=now,
        expires_at=_end(now, sign_in["session_lifetime"], key),
    )


def _session_of(row: RowMapping) -> Session:
    """Return a session as it was kept."""
    return Session(
        session_id=row["session_id"],
        organization_id=row["organization_id"],
        actor=_actor(row),
        scopes=frozenset(row["scopes"]),
        key_id=row["key_id"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )


def _actor(row: RowMapping) -> Actor:
    return Actor(row["actor_type"], row["actor_id"], row["actor_name"])


def _actor_columns(actor: Actor) -> dict[str, Any]:
    return {"actor_type": actor.type, "actor_id": actor.id, "actor_name": actor.name}


def _prune(connection: Connection, table: Table, before: int) -> None:
    """Forget some rows of a table that expired earlier."""
    old = select(table.c.sha256).where(table.c.expires_at < before).limit(_PRUNED_AT_ONCE)
    connection.execute(table.delete().where(table.c.sha256.in_(old.scalar_subquery())))
