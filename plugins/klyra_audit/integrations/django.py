"""Django middleware: client address, user agent, trace and the signed-in user of each request.

    MIDDLEWARE = [..., "django.contrib.auth.middleware.AuthenticationMiddleware",
                  "klyra_audit.integrations.django.AuditContextMiddleware"]
    KLYRA_AUDIT_TRUSTED_PROXIES = ["10.0.0.0/8"]

Works under WSGI and ASGI; Django itself calls it in the right way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klyra_audit.context import ClientAddress, RequestContext, request_context, trace_of
from klyra_audit.integrations.asgi import user_of_scope

if TYPE_CHECKING:
    from collections.abc import Callable

SETTING = "KLYRA_AUDIT_TRUSTED_PROXIES"


class AuditContextMiddleware:
    """Lets every event that is emitted during a request say who made it and from where."""

    sync_capable = True
    async_capable = False  # Django runs it in a thread under ASGI, where the context goes along

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        from django.conf import settings  # noqa: PLC0415 - only Django itself imports this module's class

        self._get_response = get_response
        self._address = ClientAddress(getattr(settings, SETTING, ()))

    def __call__(self, request: Any) -> Any:  # noqa: ANN401 - Django's own types
        """Answer one request."""
        with request_context(self._context(request)):
            return self._get_response(request)

    def _context(self, request: Any) -> RequestContext:  # noqa: ANN401 - Django's own type
        forwarded = request.headers.get("X-Forwarded-For")
        trace = trace_of(request.headers.get("Traceparent", ""))
        return RequestContext(
            client_ip=self._address.find(request.META.get("REMOTE_ADDR") or None, [forwarded] if forwarded else []),
            user_agent=request.headers.get("User-Agent"),
            trace_id=trace[0] if trace else None,
            span_id=trace[1] if trace else None,
            find_actor=lambda: user_of_scope({"user": getattr(request, "user", None)}),
        )
