"""A cloud destination's own options, read once when it is made; nothing that is wrong with them is repeated."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from klyra_siem.errors import BadDestination

if TYPE_CHECKING:
    from klyra_siem.destination import DestinationOptions

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class CloudSettings:
    """The options of `[destination.options]`, asked for one by one.

    Values may be secrets, so that no message holds one.
    """

    def __init__(self, options: DestinationOptions) -> None:
        self._options = options
        self._asked: set[str] = set()

    def text(self, name: str, example: str, pattern: str, default: str | None = None) -> str:
        """Return a text; `BadDestination` if it is absent and has no default, or is not what the pattern wants.

        Args:
            name: of the option.
            example: shown to whoever has to write it.
            pattern: of the whole value.
            default: None if it must be given.
        """
        self._asked.add(name)
        value = self._options.settings.get(name, default)
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            raise self._bad(f"needs the option {name}", f'Write {name} = "{example}" below [destination.options].')
        return value

    def optional(self, name: str) -> str | None:
        """Return a text, which may be a secret, None if it is absent; `BadDestination` if it is no text."""
        self._asked.add(name)
        value = self._options.settings.get(name)
        if value is not None and (not isinstance(value, str) or not value):
            remedy = f'Write {name} = "env:NAME" or "file:PATH" below [destination.options].'
            raise self._bad(f"needs a text as {name}", remedy)
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a switch; `BadDestination` if it is no boolean."""
        self._asked.add(name)
        value = self._options.settings.get(name, default)
        if not isinstance(value, bool):
            raise self._bad(f"needs a boolean as {name}", f"Write {name} = true or {name} = false.")
        return value

    def number(self, name: str, default: int, allowed: range) -> int:
        """Return a whole number; `BadDestination` if it is none or not allowed."""
        self._asked.add(name)
        value = self._options.settings.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
            limits = f"between {allowed.start} and {allowed.stop - 1}"
            raise self._bad(f"needs a number {limits} as {name}", f"Write {name} = {default}, or another one {limits}.")
        return value

    def together(self, *values: str | None, names: str) -> None:
        """Raise `BadDestination` unless all of some options are there, or none."""
        if any(values) and not all(values):
            raise self._bad(f"needs all or none of {names}", "Write those that are missing, or none of them.")

    def finish(self) -> None:
        """Raise `BadDestination` if there is an option that nothing asked for."""
        unknown = sorted(set(self._options.settings) - self._asked)
        if unknown:
            known = ", ".join(sorted(self._asked))
            raise self._bad(f"has unknown options: {', '.join(unknown)}", f"Known are: {known}.")

    def endpoint(self, example: str) -> str:
        """Return the endpoint without a slash at its end; `BadDestination` unless it is an `https` URL without a path.

        Plain `http` is for loopback only: the requests carry tokens, and entries that nobody else may read.
        """
        address = urlsplit(self._options.endpoint)
        is_safe = address.scheme == "https" or (address.scheme == "http" and address.hostname in LOOPBACK)
        if not is_safe or not address.hostname or address.path.strip("/") or address.query or address.fragment:
            raise self._bad("has an endpoint that cannot be used", f'Write endpoint = "{example}".')
        return self._options.endpoint.rstrip("/")

    def _bad(self, what: str, remedy: str) -> BadDestination:
        return BadDestination(f"Destination {self._options.name} {what}.", remedy=remedy)
