"""Moderation: a text comes in, categories go out; a decision can be appealed and overridden."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from klyra_audit import Actor, events
from moderation_service.caller import CallerDependency, StateDependency
from moderation_service.classifier import classify
from moderation_service.state import Moderation, State, new_id, sha256_of
from moderation_service.trail import TrailDependency

MAX_CHARACTERS: Final = 10_000
CLASSIFIER: Final = Actor.system("moderation-classifier", "Word list classifier")

router = APIRouter(prefix="/v1/moderations")


class Content(BaseModel):
    """A text to moderate."""

    text: str


class Appeal(BaseModel):
    """Why a decision is thought wrong."""

    reason: Annotated[str, Field(min_length=1, max_length=500)]


class Override(BaseModel):
    """A person's own decision."""

    decision: Literal["approved", "rejected"]
    reason: Annotated[str, Field(min_length=1, max_length=500)]


@router.post("", status_code=201)
def moderate(
    content: Content, caller: CallerDependency, state: StateDependency, trail: TrailDependency
) -> dict[str, Any]:
    """Classify a text. Recorded: moderation.created, moderation.completed, and moderation.flagged if it is."""
    moderation_id = new_id("mod")
    created = events.moderation_created(
        actor=caller.actor,
        moderation_id=moderation_id,
        content_type="text",
        content_hash=sha256_of(content.text)[:12],
        **caller.context,
    )
    if len(content.text) > MAX_CHARACTERS:
        raise trail.refuse(created, 413, f"the text is longer than {MAX_CHARACTERS} characters")
    trail.record(created)
    moderation = _decide(moderation_id, content.text, state, trail)
    state.remember(moderation)
    return asdict(moderation)


@router.get("/{moderation_id}")
def read(moderation_id: str, caller: CallerDependency, state: StateDependency) -> dict[str, Any]:
    """Return a decision to anyone who is known here."""
    del caller
    return asdict(_find(state, moderation_id))


@router.post("/{moderation_id}/appeals", status_code=201)
def appeal(
    moderation_id: str, body: Appeal, caller: CallerDependency, state: StateDependency, trail: TrailDependency
) -> dict[str, Any]:
    """Appeal a decision, once."""
    with state.lock:
        moderation = _find(state, moderation_id)
        if moderation.appealed:
            raise HTTPException(409, "This decision was appealed already.")
        event = events.moderation_appealed(
            actor=caller.actor, moderation_id=moderation_id, reason=body.reason, **caller.context
        )
        trail.record(event)
        state.moderations[moderation_id] = replace(moderation, appealed=True)
        return asdict(state.moderations[moderation_id])


@router.put("/{moderation_id}/decision")
def override(
    moderation_id: str, body: Override, caller: CallerDependency, state: StateDependency, trail: TrailDependency
) -> dict[str, Any]:
    """Replace a decision; for moderators and administrators."""
    with state.lock:
        moderation = _find(state, moderation_id)
        event = events.moderation_overridden(
            actor=caller.actor,
            moderation_id=moderation_id,
            decision=body.decision,
            previous_decision=moderation.decision,
            reason=body.reason,
            **caller.context,
        )
        trail.record(event, permitted=caller.is_one_of("moderator", "admin"))
        state.moderations[moderation_id] = replace(moderation, decision=body.decision)
        return asdict(state.moderations[moderation_id])


def _decide(moderation_id: str, text: str, state: State, trail: TrailDependency) -> Moderation:
    """Return the classifier's decision, recorded as its own."""
    began = time.monotonic()
    verdict = classify(text, state.flag_threshold)
    decision: Literal["approved", "flagged"] = "flagged" if verdict.categories else "approved"
    completed = events.moderation_completed(
        actor=CLASSIFIER,
        moderation_id=moderation_id,
        decision=decision,
        categories=verdict.categories,
        scores=verdict.scores,
        duration_ms=round((time.monotonic() - began) * 1000),
    )
    trail.record(completed)
    if verdict.categories:
        trail.record(
            events.moderation_flagged(
                actor=CLASSIFIER,
                moderation_id=moderation_id,
                categories=verdict.categories,
                scores=verdict.scores,
            )
        )
    return Moderation(moderation_id, decision, verdict.scores, verdict.categories)


def _find(state: State, moderation_id: str) -> Moderation:
    if moderation_id not in state.moderations:
        raise HTTPException(404, f"There is no moderation {moderation_id}.")
    return state.moderations[moderation_id]
