"""Every kind of destination configured with secrets that one recognises, and services that repeat all they are sent."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from support.certificates import Authority
from support.siem import azure, google, moto
from support.siem.cloud_server import CloudServer, Reply, Request, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

STATUSES = (200, 202, 307, 400, 401, 403, 413, 429, 500)
EXTRA = "extra-header-SECRET/part+two=="

_SECRET_HEADERS = ("authorization", "dd-api-key", "x-amz-security-token", "x-extra")


@dataclass
class Echo:
    """A service that answers everything with everything, in each form in which a vendor might write it.

    Attributes:
        known: secrets that the sender was configured with, and may hear again.
        secrets: all that nobody may see, tokens that were issued meanwhile included.
        repeated: how often a secret was sent back.
    """

    known: set[str]
    secrets: set[str] = field(default_factory=set)
    repeated: int = 0
    _turn: itertools.count[int] = field(default_factory=itertools.count)

    def __call__(self, request: Request) -> Reply:
        """Answer a request."""
        given = [request.headers[name] for name in _SECRET_HEADERS if name in request.headers]
        signature = re.search(r"Signature=(\w+)", request.headers.get("authorization", ""))
        heard = set() if signature else {value.rpartition(" ")[2] for value in given}
        self.secrets |= self.known | heard
        words = sorted(self.known | heard)
        turn = next(self._turn)
        status, form = STATUSES[turn % len(STATUSES)], FORMS[turn % len(FORMS)]  # their numbers have no common divisor
        word = words[turn // (len(STATUSES) * len(FORMS)) % len(words)]
        self.repeated += 1
        return _reply(status, form(word), word)

    @property
    def turns(self) -> int:
        """How many requests it takes until everything was said in every way."""
        return len(STATUSES) * len(FORMS) * (len(self.known) + 1)


def _reply(status: int, body: bytes, word: str) -> Reply:
    kind = "text/html" if body.startswith(b"<") else "application/json"
    headers = dict.fromkeys(("Retry-After", "x-ms-error-code", "x-amzn-ErrorType", "Set-Cookie", "X-Echo"), word)
    return Reply(status, body, {"Content-Type": kind, "Location": f"/{word}", **headers})


def _members(word: str) -> dict[str, object]:
    """Return an error with a word wherever a vendor puts words."""
    one = {"code": word, "status": word, "title": word, "detail": word, "message": f"token {word} is not known"}
    return {
        **one,
        "error": {**one, "details": [{"@type": word, "retryDelay": word}]},
        "errors": [one],
        "text": word,
        "__type": word,
        "Message": word,
        "partialSuccess": {"rejectedLogRecords": 1, "errorMessage": word},
    }


def _aws_refusal(word: str) -> bytes:
    return json.dumps({"__type": "InvalidSignatureException", "message": f"The request was {word}"}).encode()


def _splunk_refusal(word: str) -> bytes:
    return json.dumps({"code": 4, "text": f"Invalid token {word}"}).encode()


def _escaped(word: str) -> bytes:
    """Return JSON as servers write it that escape what means something in HTML."""
    text = json.dumps(_members(word)).replace("/", "\\/")
    return text.replace("=", "\\u003d").replace("+", "\\u002b").encode()


FORMS: Sequence[Callable[[str], bytes]] = (
    lambda word: f"<html>{word}</html>".encode(),
    lambda word: f"<html>/{quote(word, safe='')}</html>".encode(),
    lambda word: json.dumps(_members(word)).encode(),
    lambda word: json.dumps(_members(f"Bearer {word}")).encode(),
    _escaped,
    _aws_refusal,
    _splunk_refusal,
)


@dataclass(frozen=True, kw_only=True)
class Configured:
    """A destination in a configuration, and its service.

    Attributes:
        kind: of it.
        lines: its section in TOML.
        environment: the secrets, by the names with which the section refers to them.
        server: its service.
        echo: what answers there.
    """

    kind: str
    lines: list[str]
    environment: dict[str, str]
    server: CloudServer
    echo: Echo


def section(kind: str, endpoint: str, options: dict[str, object], *more: str) -> list[str]:
    """Return a `[[destination]]`."""
    lines = ["[[destination]]", 'name = "back"', f'kind = "{kind}"', f'endpoint = "{endpoint}"', *more]
    lines += ["heartbeat_seconds = 0", 'headers = { "X-Extra" = "env:EXTRA" }', "[destination.options]"]
    return lines + [f"{name} = {json.dumps(value)}" for name, value in options.items()]


@contextlib.contextmanager
def _plain(
    kind: str, secrets: dict[str, str], options: dict[str, object], path: str = "", *, hides_endpoint: bool = False
) -> Iterator[Configured]:
    echo = Echo({*secrets.values(), EXTRA})
    with serving(echo) as server:
        environment = {**secrets, "EXTRA": EXTRA}
        endpoint = server.url + path
        if hides_endpoint:
            environment["ENDPOINT"], endpoint = endpoint, "env:ENDPOINT"
        yield Configured(
            kind=kind, lines=section(kind, endpoint, options), environment=environment, server=server, echo=echo
        )


def splunk(_: Path) -> contextlib.AbstractContextManager[Configured]:
    """Splunk."""
    return _plain("splunk", {"TOKEN": "splunk-SECRET-token-4711"}, {"token": "env:TOKEN"})


def splunk_acknowledged(_: Path) -> contextlib.AbstractContextManager[Configured]:
    """Splunk with indexer acknowledgement."""
    options = {"token": "env:TOKEN", "acknowledge": True, "acknowledge_seconds": 30}
    return _plain("splunk", {"TOKEN": "splunk-SECRET-token-4712"}, options)


def datadog(_: Path) -> contextlib.AbstractContextManager[Configured]:
    """Datadog."""
    return _plain("datadog", {"KEY": "datadog-SECRET-key-4711"}, {"api_key": "env:KEY"})


def sumo_logic(_: Path) -> contextlib.AbstractContextManager[Configured]:
    """Sumo Logic, whose address is the secret."""
    code = "ZaVnC4dhaV0-sumo-SECRET-code-4711=="
    return _plain("sumo-logic", {"CODE": code}, {}, f"/receiver/v1/http/{code}", hides_endpoint=True)


def cloudwatch(_: Path) -> contextlib.AbstractContextManager[Configured]:
    """CloudWatch Logs with keys of a session."""
    secrets = {"SECRET": "aws/SECRET+key/4711", "SESSION": "aws-session-SECRET/token+4711=="}
    options = {"log_group": moto.GROUP, "region": moto.REGION, "access_key_id": moto.KEY_ID}
    options |= {"secret_access_key": "env:SECRET", "session_token": "env:SESSION"}
    return _plain("cloudwatch", secrets, options)


def otlp(_: Path) -> contextlib.AbstractContextManager[Configured]:
    """Any receiver, with a token in a header and one in the address."""
    path = "/v1/logs?key=otlp-url-SECRET-4711"
    return _plain("otlp", {"CODE": "otlp-url-SECRET-4711"}, {}, path, hides_endpoint=True)


@contextlib.contextmanager
def google_cloud_logging(_: Path) -> Iterator[Configured]:
    """Google Cloud Logging with a service account's key."""
    key = google.ServiceAccount().key_file()
    with _plain("google-cloud-logging", {"KEY": key}, {"project": google.PROJECT, "credentials": "env:KEY"}) as made:
        pem = json.loads(key)["private_key"].splitlines()[1:-1]  # never sent: each line of it is looked for
        made.echo.known.discard(key)
        made.echo.secrets.update(pem)
        yield made


