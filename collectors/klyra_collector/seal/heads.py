"""The HEADS record: which record of each organization is its newest, up to here (DESIGN section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klyra_audit.format import control
from klyra_audit.format.heads import Head
from klyra_audit.format.leaf import Kind
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_collector.stages import ControlRecord

if TYPE_CHECKING:
    from klyra_collector.seal.state import LedgerState


def heads_are_due(state: LedgerState) -> bool:
    """Say whether anything but HEADS was sealed since the last HEADS."""
    return state.size > state.heads_at + 1


def heads_record(state: LedgerState) -> ControlRecord:
    """Return the HEADS record that is true as the very next leaf, and no later."""
    since = state.heads_at if state.heads.count else 0  # the last HEADS is itself the operator's newest by now
    for org_ref, chain in state.chains.items():
        if chain.last >= since:
            state.heads.put(Head(org_ref, chain.next_seq - 1, chain.previous, chain.last))
    document = control.Heads(state.size, state.heads.count, state.heads.root()).document()
    return ControlRecord(Kind.HEADS, document, OPERATOR_ORGANIZATION_ID)
