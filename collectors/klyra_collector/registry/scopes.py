"""What a key or a session may do, and the names for usual combinations (DESIGN section 7)."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from klyra_audit.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

EMIT: Final = "emit"
SCOPES: Final = (EMIT, "read", "export", "verify", "admin")
ROLES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "viewer": frozenset({"read"}),
        "auditor": frozenset({"read", "export", "verify"}),
        "admin": frozenset(SCOPES) - {EMIT},
    }
)


def check_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Return `scopes` as a set; `Rejected` with code `bad_scope` if it is empty or has an unknown one."""
    asked = frozenset(scopes)
    unknown = sorted(asked - set(SCOPES))
    if asked and not unknown:
        return asked
    problem = f"There is no scope {', '.join(unknown)}." if unknown else "No scope is asked for."
    raise Rejected(problem, remedy=f"Choose one or more of {', '.join(SCOPES)}.", code="bad_scope")


def check_role(role: str) -> frozenset[str]:
    """Return the scopes that a role stands for; `Rejected` with code `bad_role` if there is no such role."""
    if role in ROLES:
        return ROLES[role]
    raise Rejected(f"There is no role {role}.", remedy=f"Choose one of {', '.join(ROLES)}.", code="bad_role")


def in_order(scopes: Iterable[str]) -> list[str]:
    """Return scopes in the order in which they are always written."""
    return [scope for scope in SCOPES if scope in set(scopes)]
