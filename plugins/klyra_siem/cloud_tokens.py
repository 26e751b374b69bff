"""Bearer tokens: kept until shortly before they expire, dropped when they are refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import httpx

from klyra_siem.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klyra_siem.cloud_requests import CloudRequests, Redaction

RENEWED_SECONDS: Final = 300.0  # before a token expires another is asked for


@dataclass(frozen=True, slots=True)
class Token:
    """A token and when it expires, seconds since 1970."""

    text: str = field(repr=False)
    expires: float


class TokenFetcher(Protocol):
    """Where tokens come from."""

    def fetch(self) -> Token | Outcome:
        """Return a token, or what it means that there is none."""
        ...

    def forget(self) -> None:
        """Begin from nothing next time: no token that was cached, no secret that was read before."""
        ...


class BearerTokens:
    """The token of a destination."""

    def __init__(self, fetcher: TokenFetcher, redaction: Redaction, now: Callable[[], float]) -> None:
        self._fetcher = fetcher
        self._redaction = redaction
        self._now = now
        self._token: Token | None = None

    def current(self) -> str | Outcome:
        """Return a token that is valid, or what it means that there is none.

        A token that is about to expire goes on being used while its issuer cannot be reached.
        """
        now, held = self._now(), self._token
        if held is not None and held.expires - now > RENEWED_SECONDS:
            return held.text
        fetched = self._fetcher.fetch()
        if isinstance(fetched, Outcome):
            return held.text if held is not None and held.expires > now else fetched
        self._token = fetched
        self._redaction.add(fetched.text)
        return fetched.text

    def forget(self) -> None:
        """Drop the token."""
        self._token = None
        self._fetcher.forget()


def post_with_token(
    requests: CloudRequests, tokens: BearerTokens, url: str, content: bytes, headers: Mapping[str, str]
) -> httpx.Response | Outcome:
    """Return the answer to a POST; after a 401 that to the same POST with another token.

    Keys are rotated and tokens revoked before their time. A second 401 is the answer.
    """
    answer = _post(requests, tokens, url, content, headers)
    if isinstance(answer, Outcome) or answer.status_code != httpx.codes.UNAUTHORIZED:
        return answer
    tokens.forget()
    return _post(requests, tokens, url, content, headers)


def _post(
    requests: CloudRequests, tokens: BearerTokens, url: str, content: bytes, headers: Mapping[str, str]
) -> httpx.Response | Outcome:
    token = tokens.current()
    if isinstance(token, Outcome):
        return token
    return requests.post(url, content, {**headers, "Authorization": f"Bearer {token}"})
