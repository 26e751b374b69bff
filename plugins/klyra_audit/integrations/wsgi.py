"""WSGI middleware: client address, user agent, trace and actor of each request (Flask, Django, Pyramid …)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klyra_audit.context import ClientAddress, RequestContext, request_context, trace_of
from klyra_audit.event import Actor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    Environ = dict[str, Any]
    Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class AuditContextMiddleware:
    """Lets every event that is emitted during a request say where the request came from.

    Args:
        app: the application.
        trusted_proxies: networks of proxies whose `X-Forwarded-For` is believed.
        find_actor: from the environment to who makes the request; by default `REMOTE_USER`.
    """

    def __init__(
        self,
        app: Application,
        *,
        trusted_proxies: Iterable[str] = (),
        find_actor: Callable[[Mapping[str, Any]], Actor | None] | None = None,
    ) -> None:
        self._app = app
        self._address = ClientAddress(trusted_proxies)
        self._find_actor = find_actor or remote_user

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterator[bytes]:
        """Serve one request, to the end of its answer."""
        with request_context(self._context(environ)):
            answer = self._app(environ, start_response)
            try:
                yield from answer
            finally:
                close = getattr(answer, "close", None)
                if close is not None:
                    close()

    def _context(self, environ: Environ) -> RequestContext:
        forwarded = environ.get("HTTP_X_FORWARDED_FOR")
        trace = trace_of(environ.get("HTTP_TRACEPARENT", ""))
        return RequestContext(
            client_ip=self._address.find(environ.get("REMOTE_ADDR") or None, [forwarded] if forwarded else []),
            user_agent=environ.get("HTTP_USER_AGENT"),
            trace_id=trace[0] if trace else None,
            span_id=trace[1] if trace else None,
            find_actor=lambda: self._find_actor(environ),
        )


def remote_user(environ: Mapping[str, Any]) -> Actor | None:
    """Return whom the server has authenticated."""
    name = environ.get("REMOTE_USER")
    return Actor.user(name) if name else None
