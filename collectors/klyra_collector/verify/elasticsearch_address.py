"""Where an Elasticsearch copy is: `elasticsearch+https://host:9200,host2:9200/?api_key=env:NAME&ca=FILE`."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import parse_qsl, urlsplit

from klyra_collector.verify.errors import CannotVerify
from klyra_collector.verify.remote_client import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMES: Final = ("elasticsearch+http", "elasticsearch+https")
PORT: Final = 9200

_PARAMETERS: Final = frozenset({"api_key", "user", "password", "ca"})
_REMEDY: Final = (
    "Write elasticsearch+https://host:9200/?api_key=env:NAME, or ?user=NAME&password=file:PATH, and &ca=FILE for a "
    "certificate authority of your own; several hosts are separated by commas."
)


@dataclass(frozen=True, slots=True)
class Host:
    """One node."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticsearchAddress:
    """A cluster, and how to sign in there.

    Attributes:
        secure: over TLS.
        hosts: nodes of one cluster, asked in this order; never empty.
        parameters: the URL's, credentials by reference.
    """

    secure: bool
    hosts: tuple[Host, ...]
    parameters: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL.

        Raises:
            CannotVerify: `bad_url`; what it says is not repeated, since it may hold a secret.
        """
        try:
            parts = urlsplit(url)
            hosts = tuple(_host(text) for text in parts.netloc.split(","))
            parameters = tuple(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError as error:
            raise _bad() from error
        names = [name for name, _ in parameters]
        if (
            parts.scheme not in SCHEMES
            or parts.path not in ("", "/")
            or parts.fragment
            or not _PARAMETERS.issuperset(names)
            or len(set(names)) < len(names)
            or ("user" in names) != ("password" in names)
            or ("user" in names and "api_key" in names)
        ):
            raise _bad()
        return cls(secure=parts.scheme == "elasticsearch+https", hosts=hosts, parameters=parameters)

    def __str__(self) -> str:
        """Return the URL without credentials."""
        return f"{SCHEMES[self.secure]}://{','.join(map(str, self.hosts))}"

    @property
    def authority(self) -> str | None:
        """File with the certificates to trust; None for those of this machine."""
        return dict(self.parameters).get("ca")

    @property
    def keeps_secrets(self) -> bool:
        """Whether nobody on the way can read what is sent."""
        return self.secure or all(host.name == "localhost" or is_loopback(host.name) for host in self.hosts)

    def authorization(self, read_secret: Callable[[str, str], str]) -> str | None:
        """Return the header to sign in with, None where nothing was given.

        Args:
            read_secret: returns what stands behind a reference; its second argument says what refers to it.
        """
        given = dict(self.parameters)
        if "api_key" in given:
            return f"ApiKey {read_secret(given['api_key'], 'api_key of the URL')}"
        if "user" in given:
            password = read_secret(given["password"], "password of the URL")
            encoded = base64.b64encode(f"{given['user']}:{password}".encode())
            return f"Basic {encoded.decode()}"
        return None


def _host(text: str) -> Host:
    """Read `host` or `host:port`; ValueError for anything else, a user's name in front included."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname or "@" in text or parts.path:
        raise ValueError
    return Host(parts.hostname, PORT if parts.port is None else parts.port)


def _bad() -> CannotVerify:
    return CannotVerify("That is no address of an Elasticsearch copy.", code="bad_url", remedy=_REMEDY)
