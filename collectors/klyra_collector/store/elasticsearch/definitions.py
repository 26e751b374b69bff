"""What a cluster needs before it can keep entries, read from data files and filled with the plans' days."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

from klyra_collector.store.elasticsearch import names
from klyra_collector.store.elasticsearch.connection import Flavor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_HEALTH_DAYS = 7


@dataclass(frozen=True, slots=True)
class Retained:
    """A retention policy as streams see it.

    Attributes:
        name: such as `startup` or `enterprise-730d`.
        days: how long entries are kept.
    """

    name: str
    days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One thing that must be there.

    Attributes:
        kind: what people call it, such as `lifecycle policy`.
        name: its own.
        path: of the requests that read and write it.
        body: to write; None where its being there is all.
        member: of the answer to a GET, as keys one in the other, under which the thing itself stands.
    """

    kind: str
    name: str
    path: str
    body: Mapping[str, Any] | None
    member: tuple[str | int, ...] = ()


def definitions(
    policies: Iterable[Retained], flavor: Flavor = Flavor.DEFAULT, dedicated: Iterable[str] = ()
) -> list[Definition]:
    """Return everything for these retention policies, in the order in which it can be made.

    A serverless cluster has no lifecycle policies: there each stream's own lifecycle keeps the days, to no better than
    its rollover, and the sweep by `klyra.expire_day` is what keeps the bound.

    Args:
        policies: that anything is kept by.
        flavor: of the cluster.
        dedicated: organizations with streams of their own, one of each policy: a plan can change at any time, and the
            writer's key can make no stream.
    """
    retained = sorted(set(policies), key=lambda policy: policy.name)
    found: list[Definition] = []
    if flavor is Flavor.DEFAULT:
        found += [_lifecycle("lifecycle", names.entry_stream(one.name), one) for one in retained]
        found.append(_lifecycle("lifecycle-health", names.HEALTH_STREAM))
    found.append(_component("settings", "settings-serverless" if flavor is Flavor.SERVERLESS else "settings"))
    found += [_component(name, name) for name in ("entries", "quarantine")]
    for one in retained:
        found.append(_streams("entry-streams", names.entry_stream(one.name), flavor, one))
        found.append(_streams("quarantine-stream", names.quarantine_stream(one.name), flavor, one))
    found.append(_streams("held-stream", names.HELD_STREAM, flavor))
    found.append(_streams("quarantine-held-stream", names.QUARANTINE_HELD_STREAM, flavor))
    found.append(_streams("health-stream", names.HEALTH_STREAM, flavor, Retained("health", _HEALTH_DAYS)))
    found.append(_index_template(names.LEDGER_INDEX, _read("ledger")))
    found += [_stream(item.name) for item in found if "data_stream" in (item.body or {})]
    found += [_stream(names.dedicated_stream(one.name, own)) for own in sorted(set(dedicated)) for one in retained]
    found.append(Definition(kind="index", name=names.LEDGER_INDEX, path=f"/{names.LEDGER_INDEX}", body=None))
    return found


def keys(flavor: Flavor = Flavor.DEFAULT) -> dict[str, dict[str, Any]]:
    """Return the API keys we make, by what they are for: `writer`, `reader`, `sweeper` and `administrator`.

    A serverless cluster knows no privileges of lifecycle policies, and refuses a key that names one.
    """
    found: dict[str, dict[str, Any]] = _read("keys")
    if flavor is Flavor.SERVERLESS:
        for key in found.values():
            for role in key["role_descriptors"].values():
                role["cluster"] = [right for right in role["cluster"] if right != "manage_ilm"]
    return found


def flattened(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    """Yield every value of a thing under its dotted name, so that what a server gives back can be compared.

    Servers write numbers of settings as text and settings without their first `index.`.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flattened(inner, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list):
        yield prefix, json.dumps(value)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value)


def _lifecycle(file: str, name: str, retained: Retained | None = None) -> Definition:
    body = _read(file, retained)
    return Definition(kind="lifecycle policy", name=name, path=f"/_ilm/policy/{name}", body=body, member=(name,))


def _component(suffix: str, file: str) -> Definition:
    name = f"{names.PREFIX}{suffix}"
    return Definition(
        kind="component template",
        name=name,
        path=f"/_component_template/{name}",
        body=_read(file),
        member=("component_templates", 0, "component_template"),
    )


def _streams(file: str, name: str, flavor: Flavor, retained: Retained | None = None) -> Definition:
    body = _read(file, retained)
    if flavor is Flavor.SERVERLESS and retained is not None:
        body["template"].pop("settings")
        body["template"]["lifecycle"] = {"data_retention": f"{retained.days}d"}
    return _index_template(name, body)


def _index_template(name: str, body: dict[str, Any]) -> Definition:
    return Definition(
        kind="index template",
        name=name,
        path=f"/_index_template/{name}",
        body=body,
        member=("index_templates", 0, "index_template"),
    )


def _stream(name: str) -> Definition:
    return Definition(kind="data stream", name=name, path=f"/_data_stream/{name}", body=None)


def _read(file: str, retained: Retained | None = None) -> Any:  # noqa: ANN401 - JSON
    text = resources.files(__package__).joinpath("definitions", f"{file}.json").read_text()
    if retained is not None:
        text = Template(text).substitute(policy=retained.name, retention_days=retained.days)
    return json.loads(text)
