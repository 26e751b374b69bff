"""What is known of the request being worked on: who makes it, from where, in which trace.

Middleware (`klyra_audit.integrations`) sets it; an emitter adds it to the metadata of every event that does not say
otherwise. It follows threads and tasks as any context variable does.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from klyra_audit.event import Actor, AuditEvent

MAX_USER_AGENT: Final = 512

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")  # W3C Trace Context
_NO_TRACE: Final = re.compile(r"0+")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request.

    Attributes:
        client_ip: the client's address, behind the proxies that are trusted.
        user_agent: as the client says.
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        find_actor: returns who makes the request, as far as that is known when it is called: applications
            authenticate after the middleware has begun.
    """

    client_ip: str | None = None
    user_agent: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    find_actor: Callable[[], Actor | None] | None = None

    def metadata(self) -> dict[str, Any]:
        """Return what every event of the request says in its metadata."""
        members = {
            "client_ip": self.client_ip,
            "user_agent": self.user_agent and self.user_agent[:MAX_USER_AGENT],
            "trace_id": self.trace_id,
            "span_id": self.span_id,
        }
        return {name: value for name, value in members.items() if value}


_CURRENT: ContextVar[RequestContext | None] = ContextVar("klyra_audit_request", default=None)


@contextmanager
def request_context(context: RequestContext) -> Iterator[RequestContext]:
    """Work on a request until the block ends."""
    token = _CURRENT.set(context)
    try:
        yield context
    finally:
        _CURRENT.reset(token)


def current() -> RequestContext:
    """Return what is known of the present request, with the trace that OpenTelemetry knows, if it is installed."""
    context = _CURRENT.get() or RequestContext()
    trace = _opentelemetry_trace()
    return context if trace is None else replace(context, trace_id=trace[0], span_id=trace[1])


def current_actor() -> Actor | None:
    """Return who makes the present request; None if nobody is known."""
    context = _CURRENT.get()
    return None if context is None or context.find_actor is None else context.find_actor()


def with_context(event: AuditEvent) -> AuditEvent:
    """Return an event that says in its metadata what is known of the present request and it does not say itself."""
    if _CURRENT.get() is None and _opentelemetry_trace() is None:
        return event
    known = current().metadata()
    if not known or known.keys() <= event.metadata.keys():
        return event
    return replace(event, metadata={**known, **event.metadata})


def trace_of(traceparent: str) -> tuple[str, str] | None:
    """Return trace and span id of a `traceparent` header (W3C Trace Context section 3.2); None if it is none."""
    matched = _TRACEPARENT.fullmatch(traceparent.strip())
    if matched is None or _NO_TRACE.fullmatch(matched[1]) or _NO_TRACE.fullmatch(matched[2]):
        return None
    return matched[1], matched[2]


class ClientAddress:
    """Finds the client's address behind proxies that are trusted, and behind no others.

    Args:
        trusted_proxies: networks such as 10.0.0.0/8, whose `X-Forwarded-For` is believed. What stands to the left of
            the first address that is not trusted was written by the client.
    """

    def __init__(self, trusted_proxies: Iterable[str] = ()) -> None:
        self._trusted = [ipaddress.ip_network(network) for network in trusted_proxies]

    def find(self, peer: str | None, forwarded_for: Iterable[str]) -> str | None:
        """Return the client's address.

        Args:
            peer: the address that the connection comes from; None for a Unix socket, whose peer is trusted.
            forwarded_for: values of the `X-Forwarded-For` headers, in order.
        """
        found = _address(peer)
        if peer is not None and found is None:
            return None
        hops = [hop.strip() for value in forwarded_for for hop in value.split(",")]
        while hops and (found is None or self._is_trusted(found)):
            hop = _address(hops.pop())
            if hop is None:
                break
            found = hop
        return found

    def _is_trusted(self, address: str) -> bool:
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self._trusted)


def _address(text: str | None) -> str | None:
    """Return an address in its usual form, without a port, brackets or zone; None for a name or nothing."""
    if not text:
        return None
    bare = text.removeprefix("[").partition("]")[0] if text.startswith("[") else text
    host = bare.rpartition(":")[0] if bare.count(":") == 1 else bare
    try:
        parsed = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def _opentelemetry_trace() -> tuple[str, str] | None:
    try:
        from opentelemetry import trace  # noqa: PLC0415 - used where it is installed
    except ImportError:
        return None
    span = trace.get_current_span().get_span_context()
    return (f"{span.trace_id:032x}", f"{span.span_id:016x}") if span.is_valid else None
