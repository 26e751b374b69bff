"""Tokens for Google Cloud, through google-auth: a service account's key, or what the machine is given."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx
import orjson

from klyra_siem.cloud_requests import vendor_module
from klyra_siem.cloud_tokens import Token
from klyra_siem.errors import BadDestination
from klyra_siem.outcome import Action, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_siem.cloud_requests import Redaction
    from klyra_siem.destination import DestinationOptions

SCOPE: Final = "https://www.googleapis.com/auth/logging.write"

_DISTRIBUTION = "google-auth"
_UNKNOWN_EXPIRY_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """An answer as google-auth wants it (`google.auth.transport.Response`)."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class TokenTransport:
    """Requests of google-auth over httpx (`google.auth.transport.Request`), so that no other client is needed."""

    def __init__(self, timeout_seconds: float, transport_error: type[Exception]) -> None:
        self._client = httpx.Client(timeout=timeout_seconds, follow_redirects=False)
        self._transport_error = transport_error

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> TokenAnswer:
        """Return the answer; google-auth's `TransportError` if there is none."""
        waiting = self._client.timeout if timeout is None else httpx.Timeout(timeout)
        try:
            answer = self._client.request(method, url, content=body, headers=dict(headers or {}), timeout=waiting)
        except httpx.HTTPError as error:
            raise self._transport_error(f"{type(error).__name__}: {error}") from error
        return TokenAnswer(answer.status_code, answer.headers, answer.content)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


class GoogleTokens:
    """Tokens of google-auth.

    A service account's token is signed here and never asked for: no request, nothing that can be out of reach.
    """

    def __init__(self, options: DestinationOptions, key: str | None, redaction: Redaction) -> None:
        self._key = None if key is None else service_account_key(options, key)
        self._redaction = redaction
        if self._key is not None:
            redaction.add(str(self._key["private_key"]), str(self._key.get("private_key_id")))
        self._auth = vendor_module("google.auth", _DISTRIBUTION)
        self._errors = vendor_module("google.auth.exceptions", _DISTRIBUTION)
        self._service_account = vendor_module("google.oauth2.service_account", _DISTRIBUTION)
        self._transport = TokenTransport(options.timeout_seconds, self._errors.TransportError)
        self._credentials: Any = None

    def fetch(self) -> Token | Outcome:
        """See `TokenFetcher`."""
        try:
            if self._credentials is None:
                self._credentials = self._found()
            self._credentials.refresh(self._transport)
        except (self._errors.GoogleAuthError, ValueError, OSError) as error:
            return self._of_failure(error)
        expiry = self._credentials.expiry  # UTC without saying so
        if expiry is None:
            return Token(self._credentials.token, time.time() + _UNKNOWN_EXPIRY_SECONDS)
        return Token(self._credentials.token, expiry.replace(tzinfo=dt.UTC).timestamp())

    def forget(self) -> None:
        """See `TokenFetcher`."""
        self._credentials = None

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def _found(self) -> Any:  # noqa: ANN401 - one of the library's credentials
        if self._key is None:
            found, _ = self._auth.default(scopes=[SCOPE], request=self._transport)
        else:
            found = self._service_account.Credentials.from_service_account_info(self._key, scopes=[SCOPE])
        is_account = isinstance(found, self._service_account.Credentials)
        return found.with_always_use_jwt_access(always_use_jwt_access=True) if is_account else found

    def _of_failure(self, error: Exception) -> Outcome:
        """Return what it means that there is no token."""
        self.forget()
        is_transient = isinstance(error, self._errors.TransportError) or getattr(error, "retryable", False)
        return Outcome(
            action=Action.RETRY if is_transient else Action.PAUSE,
            status="credentials",
            reason=self._redaction.clean(f"{type(error).__name__}: {error}"),
        )


def service_account_key(options: DestinationOptions, text: str) -> dict[str, Any]:
    """Return a service account's key file; `BadDestination` for anything else.

    Other kinds of credential files name addresses and programs of their own and are taken from the machine only.
    """
    try:
        key = orjson.loads(text)
        if key["type"] == "service_account" and key["private_key"] and key["client_email"]:
            return dict(key)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    raise BadDestination(
        f"The credentials of destination {options.name} are no key of a service account.",
        remedy='Write credentials = "file:PATH" of the JSON file, or leave it out to use what the machine is given.',
    )
