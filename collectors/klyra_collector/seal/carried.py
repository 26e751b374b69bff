"""What a new shard repeats of the one before: every key, policy, schema and hold in force. Documents only, no files.

They are sealed again with the same ordinals (DESIGN section 5, Shards). Boots of emitters are not: each is announced
again when it first sends in the new shard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from klyra_audit.format import control
from klyra_audit.format.control import Hold, Key, PolicyRecord, SchemaRecord
from klyra_audit.format.leaf import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klyra_audit.format.control import ControlDocument
    from klyra_collector.seal.state import LedgerState


def in_force(state: LedgerState) -> tuple[ControlDocument, ...]:
    """Return the documents in force in a shard, in the order in which the next one repeats them."""
    keys = (key for key in state.keys.values() if key.revoked_after_seq is None)
    policies = (control.parse(Kind.POLICY, state.policies[org_ref].document) for org_ref in sorted(state.policies))
    schemas = (SchemaRecord(name, bytes.fromhex(digest)) for name, digest in sorted(state.schemas.items()))
    return (*sorted(keys, key=lambda key: key.ordinal), *policies, *schemas, *state.holds.values())


def not_repeated(documents: Iterable[ControlDocument], state: LedgerState) -> list[ControlDocument]:
    """Return those of the shard before that the new one does not have yet.

    A crash may have left only some of them. What the new shard has changed since is not repeated: its own newer
    policy, its own revocation, its own release.
    """
    return [document for document in documents if not _has(state, document)]


def _has(state: LedgerState, document: ControlDocument) -> bool:
    match document:
        case Key():
            return (document.emitter_id, document.vkey) in state.keys
        case PolicyRecord():
            return document.org_ref in state.policies
        case SchemaRecord():
            return document.id in state.schemas
        case Hold():
            return document.hold_id in state.hold_ids
    return True
