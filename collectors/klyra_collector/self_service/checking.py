"""What an organization wants of a destination: checked, its secrets sealed, and made into a module's options again."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from klyra_audit.errors import Rejected
from klyra_collector.registry.destinations import DestinationSpec
from klyra_collector.secret_reference import is_reference
from klyra_collector.self_service.kinds import AUTHORIZATION, BY_NAME, ENDPOINT, FieldType
from klyra_collector.self_service.secret_box import seal
from klyra_siem.destination import DestinationOptions, TlsOptions
from klyra_siem.errors import BadDestination
from klyra_siem.formats import NAMES, NATIVE, record_format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from klyra_audit.audit_integrity import RecordKey
    from klyra_collector.self_service.kinds import Field, Kind
    from klyra_siem.destination import Destination

MASK: Final = "…"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_URL = re.compile(r"[!-~]{1,2000}")  # URL parsers differ on anything else
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST = 16_384
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_GOOGLE_TOKENS = "https://oauth2.googleapis.com/token"
_TIMEOUT_SECONDS = 10.0
_TYPES = {FieldType.TEXT: str, FieldType.SECRET: str, FieldType.NUMBER: int, FieldType.BOOLEAN: bool}


class BadWish(Rejected):
    """A destination cannot be set up as it is wanted.

    Attributes:
        member: which part of the wish is wrong.
    """

    code = "bad_destination"

    def __init__(self, member: str, message: str, *, remedy: str, code: str | None = None) -> None:
        super().__init__(message, remedy=remedy, code=code)
        self.member = member


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What an organization wants; the members mean what they mean in `DestinationSpec`, with secrets as they are."""

    name: str
    kind: str
    endpoint: str = field(repr=False)
    format: str = NATIVE
    when_too_old: str = "restamp"
    filters: Mapping[str, list[str]]
    options: Mapping[str, str | int | bool]
    secrets: Mapping[str, str] = field(repr=False)
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """What organizations may set up here.

    Attributes:
        allowed_hosts: patterns of host names.
        make: makes a kind's module of options.
    """

    allowed_hosts: Sequence[str]
    make: Callable[[str, DestinationOptions], Destination]

    def check(self, wish: Wish) -> None:
        """Return if a destination can be made of a wish.

        Raises:
            BadWish: naming the member.
        """
        kind = _kind(wish.kind)
        _check_words(wish, kind)
        _check_members(wish, kind)
        self._check_host(wish.endpoint)
        _check_google(wish)
        secrets = dict(wish.secrets) | ({ENDPOINT: wish.endpoint} if kind.has_secret_endpoint else {})
        try:
            self.make(wish.kind, options_of(wish.name, spec_of(wish, lambda _, secret: secret), secrets, None)).close()
        except BadDestination as error:
            message = str(error.args[0])
            raise BadWish("options", message, remedy=f"See {kind.documentation}.", code=error.code) from error

    def _check_host(self, endpoint: str) -> None:
        if _URL.fullmatch(endpoint) is None:
            raise _bad_endpoint("is no URL")
        try:
            address = urlsplit(endpoint)
            host, _ = address.hostname or "", address.port
        except ValueError:
            raise _bad_endpoint("is no URL") from None
        if address.username or address.password or address.query or address.fragment:
            raise _bad_endpoint("must hold no user, password, query or fragment")
        if not any(fnmatch.fnmatchcase(host, pattern) for pattern in self.allowed_hosts):
            raise BadWish(
                ENDPOINT,
                f"Entries may not be sent to the host {host or '(none)'} from here.",
                remedy="Use the vendor's own host, or ask the operator to add yours to self_service.allowed_hosts.",
                code="host_not_allowed",
            )
        if address.scheme not in ("https", "grpcs") and not (address.scheme == "http" and host in _LOOPBACK):
            raise _bad_endpoint("must begin with https://")


def spec_of(wish: Wish, hide: Callable[[str, str], str]) -> DestinationSpec:
    """Return what is kept of a wish.

    Args:
        wish: that was checked.
        hide: makes of a secret's name and value what may be kept.
    """
    kind = _kind(wish.kind)
    secrets = dict(wish.secrets)
    endpoint = wish.endpoint
    if kind.has_secret_endpoint:
        secrets[ENDPOINT] = endpoint
        address = urlsplit(endpoint)
        endpoint = f"{address.scheme}://{address.netloc}/{MASK}"
    return DestinationSpec(
        name=wish.name,
        kind=wish.kind,
        endpoint=endpoint,
        format=wish.format,
        when_too_old=wish.when_too_old,
        filters={name: list(values) for name, values in wish.filters.items()},
        options=dict(wish.options),
        secrets={name: hide(name, value) for name, value in secrets.items()},
        paused=wish.paused,
    )


def sealed_spec(wish: Wish, destination_id: str, public: bytes) -> DestinationSpec:
    """Return what is kept of a checked wish, with secrets that only the key's holder can open."""
    return spec_of(wish, lambda name, secret: seal(public, secret, destination_id, name))


def options_of(
    name: str, spec: DestinationSpec, secrets: Mapping[str, str], key: RecordKey | None
) -> DestinationOptions:
    """Return what a kind's module is made of; nothing in it is a reference to the machine's variables or files.

    Args:
        name: of the destination, for messages.
        spec: what is kept.
        secrets: opened.
        key: signs each record.
    """
    own = {member: value for member, value in secrets.items() if member not in (ENDPOINT, AUTHORIZATION)}
    return DestinationOptions(
        name=name,
        endpoint=secrets.get(ENDPOINT, spec.endpoint),
        headers={AUTHORIZATION: secrets[AUTHORIZATION]} if AUTHORIZATION in secrets else {},
        compression="gzip",
        timeout_seconds=_TIMEOUT_SECONDS,
        tls=TlsOptions(),
        key=key,
        software=f"klyra-audit/{version('klyra-audit')}",
        record=record_format(spec.format, key),
        settings={**spec.options, **own},
    )


