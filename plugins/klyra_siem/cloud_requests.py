"""What the cloud destinations share: requests whose failures tell no secret, and libraries that are extras."""

from __future__ import annotations

import importlib
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import httpx

from klyra_siem.errors import BadDestination, MissingExtra
from klyra_siem.outcome import Action, Outcome, shortened
from klyra_siem.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from klyra_siem.destination import DestinationOptions

GZIP: Final = "gzip"
GZIP_LEVEL: Final = 1  # a fifth of the time of 6 for a tenth more bytes

# From which level on vendors' libraries may write into the log. At DEBUG they write what token services answer; those
# above INFO repeat what an issuer says about a secret that it refused, which the outcome tells without the secret.
_LOUDNESS = {
    "azure": logging.CRITICAL,
    "botocore": logging.WARNING,
    "google.auth": logging.WARNING,
    "msal": logging.CRITICAL,
    "urllib3": logging.WARNING,
}
_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy")
_HIDDEN = "[hidden]"
_SCHEMES = frozenset({"Basic", "Bearer", "Splunk"})  # words before a token, which hide nothing
_SHORTEST_SECRET = 6  # what is shorter stands in every other sentence


class Redaction:
    """Which texts nobody may see, and how they are taken out of what a vendor says.

    Vendors repeat what they were sent: AWS answers a wrong signature with the request it would have signed, session
    token included. They repeat it as it is, as part of a URL, or escaped as in JSON or for HTML, and of several
    words, such as `Bearer TOKEN`, one alone.
    """

    def __init__(self, secrets: Iterable[str | None] = ()) -> None:
        self._secrets: set[str] = set()
        self.add(*secrets)

    def __repr__(self) -> str:
        return f"Redaction({len(self._secrets)} secrets)"

    def add(self, *secrets: str | None) -> None:
        """Hide these from now on."""
        parts = {part for secret in secrets if secret for part in (secret, *secret.split())}
        whole = {part for part in parts if len(part) >= _SHORTEST_SECRET and part not in _SCHEMES}
        self._secrets |= {form for part in whole for form in _forms(part)}

    def hide(self, text: str) -> str:
        """Return a text without them."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return text

    def clean(self, text: str) -> str:
        """Return a text without them, as one printable line of bounded length."""
        return shortened(self.hide(text))

    def cleaned(self, outcome: Outcome) -> Outcome:
        """Return an outcome whose status and reason hold none of them: both may be a vendor's words."""
        return replace(outcome, status=self.clean(outcome.status), reason=self.clean(outcome.reason))


class CloudRequests:
    """Sends requests, one after the other; what it has the HTTP library log holds no secret."""

    def __init__(self, options: DestinationOptions, redaction: Redaction) -> None:
        _check_headers(options)
        self._redaction = redaction
        redaction.add(*options.headers.values())
        self._client = httpx.Client(
            headers={**options.headers, "User-Agent": options.software},
            timeout=options.timeout_seconds,
            verify=client_context(options) if options.endpoint.startswith("https:") else False,
            follow_redirects=False,
        )
        self._quiet = _Quiet(redaction)
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self._quiet)

    def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> httpx.Response | Outcome:
        """Return the whole answer, or what it means that there is none."""
        try:
            return self._client.post(url, content=content, headers=dict(headers))
        except (httpx.LocalProtocolError, UnicodeEncodeError):
            # A header that cannot be sent is a token with a line break in it: the error would quote it.
            return Outcome(action=Action.PAUSE, status="bad_header", reason="a header cannot be sent as it is")
        except httpx.HTTPError as error:
            reason = self._redaction.clean(f"{type(error).__name__}: {error}")
            return Outcome(action=Action.RETRY, status="no_answer", reason=reason)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self._quiet)


class _Quiet(logging.Filter):
    """Keeps secrets out of what the HTTP library writes down: URLs at level INFO, headers of answers at DEBUG."""

    def __init__(self, redaction: Redaction) -> None:
        super().__init__()
        self._redaction = redaction

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record may be logged."""
        text = record.getMessage()
        return self._redaction.hide(text) == text


def _check_headers(options: DestinationOptions) -> None:
    """Raise `BadDestination`, which does not repeat it, if a header has a value that no request can carry."""
    for name, value in options.headers.items():
        if not value.isascii():
            raise BadDestination(
                f"Destination {options.name} has a header {name} that cannot be sent.",
                remedy="Look for a character beyond ASCII where its value stands, such as a quotation mark.",
            )


def _forms(secret: str) -> set[str]:
    """Return a secret as others may write it."""
    in_json = json.dumps(secret)[1:-1]
    for_html = in_json.replace("=", "\\u003d").replace("+", "\\u002b").replace("&", "\\u0026")
    written = {secret, quote(secret), quote(secret, safe=""), in_json, for_html}
    return written | {form.replace("/", "\\/") for form in written}


def vendor_module(name: str, distribution: str) -> Any:  # noqa: ANN401 - modules of vendors, most of them without types
    """Return a module of a vendor's library; `MissingExtra` if the distribution is not installed.

    What it writes into the log is limited for the whole process, whatever the application's own level is.
    """
    for logger, level in ((logging.getLogger(logger), level) for logger, level in _LOUDNESS.items()):
        logger.setLevel(max(logger.level, level))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"A destination needs the library {distribution}, which is not installed.",
            remedy="Install klyra-audit[siem].",
        ) from error
