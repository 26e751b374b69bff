"""Where a request came from, in a form that an entry can hold whatever the client sent."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, Self

MAX_USER_AGENT_CHARACTERS: Final = 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """An address and a program.

    Attributes:
        client_ip: an IPv4 or IPv6 address; None if it is not known.
        user_agent: what the program calls itself; None if it does not say.
    """

    client_ip: str | None
    user_agent: str | None

    @classmethod
    def of(cls, client_ip: str | None, user_agent: str | None) -> Self:
        """Return the origin of a request; what would make its entry invalid is cut off or left out.

        The headers of a refused request are an attacker's to choose, and must not keep it out of the log.
        """
        return cls(_address(client_ip), _program(user_agent))

    def metadata(self) -> dict[str, str]:
        """Return what is known, under the names of an entry's metadata."""
        known = {"client_ip": self.client_ip, "user_agent": self.user_agent}
        return {name: value for name, value in known.items() if value}


def _address(text: str | None) -> str | None:
    """Return an address without its zone, None for anything else, such as a socket's path."""
    try:
        return str(ipaddress.ip_address((text or "").partition("%")[0]))
    except ValueError:
        return None


def _program(text: str | None) -> str | None:
    if text is None:
        return None
    return text[:MAX_USER_AGENT_CHARACTERS].replace("\0", "").encode("utf-8", "replace").decode()
