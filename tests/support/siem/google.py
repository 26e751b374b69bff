"""Cloud Logging's `entries.write`, its requests read by Google's own protocol buffers.

`google.logging.v2.WriteLogEntriesRequest` refuses unknown fields, wrong times, severities and labels. What the fields
may hold beside that, and what is answered, is what the API's reference says.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.siem.cloud_server import Reply, Request

if TYPE_CHECKING:
    from collections.abc import Iterable

PROJECT = "klyra-test-project"
ACCOUNT = f"writer@{PROJECT}.iam.gserviceaccount.com"
SCOPE = "https://www.googleapis.com/auth/logging.write"
LOG_NAME = f"projects/{PROJECT}/logs/klyra.com%2Faudit"

MAX_BODY_BYTES = 10 * 1000 * 1000
MAX_ENTRY_BYTES = 256 * 1024
JSON = {"Content-Type": "application/json; charset=UTF-8"}
_DAY = 86_400
_CODES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}


def refusal(status: int, message: str, *details: dict[str, Any], code: str | None = None) -> Reply:
    """Return an error as Google writes it (`google.rpc.Status` over HTTP)."""
    error: dict[str, Any] = {"code": status, "message": message, "status": code or _CODES[status]}
    if details:
        error["details"] = list(details)
    return Reply(status, json.dumps({"error": error}).encode(), JSON)


class ServiceAccount:
    """A service account and its key."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.key_id = "0123456789abcdef0123456789abcdef01234567"

    def key_file(self) -> str:
        """Return the JSON file that Google hands out."""
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return json.dumps(
            {
                "type": "service_account",
                "project_id": PROJECT,
                "private_key_id": self.key_id,
                "private_key": pem,
                "client_email": ACCOUNT,
                "client_id": "100000000000000000000",
                "token_uri": "https://oauth2.googleapis.com/token",
            }
        )

    def claims(self, token: str) -> dict[str, Any] | None:
        """Return what a JWT of ours claims; None if the signature is not of this account (RFC 7515, RS256)."""
        try:
            head, body, signature = token.split(".")
            raw = base64.urlsafe_b64decode(signature + "==")
            self.key.public_key().verify(raw, f"{head}.{body}".encode(), padding.PKCS1v15(), SHA256())
            header = json.loads(base64.urlsafe_b64decode(head + "=="))
        except (ValueError, InvalidSignature):
            return None
        is_ours = header["alg"] == "RS256" and header["kid"] == self.key_id
        return json.loads(base64.urlsafe_b64decode(body + "==")) if is_ours else None


@dataclass
class Machine:
    """The metadata server of a machine in Google's cloud, which gives tokens of its service account.

    Attributes:
        token: given out.
        failure: answered in place of a token.
        scopes: that were asked for.
    """

    token: str
    failure: Reply | None = None
    scopes: list[str] = field(default_factory=list)

    def __call__(self, request: Request) -> Reply:
        """Answer a request; one without the header that browsers cannot send is none."""
        headers = {"Metadata-Flavor": "Google", "Content-Type": "application/json"}
        if request.headers.get("metadata-flavor") != "Google":
            return Reply(403, b"", headers)
        address = urlsplit(request.path)
        if address.path.endswith("/token"):
            self.scopes += parse_qs(address.query).get("scopes", [])
            given = {"access_token": self.token, "expires_in": 3600, "token_type": "Bearer"}
            return self.failure or Reply(200, json.dumps(given).encode(), headers)
        if address.path.endswith("/project/project-id"):
            return Reply(200, PROJECT.encode(), headers | {"Content-Type": "text/plain"})
        if address.path.endswith("/universe/universe-domain"):
            return Reply(200, b"googleapis.com", headers | {"Content-Type": "text/plain"})
        told = {"email": ACCOUNT, "scopes": [SCOPE], "aliases": ["default"]}
        return Reply(200, json.dumps(told).encode(), headers)


