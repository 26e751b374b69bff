"""Azure Monitor's Logs Ingestion API and who issues its tokens, strict about what Microsoft documents.

No emulator of the ingestion API exists. Whether this one reads what Microsoft's own client sends is tested with that
client; its answers are those of the documentation and of what has been observed of the service.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from klyra_siem.azure_monitor_rows import COLUMNS, RESERVED
from support.siem.cloud_server import Reply, Request

RULE = "dcr-0123456789abcdef0123456789abcdef"
STREAM = "Custom-KlyraAudit"
TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-000000000000"
CLIENT_SECRET = "azure-client-secret-that-nobody-may-see"
IDENTITY_HEADER = "azure-identity-header-that-nobody-may-see"
AUDIENCE = "https://monitor.azure.com"

MAX_BODY_BYTES = 1024 * 1024
MAX_VALUE_BYTES = 64 * 1024
JSON = {"Content-Type": "application/json; charset=utf-8"}
_DAY = 86_400.0


def refusal(status: int, code: str, message: str = "", **headers: str) -> Reply:
    """Return an error as Azure writes it."""
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    return Reply(status, body, {**JSON, "x-ms-error-code": code, **headers})


@dataclass
class Issuer:
    """Microsoft Entra, and the identity endpoint of a machine (App Service's, version 2019-08-01).

    Attributes:
        lifetime_seconds: of the tokens.
        issued: tokens and when they expire.
        failure: answered in place of a token.
    """

    lifetime_seconds: int = 3600
    issued: dict[str, float] = field(default_factory=dict)
    failure: Reply | None = None
    _numbers: Any = field(default_factory=itertools.count)

    def __call__(self, request: Request) -> Reply:
        """Answer a request."""
        address = urlsplit(request.path)
        if address.path.endswith("/.well-known/openid-configuration"):
            base = f"https://{request.headers['host']}/{TENANT}"
            names = ("authorization_endpoint", "token_endpoint", "issuer")
            return _json(dict.fromkeys(names, f"{base}/oauth2/v2.0/token"))
        if self.failure is not None:
            return self.failure
        if address.path == f"/{TENANT}/oauth2/v2.0/token":
            return self._of_application({name: values[0] for name, values in parse_qs(request.body.decode()).items()})
        if address.path == "/msi/token":
            return self._of_machine(request, parse_qs(address.query))
        return Reply(404)

    def revoke(self) -> None:
        """Make every token so far invalid before its time."""
        self.issued.clear()

    def is_valid(self, token: str) -> bool:
        """Say whether a token lets in."""
        return self.issued.get(token, 0.0) > time.time()

    def _of_application(self, form: dict[str, str]) -> Reply:
        wanted = {"client_id": CLIENT, "grant_type": "client_credentials", "scope": f"{AUDIENCE}/.default"}
        if any(form.get(name) != value for name, value in wanted.items()):
            return _json({"error": "invalid_request", "error_description": f"AADSTS900144: {sorted(form)}"}, 400)
        if form.get("client_secret") != CLIENT_SECRET:
            described = f"AADSTS7000215: Invalid client secret provided: {form.get('client_secret')}"
            return _json({"error": "invalid_client", "error_description": described}, 401)
        return _json({"token_type": "Bearer", "expires_in": self.lifetime_seconds, "access_token": self._issue()})

    def _of_machine(self, request: Request, query: dict[str, list[str]]) -> Reply:
        if request.headers.get("x-identity-header") != IDENTITY_HEADER or query.get("resource") != [AUDIENCE]:
            return Reply(401)
        expires = str(int(time.time()) + self.lifetime_seconds)
        return _json(
            {"access_token": self._issue(), "expires_on": expires, "resource": AUDIENCE, "token_type": "Bearer"}
        )

    def _issue(self) -> str:
        token = f"azure-token-that-nobody-may-see-{next(self._numbers)}"
        self.issued[token] = time.time() + self.lifetime_seconds
        return token


@dataclass
class Ingestion:
    """A data collection rule with one stream.

    Attributes:
        issuer: whose tokens are taken.
        has_role: whether whoever comes is Monitoring Metrics Publisher on the rule.
        now: the rule's clock, seconds since 1970; None for the real one.
        poison: ids of events that are answered with 400.
        rows: the table.
        rewritten: how many rows got the time of arrival in place of their own.
        cut: how many values were cut off.
    """

    issuer: Issuer
    has_role: bool = True
    now: float | None = None
    poison: set[str] = field(default_factory=set)
    rows: list[dict[str, Any]] = field(default_factory=list)
    rewritten: int = 0
    cut: int = 0

    def __call__(self, request: Request) -> Reply:
        """Answer a request, in the order in which Azure looks at it: who, where, how much, what."""
        refused = self._of_access(request) or _of_size(request)
        if refused is not None:
            return refused
        try:
            rows = json.loads(request.content)
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                return refusal(400, "InvalidPayload", "The payload is no array of objects")
            problem = next((found for row in rows if (found := problem_of(row))), None)
        except ValueError as error:
            return refusal(400, "InvalidPayload", str(error))
        if problem is not None or self.poison & {row.get("EventId") for row in rows}:
            return refusal(400, "InvalidRecord", problem or "A record cannot be read")
        self.rows += [self._stored(row) for row in rows]
        return Reply(204)

    def ids(self) -> list[str]:
        """Return the event ids in the table, repeats included."""
        return [row["EventId"] for row in self.rows]

    def _of_access(self, request: Request) -> Reply | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not self.issuer.is_valid(token):
            return refusal(401, "InvalidAuthenticationToken", f"The access token {token} is invalid")
        address = urlsplit(request.path)
        match = re.fullmatch(r"/dataCollectionRules/([^/]+)/streams/([^/]+)", address.path)
        if request.method != "POST" or match is None or parse_qs(address.query) != {"api-version": ["2023-01-01"]}:
            return refusal(404, "NotFound", address.path)
        if match[1] != RULE:
            return refusal(404, "NotFound", f"Data collection rule with immutable Id '{match[1]}' not found.")
        if not self.has_role:
            told = "The authentication token provided does not have access to ingest data for the data collection rule"
            return refusal(403, "OperationFailed", told)
        if match[2] != STREAM:
            return refusal(400, "InvalidStream", f"The stream {match[2]} is not configured in the rule.")
        return None

    def _stored(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row as the table holds it: an old or a future time is replaced, a long value cut off."""
        row = dict(row)
        now = self.now or time.time()
        stamp = dt.datetime.fromisoformat(row["TimeGenerated"]).timestamp()
        if not now - 2 * _DAY <= stamp <= now + _DAY:
            row["TimeGenerated"] = dt.datetime.fromtimestamp(now, dt.UTC).isoformat()
            self.rewritten += 1
        for name, value in row.items():
            if isinstance(value, str) and len(value.encode()) > MAX_VALUE_BYTES:
                row[name] = value.encode()[:MAX_VALUE_BYTES].decode(errors="ignore")
                self.cut += 1
        return row


def problem_of(row: dict[str, Any]) -> str | None:
    """Return what is wrong with a row; None if nothing is. Azure would drop an unknown column; here it is refused."""
    for name, value in row.items():
        if name in RESERVED or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,44}", name) or name not in COLUMNS:
            return f"There is no column {name}"
        kind = COLUMNS[name]
        if kind == "datetime":
            dt.datetime.fromisoformat(value)
        elif not isinstance(value, int if kind == "long" else str) or isinstance(value, bool):
            return f"The column {name} is a {kind}"
    return None if "TimeGenerated" in row else "TimeGenerated is missing"


def _of_size(request: Request) -> Reply | None:
    if request.headers.get("content-type") != "application/json":
        return refusal(415, "UnsupportedMediaType")
    if max(len(request.body), len(request.content)) > MAX_BODY_BYTES:
        return refusal(413, "ContentLengthLimitExceeded", "Maximum allowed content length: 1048576 bytes (1 MB).")
    return None


def _json(members: dict[str, Any], status: int = 200) -> Reply:
    return Reply(status, json.dumps(members).encode(), JSON)
