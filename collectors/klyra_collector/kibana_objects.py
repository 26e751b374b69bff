"""What `klyra-audit setup kibana` brings: the shipped files, fitted to a space and, where asked, one organization."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from string import Template
from typing import TYPE_CHECKING, Any, Final

from klyra_audit import resources
from klyra_audit.errors import Rejected
from klyra_audit.format.sections import is_organization_id
from klyra_collector.store.elasticsearch.names import ENTRY_STREAMS, dedicated_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Json = dict[str, Any]

DEFAULT_SPACE: Final = "default"
_ORGANIZATION_ROLE: Final = "klyra_audit_organization"
_ENTRIES: Final = "klyra_audit-entries"
_INTEGRITY: Final = "klyra_audit-integrity"
_LINK: Final = f" · [Integrity and delivery](#/view/{_INTEGRITY})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a space is to have.

    Attributes:
        objects: data views, saved searches, dashboards; what is referred to comes first.
        rules: alert rules by their id.
        roles: by their name.
    """

    objects: tuple[Json, ...]
    rules: Mapping[str, Json]
    roles: Mapping[str, Json]

    @property
    def ndjson(self) -> bytes:
        """The objects as the file that Kibana imports."""
        lines = (json.dumps(each, ensure_ascii=False, separators=(",", ":"), sort_keys=True) for each in self.objects)
        return "".join(f"{line}\n" for line in lines).encode()


def wanted(space: str = DEFAULT_SPACE, organization_id: str | None = None) -> Wanted:
    """Return what a space is to have; with an organization, over its own data streams alone.

    What is about the collectors stays away from one organization: their health, and quarantined input.

    Raises:
        Rejected: `bad_organization`: it is no id of an organization.
    """
    objects = [json.loads(line) for line in _shipped("klyra-audit.ndjson").splitlines()]
    if organization_id is None:
        return Wanted(
            objects=tuple(objects),
            rules={rule_id(space, name): rule for name, rule in json.loads(_shipped("rules.json")).items()},
            roles={f"{name}{_suffix(space)}": role for name, role in _roles(space) if name != _ORGANIZATION_ROLE},
        )
    if not is_organization_id(organization_id):
        raise Rejected(
            f"{organization_id} is no id of an organization.", remedy="It begins with org_.", code="bad_organization"
        )
    pattern = dedicated_stream("*", organization_id)
    return Wanted(
        objects=tuple(_over(pattern, each) for each in objects if _is_of_entries(each)),
        rules={
            rule_id(space, name): _watching(pattern, rule)
            for name, rule in json.loads(_shipped("rules.json")).items()
            if _is_about_entries(rule)
        },
        roles={
            f"{name}{_suffix(space)}": role
            for name, role in _roles(space, organization_id)
            if name == _ORGANIZATION_ROLE
        },
    )


def rule_id(space: str, name: str) -> str:
    """Return the id of a rule: always the same, another in each space, and a random UUID in form, as Kibana wants."""
    digest = hashlib.sha256(f"klyra-audit rule {space}/{name}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def _shipped(name: str) -> str:
    return resources.folder("dashboards").joinpath("kibana", name).read_text(encoding="utf-8")


def _suffix(space: str) -> str:
    """Roles have no spaces of their own: in another than the default one, their name says which."""
    return "" if space == DEFAULT_SPACE else f"_{space}"


def _roles(space: str, organization_id: str = "") -> Iterator[tuple[str, Json]]:
    filled = Template(_shipped("roles.json")).substitute(space=space, organization=organization_id.lower())
    yield from json.loads(filled).items()


def _is_of_entries(each: Json) -> bool:
    """Say whether an object shows entries and nothing else."""
    views = {reference["id"] for reference in each["references"] if reference["type"] == "index-pattern"}
    return each["id"] != _INTEGRITY and (views == {_ENTRIES} or each["id"] == _ENTRIES)


def _over(pattern: str, each: Json) -> Json:
    """Return an object that searches one organization's streams."""
    attributes = each["attributes"]
    if each["type"] == "index-pattern":
        return each | {"attributes": attributes | {"title": pattern}}
    if each["type"] == "dashboard":
        return each | {"attributes": attributes | {"panelsJSON": attributes["panelsJSON"].replace(_LINK, "")}}
    return each


def _is_about_entries(rule: Json) -> bool:
    return bool(rule["params"]["index"] == ENTRY_STREAMS.split(","))


def _watching(pattern: str, rule: Json) -> Json:
    return rule | {"params": rule["params"] | {"index": [pattern]}}
