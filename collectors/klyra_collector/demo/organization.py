"""The example organization and the keys of one run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from klyra_audit.event import Actor
from klyra_collector.registry.scopes import EMIT, ROLES

if TYPE_CHECKING:
    from klyra_collector.registry import Registry

ORGANIZATION_ID: Final = "org_demo"
PLAN: Final = "enterprise"
VISITOR: Final = Actor.user("usr_demo_visitor", "Demo visitor")  # who the page's reader is in the log

_EMIT_LABEL: Final = "demo: moderation service"
_READ_LABEL: Final = "demo: reader"


@dataclass(frozen=True, slots=True)
class DemoKeys:
    """Secrets of this run; those of earlier runs are revoked.

    Attributes:
        emit: what the example service records with.
        read: reads, exports and verifies.
    """

    emit: str = field(repr=False)
    read: str = field(repr=False)


def prepare_organization(registry: Registry, *, by: Actor) -> DemoKeys:
    """Make the example organization unless it exists, and fresh keys in place of an earlier run's."""
    if registry.organization(ORGANIZATION_ID) is None:
        registry.create_organization(ORGANIZATION_ID, PLAN, by=by)
    earlier = [key for key in registry.keys(ORGANIZATION_ID) if key.label in {_EMIT_LABEL, _READ_LABEL}]
    for key in earlier:
        registry.revoke_key(key.key_id, by)
    return DemoKeys(
        emit=registry.create_key(organization_id=ORGANIZATION_ID, scopes={EMIT}, label=_EMIT_LABEL, by=by).secret_text,
        read=registry.create_key(
            organization_id=ORGANIZATION_ID, scopes=ROLES["auditor"], label=_READ_LABEL, by=by
        ).secret_text,
    )


def sign_in_link(registry: Registry, api: str, *, by: Actor) -> str:
    """Return an address that opens the page and signs one browser in, once."""
    token = registry.create_sign_in(ORGANIZATION_ID, ROLES["auditor"], by, actor=VISITOR)
    return f"{api}/#sign-in={token}"
