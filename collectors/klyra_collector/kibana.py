"""Kibana over HTTP: bring saved objects, alert rules and roles into it, and believe only what it says it has done.

Kibana answers 200 to an import that failed, and says so in the body; it refuses whoever does not say `kbn-xsrf`.
Source: Kibana's saved objects, alerting, role and spaces APIs, 8.19 and 9.x.
"""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl, quote, urlsplit

import httpx

from klyra_audit.errors import Halted, Paused, Rejected, RetryLater
from klyra_collector.kibana_objects import DEFAULT_SPACE
from klyra_collector.secret_reference import check_reference, read_secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

Json = dict[str, Any]

SCHEME: Final = "kibana+"
_KNOWN_PARAMETERS: Final = {"api_key", "user", "password", "ca"}
_SECONDS: Final = 60.0  # an import of many objects takes its time
_OLDEST: Final = (8, 19)
_UNKNOWN_MAJOR: Final = 10
_SHOWN: Final = 5  # faults of an import that a message names
_SETTINGS: Final = {"api_key": "Kibana's api_key", "password": "Kibana's password"}
_CONFLICT: Final = "conflict"
_HEADERS: Final = {"kbn-xsrf": "klyra-audit", "elastic-api-version": "2023-10-31", "accept": "application/json"}
# What an action of a rule may be sent with; Kibana answers with more.
_ACTION_MEMBERS: Final = (
    *("group", "id", "params", "frequency", "uuid", "alerts_filter"),
    "use_alert_data_for_template",
)
_OPERATORS_OWN: Final = ("alert_delay", "flapping", "notify_when", "throttle")  # of a rule: what we say nothing of


class KibanaUnreachable(RetryLater):
    """Kibana does not answer, or not now."""

    code = "kibana_unreachable"


class KibanaRefuses(Paused):
    """Kibana refuses us: the credentials, the certificate, or what we may do."""

    code = "kibana_refuses"


class KibanaUnsuitable(Halted):
    """What answers is no Kibana that this version works with."""

    code = "kibana_unsuitable"


class ImportFailed(Rejected):
    """Kibana took the file and has not brought in all that it holds."""

    code = "import_failed"


