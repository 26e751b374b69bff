"""TLS as a client."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from klyra_siem.errors import BadDestination

if TYPE_CHECKING:
    from klyra_siem.destination import DestinationOptions


def client_context(options: DestinationOptions) -> ssl.SSLContext:
    """Return what a client trusts and shows, TLS 1.2 or later; `BadDestination` if a file cannot be used."""
    tls = options.tls
    try:
        context = ssl.create_default_context(cafile=None if tls.ca_file is None else str(tls.ca_file))
        if tls.certificate_file is not None:
            context.load_cert_chain(tls.certificate_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise unusable_files(options, error) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def unusable_files(options: DestinationOptions, error: Exception) -> BadDestination:
    """Return the error for certificate files that cannot be used."""
    return BadDestination(
        f"A certificate file of destination {options.name} cannot be used: {error}.",
        remedy="Check ca_file, certificate_file and key_file.",
    )
