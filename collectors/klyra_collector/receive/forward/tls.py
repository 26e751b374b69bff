"""TLS of the Forward receiver: its certificate, whom it trusts, and a new certificate without a restart."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

import structlog

from klyra_audit.errors import Paused

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.config import ForwardTls

_log = structlog.get_logger(__name__)

_Seen = tuple[tuple[int, int, int], ...]
_NOT_THERE: Final = (0, 0, 0)


class TlsUnusable(Paused):
    """A file of the TLS settings is not there, or is not what it must be."""

    code = "tls_unusable"


class ServerTls:
    """A context for a listening server whose certificate may be replaced while it runs.

    Attributes:
        context: what new connections are greeted with.
    """

    def __init__(self, settings: ForwardTls) -> None:
        """Load the files; `TlsUnusable` names what is wrong with them."""
        self._certificate = settings.certificate
        self._key = settings.key
        self._seen = self._look()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            self._load(self.context)
            if settings.client_ca is not None:
                self.context.load_verify_locations(settings.client_ca)
                self.context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise TlsUnusable(
                f"forward.tls cannot be used: {error}.",
                remedy="Give PEM files that this user may read, and a key that belongs to the certificate.",
            ) from error

    def refresh(self) -> None:
        """Take a certificate that was replaced since; keep the old one while the new one is not usable."""
        seen = self._look()
        if seen == self._seen:
            return
        try:
            # A certificate without its key must not get into the context that is in use.
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            self._load(self.context)
        except (OSError, ValueError) as error:
            _log.warning("forward_certificate_not_replaced", file=str(self._certificate), reason=str(error))
        else:
            _log.info("forward_certificate_replaced", file=str(self._certificate))
        self._seen = seen

    def _load(self, context: ssl.SSLContext) -> None:
        # A key that asks for a passphrase would otherwise ask for it on the terminal.
        context.load_cert_chain(self._certificate, self._key, password=lambda: "")

    def _look(self) -> _Seen:
        return tuple(_look(path) for path in (self._certificate, self._key))


def _look(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return _NOT_THERE
    return status.st_mtime_ns, status.st_size, status.st_ino
