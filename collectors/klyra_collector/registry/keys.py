"""API keys: issuing, rotating, revoking, and telling whose key a request carries (DESIGN section 7)."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, or_, select, true

from klyra_audit.errors import Rejected
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_collector.registry import key_text, organizations, self_audit
from klyra_collector.registry.errors import KeyRefusal, KeyRefused
from klyra_collector.registry.scopes import in_order
from klyra_collector.registry.tables import API_KEY_SECRETS, API_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, RowMapping

    from klyra_audit.event import Actor
    from klyra_collector.registry.database import Database
    from klyra_collector.registry.last_use import LastUse
    from klyra_collector.registry.outbox import Outbox

MAX_LABEL_CHARACTERS: Final = 200
MAX_OVERLAP: Final = timedelta(days=365)
_EMITTER_ID = re.compile(r"[\x21-\x7e]{1,256}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key without its secret. Times are microseconds since 1970.

    Attributes:
        key_id: `key_…`, its public name and the actor of what it does.
        organization_id: whose it is; None for the operator.
        label: what people call it.
        scopes: a subset of `scopes.SCOPES`.
        emitter_ids: the emitters it may speak for; empty binds it to none in particular.
        created_at: when it was made; rotation does not change it.
        last_used_at: when it last authenticated, to the minute; None if never.
        expires_at: from when on it is refused; None is never.
        revoked_at: when it was revoked; None is not.
    """

    key_id: str
    organization_id: str | None
    label: str
    scopes: frozenset[str]
    emitter_ids: tuple[str, ...]
    created_at: int
    last_used_at: int | None
    expires_at: int | None
    revoked_at: int | None

    def expired(self, now: int) -> bool:
        """Say whether it has expired by `now`."""
        return self.expires_at is not None and self.expires_at <= now

    def in_force(self, now: int) -> bool:
        """Say whether it is neither revoked nor expired at `now`."""
        return self.revoked_at is None and not self.expired(now)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key with its secret, the only time that it can be shown."""

    key: ApiKey
    secret_text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """What a new key shall be; the members mean what they mean in `ApiKey`."""

    organization_id: str | None
    scopes: frozenset[str]
    label: str
    emitter_ids: tuple[str, ...]
    expires_at: int | None


class Keys:
    """Issues and checks API keys; every change goes through the outbox as well."""

    def __init__(self, database: Database, outbox: Outbox, last_use: LastUse, clock: Callable[[], int]) -> None:
        self._database = database
        self._outbox = outbox
        self._last_use = last_use
        self._clock = clock

    def create(self, request: KeyRequest, *, by: Actor) -> IssuedKey:
        """Issue a key."""
        now = self._clock()
        _check(request, now)
        key = _new_key(request, now)
        secret_text = key_text.new_key_text(key.key_id)
        with self._database.writing() as connection:
            if key.organization_id is not None:
                organizations.require(connection, key.organization_id)
            connection.execute(API_KEYS.insert().values(_columns(key)))
            _add_secret(connection, key.key_id, secret_text, now)
            self._outbox.add_event(connection, key.organization_id, self_audit.key_created(by, key))
        return IssuedKey(key, secret_text)

    def all(self, organization_id: str | None = None) -> list[ApiKey]:
        """Return the keys of one organization, of the operator by its own name, or every key, oldest first."""
        owner = None if organization_id == OPERATOR_ORGANIZATION_ID else organization_id
        owned = true() if organization_id is None else API_KEYS.c.organization_id.is_not_distinct_from(owner)
        query = select(API_KEYS).where(owned).order_by(API_KEYS.c.created_at, API_KEYS.c.key_id)
        with self._database.reading() as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def rotate(self, key_id: str, overlap: timedelta, *, by: Actor) -> IssuedKey:
        """Add a secret to a key; the ones before it end after `overlap`."""
        now = self._clock()
        ends = now + _whole_microseconds(overlap)
        secret_text = key_text.new_key_text(key_id)
        with self._database.writing() as connection:
            key = _require(connection, key_id)
            _check_in_force(key, now)
            _end_secrets(connection, key_id, ends)
            _add_secret(connection, key_id, secret_text, now)
            rotated = self_audit.key_rotated(by, key, overlap)
            self._outbox.add_event(connection, key.organization_id, rotated)
        return IssuedKey(key, secret_text)

    def revoke(self, key_id: str, *, by: Actor) -> ApiKey:
        """Refuse a key from now on; revoking it again changes nothing."""
        with self._database.writing() as connection:
            key = _require(connection, key_id)
            if key.revoked_at is not None:
                return key
            same = API_KEYS.c.key_id == key_id
            connection.execute(API_KEYS.update().where(same).values(revoked_at=self._clock()))
            self._outbox.add_event(connection, key.organization_id, self_audit.key_revoked(by, key))
            return _require(connection, key_id)

    def authenticate(self, bearer_text: str) -> ApiKey:
        """Return the key that a secret text proves; `KeyRefused` if it proves none."""
        presented = key_text.parse(bearer_text)
        if presented is None:
            raise KeyRefused("malformed")
        with self._database.reading() as connection:
            rows = connection.execute(_WITH_SECRETS, {"key_id": presented.key_id}).mappings().all()
        now = self._clock()
        key = _proven(rows, presented.digest, now)
        self._last_use.note(key, now)
        return key


_WITH_SECRETS: Final = (
    select(API_KEYS, API_KEY_SECRETS.c.sha256, API_KEY_SECRETS.c.valid_until)
    .join(API_KEY_SECRETS, API_KEY_SECRETS.c.key_id == API_KEYS.c.key_id)
    .where(API_KEYS.c.key_id == bindparam("key_id"))
)


def _proven(rows: Sequence[RowMapping], digest: bytes, now: int) -> ApiKey:
    """Return the key if one of its secrets has `digest`; before that is settled nothing depends on the key."""
    if not rows:
        raise KeyRefused("unknown")
    key = _key(rows[0])
    matching = [row for row in rows if hmac.compare_digest(row["sha256"], digest)]
    if not matching:
        raise _refused("unknown", key)
    if key.revoked_at is not None:
        raise _refused("revoked", key)
    ends = matching[0]["valid_until"]
    if key.expired(now) or (ends is not None and ends <= now):
        raise _refused("expired", key)
    return key


def _refused(reason: KeyRefusal, key: ApiKey) -> KeyRefused:
    return KeyRefused(reason, key_id=key.key_id, organization_id=key.organization_id)


def _check(request: KeyRequest, now: int) -> None:
    """Refuse a key that could not be used or listed."""
    if request.expires_at is not None and request.expires_at <= now:
        raise Rejected("The key would have expired already.", remedy="Choose a later time, or none.", code="bad_expiry")
    if len(request.label) > MAX_LABEL_CHARACTERS or not request.label.isprintable():
        raise Rejected(
            "The label is too long or has control characters.",
            remedy=f"Use at most {MAX_LABEL_CHARACTERS} printable characters.",
            code="bad_label",
        )
    for emitter_id in request.emitter_ids:
        if _EMITTER_ID.fullmatch(emitter_id) is None:
            raise Rejected(
                f"{emitter_id!r} cannot name an emitter.",
                remedy="Use 1 to 256 printable ASCII characters without spaces.",
                code="bad_emitter_id",
            )


def _check_in_force(key: ApiKey, now: int) -> None:
    """Refuse to rotate a key that is not valid any more: that would look like renewing it."""
    if key.in_force(now):
        return
    state = "has expired" if key.revoked_at is None else "was revoked"
    raise Rejected(
        f"{key.key_id} {state}.",
        remedy="Make another key with `klyra-audit key create`.",
        code="key_not_in_force",
    )


def _whole_microseconds(overlap: timedelta) -> int:
    if timedelta(0) <= overlap <= MAX_OVERLAP:
        return overlap // timedelta(microseconds=1)
    raise Rejected(
        "The overlap is negative or too long.",
        remedy=f"Choose 0 to {MAX_OVERLAP.days} days.",
        code="bad_overlap",
    )


def find(connection: Connection, key_id: str) -> ApiKey | None:
    """Return a key as this transaction sees it, None if there is no such."""
    row = connection.execute(select(API_KEYS).where(API_KEYS.c.key_id == key_id)).mappings().one_or_none()
    return None if row is None else _key(row)


def _require(connection: Connection, key_id: str) -> ApiKey:
    key = find(connection, key_id)
    if key is None:
        raise Rejected(
            f"There is no key {key_id}.", remedy="List the keys with `klyra-audit key list`.", code="unknown_key"
        )
    return key


def _add_secret(connection: Connection, key_id: str, secret_text: str, now: int) -> None:
    digest = key_text.digest_of(secret_text)
    connection.execute(API_KEY_SECRETS.insert().values(key_id=key_id, sha256=digest, created_at=now))


def _end_secrets(connection: Connection, key_id: str, ends: int) -> None:
    """Let every secret of a key end at `ends`, or earlier where an earlier rotation said so."""
    later = or_(API_KEY_SECRETS.c.valid_until.is_(None), API_KEY_SECRETS.c.valid_until > ends)
    of_key = API_KEY_SECRETS.c.key_id == key_id
    connection.execute(API_KEY_SECRETS.update().where(of_key, later).values(valid_until=ends))


def _new_key(request: KeyRequest, now: int) -> ApiKey:
    return ApiKey(
        key_id=key_text.new_key_id(),
        organization_id=request.organization_id,
        label=request.label,
        scopes=request.scopes,
        emitter_ids=request.emitter_ids,
        created_at=now,
        last_used_at=None,
        expires_at=request.expires_at,
        revoked_at=None,
    )


def _columns(key: ApiKey) -> dict[str, Any]:
    plain = {column.name: getattr(key, column.name) for column in API_KEYS.columns}
    return {**plain, "scopes": in_order(key.scopes), "emitter_ids": list(key.emitter_ids)}


def _key(row: RowMapping) -> ApiKey:
    columns = {column.name: row[column.name] for column in API_KEYS.columns}
    scopes, emitter_ids = frozenset(columns["scopes"]), tuple(columns["emitter_ids"])
    return ApiKey(**{**columns, "scopes": scopes, "emitter_ids": emitter_ids})
