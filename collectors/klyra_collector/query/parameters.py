"""What a search may be asked: one model for query strings and JSON bodies, and for `/openapi.json`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from klyra_audit.timestamps import NANOSECONDS
from klyra_collector.store import addresses
from klyra_collector.store.searching import AddressRange

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
DEFAULT_BUCKETS, MAX_BUCKETS = 60, 1000
DEFAULT_TOP, MAX_TOP = 10, 100
MAX_VALUES = 100
MAX_VALUE_CHARACTERS = 256

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DIGITS = re.compile(r"\d{1,9}", re.ASCII)
_ADDRESS_CHARACTERS = re.compile(r"[0-9A-Fa-f:./]{1,49}")
_PRECISION = 9


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as a caller wrote it.

    Attributes:
        start_ns: its first nanosecond, since 1970.
        end_ns: the nanosecond behind what it covers at its written precision.
        text: the same in UTC, at the same precision.
    """

    start_ns: int
    end_ns: int
    text: str


def parse_moment(value: object) -> Moment:
    """Read an RFC 3339 time, with any offset and 0 to 9 fractional digits.

    Raises:
        ValueError: it is none.
    """
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is not an RFC 3339 time")
    date, clock, fraction, offset = match.groups()
    zone = "+00:00" if offset in "Zz" else offset
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}{zone}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("is not a time that exists") from error
    digits = fraction or ""
    start = int((moment - _EPOCH).total_seconds()) * NANOSECONDS + int(digits.ljust(_PRECISION, "0"))
    text = moment.replace(tzinfo=None).isoformat() + (f".{digits}Z" if digits else "Z")
    return Moment(start, start + 10 ** (_PRECISION - len(digits)), text)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_addresses(value: object) -> AddressRange:
    """Read an IP address or CIDR block, v4 or v6; `ValueError` if it is neither."""
    if not isinstance(value, str) or _ADDRESS_CHARACTERS.fullmatch(value) is None:
        raise ValueError("is not an IP address or CIDR block")
    return addresses.range_of(value)


def _texts(value: object) -> object:
    """Accept one text where a list may stand."""
    return [value] if isinstance(value, str) else value


def _words(value: object) -> object:
    """Split at commas as well: no fixed word has one."""
    listed = _texts(value)
    if not isinstance(listed, list):
        return listed
    split = [word.split(",") if isinstance(word, str) else [word] for word in listed]
    return [word for words in split for word in words]


def _distinct(values: list[str]) -> tuple[str, ...]:
    if not values:
        raise ValueError("is an empty list, which nothing can match; leave it out not to filter")
    if len(values) > MAX_VALUES:
        raise ValueError(f"has {len(values)} values; the limit is {MAX_VALUES}")
    for value in values:
        if not 0 < len(value) <= MAX_VALUE_CHARACTERS or _CONTROL.search(value):
            raise ValueError(
                f"has a value that is not 1 to {MAX_VALUE_CHARACTERS} characters without control characters"
            )
    return tuple(sorted(set(values)))


def _number(value: object) -> object:
    """Accept a number written as text, as a query string has it."""
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value


_LIST_SCHEMA: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_VALUES}
Time = Annotated[Moment, BeforeValidator(parse_moment), WithJsonSchema({"type": "string", "format": "date-time"})]
_Addresses = Annotated[AddressRange, BeforeValidator(parse_addresses), WithJsonSchema({"type": "string"})]
Ids = Annotated[list[str], BeforeValidator(_texts), AfterValidator(_distinct), WithJsonSchema(_LIST_SCHEMA)]
_Words = Annotated[list[str], BeforeValidator(_words), AfterValidator(_distinct), WithJsonSchema(_LIST_SCHEMA)]


Number = Annotated[int, BeforeValidator(_number)]


def Choices(*words: str) -> Any:  # noqa: ANN401, N802 - a type
    """Return the type of a list of some of the given words."""

    def known(values: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [value for value in values if value not in words]
        if unknown:
            raise ValueError(f"{unknown[0][:40]} is none of {', '.join(words)}")
        return values

    schema = {**_LIST_SCHEMA, "items": {"type": "string", "enum": list(words)}}
    return Annotated[
        list[str], BeforeValidator(_words), AfterValidator(_distinct), AfterValidator(known), WithJsonSchema(schema)
    ]


class FilterParameters(BaseModel):
    """Which entries; the values of one filter are OR, filters are AND."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    start_time: Time | None = Field(None, description="Earliest timestamp, included.")
    end_time: Time | None = Field(
        None, description="Latest timestamp, included at its written precision: a second covers all of it."
    )
    event_types: _Words | None = Field(None, description="Names of the catalog.")
    actor_ids: Ids | None = Field(None, description="Ids of users, API keys or system components.")
    actor_types: Choices("user", "api_key", "system") | None = Field(None, description="Kinds of actor.")  # type: ignore[valid-type] # made by a function
    resource_ids: Ids | None = Field(None, description="Ids of what was acted upon.")
    resource_types: _Words | None = Field(None, description="Kinds of resource.")
    actions: Choices("create", "read", "update", "delete") | None = Field(None, description="Actions.")  # type: ignore[valid-type] # the same
    status: Choices("success", "failure") | None = Field(None, description="Outcomes.")  # type: ignore[valid-type] # the same
    client_ip: _Addresses | None = Field(None, description="IPv4 or IPv6 address, or a CIDR block.")
    organization_id: str | None = Field(None, description="Whose entries; for keys of the operator alone.")


class OrderedParameters(FilterParameters):
    """Entries one after the other."""

    order: Literal["asc", "desc"] = Field("desc", description="By timestamp: oldest or newest first.")


class EntrySummaryParameters(FilterParameters):
    """Counts over entries."""

    buckets: Number = Field(DEFAULT_BUCKETS, ge=2, le=MAX_BUCKETS, description="Spans of time, at most.")
    top: Number = Field(DEFAULT_TOP, ge=0, le=MAX_TOP, description="Most frequent values of each kind, at most.")


class SearchParameters(OrderedParameters):
    """A page of entries."""

    limit: Number = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Entries on a page.")
    cursor: str | None = Field(None, description="`next_cursor` of the page before; the filters stay the same.")
    include: Choices("integrity") | None = Field(None, description="Further members of each entry.")  # type: ignore[valid-type] # made by a function


class ExportParameters(OrderedParameters):
    """All entries, as a file."""

    format: str = Field("json", description="json, ndjson, csv or packet, as the plan allows.")
    rendering: Literal["csv", "json"] | None = Field(
        None,
        description="The file for people in a packet, csv by default. In a packet start and end are times of sealing.",
    )


class EntryParameters(BaseModel):
    """How one entry is shown."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    include: Choices("integrity") | None = Field(None, description="Further members of the entry.")  # type: ignore[valid-type] # made by a function
    organization_id: str | None = Field(None, description="Whose entry; for keys of the operator alone.")


class OrganizationParameters(BaseModel):
    """Whose plan."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    organization_id: str | None = Field(None, description="Whose; for keys of the operator alone.")


class SignInParameters(BaseModel):
    """How a session is opened without an API key."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sign_in: str | None = Field(None, description="Token of a one-time link.")
