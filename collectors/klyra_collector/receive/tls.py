"""TLS for every receiver: certificates that are read again when their files change, and mutual TLS.

New handshakes use the newest certificates that are whole; connections that stand are not touched. What cannot be used
changes nothing: the old certificates go on, and a metric and the log say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from cryptography import x509

from klyra_audit.errors import Paused

if TYPE_CHECKING:
    import socket
    from asyncio.base_events import Server
    from collections.abc import Awaitable, Callable

    from klyra_collector.config import TlsSettings

CHECK_SECONDS: Final = 2.0

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_log = structlog.get_logger(__name__)


class TlsUnusable(Paused):
    """Certificate, key or client authorities cannot be used."""

    code = "tls_unusable"


class TlsObserver(Protocol):
    """What certificates report to metrics."""

    def certificate_used(self, listener: str, expires_at: float) -> None:
        """Note the certificate that new handshakes get, and when it expires, in seconds since 1970."""
        ...

    def certificate_refused(self, listener: str) -> None:
        """Note that the files changed into something that cannot be used."""
        ...


@dataclass(frozen=True, slots=True)
class _Material:
    """The content of the files, read at one moment."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


class ReloadingTls:
    """The certificates of one listener, as they are now.

    Attributes:
        context: for the next server or handshake; a new object whenever the files change.
    """

    def __init__(self, settings: TlsSettings, setting: str, observer: TlsObserver) -> None:
        """Read the files.

        Args:
            settings: where they are.
            setting: the section's name, for messages and metrics, such as `otlp.http.tls`.
            observer: told of each certificate.

        Raises:
            TlsUnusable: they cannot be used.
        """
        self._settings = settings
        self._setting = setting
        self._observer = observer
        self._stamp = self._look()
        self._material = self._read()
        self.context = self._make(self._material)

    @property
    def requires_client_certificate(self) -> bool:
        """Whether only who has a certificate of the configured authorities may connect."""
        return self._settings.client_ca is not None

    def reload(self) -> bool:
        """Read the files again if they changed; return whether new handshakes get something new."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            material = self._read()
            if material == self._material:
                return False
            self.context = self._make(material)
        except TlsUnusable as error:
            self._observer.certificate_refused(self._setting)
            _log.error("certificate_not_used", listener=self._setting, reason=str(error))
            return False
        self._material = material
        _log.info("certificate_reloaded", listener=self._setting)
        return True

    def for_grpc(self) -> Any:  # noqa: ANN401 - grpcio ships no types
        """Return server credentials that ask, before every handshake, for the certificates as they are now."""
        import grpc  # noqa: PLC0415 - of an extra; who calls this has it

        given = self._material

        def configuration(material: _Material) -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration(
                [(material.key, material.certificate)], root_certificates=material.client_ca
            )

        def newest() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            if self._material is given:
                return None
            given = self._material
            return configuration(given)

        return grpc.dynamic_ssl_server_credentials(
            configuration(given),
            newest,  # type: ignore[arg-type] # None is what grpcio documents for "no change"
            require_client_authentication=self.requires_client_certificate,
        )

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Return what changes when a file does; a missing file is seen as well."""
        return tuple(map(_stamp, self._paths()))

    def _paths(self) -> list[Path]:
        settings = self._settings
        return [path for path in (settings.certificate, settings.key, settings.client_ca) if path is not None]

    def _read(self) -> _Material:
        try:
            content = [path.read_bytes() for path in self._paths()]
        except OSError as error:
            raise self._unusable(f"{error.filename}: {error.strerror}") from error
        return _Material(content[0], content[1], content[2] if self.requires_client_certificate else None)

    def _make(self, material: _Material) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[self._settings.min_version]
        context.set_alpn_protocols(["http/1.1"])
        try:
            _load_chain(context, material)
            if material.client_ca is not None:
                context.load_verify_locations(cadata=material.client_ca.decode("ascii"))
                context.verify_mode = ssl.CERT_REQUIRED
            expires_at = x509.load_pem_x509_certificate(material.certificate).not_valid_after_utc.timestamp()
        except (OSError, ValueError) as error:  # an SSLError is an OSError, a wrong encoding a ValueError
            raise self._unusable(str(error)) from error
        self._observer.certificate_used(self._setting, expires_at)
        return context

    def _unusable(self, reason: str) -> TlsUnusable:
        return TlsUnusable(
            f"The certificates of {self._setting} cannot be used: {reason}.",
            remedy="Give a PEM certificate chain, its unencrypted key and PEM certificates of the client authorities.",
        )


def load_tls(settings: TlsSettings | None, setting: str, observer: TlsObserver) -> ReloadingTls | None:
    """Return a listener's certificates, None if it has none; `TlsUnusable`."""
    return None if settings is None else ReloadingTls(settings, setting, observer)


class TlsServers:
    """Servers on one socket, one after the other: each has the certificates of its time.

    A context cannot forget an authority, so each change of the files gets a server with a context of its own. The
    connections of the one before go on; no new one is lost, since all listen on the same socket.

    Args:
        listening: a bound socket.
        tls: the certificates; None for a single server without TLS.
        begin: opens a server on the socket given, with the context given.
    """

    def __init__(
        self,
        listening: socket.socket,
        tls: ReloadingTls | None,
        begin: Callable[[socket.socket, ssl.SSLContext | None], Awaitable[Server]],
    ) -> None:
        self._listening = listening
        self._tls = tls
        self._begin = begin
        self._server: Server | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept connections from now on."""
        self._server = await self._next()
        if self._tls is not None:
            self._watching = asyncio.create_task(self._watch(self._tls))

    async def close(self) -> None:
        """Accept no more connections, and close the socket given: new ones are refused; those that stand go on."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        if self._server is not None:
            self._server.close()
        self._listening.close()

    async def _watch(self, tls: ReloadingTls) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if tls.reload():
                before, self._server = self._server, await self._next()
                if before is not None:
                    before.close()

    async def _next(self) -> Server:
        context = None if self._tls is None else self._tls.context
        return await self._begin(self._listening.dup(), context)


async def watch(tls: ReloadingTls) -> None:
    """Read the files again whenever they change, until cancelled; for servers that ask before every handshake."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        tls.reload()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _load_chain(context: ssl.SSLContext, material: _Material) -> None:
    """Load what was read, not what the files hold by now: the library takes only paths."""
    descriptor, name = _private_file()
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(material.certificate + b"\n" + material.key)
            file.flush()
            context.load_cert_chain(name, password=_no_passphrase)
    finally:
        if not name.startswith("/proc/"):
            Path(name).unlink()


def _private_file() -> tuple[int, str]:
    """Return (descriptor, path) of a new file that only we can read; in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("certificate")
        return descriptor, f"/proc/self/fd/{descriptor}"
    return tempfile.mkstemp()


def _no_passphrase() -> str:
    """Refuse an encrypted key; the library would ask at the terminal for its passphrase."""
    raise ValueError("the key is encrypted")
