"""Settings of one destination, apart from `config` so that `fanout` needs no other stage's settings."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003 - pydantic reads annotations when it runs
from typing import Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from klyra_collector.secret_reference import is_reference
from klyra_collector.self_service_settings import PREFIX as SELF_SERVICE

# Kinds whose endpoint lets anybody in who knows it.
SECRET_ENDPOINTS: Final = frozenset({"sumo-logic"})

_SECRET_OPTION = re.compile(r"(?:.*_)?(?:token|key|secret|password|credentials)\Z")


def is_secret_option(name: str) -> bool:
    """Say whether an option of that name is a secret: what it refers to is read, and its value may not stand there."""
    return _SECRET_OPTION.fullmatch(name) is not None


class DestinationSettings(BaseModel):
    """Where sealed entries are copied to: one `[[destination]]` each (docs/pipeline.md).

    Attributes:
        name: of its cursor, metrics and messages.
        kind: which module speaks to it.
        endpoint: URL, or a reference to one that is itself a secret.
        headers: sent with each request; references only.
        organizations: whose entries; empty for every organization whose plan includes destinations.
        event_types, statuses, actors: which of them, by exact values; empty for all. An entry must fit each.
        when_too_old: what becomes of an entry whose time the destination would not take: `restamp` files it under the
            time of sending (its own stays in the record), `dead_letter` leaves it in the ledger alone, `preserve` sends
            it as it is, whatever the vendor makes of that.
        start: where a new destination begins: with the oldest entry that is kept, or behind the newest.
        sign: give each record a signature of the collector's destination key.
        compression: of requests.
        concurrency: how many batches are under way at once, each on a connection of its own. With more than one, the
            batches of an organization may arrive in another order, and so many may arrive twice after a crash.
        heartbeat_seconds: how often a sign of life is sealed for the destination, so that silence means something; 0
            for never.
        receipt_days: how long signed receipts of delivered batches are kept.
        batch_entries, batch_bytes: of one request at most; None for what suits the kind.
        linger_seconds: how long a batch that is not full waits for more.
        timeout_seconds: for one request.
        paused_seconds: between attempts while the destination refuses our credentials or does not know the address.
        ca_file: authorities to trust, PEM; None for the system's.
        certificate_file, key_file: our own certificate and key, PEM; both or neither.
        format: how entries are written, for kinds that let one choose.
        options: what this kind alone needs; secrets as references.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"\A[a-z0-9][a-z0-9-]{0,62}\z")
    kind: str = "otlp"
    endpoint: str
    headers: dict[str, str] = Field(default_factory=dict)
    organizations: tuple[str, ...] = ()
    event_types: tuple[str, ...] = ()
    statuses: tuple[Literal["success", "failure"], ...] = ()
    actors: tuple[str, ...] = ()
    when_too_old: Literal["restamp", "preserve", "dead_letter"] = "restamp"
    start: Literal["beginning", "end"] = "beginning"
    sign: bool = True
    compression: Literal["gzip", "none"] = "gzip"
    concurrency: int = Field(1, ge=1, le=16)
    heartbeat_seconds: int = Field(3600, ge=0)
    receipt_days: int = Field(30, ge=1)
    batch_entries: int | None = Field(None, gt=0)
    batch_bytes: int | None = Field(None, gt=0)
    linger_seconds: float = Field(1.0, ge=0)
    timeout_seconds: float = Field(10.0, gt=0)
    paused_seconds: float = Field(300.0, gt=0)
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    format: str = "native"
    options: dict[str, str | int | bool] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _is_no_organizations(cls, value: str) -> str:
        if value.startswith(SELF_SERVICE):
            raise ValueError(f"must not begin with {SELF_SERVICE}: so do those of organizations themselves")
        return value

    @field_validator("endpoint")
    @classmethod
    def _holds_no_secret(cls, value: str) -> str:
        address = urlsplit(value)
        if not is_reference(value) and (address.username or address.password or address.query):
            raise ValueError("must not hold a user, password or query; refer to such a URL with env:NAME or file:PATH")
        return value

    @field_validator("headers")
    @classmethod
    def _refer(cls, value: dict[str, str]) -> dict[str, str]:
        if not all(is_reference(reference) for reference in value.values()):
            raise ValueError("must be env:NAME or file:PATH each, not the value itself")
        return value

    @field_validator("options")
    @classmethod
    def _refer_to_secrets(cls, value: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        for name, given in value.items():
            if is_secret_option(name) and not (isinstance(given, str) and is_reference(given)):
                raise ValueError(f"{name} must be env:NAME or file:PATH, not the value itself")
        return value

    @model_validator(mode="after")
    def _refers_to_a_secret_endpoint(self) -> Self:
        if self.kind in SECRET_ENDPOINTS and not is_reference(self.endpoint):
            raise ValueError(f"the endpoint of kind {self.kind} is a secret: write env:NAME or file:PATH")
        return self

    @model_validator(mode="after")
    def _has_both_or_neither(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together")
        return self
