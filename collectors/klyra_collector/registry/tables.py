"""The registry's tables. Times are microseconds since 1970; secrets stand only as SHA-256."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION: Final = 3  # 2 added emitter_keys, 3 destinations
METADATA: Final = MetaData()

_POSITION = BigInteger().with_variant(Integer, "sqlite")  # what SQLite can count up by itself

REGISTRY: Final = Table(
    "registry",
    METADATA,
    Column("singleton", Integer, primary_key=True, autoincrement=False),
    Column("schema_version", Integer, nullable=False),
)

ORGANIZATIONS: Final = Table(
    "organizations",
    METADATA,
    Column("organization_id", String(68), primary_key=True),
    Column("plan", String(32), nullable=False),
    Column("policy", String(64), nullable=False),
    Column("retention_days", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

API_KEYS: Final = Table(
    "api_keys",
    METADATA,
    Column("key_id", String(16), primary_key=True),
    Column("organization_id", ForeignKey("organizations.organization_id"), index=True),  # null: the operator's
    Column("label", String(200), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("emitter_ids", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
)

API_KEY_SECRETS: Final = Table(
    "api_key_secrets",
    METADATA,
    Column("key_id", ForeignKey("api_keys.key_id"), primary_key=True),
    Column("sha256", LargeBinary(32), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("valid_until", BigInteger),  # set by rotation; null: as long as the key
)

EMITTER_KEYS: Final = Table(
    "emitter_keys",
    METADATA,
    Column("vkey", String(512), primary_key=True),
    Column("emitter_id", String(256), nullable=False, index=True),
    Column("organization_id", ForeignKey("organizations.organization_id"), index=True),  # null: shared
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("revoked_after_seq", BigInteger),
)

OUTBOX: Final = Table(
    "outbox",
    METADATA,
    Column("position", _POSITION, primary_key=True),
    Column("command_id", String(36), nullable=False, unique=True),
    Column("organization_id", String(68), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("payload", JSON, nullable=False),
    Column("state", String(16), nullable=False),  # pending, sealed or refused
    Column("created_at", BigInteger, nullable=False),
    Column("settled_at", BigInteger),  # when it was sealed or refused
    Column("origin", Text),
    Column("leaf_index", BigInteger),
    Column("reason", Text),
    Index("outbox_by_state", "state", "position"),
    Index("outbox_by_settling", "state", "settled_at"),
)

SIGN_INS: Final = Table(
    "sign_ins",
    METADATA,
    Column("sha256", LargeBinary(32), primary_key=True),
    Column("organization_id", ForeignKey("organizations.organization_id")),
    Column("actor_type", String(16), nullable=False),
    Column("actor_id", String(256), nullable=False),
    Column("actor_name", Text),
    Column("scopes", JSON, nullable=False),
    Column("key_id", String(16)),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
    Column("session_lifetime", BigInteger, nullable=False),
    Column("used_at", BigInteger),
)

SESSIONS: Final = Table(
    "sessions",
    METADATA,
    Column("sha256", LargeBinary(32), primary_key=True),
    Column("session_id", String(32), nullable=False, unique=True),
    Column("organization_id", ForeignKey("organizations.organization_id")),
    Column("actor_type", String(16), nullable=False),
    Column("actor_id", String(256), nullable=False),
    Column("actor_name", Text),
    Column("scopes", JSON, nullable=False),
    Column("key_id", String(16)),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
)

READ_WINDOWS: Final = Table(
    "read_windows",
    METADATA,
    Column("window", LargeBinary(32), primary_key=True),  # digest of reader, address and filters
    Column("organization_id", String(68), nullable=False),
    Column("actor_type", String(16), nullable=False),
    Column("actor_id", String(256), nullable=False),
    Column("actor_name", Text),
    Column("filters", JSON, nullable=False),
    Column("client_ip", Text),
    Column("user_agent", Text),
    Column("opened_at", BigInteger, nullable=False, index=True),
    Column("last_at", BigInteger, nullable=False),
    Column("reads", BigInteger, nullable=False),
    Column("returned", BigInteger, nullable=False),
)

DENIAL_WINDOWS: Final = Table(
    "denial_windows",
    METADATA,
    Column("organization_id", String(68), primary_key=True),  # the operator's own name where none is known
    Column("key_id", String(16), primary_key=True),  # empty where none is known
    Column("endpoint", String(200), primary_key=True),
    Column("reason", String(64), nullable=False),  # of the newest attempt
    Column("client_ip", Text),
    Column("user_agent", Text),
    Column("opened_at", BigInteger, nullable=False, index=True),
    Column("attempts", BigInteger, nullable=False),  # not in an entry yet
)

DESTINATIONS: Final = Table(
    "destinations",
    METADATA,
    Column("destination_id", String(16), primary_key=True),
    Column("organization_id", ForeignKey("organizations.organization_id"), nullable=False),
    Column("name", String(63), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("format", String(64), nullable=False),
    Column("when_too_old", String(16), nullable=False),
    Column("filters", JSON, nullable=False),
    Column("endpoint", Text, nullable=False),  # as it may be shown
    Column("options", JSON, nullable=False),  # none of them secret
    Column("secrets", JSON, nullable=False),  # name: base64 of what only the follower can open
    Column("paused", Boolean, nullable=False),
    Column("version", Integer, nullable=False),  # counts changes of what is delivered and how
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("status", JSON),  # written by the follower; null before it has begun
    UniqueConstraint("organization_id", "name"),
)

DESTINATION_TRIALS: Final = Table(
    "destination_trials",
    METADATA,
    Column("trial_id", String(36), primary_key=True),
    Column("destination_id", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False, index=True),
    Column("answer", JSON),  # written by the follower; null before
)

SEALING_KEYS: Final = Table(
    "sealing_keys",
    METADATA,
    Column("public", LargeBinary(32), primary_key=True),  # the follower's, for destinations' secrets
    Column("created_at", BigInteger, nullable=False),
)