@dataclass(frozen=True, slots=True)
class KibanaUrl:
    """Where Kibana is and who we are there.

    Attributes:
        address: `https://host:port`, with its base path if it has one, without a slash at its end.
        api_key: reference to an API key in its encoded form; None for another way.
        user: a name; None for another way.
        password: reference to its password.
        authority: file of the certificate authority; None for those of the system.
    """

    address: str
    api_key: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    authority: str | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: how many objects it wrote, and which it found and left alone."""

    written: int
    kept: tuple[str, ...] = ()


def parse(url: str) -> KibanaUrl:
    """Return what a URL says: `kibana+https://host:5601[/base]?api_key=env:NAME`, or `user=` and `password=`; `&ca=`.

    Raises:
        Rejected: `bad_url`, or `bad_reference` for a credential that is not one.
    """
    parsed = urlsplit(url.removeprefix(SCHEME))
    parameters = dict(parse_qsl(parsed.query))
    unusable = (
        not url.startswith(SCHEME)
        or parsed.scheme not in ("http", "https")
        or not parsed.hostname
        or "@" in parsed.netloc
        or parsed.fragment
        or parameters.keys() - _KNOWN_PARAMETERS
        or ("user" in parameters) != ("password" in parameters)
    )
    if unusable:
        raise Rejected(
            "The address is not of the form kibana+https://host:port.",
            remedy="Give credentials by reference: ?api_key=env:NAME, or ?user=NAME&password=file:PATH; &ca=FILE.",
            code="bad_url",
        )
    for name, setting in _SETTINGS.items():
        if name in parameters:
            check_reference(parameters[name], setting)
    return KibanaUrl(
        address=f"{parsed.scheme}://{parsed.netloc}{parsed.path}".rstrip("/"),
        api_key=parameters.get("api_key"),
        user=parameters.get("user"),
        password=parameters.get("password"),
        authority=parameters.get("ca"),
    )


class Kibana:
    """One space of a Kibana. Nothing is tried twice; nothing is sent before it is known to be one that we know."""

    def __init__(self, url: KibanaUrl, space: str = DEFAULT_SPACE) -> None:
        """Prepare; nothing is sent.

        Raises:
            SecretUnavailable: a credential is not there.
            KibanaUnsuitable: `bad_authority`: the certificate authority's file cannot be read.
        """
        self.space = space
        self._prefix = "" if space == DEFAULT_SPACE else f"/s/{quote(space, safe='')}"
        headers = _HEADERS | _credentials(url)
        self._client = httpx.Client(base_url=url.address, headers=headers, timeout=_SECONDS, verify=_trust(url))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def version(self) -> str:
        """Return the version that answers, such as `8.19.5`.

        Raises:
            KibanaUnreachable, KibanaRefuses: see `_asked`.
            KibanaUnsuitable: it is no Kibana, or of a version that is not known to work.
        """
        answer = self._asked("GET", "/api/status")
        if not isinstance(answer, dict) or "status" not in answer:
            raise KibanaUnsuitable("What answers is no Kibana.", remedy="Check the address and its base path.")
        number = answer.get("version", {}).get("number")
        if number is None:  # whoever is not signed in learns only that it runs
            raise KibanaRefuses("Kibana does not know us.", remedy="Give ?api_key= or ?user= and password=.")
        parts = tuple(int(part) for part in str(number).split(".")[:2] if part.isdigit())
        if not _OLDEST <= parts < (_UNKNOWN_MAJOR,):
            raise KibanaUnsuitable(
                f"Kibana is of version {number}.", remedy="8.19 and later 8.x, and 9.x are known to work."
            )
        return str(number)

    def make_space(self) -> bool:
        """Make the space if it is not there; say whether it was made. Errors as `_asked`."""
        if self.space == DEFAULT_SPACE or self._found(f"/api/spaces/space/{quote(self.space, safe='')}") is not None:
            return False
        self._asked("POST", "/api/spaces/space", json={"id": self.space, "name": self.space})
        return True

    def bring(self, ndjson: bytes, *, overwrite: bool = True) -> Imported:
        """Import saved objects.

        Args:
            ndjson: one object a line.
            overwrite: replace what is there under the same ids; otherwise it is left alone.

        Raises:
            ImportFailed: not everything is there now; names what is not.
            KibanaUnreachable, KibanaRefuses, KibanaUnsuitable, Rejected: see `_asked`.
        """
        parameters = {"overwrite": "true"} if overwrite else {}
        file = {"file": ("klyra-audit.ndjson", ndjson, "application/ndjson")}
        path = f"{self._prefix}/api/saved_objects/_import"
        answer = self._asked("POST", path, params=parameters, files=file)
        if not isinstance(answer, dict):
            raise KibanaUnsuitable("Kibana's answer to an import is none.", remedy="Check the address.")
        errors: list[Json] = answer.get("errors") or []
        kept = [each for each in errors if not overwrite and each.get("error", {}).get("type") == _CONFLICT]
        failed = [each for each in errors if each not in kept]
        written = int(answer.get("successCount", 0))
        if failed or written + len(kept) != len(ndjson.splitlines()):
            raise ImportFailed(
                f"Kibana brought in {written} of {len(ndjson.splitlines())} objects: {_faults(failed)}.",
                remedy="Import again once that is mended; what was brought in is replaced.",
            )
        return Imported(written, tuple(str(each["id"]) for each in kept))

    def watch(self, rule_id: str, rule: Mapping[str, Any]) -> str:
        """Make an alert rule as it must be: `made`, `changed` or `kept`. Actions that somebody added stay.

        Raises:
            KibanaUnreachable, KibanaRefuses, KibanaUnsuitable, Rejected: see `_asked`.
        """
        path = f"{self._prefix}/api/alerting/rule/{rule_id}"
        there = self._found(path)
        if there is None:
            self._asked("POST", path, json=dict(rule))
            return "made"
        ours = {name: rule[name] for name in ("name", "tags", "schedule", "params")}
        if _says(there, ours):
            return "kept"
        theirs = {name: there[name] for name in _OPERATORS_OWN if there.get(name) is not None}
        self._asked("PUT", path, json=theirs | ours | {"actions": _actions(there.get("actions") or ())})
        return "changed"

    def give_role(self, name: str, role: Mapping[str, Any]) -> None:
        """Make or replace a role; errors as `_asked`."""
        self._asked("PUT", f"/api/security/role/{quote(name, safe='')}", json=dict(role))

    def _found(self, path: str) -> Json | None:
        """Return what is there, None for nothing; other errors as `_asked`."""
        try:
            answer = self._asked("GET", path)
        except _NotThere:
            return None
        return answer if isinstance(answer, dict) else {}

    def _asked(self, method: str, path: str, **options: Any) -> Any:  # noqa: ANN401 - JSON
        """Send one request; return the JSON of its answer, None for an empty one.

        Raises:
            KibanaUnreachable: it does not answer, or not now.
            KibanaRefuses: credentials, rights or certificate.
            KibanaUnsuitable: what answers is no Kibana.
            Rejected: `kibana_rejects`: it understood, and will not; `not_found`: there is nothing there.
        """
        try:
            answer = self._client.request(method, path, **options)
        except httpx.TransportError as error:
            raise _unanswered(error) from error
        if answer.is_error or answer.is_redirect:
            raise _refusal(answer)
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise KibanaUnsuitable(
                "What answers is no Kibana.", remedy="Check the address and its base path."
            ) from error


class _NotThere(Rejected):
    code = "not_found"


def _credentials(url: KibanaUrl) -> dict[str, str]:
    if url.api_key is not None:
        return {"authorization": f"ApiKey {read_secret(url.api_key, _SETTINGS['api_key'])}"}
    if url.user is None or url.password is None:
        return {}
    pair = f"{url.user}:{read_secret(url.password, _SETTINGS['password'])}"
    return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _trust(url: KibanaUrl) -> ssl.SSLContext | bool:
    if url.authority is None:
        return True
    try:
        return ssl.create_default_context(cafile=url.authority)
    except (OSError, ssl.SSLError) as error:
        raise KibanaUnsuitable(
            f"{url.authority} is no file of certificates.", remedy="Correct ca=.", code="bad_authority"
        ) from error


def _unanswered(error: httpx.TransportError) -> Paused | RetryLater:
    if "CERTIFICATE" in str(error).upper():
        return KibanaRefuses(
            f"Its certificate is not trusted: {error}.", remedy="Set ca= to its authority's certificate."
        )
    return KibanaUnreachable(
        f"Kibana does not answer: {str(error).rstrip('.') or type(error).__name__}.",
        remedy="Check that it runs and that the address is right.",
    )


def _refusal(answer: httpx.Response) -> Halted | Paused | Rejected | RetryLater:
    status, reason = answer.status_code, _reason(answer)
    if answer.is_redirect:
        return KibanaUnsuitable(
            f"Kibana sends us to {answer.headers.get('location')}.", remedy="Give the address with its base path."
        )
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return KibanaRefuses(f"Kibana refuses us ({status}): {reason}.", remedy="Check the credentials' rights.")
    if status == httpx.codes.NOT_FOUND:
        return _NotThere(f"Kibana has no such thing: {reason}.", remedy="Check the address and the space.")
    if status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS) or answer.is_server_error:
        return KibanaUnreachable(f"Kibana cannot do it now ({status}): {reason}.", remedy="Try again in a minute.")
    return Rejected(f"Kibana will not do it ({status}): {reason}.", code="kibana_rejects")


def _reason(answer: httpx.Response) -> str:
    try:
        body = answer.json()
    except ValueError:
        return answer.text[:200]
    return str(body.get("message") if isinstance(body, dict) else body)[:500]


def _faults(failed: Sequence[Json]) -> str:
    """Return which objects are not there, and why."""
    named = [f"{each.get('type')} {each.get('id')} ({_why(each.get('error', {}))})" for each in failed[:_SHOWN]]
    more = len(failed) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "") if named else "it does not say why"


def _why(error: Json) -> str:
    absent = ", ".join(f"{each.get('type')} {each.get('id')}" for each in error.get("references", ()))
    return " ".join(filter(None, (str(error.get("type")), absent, str(error.get("message") or ""))))


def _says(there: Any, ours: Any) -> bool:  # noqa: ANN401 - JSON
    """Say whether what is there says all that we say; it may say more."""
    if isinstance(ours, dict):
        return isinstance(there, dict) and all(_says(there.get(name), value) for name, value in ours.items())
    return bool(there == ours)


def _actions(actions: Sequence[Json]) -> list[Json]:
    return [{name: each[name] for name in _ACTION_MEMBERS if name in each} for each in actions]
