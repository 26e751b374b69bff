"""Read a published log over HTTP (C2SP tlog-tiles) from a server that may be hostile: bounded, never redirected.

Bounded in bytes by what each file can have, and in time three times: for each read, for each file, and for all files
together, since a server that sends one byte every ten seconds satisfies any limit on single reads.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import ssl
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote, urlsplit

from klyra_collector.verify.errors import CannotVerify

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

TIMEOUT_SECONDS: Final = 20.0  # of each read, and of connecting
FILE_SECONDS: Final = 60.0  # of a file, attempts and pauses included
LOG_SECONDS: Final = 600.0  # of all files together, beyond
SECONDS_PER_FILE: Final = 5.0  # of them
ATTEMPTS: Final = 4
FIRST_PAUSE_SECONDS: Final = 0.2

_SCHEMES = ("http", "https")
_BUSY = frozenset({http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.BAD_GATEWAY, http.HTTPStatus.SERVICE_UNAVAILABLE})
_WHAT = "Give the log's address, such as https://audit.example/log/collector-1/2026."
_LOG: Final = "log"  # the part of a path below which our own server publishes
_NAMED: Final = 2  # parts of an origin that an address names: the collector's id and the shard


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
    def promises(self) -> tuple[str, ...]:
        """How the origin of the log ends that stands here, in parts; nothing where the newest shard is asked for.

        What stands behind the last `log` of the path, as our own server has it; without one, the last two parts.
        """
        parts = tuple(unquote(part) for part in self.prefix.split("/") if part)
        if _LOG not in parts:
            return parts[-_NAMED:]
        return parts[len(parts) - parts[::-1].index(_LOG) :]

    @property
    def keeps_secrets(self) -> bool:
        """Whether nobody on the way can read what is sent."""
        return self.secure or self.host == "localhost" or is_loopback(self.host)


class LogClient:
    """Reads files of one log over one connection. Not thread-safe.

    Args:
        address: of the log.
        key: an API key that goes with requests for entries; None to send none.
        sleep: to wait with before asking a busy server again.
        clock: seconds, from any beginning.
    """

    def __init__(
        self,
        address: Address,
        key: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if key is not None and not address.keeps_secrets:
            raise CannotVerify(
                "An API key is not sent over a connection that others can read.",
                code="key_in_clear",
                remedy="Give the log's https:// address, or leave the key away.",
            )
        self._address = address
        self._key = key
        self._sleep = sleep
        self._clock = clock
        self._connection: http.client.HTTPConnection | None = None
        self._may_take_until = clock() + LOG_SECONDS
        self._deadline = self._may_take_until

    def get(self, path: str, limit: int) -> bytes:
        """Return a file of at most `limit` bytes below the log's prefix.

        Raises:
            Refused: the server answers, and does not give it out, or gives out more than such a file can have.
            CannotVerify: the server cannot be reached, takes too long, or is no log's server.
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
        self._may_take_until += SECONDS_PER_FILE
        self._deadline = min(self._clock() + FILE_SECONDS, self._may_take_until)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                status, content = self._ask(path, limit, with_key)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                self._check_time(path)
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
            self._check_time(path)
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
        connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_SECONDS)
        if address.secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                address.host, address.port, timeout=TIMEOUT_SECONDS, context=context
            )
        answer = partial(HurriedAnswer, seconds_left=self._seconds_left)
        connection.response_class = answer  # type: ignore[assignment] # it is only called
        return connection

    def _seconds_left(self) -> float:
        return self._deadline - self._clock()

    def _check_time(self, path: str) -> None:
        """Give up a file that takes too long; a server that was merely busy has been asked again by then."""
        if self._seconds_left() > 0:
            return
        raise CannotVerify(
            f"{self._address.host} is too slow: {path} takes longer than {FILE_SECONDS:.0f} s, or all files "
            f"{SECONDS_PER_FILE:.0f} s each for {LOG_SECONDS:.0f} s.",
            code="too_slow",
            remedy="Try again, or verify a copy of the ledger; nothing was verified.",
        )

    def _unreachable(self, error: Exception) -> CannotVerify:
        return CannotVerify(
            f"{self._address.host} does not answer: {str(error) or type(error).__name__}.",
            code="unreachable",
            remedy="Check the address and try again; nothing was verified.",
        )


class HurriedAnswer(http.client.HTTPResponse):
    """An answer, headers included, that is read until a deadline and no longer."""

    def __init__(
        self,
        sock: socket.socket,
        debuglevel: int = 0,
        method: str | None = None,
        *,
        seconds_left: Callable[[], float],
    ) -> None:
        super().__init__(sock, debuglevel, method)
        self.fp = io.BufferedReader(_Hurried(self.fp.detach(), sock, seconds_left))


class _Hurried(io.RawIOBase):
    """Reads from a socket, each time for as long as one read may take and the deadline allows."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, seconds_left: Callable[[], float]) -> None:
        self._raw = raw
        self._socket = sock
        self._seconds_left = seconds_left

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(  # type: ignore[override] # what io.BufferedReader passes
        self, buffer: bytearray | memoryview, /
    ) -> int | None:
        """Read once; TimeoutError when there is no time left."""
        seconds = self._seconds_left()
        if seconds <= 0:
            raise TimeoutError("it takes too long")
        self._socket.settimeout(min(TIMEOUT_SECONDS, seconds))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        """Let go of the socket."""
        self._raw.close()
        super().close()


def is_loopback(host: str) -> bool:
    """Say whether an address is one of this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