def merged(before: DestinationSpec, changes: Mapping[str, Any]) -> tuple[Wish | None, DestinationSpec]:
    """Return a destination with changes; a whole wish where it must be checked and sealed anew.

    Whoever changes where or how entries go gives all secrets again: otherwise a stored token could be sent to a place
    of somebody else's choice.

    Raises:
        BadWish: the kind is to change, or secrets are missing.
    """
    if changes.get("kind", before.kind) != before.kind:
        raise BadWish("kind", "A destination's kind does not change.", remedy="Delete it, and set up another one.")
    kind = _kind(before.kind)
    plain = {name: value for name, value in changes.items() if name not in (ENDPOINT, "options", "secrets", "kind")}
    spec = replace(before, **plain)
    if not changes.keys() & {ENDPOINT, "options", "secrets"}:
        _check_words(spec, kind)
        return None, spec
    _check_secrets_given(before, kind, changes)
    wish = Wish(
        name=spec.name,
        kind=spec.kind,
        endpoint=str(changes.get(ENDPOINT, before.endpoint)),
        format=spec.format,
        when_too_old=spec.when_too_old,
        filters=spec.filters,
        options=changes.get("options", before.options),
        secrets=changes.get("secrets", {}),
        paused=spec.paused,
    )
    return wish, spec


def _check_secrets_given(before: DestinationSpec, kind: Kind, changes: Mapping[str, Any]) -> None:
    given = changes.get("secrets") or {}
    needed = set(before.secrets) - {ENDPOINT}
    lacking = sorted(needed - set(given))
    if kind.has_secret_endpoint and ENDPOINT not in changes:
        lacking.append(ENDPOINT)
    if lacking:
        raise BadWish(
            "secrets",
            f"A change of endpoint, options or secrets needs every secret again: {', '.join(lacking)}.",
            remedy="Give them: what is stored is not sent to another place.",
            code="secrets_needed",
        )


def _kind(name: str) -> Kind:
    if name not in BY_NAME:
        raise BadWish("kind", f"There is no kind {name!r}.", remedy=f"Choose one of {', '.join(BY_NAME)}.")
    return BY_NAME[name]


def _check_words(wish: Wish | DestinationSpec, kind: Kind) -> None:
    if _NAME.fullmatch(wish.name) is None:
        remedy = "Use up to 63 of a-z, 0-9 and -, beginning with a letter or digit."
        raise BadWish("name", f"{wish.name!r} is no name of a destination.", remedy=remedy)
    if wish.format not in NAMES or (wish.format != NATIVE and not kind.has_formats):
        names = NAMES if kind.has_formats else (NATIVE,)
        raise BadWish("format", f"{wish.format!r} is no format here.", remedy=f"Choose one of {', '.join(names)}.")


def _check_members(wish: Wish, kind: Kind) -> None:
    fields = {one.name: one for one in kind.fields}
    for given, secret in ((wish.options, False), (wish.secrets, True)):
        member = "secrets" if secret else "options"
        for name, value in given.items():
            if name not in fields or (fields[name].type is FieldType.SECRET) is not secret:
                known = [one.name for one in kind.fields if (one.type is FieldType.SECRET) is secret]
                remedy = f"There are: {', '.join(known) or 'none'}."
                raise BadWish(member, f"{kind.title} has no {name!r} among its {member}.", remedy=remedy)
            if type(value) is not _TYPES[fields[name].type]:
                raise BadWish(member, f"{name} is no {fields[name].type}.", remedy="Give a value of that type.")
            if isinstance(value, str) and (len(value) > _LONGEST or _has_control(value, fields[name])):
                raise BadWish(member, f"{name} is too long, or holds control characters.", remedy="Give it as it is.")
            if secret and is_reference(str(value)):
                remedy = "Give the value itself; it is sealed before it is stored."
                raise BadWish(member, f"{name} refers to this server's machine.", remedy=remedy)
    lacking = [one.name for one in kind.fields if one.required and one.name not in {**wish.options, **wish.secrets}]
    if lacking:
        raise BadWish(
            "secrets" if lacking[0] in kind.secrets else "options",
            f"{kind.title} needs {', '.join(lacking)}.",
            remedy=f"See {kind.documentation}.",
        )


def _has_control(value: str, asked: Field) -> bool:
    """Say whether a value would end a header or a line; the line ends of a document are its own."""
    return _CONTROL.search("".join(value.split()) if asked.is_document else value) is not None


def _check_google(wish: Wish) -> None:
    """A service account's key names where tokens come from: anything else would be a request to that address."""
    if wish.kind != "google-cloud-logging":
        return
    try:
        token_uri = orjson.loads(wish.secrets["credentials"]).get("token_uri")
    except (orjson.JSONDecodeError, AttributeError):
        token_uri = None
    if token_uri != _GOOGLE_TOKENS:
        raise BadWish(
            "secrets",
            "The credentials are no key of a Google service account.",
            remedy=f"Give the JSON file whole; its token_uri is {_GOOGLE_TOKENS}.",
        )


def _bad_endpoint(what: str) -> BadWish:
    return BadWish(ENDPOINT, f"The endpoint {what}.", remedy="Copy the address that the vendor shows.")
