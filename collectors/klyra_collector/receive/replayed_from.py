"""The mark of an entry that was mapped from quarantined input: `metadata.replayed_from`. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from klyra_audit.format import canonical
from klyra_audit.format.errors import ProfileError

if TYPE_CHECKING:
    from klyra_audit.format.canonical import JsonObject
    from klyra_collector.validate.judge import Candidate

MEMBER = "replayed_from"


def with_origin(candidate: Candidate, replayed_from: str) -> Candidate:
    """Return a mapped candidate that says where it was quarantined; one that would get too long says nothing.

    Args:
        candidate: never one in our own form, whose document is its emitter's to the byte.
        replayed_from: `<origin>#<index>` of the quarantine record.
    """
    core = canonical.parse_canonical(candidate.sections.core)
    try:
        sealed = replace(candidate.sections, core=canonical.encode(_marked(core, replayed_from)))
        document = _marked(candidate.document, replayed_from)
        return replace(candidate, document=document, encoded=canonical.encode(document), sections=sealed)
    except ProfileError:
        return candidate


def _marked(document: JsonObject, replayed_from: str) -> JsonObject:
    """Return a document with the mark, a name that the mapping gives to nothing a sender calls so."""
    return document | {"metadata": document["metadata"] | {MEMBER: replayed_from}}
