"""Requests to the example service, as somebody, from somewhere."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import httpx

from klyra_audit.errors import KlyraError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from klyra_collector.demo.cast import Origin

_ANSWER_SECONDS: Final = 30.0  # longer than the service may take to have an entry sealed
_PAUSE_SECONDS: Final = 0.5
_UNAVAILABLE = httpx.codes.SERVICE_UNAVAILABLE


class Stopped(Exception):  # noqa: N818 - a request to end, not an error
    """Whoever runs the traffic wants it to end."""


class UnexpectedAnswer(KlyraError):  # noqa: N818 - named for what happened, as all errors here
    """The service answered otherwise than the script has it."""

    code = "unexpected_answer"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request: the header that proves it, and where it comes from."""

    origin: Origin
    user_id: str | None = None
    secret: str | None = field(default=None, repr=False)

    def headers(self) -> dict[str, str]:
        """Return what the request carries; the address travels as a proxy would pass it on."""
        headers = {"User-Agent": self.origin.user_agent, "X-Forwarded-For": self.origin.client_ip}
        if self.secret is not None:
            headers["Authorization"] = f"Bearer {self.secret}"
        if self.user_id is not None:
            headers["X-User-Id"] = self.user_id
        return headers


class ServiceClient:
    """Sends one request after the other, and the same again while the service cannot record it."""

    def __init__(
        self, service: str, stop: threading.Event, on_wait: Callable[[str], None] = lambda _reason: None
    ) -> None:
        """Take the service's URL, the event that ends all waiting, and who is told of it."""
        self._client = httpx.Client(base_url=service, timeout=_ANSWER_SECONDS)
        self._stop = stop
        self._on_wait = on_wait

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()

    def await_service(self) -> None:
        """Return once the service answers at all; `Stopped` if the stop event comes first."""
        while not self._stop.is_set():
            with contextlib.suppress(httpx.TransportError):
                self._client.get("/healthz")
                return
            self._stop.wait(_PAUSE_SECONDS)
        raise Stopped

    def send(
        self, caller: Caller, method: str, path: str, body: dict[str, Any] | None = None, *, expect: int
    ) -> dict[str, Any]:
        """Return the answer's members, none for an empty one.

        Raises:
            UnexpectedAnswer: the status is neither `expect` nor 503.
            Stopped: the stop event was set.
        """
        while not self._stop.is_set():
            try:
                response = self._client.request(method, path, json=body, headers=caller.headers())
            except httpx.TransportError as error:
                self._wait(f"{method} {path}: {error!r}")
                continue
            if response.status_code == _UNAVAILABLE:
                self._wait(f"{method} {path}: {response.text}")
                continue
            return _members(response, expect)
        raise Stopped

    def _wait(self, reason: str) -> None:
        self._on_wait(reason)
        self._stop.wait(_PAUSE_SECONDS)


def _members(response: httpx.Response, expect: int) -> dict[str, Any]:
    request = response.request
    if response.status_code != expect:
        raise UnexpectedAnswer(
            f"{request.method} {request.url.path} was answered {response.status_code}, not {expect}: {response.text}",
            remedy="Check that the address is the example moderation service's.",
        )
    members: dict[str, Any] = response.json() if response.content else {}
    return members
