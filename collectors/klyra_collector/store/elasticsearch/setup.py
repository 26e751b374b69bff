"""Makes a cluster ready: compares what is there with what must be, says so, then changes it in order, repeatably."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from klyra_audit.errors import Rejected
from klyra_collector.store.elasticsearch.connection import NotFound, request
from klyra_collector.store.elasticsearch.definitions import flattened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from elasticsearch import Elasticsearch

    from klyra_collector.store.elasticsearch.definitions import Definition

MANAGER = "klyra-audit"


class SetupRefused(Rejected):
    """Something in the cluster is not as it must be, and is not ours to change."""

    code = "setup_refused"


class State(Enum):
    """How what is there compares with what must be."""

    ABSENT = "create"
    DIFFERENT = "change"
    SAME = "keep"


@dataclass(frozen=True, slots=True)
class Change:
    """What set-up does with one definition.

    Attributes:
        definition: what must be.
        state: what is to be done.
        difference: lines of a unified diff of dotted names and values; empty unless it is to be changed.
    """

    definition: Definition
    state: State
    difference: tuple[str, ...] = field(default=())


def plan(client: Elasticsearch, wanted: Iterable[Definition]) -> list[Change]:
    """Compare the cluster with what must be; nothing is changed.

    Raises:
        SetupRefused: a name of ours is taken by something that is not ours, or a newer version was here before.
        ClusterUnreachable, ClusterRefuses: see `connection.request`.
    """
    return [_compare(definition, _current(client, definition)) for definition in wanted]


def apply(client: Elasticsearch, changes: Sequence[Change], on_done: Callable[[Change], None]) -> None:
    """Make what is planned, in its order.

    A crash in between leaves a beginning that the next run takes up: each step is idempotent. New templates are for
    new indexes; `effective.update_indexes` is what brings those that are there up to date.
    """
    for change in changes:
        if change.state is not State.SAME:
            request(client, "PUT", change.definition.path, change.definition.body)
        on_done(change)


def _current(client: Elasticsearch, definition: Definition) -> Mapping[str, Any] | None:
    try:
        found = request(client, "GET", definition.path)
    except NotFound:
        return None
    for key in definition.member:
        found = found[key]
    current: Mapping[str, Any] = found
    return current


def _compare(definition: Definition, current: Mapping[str, Any] | None) -> Change:
    if current is None:
        return Change(definition, State.ABSENT)
    if definition.body is None:
        return Change(definition, State.SAME)
    _refuse_what_is_not_ours(definition, current)
    there, wanted = _lines(current, definition.body), _lines(definition.body, definition.body)
    if there == wanted:
        return Change(definition, State.SAME)
    difference = difflib.unified_diff(there, wanted, "in the cluster", "to be", lineterm="", n=0)
    return Change(definition, State.DIFFERENT, tuple(difference))


def _refuse_what_is_not_ours(definition: Definition, current: Mapping[str, Any]) -> None:
    meta = _meta(current)
    if meta.get("managed_by") != MANAGER:
        raise SetupRefused(
            f"The {definition.kind} {definition.name} is there and is not ours.",
            remedy="Somebody else made it. Remove it, or use another cluster.",
        )
    if meta.get("version", 0) > _meta(definition.body or {}).get("version", 0):
        raise SetupRefused(
            f"The {definition.kind} {definition.name} is of a newer version of klyra-audit.",
            remedy="Run set-up with that version or a later one.",
        )


def _meta(thing: Mapping[str, Any]) -> Mapping[str, Any]:
    meta: Mapping[str, Any] = thing.get("_meta") or thing.get("policy", {}).get("_meta") or {}
    return meta


def _lines(thing: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return a thing as sorted lines; of what a server adds by itself only members that we write, too."""
    ours = {key: thing[key] for key in wanted if key in thing}
    return sorted(f"{name}: {value}" for name, value in flattened(ours))
