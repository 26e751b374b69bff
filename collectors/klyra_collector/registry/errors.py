"""Errors of the registry, typed by what the caller does next (see `klyra_audit.errors` for the roots).

RetryLater
└── RegistryUnavailable  the database cannot be written or read right now; nothing was changed
Rejected  (codes: bad_scope, bad_role, bad_plan, bad_retention, too_many_retentions, bad_organization_id,
│          organization_exists, unknown_organization, bad_expiry, bad_label, bad_emitter_id, unknown_key,
│          key_not_in_force, bad_vkey, emitter_key_exists, unknown_emitter_key, ambiguous_emitter_key, bad_sequence,
│          bad_lifetime, bad_overlap, command_refused, unknown_event_type)
├── KeyRefused           an API key does not authenticate
└── SignInRefused        a sign-in token does not open a session
Paused
└── RegistryUnreachable  the configured database cannot be opened at all
Halted
├── RegistryTooNew       a later version of this software wrote the registry
├── RegistryDamaged      the file is no registry, or is broken
└── PolicyFileDamaged    a file in `retention_policies/` does not say what it must
"""

from __future__ import annotations

from typing import Literal

from klyra_audit.errors import Halted, Paused, Rejected, RetryLater

KeyRefusal = Literal["malformed", "unknown", "expired", "revoked"]
SignInRefusal = Literal["unknown", "expired", "used"]

_KEY_MESSAGES: dict[KeyRefusal, tuple[str, str]] = {
    "malformed": (
        "The API key is mistyped or cut off: its form or checksum is wrong.",
        "Copy the whole key, from klyra_sk_ to the six characters at its end.",
    ),
    "unknown": (
        "The API key is well formed but not one of this registry.",
        "Check that it was made for this collector, or make one with `klyra-audit key create`.",
    ),
    "expired": (
        "The API key has expired.",
        "Use the newest secret of the key, or make one with `klyra-audit key create`.",
    ),
    "revoked": ("The API key was revoked.", "Make another one with `klyra-audit key create`."),
}
_SIGN_IN_MESSAGES: dict[SignInRefusal, str] = {
    "unknown": "The sign-in link is mistyped or cut off, or was never made.",
    "expired": "The sign-in link has expired.",
    "used": "The sign-in link was used before; it works once.",
}


class RegistryUnavailable(RetryLater):
    """The database cannot be written or read right now; nothing was changed."""

    code = "registry_unavailable"


class KeyRefused(Rejected):
    """An API key does not authenticate.

    Attributes:
        reason: malformed, unknown, expired or revoked. A wrong secret of an existing key is unknown.
        key_id: the key it claims to be, if there is one; for the log, not for the answer to the caller.
        organization_id: whose that key is; None for the operator or when there is none.
    """

    code = "key_refused"

    def __init__(self, reason: KeyRefusal, *, key_id: str | None = None, organization_id: str | None = None) -> None:
        message, remedy = _KEY_MESSAGES[reason]
        super().__init__(message, remedy=remedy)
        self.reason: KeyRefusal = reason
        self.key_id = key_id
        self.organization_id = organization_id


class SignInRefused(Rejected):
    """A sign-in token does not open a session; `reason` is unknown, expired or used."""

    code = "sign_in_refused"

    def __init__(self, reason: SignInRefusal) -> None:
        super().__init__(_SIGN_IN_MESSAGES[reason], remedy="Ask for a new link.")
        self.reason: SignInRefusal = reason


class RegistryUnreachable(Paused):
    """The configured database cannot be opened at all."""

    code = "registry_unreachable"


class RegistryTooNew(Halted):
    """A later version of this software wrote the registry."""

    code = "registry_too_new"


class RegistryDamaged(Halted):
    """The file is no registry, or is broken."""

    code = "registry_damaged"


class PolicyFileDamaged(Halted):
    """A file in `retention_policies/` does not say what it must."""

    code = "policy_file_damaged"