@dataclass
class CloudLogging:
    """A project's logs.

    Attributes:
        account: whose signed tokens are taken.
        tokens: others that are taken.
        revoked: tokens that no longer are.
        has_role: whether whoever comes is Logs Writer.
        poison: ids of entries that are refused.
        written: entries that were stored, as Google's protocol buffers read them, repeats included.
        checked: how many requests were dry runs.
    """

    account: ServiceAccount
    tokens: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    has_role: bool = True
    poison: set[str] = field(default_factory=set)
    written: list[dict[str, Any]] = field(default_factory=list)
    checked: int = 0

    def __call__(self, request: Request) -> Reply:
        """Answer a request."""
        refused = self._of_access(request)
        if refused is not None:
            return refused
        if len(request.content) > MAX_BODY_BYTES:
            return refusal(400, "Request payload size exceeds the limit: 10485760 bytes.")
        try:
            written = parsed(request.content)
        except ValueError as error:
            return refusal(400, f"Invalid JSON payload received. {error}")
        if written.get("logName") != LOG_NAME or written.get("resource", {}).get("type") != "global":
            return refusal(404, f"{written.get('logName')} is not a log of this project")
        return self._written(written)

    def queried(self) -> list[dict[str, Any]]:
        """Return what a query shows: of entries with the same timestamp and insertId, one."""
        return list({(item["timestamp"], item["insertId"]): item for item in self.written}.values())

    def _of_access(self, request: Request) -> Reply | None:
        if (request.method, request.path) != ("POST", "/v2/entries:write"):
            return Reply(404, b"<!DOCTYPE html><title>Error 404</title>", {"Content-Type": "text/html"})
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or token in self.revoked or not self._is_known(token):
            return refusal(401, f"Request had invalid authentication credentials: {token}")
        if not self.has_role:
            return refusal(403, "Permission 'logging.logEntries.create' denied on resource (or it may not exist).")
        return None

    def _is_known(self, token: str) -> bool:
        claims = self.account.claims(token)
        if claims is None:
            return token in self.tokens
        now = time.time()
        is_now = claims["iat"] - 60 <= now < claims["exp"] <= claims["iat"] + 3600
        return is_now and claims["iss"] == claims["sub"] == ACCOUNT and SCOPE in claims.get("scope", "").split()

    def _written(self, request: dict[str, Any]) -> Reply:
        """Store what can be stored; list what cannot, unless that is everything."""
        entries = request.get("entries", [])
        errors = {number: told for number, entry in enumerate(entries) if (told := self._problem(entry))}
        if errors and (len(errors) == len(entries) or not request.get("partialSuccess")):
            return refusal(400, next(iter(errors.values())))
        if request.get("dryRun"):
            self.checked += 1
        else:
            self.written += [entry for number, entry in enumerate(entries) if number not in errors]
        return partial(errors) if errors else Reply(200, b"{}\n", JSON)

    def _problem(self, entry: dict[str, Any]) -> str | None:
        if entry.get("insertId") in self.poison:
            return "Log entry cannot be read"
        if len(json.dumps(entry).encode()) > MAX_ENTRY_BYTES:
            return f"Log entry with size {len(json.dumps(entry))} exceeds maximum size of 256.0K"
        if "timestamp" in entry and _seconds(entry["timestamp"]) > time.time() + _DAY:
            return "Log entry timestamp is more than 24 hours in the future"
        return None


def partial(errors: dict[int, str]) -> Reply:
    """Return the answer to a request of which some entries were not written."""
    listed = {str(number): {"code": 3, "message": told} for number, told in errors.items()}
    kind = "type.googleapis.com/google.logging.v2.WriteLogEntriesPartialErrors"
    return refusal(400, next(iter(errors.values())), {"@type": kind, "logEntryErrors": listed})


def parsed(content: bytes) -> dict[str, Any]:
    """Return a request as Google's protocol buffers read it; `ValueError` if they do not."""
    from google.cloud.logging_v2.types import WriteLogEntriesRequest
    from google.protobuf import json_format

    try:
        message = json_format.Parse(content, WriteLogEntriesRequest.pb()())
    except json_format.ParseError as error:
        raise ValueError(str(error)) from error
    return json_format.MessageToDict(message)


def insert_ids(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Return the ids of entries."""
    return [entry["insertId"] for entry in entries]


def _seconds(timestamp: str) -> float:
    from google.protobuf.timestamp_pb2 import Timestamp

    moment = Timestamp()
    moment.FromJsonString(timestamp)
    return moment.ToNanoseconds() / 1e9
