"""A client for the cluster that a URL names: no retries of its own, credentials by reference, servers that we know."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from klyra_audit.errors import Halted, Paused, Rejected, RetryLater
from klyra_collector.secret_reference import check_reference, read_secret

if TYPE_CHECKING:
    from elasticsearch import ApiError, Elasticsearch, TransportError

    from klyra_audit.errors import KlyraError

SCHEME = "elasticsearch+"
_KNOWN_PARAMETERS = {"api_key", "user", "password", "ca"}
_SECONDS = 30
_OLDEST = (8, 19)
_UNKNOWN_MAJOR = 10
_NOT_TRUSTED = ("CERTIFICATE", "HOSTNAME")  # as the libraries say it: who signed it, and for whom


class ClusterUnreachable(RetryLater):
    """The cluster does not answer, or not now."""

    code = "cluster_unreachable"


class ClusterRefuses(Paused):
    """The cluster refuses us: the key, the certificate, or what the key may do."""

    code = "cluster_refuses"


class IndexClosed(Paused):
    """An index that is asked about was closed, so that what it holds would be missing in an answer."""

    code = "index_closed"


class ClusterUnsuitable(Halted):
    """What answers is no Elasticsearch that this version works with."""

    code = "cluster_unsuitable"


class Flavor(Enum):
    """What kind of Elasticsearch it is: who runs it decides what it lets us do."""

    DEFAULT = "default"
    SERVERLESS = "serverless"


@dataclass(frozen=True, slots=True)
class ClusterUrl:
    """Where a cluster is and who we are there.

    Attributes:
        hosts: `https://host:port`, any of which may be asked.
        api_key: reference to an API key in its encoded form; None for another way.
        user, password: a name, and the reference to its password.
        authority: file of the certificate authority; None for those of the system.
    """

    hosts: tuple[str, ...]
    api_key: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    authority: str | None = None

    @property
    def shown(self) -> str:
        """The hosts, as messages name them."""
        return ", ".join(self.hosts)

    @property
    def has_credentials(self) -> bool:
        """Whether we say who we are; a cluster without security needs none."""
        return self.api_key is not None or self.user is not None


@dataclass(frozen=True, slots=True)
class Server:
    """What answers.

    Attributes:
        version: such as `8.19.21`.
        flavor: of its distribution.
    """

    version: str
    flavor: Flavor


def parse(url: str, setting: str = "store.url") -> ClusterUrl:
    """Return what a URL says.

    Args:
        url: `elasticsearch+https://host:9200` or several hosts between commas, with `?api_key=env:NAME`, or
            `?user=NAME&password=file:PATH`, and `&ca=/path/to/ca.pem` where needed.
        setting: that it comes from, for messages.

    Raises:
        Rejected: `bad_url`, or `bad_reference` for a credential that is not one.
    """
    parsed = urlsplit(url.removeprefix(SCHEME))
    parameters = dict(parse_qsl(parsed.query))
    hosts = tuple(f"{parsed.scheme}://{host}" for host in parsed.netloc.split(",") if host)
    unusable = (
        not url.startswith(SCHEME)
        or parsed.scheme not in ("http", "https")
        or parsed.path.strip("/")
        or "@" in parsed.netloc
        or parameters.keys() - _KNOWN_PARAMETERS
        or ("user" in parameters) != ("password" in parameters)
        or not all(re.fullmatch(r"https?://(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d+)?", host) for host in hosts)
    )
    if unusable or not hosts:
        raise Rejected(
            f"{setting} is not of the form elasticsearch+https://host:port.",
            remedy="Give credentials by reference: ?api_key=env:NAME, or ?user=NAME&password=file:PATH; &ca=FILE.",
            code="bad_url",
        )
    for name in ("api_key", "password"):
        if name in parameters:
            check_reference(parameters[name], f"{setting}'s {name}")
    return ClusterUrl(
        hosts=hosts,
        api_key=parameters.get("api_key"),
        user=parameters.get("user"),
        password=parameters.get("password"),
        authority=parameters.get("ca"),
    )


def connect(url: ClusterUrl, setting: str = "store.url", *, compress: bool = True) -> Elasticsearch:
    """Return a client. Nothing is sent yet.

    It tries nothing again by itself: it would do so without a pause, and would hide what was refused.

    Args:
        url: of the cluster.
        setting: that it comes from, for messages.
        compress: requests, by the library; False for who compresses them before.

    Raises:
        ClusterUnsuitable: the library is not installed.
        SecretUnavailable: a credential is not there.
    """
    try:
        from elasticsearch import Elasticsearch  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ClusterUnsuitable(
            "Elasticsearch needs the library elasticsearch, which is not installed.",
            remedy="Install klyra-audit[elasticsearch].",
            code="missing_extra",
        ) from error
    options: dict[str, Any] = _credentials(url, setting)
    if url.authority is not None:
        options["ca_certs"] = url.authority
    return Elasticsearch(
        list(url.hosts),
        max_retries=0,
        retry_on_timeout=False,
        request_timeout=_SECONDS,
        http_compress=compress,
        **options,
    )


def probe(client: Elasticsearch) -> Server:
    """Ask what answers.

    Raises:
        ClusterUnreachable, ClusterRefuses: see `translated`.
        ClusterUnsuitable: it is no Elasticsearch, or of a version that is not known to work.
    """
    version = request(client, "GET", "/")["version"]
    number = str(version.get("number", ""))
    found = tuple(int(part) for part in re.findall(r"\d+", number)[:2])
    flavor = Flavor.SERVERLESS if version.get("build_flavor") == Flavor.SERVERLESS.value else Flavor.DEFAULT
    if flavor is Flavor.DEFAULT and not _OLDEST <= found < (_UNKNOWN_MAJOR,):
        raise ClusterUnsuitable(
            f"The cluster runs Elasticsearch {number}; this version works with 8.19 and later, and with 9.",
            remedy="Use a cluster of one of these versions.",
        )
    return Server(number, flavor)


def request(client: Elasticsearch, method: str, path: str, body: Any = None) -> Any:  # noqa: ANN401 - JSON
    """Send one request and return the JSON of its answer.

    Raises:
        ClusterUnreachable, ClusterRefuses, ClusterUnsuitable, IndexClosed: see `translated`.
        NotFound: there is nothing there.
        Rejected: `cluster_rejects`: the cluster understood, and will not.
    """
    from elasticsearch import ApiError, TransportError  # noqa: PLC0415 - an extra, and here in use

    headers = {"accept": "application/json"} | ({} if body is None else {"content-type": "application/json"})
    try:
        answer = client.perform_request(method, path, headers=headers, body=body).body
    except (ApiError, TransportError) as error:
        raise translated(error) from error
    if not isinstance(answer, dict | list):
        raise ClusterUnreachable("Something else answers in the cluster's place.", remedy="Check what lies between.")
    return answer


class NotFound(Rejected):
    """The cluster has nothing of that name."""

    code = "not_found"


def translated(error: ApiError | TransportError) -> KlyraError:
    """Return what an error of the library means for us."""
    from elasticsearch import ApiError, UnsupportedProductError  # noqa: PLC0415 - an extra, and here in use

    if isinstance(error, UnsupportedProductError):
        return ClusterUnsuitable("What answers is no Elasticsearch.", remedy="Check the URL.", code="no_product")
    if isinstance(error, ApiError):
        return _of_status(error.status_code, _reason(error.body))
    if any(word in error.message.upper() for word in _NOT_TRUSTED):
        return ClusterRefuses(
            f"Its certificate is not trusted: {error.message}.", remedy="Set ca= to its authority's certificate."
        )
    return ClusterUnreachable(
        f"The cluster does not answer: {error.message}.", remedy="Check that it runs and that the URL is right."
    )


def _of_status(status: int, reason: str) -> KlyraError:
    if status in (401, 403) and "cluster_block_exception" not in reason:
        return ClusterRefuses(f"The cluster refuses us ({status}): {reason}.", remedy="Check the credentials' rights.")
    if status == 404:  # noqa: PLR2004 - HTTP
        return NotFound(f"The cluster has no such thing: {reason}.")
    if status in (403, 408, 429) or status >= 500:  # noqa: PLR2004 - HTTP
        return ClusterUnreachable(f"The cluster cannot do it now ({status}): {reason}.")
    if "index_closed_exception" in reason:
        return IndexClosed(f"Somebody has closed an index: {reason}.", remedy="Open it again: POST /INDEX/_open.")
    return Rejected(f"The cluster will not do it ({status}): {reason}.", code="cluster_rejects")


def _reason(body: Any) -> str:  # noqa: ANN401 - whatever it answered
    """Return what an answer says is wrong, with what was behind it."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return str(error or body)[:200]
    reasons = [f"{error.get('type')}: {error.get('reason')}"]
    while isinstance(error := error.get("caused_by"), dict):
        reasons.append(str(error.get("reason")))
    return " <- ".join(reasons)


def _credentials(url: ClusterUrl, setting: str) -> dict[str, Any]:
    if url.api_key is not None:
        return {"api_key": read_secret(url.api_key, f"{setting}'s api_key")}
    if url.user is not None and url.password is not None:
        return {"basic_auth": (url.user, read_secret(url.password, f"{setting}'s password"))}
    return {}
