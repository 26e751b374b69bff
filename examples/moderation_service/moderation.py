"""Moderation: a text comes in, categories go out; a decision can be appealed and overridden."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from klyra_audit import Actor, events
from moderation_service.call import Call, Caller  # noqa: TC001 - FastAPI reads Caller at run time
from moderation_service.classifier import MODEL, classify
from moderation_service.state import Moderation, find, new_id, sha256_of

MAX_CHARACTERS: Final = 10_000
CLASSIFIER: Final = Actor.system("moderation-classifier", "Word list classifier")

router = APIRouter(prefix="/v1/moderations")

Reason = Annotated[str, Field(min_length=1, max_length=500)]


class Content(BaseModel):
    """A text to moderate."""

    text: str


class Appeal(BaseModel):
    """Why a decision is thought wrong."""

    reason: Reason


class Override(BaseModel):
    """A person's own decision."""

    decision: Literal["approved", "rejected"]
    reason: Reason


@router.post("", status_code=201)
def moderate(content: Content, call: Caller) -> dict[str, Any]:
    """Classify a text. Recorded: moderation.created, moderation.completed, and moderation.flagged if it is."""
    moderation_id = new_id("mod")
    created = events.moderation_created(
        moderation_id=moderation_id, content_type="text", content_hash=sha256_of(content.text)[:12], **call.by
    )
    if len(content.text) > MAX_CHARACTERS:
        call.refuse(created, 413, f"the text is longer than {MAX_CHARACTERS} characters")
    call.record(created)
    moderation = _decide(moderation_id, content.text, call)
    call.state.remember(moderation)
    return asdict(moderation)


@router.get("/{moderation_id}")
def read(moderation_id: str, call: Caller) -> dict[str, Any]:
    """Return a decision."""
    return asdict(find(call.state.moderations, moderation_id))


@router.post("/{moderation_id}/appeals", status_code=201)
def appeal(moderation_id: str, body: Appeal, call: Caller) -> dict[str, Any]:
    """Appeal a decision, once."""
    with call.state.lock:
        moderation = find(call.state.moderations, moderation_id)
        if moderation.appealed:
            raise HTTPException(409, "This decision was appealed already.")
        event = events.moderation_appealed(
            moderation_id=moderation_id, reason=body.reason, decision=moderation.decision, **call.by
        )
        call.record(event)
        call.state.moderations[moderation_id] = appealed = replace(moderation, appealed=True)
    return asdict(appealed)


@router.put("/{moderation_id}/decision")
def override(moderation_id: str, body: Override, call: Caller) -> dict[str, Any]:
    """Replace a decision; for moderators and administrators."""
    with call.state.lock:
        moderation = find(call.state.moderations, moderation_id)
        event = events.moderation_overridden(
            moderation_id=moderation_id,
            decision=body.decision,
            previous_decision=moderation.decision,
            reason=body.reason,
            **call.by,
        )
        call.record(event, "moderator", "admin")
        call.state.moderations[moderation_id] = overridden = replace(moderation, decision=body.decision)
    return asdict(overridden)


def _decide(moderation_id: str, text: str, call: Call) -> Moderation:
    """Return the classifier's decision, recorded as its own."""
    began = time.monotonic()
    threshold = call.state.flag_threshold
    verdict = classify(text, threshold)
    decision: Literal["approved", "flagged"] = "flagged" if verdict.categories else "approved"
    completed = events.moderation_completed(
        actor=CLASSIFIER,
        moderation_id=moderation_id,
        decision=decision,
        categories=verdict.categories,
        scores=verdict.scores,
        duration_ms=round((time.monotonic() - began) * 1000),
        model=MODEL,
    )
    call.record(completed)
    if decision == "flagged":
        flagged = events.moderation_flagged(
            actor=CLASSIFIER,
            moderation_id=moderation_id,
            categories=verdict.categories,
            scores=verdict.scores,
            threshold=threshold,
        )
        call.record(flagged)
    return Moderation(moderation_id, decision, verdict.scores, verdict.categories)
