"""Read a published log over HTTP (C2SP tlog-tiles) from a server that may be hostile: bounded, never redirected."""

from __future__ import annotations

import http.client
import ipaddress
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from klyra_collector.verify.errors import CannotVerify

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_SECONDS: Final = 20.0
ATTEMPTS: Final = 4
FIRST_PAUSE_SECONDS: Final = 0.2

_SCHEMES = ("http", "https")
_BUSY = frozenset({http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.BAD_GATEWAY, http.HTTPStatus.SERVICE_UNAVAILABLE})
_WHAT = "Give the log's address, such as https://audit.example/log/collector-1/2026."


class Refused(Exception):  # noqa: N818 - read as what it says
    """The server does not give out what was asked for, or something that cannot be it; `status` is HTTP's."""

    def __init__(self, path: str, status: int, reason: str | None = None) -> None:
        super().__init__(f"{path} is {reason or f'answered by HTTP {status}'}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Address:
    """Where a log is published.

    Attributes:
        secure: over TLS.
        host, port: of the server; port None for the scheme's own.
        prefix: path of the log, without a slash at its end.
    """

    secure: bool
    host: str
    port: int | None
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL; `CannotVerify` if it is none of a log."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if host is None or parts.scheme not in _SCHEMES or parts.username or parts.query or parts.fragment:
            raise CannotVerify(f"{url} is no address of a log.", code="bad_url", remedy=_WHAT)
        return cls(parts.scheme == "https", host, port, parts.path.rstrip("/"))

    @property
    def keeps_secrets(self) -> bool:
        """Whether nobody on the way can read what is sent."""
        return self.secure or self.host == "localhost" or _is_loopback(self.host)


class LogClient:
    """Reads files of one log over one connection. Not thread-safe.

    Args:
        address: of the log.
        key: an API key that goes with requests for entries; None to send none.
        sleep: to wait with before asking a busy server again.
    """

    def __init__(self, address: Address, key: str | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
        if key is not None and not address.keeps_secrets:
            raise CannotVerify(
                "An API key is not sent over a connection that others can read.",
                code="key_in_clear",
                remedy="Give the log's https:// address, or leave the key away.",
            )
        self._address = address
        self._key = key
        self._sleep = sleep
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str, limit: int) -> bytes:
        """Return a file of at most `limit` bytes below the log's prefix.

        Raises:
            Refused: the server answers, and does not give it out, or gives out more than such a file can have.
            CannotVerify: the server cannot be reached, or is no log's server.
        """
        return self._get(f"{self._address.prefix}/{path}", limit, path.startswith("tile/entries/"))

    def get_from_root(self, path: str, limit: int) -> bytes:
        """Return a file below the server's root; raises as `get`."""
        return self._get(f"/{path}", limit, with_key=False)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _get(self, path: str, limit: int, with_key: bool) -> bytes:  # noqa: FBT001 - private
        pause = FIRST_PAUSE_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                status, content = self._ask(path, limit, with_key)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if attempt == ATTEMPTS:
                    raise self._unreachable(error) from error
            else:
                if status == http.HTTPStatus.OK and len(content) > limit:
                    raise Refused(path, status, "longer than such a file can be")
                if status == http.HTTPStatus.OK:
                    return content
                if status not in _BUSY:
                    raise self._refusal(path, status)
                if attempt == ATTEMPTS:
                    raise self._unreachable(Refused(path, status))
            self._sleep(pause)
            pause *= 2
        raise AssertionError  # the last attempt returns or raises

    def _ask(self, path: str, limit: int, with_key: bool) -> tuple[int, bytes]:  # noqa: FBT001 - private
        connection = self._connection = self._connection or self._connect()
        headers = {"User-Agent": "klyra-audit verify", "Accept-Encoding": "identity"}
        if with_key and self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        content = response.read(limit + 1)
        if not response.isclosed():  # there is more, which nobody wants: the connection cannot be used again
            self.close()
        return response.status, content

    def _refusal(self, path: str, status: int) -> Exception:
        if http.HTTPStatus.BAD_REQUEST <= status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
            return Refused(path, status)
        return CannotVerify(
            f"{path} is answered by HTTP {status}.",
            code="bad_answer",
            remedy="Give the log's own address; redirections are not followed.",
        )

    def _connect(self) -> http.client.HTTPConnection:
        address = self._address
        if address.secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(address.host, address.port, timeout=TIMEOUT_SECONDS, context=context)
        return http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_SECONDS)

    def _unreachable(self, error: Exception) -> CannotVerify:
        return CannotVerify(
            f"{self._address.host} does not answer: {str(error) or type(error).__name__}.",
            code="unreachable",
            remedy="Check the address and try again; nothing was verified.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