@contextlib.contextmanager
def azure_monitor(folder: Path) -> Iterator[Configured]:
    """Azure Monitor, and an issuer of tokens that sometimes repeats the application's secret."""
    authority = Authority(folder)
    files = authority.issue("azure")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    secret = "azure-SECRET-of-application-4711"
    echo, issuer = Echo({secret, EXTRA}), azure.Issuer()
    turns = itertools.count()

    def login(request: Request) -> Reply:
        wanted = next(turns) % 3 == 2
        if not wanted or "openid-configuration" in request.path:
            return issuer(replace_secret(request, secret))
        return echo(request)

    with serving(login, context) as tokens, serving(echo, context) as server:
        options = {"data_collection_rule": azure.RULE, "authority": tokens.url.removeprefix("https://")}
        options |= {"tenant_id": azure.TENANT, "client_id": azure.CLIENT, "client_secret": "env:SECRET"}
        lines = section("azure-monitor", server.url, options, f'ca_file = "{authority.certificate}"')
        environment = {"SECRET": secret, "EXTRA": EXTRA}
        yield Configured(kind="azure-monitor", lines=lines, environment=environment, server=server, echo=echo)


def replace_secret(request: Request, secret: str) -> Request:
    """Return a request for a token with the secret that the issuer knows."""
    body = request.body.replace(quote(secret, safe="").encode(), azure.CLIENT_SECRET.encode())
    return Request(method=request.method, path=request.path, headers=request.headers, body=body)


KINDS = {
    "azure-monitor": azure_monitor,
    "cloudwatch": cloudwatch,
    "datadog": datadog,
    "google-cloud-logging": google_cloud_logging,
    "otlp": otlp,
    "splunk": splunk,
    "splunk, acknowledged": splunk_acknowledged,
    "sumo-logic": sumo_logic,
}
