"""ASGI middleware: client address, user agent, trace and actor of each request (Starlette, FastAPI, Quart …)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klyra_audit.context import ClientAddress, RequestContext, request_context, trace_of
from klyra_audit.event import Actor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class AuditContextMiddleware:
    """Lets every event that is emitted during a request say where the request came from.

    Args:
        app: the application.
        trusted_proxies: networks of proxies whose `X-Forwarded-For` is believed.
        find_actor: from the scope to who makes the request; by default what an authentication middleware has put into
            `scope["user"]`.
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
        self._find_actor = find_actor or user_of_scope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass on what is none."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        with request_context(self._context(scope)):
            await self._app(scope, receive, send)

    def _context(self, scope: Scope) -> RequestContext:
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        first = dict(reversed(headers))
        client = scope.get("client")
        trace = trace_of(first.get("traceparent", ""))
        return RequestContext(
            client_ip=self._address.find(
                client[0] if client else None, [value for name, value in headers if name == "x-forwarded-for"]
            ),
            user_agent=first.get("user-agent"),
            trace_id=trace[0] if trace else None,
            span_id=trace[1] if trace else None,
            find_actor=lambda: self._find_actor(scope),
        )


def user_of_scope(scope: Mapping[str, Any]) -> Actor | None:
    """Return the authenticated user as Starlette and Django put it into the scope."""
    user = scope.get("user")
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    user_id = getattr(user, "pk", None) or getattr(user, "identity", None) or getattr(user, "username", None)
    name = getattr(user, "display_name", None) or getattr(user, "username", None)
    return None if not user_id else Actor.user(str(user_id), None if name is None else str(name))
