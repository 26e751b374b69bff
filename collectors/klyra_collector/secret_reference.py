"""Secrets by reference: `env:NAME` or `file:PATH`, never as values (DESIGN section 10)."""

from __future__ import annotations

import os
from pathlib import Path

from klyra_audit.errors import Rejected
from klyra_collector.errors import SecretUnavailable

_ENVIRONMENT = "env:"
_FILE = "file:"


def is_reference(text: str) -> bool:
    """Say whether a text refers to a secret instead of being one."""
    return any(text.startswith(prefix) and len(text) > len(prefix) for prefix in (_ENVIRONMENT, _FILE))


def check_reference(text: str, setting: str) -> str:
    """Return a reference; `Rejected` (`bad_reference`) for anything else, which is not repeated: it may be a secret."""
    if not is_reference(text):
        raise Rejected(
            f"{setting} must refer to a secret.", remedy="Write env:NAME or file:PATH.", code="bad_reference"
        )
    return text


def read_secret(reference: str, setting: str) -> str:
    """Return the secret behind a reference; of a file without its last newline.

    Raises:
        Rejected: `bad_reference`.
        SecretUnavailable: the variable is not set, or the file cannot be read or is empty.
    """
    check_reference(reference, setting)
    if reference.startswith(_ENVIRONMENT):
        secret = os.environ.get(reference.removeprefix(_ENVIRONMENT), "")
    else:
        secret = _read(Path(reference.removeprefix(_FILE)), setting)
    if not secret:
        raise SecretUnavailable(
            f"{setting} refers to {reference}, which is empty or not set.",
            remedy="Set it where this process can read it.",
        )
    return secret


def _read(path: Path, setting: str) -> str:
    try:
        return path.read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise SecretUnavailable(
            f"{setting} refers to {path}, which cannot be read.",
            remedy="Put a text file there that this user may read.",
        ) from error
