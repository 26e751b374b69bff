"""Which way leads to a collector, by its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from klyra_audit.errors import Paused
from klyra_audit.transports.client_tls import ClientTls
from klyra_audit.transports.forward_emitter import DEFAULT_PORT as FORWARD_PORT
from klyra_audit.transports.forward_emitter import ForwardTransport
from klyra_audit.transports.otlp_grpc import OtlpGrpcTransport
from klyra_audit.transports.otlp_http import UNIX, OtlpHttpTransport

if TYPE_CHECKING:
    from klyra_audit.delivery import Transport

GRPC_PORT: Final = 4317

_KINDS: Final = ("http", "grpc", "forward")
_REMEDY: Final = "Name it as http(s)://host:4318, grpc(s)://host:4317 or forward(s)://host:24224."


class AddressUnusable(Paused):
    """What was given as a collector's address is none, or does not go with the other settings."""

    code = "bad_address"


class _Place(NamedTuple):
    """A collector: how to speak, whether with TLS, and where (`host:port`, a URL over HTTP, or `unix:/path`)."""

    kind: str
    is_secure: bool
    where: str


def transport_to(
    address: str, *, api_key: str, timeout: float, receipts_from: str = "", tls: ClientTls | None = None
) -> Transport:
    """Return the transport that an address asks for.

    Args:
        address: http, https, grpc, grpcs, forward or forwards `://host:port`; or http+unix, grpc+unix or
            forward+unix `:///path` for a Unix socket.
        api_key: a key with the scope `emit`; Forward has none.
        timeout: seconds until an answer is given up.
        receipts_from: where an emitter over gRPC asks for receipts.
        tls: what to trust and to show, where TLS is spoken; None for what the system trusts.

    Raises:
        AddressUnusable: it is no such address, or has more in it than one.
        MissingExtra: the library that it needs is not installed.
        TlsUnusable: a certificate file cannot be used.
    """
    place = _place_of(address)
    if receipts_from and place.kind != "grpc":
        raise AddressUnusable(
            f"receipts_from goes with grpc:// and grpcs://, not with {place.kind}.",
            remedy="Leave it out: over HTTP receipts come by themselves, over Forward there are none.",
        )
    if place.kind == "http":
        return OtlpHttpTransport(place.where, api_key, timeout, tls=tls)
    if place.kind == "forward":
        return ForwardTransport(
            place.where, tls=(tls or ClientTls()).context() if place.is_secure else None, timeout=timeout
        )
    if receipts_from:
        asked = _place_of(receipts_from)
        if asked.kind != "http":
            raise AddressUnusable(
                "receipts_from is no URL of an OTLP/HTTP port.", remedy="Name it as http(s)://host:4318."
            )
        receipts_from = asked.where
    return OtlpGrpcTransport(
        place.where,
        api_key,
        timeout,
        receipts_from=receipts_from,
        tls=(tls or ClientTls()) if place.is_secure else None,
        receipts_tls=tls,
    )


def _place_of(address: str) -> _Place:
    try:
        parts = urlsplit(address)
        kind, _, form = parts.scheme.partition("+")
        is_secure = kind not in _KINDS and kind.removesuffix("s") in _KINDS
        kind = kind.removesuffix("s") if is_secure else kind
        where = _where(kind, form, is_secure=is_secure, parts=parts, address=address)
    except ValueError as error:
        raise AddressUnusable(f"{address[:200]!r} is no address of a collector: {error}.", remedy=_REMEDY) from error
    return _Place(kind, is_secure, where)


def _where(kind: str, form: str, *, is_secure: bool, parts: SplitResult, address: str) -> str:
    if kind not in _KINDS:
        raise ValueError("its scheme is unknown")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("it has more than a place in it")
    if form == "unix":
        if is_secure or parts.netloc or not parts.path.startswith("/"):
            raise ValueError("a Unix socket is named by a path alone")
        return UNIX + parts.path
    if form or not parts.hostname:
        raise ValueError("it names no host")
    if kind == "http":
        return address
    if parts.path not in ("", "/"):
        raise ValueError("it has a path")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or (GRPC_PORT if kind == 'grpc' else FORWARD_PORT)}"
