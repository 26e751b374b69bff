"""TLS as a client: what an emitter trusts, and what it shows."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit.errors import Paused

if TYPE_CHECKING:
    from pathlib import Path


class TlsUnusable(Paused):
    """A certificate file cannot be used."""

    code = "tls_unusable"


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Files in PEM; they are read when connections are made ready.

    Attributes:
        ca: whose certificates are trusted; None for those that the system trusts.
        certificate: shown to a collector that asks for one, with the chain behind it; None for none.
        key: the certificate's, not encrypted; None if it stands in the same file.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return this for the standard library, TLS 1.2 or later; `TlsUnusable` if a file cannot be used."""
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise _unusable(error) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def contents(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return what stands in the files: what is trusted, the key, the certificate; `TlsUnusable` as `context`."""
        key = self.key or self.certificate
        try:
            ca, shown, secret = (
                None if path is None else path.read_bytes() for path in (self.ca, self.certificate, key)
            )
        except OSError as error:
            raise _unusable(error) from error
        return ca, secret, shown


def _unusable(error: Exception) -> TlsUnusable:
    return TlsUnusable(
        f"A certificate file of the emitter cannot be used: {error}.", remedy="Check the files that tls= names."
    )
