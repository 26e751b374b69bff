"""The same objects as an Elastic integration package: a second way in, through Kibana's *Integrations* page or Fleet.

It holds no agent policy. Its data streams say what fields and lifecycles our streams have, one for each plan, since a
data stream of a package has one lifecycle; `klyra-audit setup elasticsearch` is what makes the streams themselves.
"""

from __future__ import annotations

import io
import json
import tomllib
import zipfile
from string import Template
from typing import TYPE_CHECKING, Any, Final

from kibana.fields import DEFINITIONS
from kibana.objects import PREFIX, dense

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from kibana.fields import Fields

Json = dict[str, Any]

FORMAT: Final = "3.0.0"  # of packages: the oldest that has what is needed
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same bytes whenever it is made
_FOLDERS: Final = {"index-pattern": "index_pattern", "search": "search", "dashboard": "dashboard"}
_LIFECYCLE: Final = "lifecycle"
_LOGO: Final = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" width="32" height="32">
<path fill="#0b64dd" d="M16 2 4 7v9c0 7 5 12 12 14 7-2 12-7 12-14V7z"/>
<path fill="none" stroke="#fff" stroke-width="3" d="m10 16 4 4 8-9"/>
</svg>
"""


def version_of(root: Path) -> str:
    """Return the product's version, which the package shares."""
    return str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])


def package(root: Path, objects: Iterable[Json], mappings: dict[str, Fields]) -> bytes:
    """Return the zip."""
    version = version_of(root)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(members(root, objects, mappings).items()):
            member = zipfile.ZipInfo(f"{PREFIX}-{version}/{name}", _EPOCH)
            member.external_attr = 0o644 << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, text)
    return held.getvalue()


def members(root: Path, objects: Iterable[Json], mappings: dict[str, Fields]) -> dict[str, str]:
    """Return path inside the package → text."""
    found = {
        "manifest.yml": yaml(_manifest(version_of(root))),
        "changelog.yml": yaml(_changelog(version_of(root))),
        "docs/README.md": _readme(mappings["entries"]),
        "img/logo.svg": _LOGO,
    }
    for each in objects:
        found[f"kibana/{_FOLDERS[each['type']]}/{each['id']}.json"] = _pretty(each)
    for policy in _plans(root):
        found |= _data_stream(root, policy, mappings["entries"])
    return found


def yaml(value: Any) -> str:  # noqa: ANN401 - what YAML holds
    """Return YAML: mappings and lists in blocks, every text in quotes."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Any, indent: str = "") -> Iterator[str]:  # noqa: ANN401 - what YAML holds
    if isinstance(value, dict):
        pairs = [(f"{indent}{name}:", inner) for name, inner in value.items()]
    else:
        pairs = [(f"{indent}-", inner) for inner in value]
    for start, inner in pairs:
        if isinstance(inner, dict | list) and inner:
            yield start
            yield from _lines(inner, f"{indent}  ")
        else:
            yield f"{start} {dense(inner)}"


def _manifest(version: str) -> Json:
    return {
        "format_version": FORMAT,
        "name": PREFIX,
        "title": "Klyra audit logs",
        "version": version,
        "description": "Dashboards for audit logs that cannot be lost or changed unnoticed.",
        "type": "integration",
        "source": {"license": "Apache-2.0"},
        "categories": ["security"],
        "conditions": {"kibana": {"version": "^8.19.0 || ^9.0.0"}},
        "icons": [{"src": "/img/logo.svg", "title": "Klyra audit logs", "size": "32x32", "type": "image/svg+xml"}],
        "owner": {"github": "klyra/klyra-audit", "type": "community"},
    }


def _changelog(version: str) -> list[Json]:
    change = {
        "description": "Overview, Moderation, Administration and access, Integrity and delivery.",
        "type": "enhancement",
        "link": "https://github.com/klyra/klyra-audit/blob/main/CHANGELOG.md",
    }
    return [{"version": version, "changes": [change]}]


def _readme(fields: Fields) -> str:
    rows = "\n".join(f"| {name} | {field['type']} |" for name, field in sorted(fields.items()))
    return f"""# Klyra audit logs

Dashboards, saved searches and data views for the streams that `klyra-audit setup elasticsearch` makes and the
collector fills. No agent is needed, and no policy has to be added. The data streams of this package describe fields
and lifecycles for reference, one for each plan; nothing writes to them.

Alert rules and roles are not part of a package: `klyra-audit setup kibana` makes them.

## Fields of an entry

| field | type |
|--|--|
{rows}
"""


def _plans(root: Path) -> list[tuple[str, int]]:
    plans = [json.loads(path.read_text()) for path in (root / "retention_policies").glob("*.json")]
    return sorted(((plan["plan"], plan["retention_days"]) for plan in plans), key=lambda plan: plan[1])


def _data_stream(root: Path, plan: tuple[str, int], fields: Fields) -> dict[str, str]:
    name, days = plan
    folder = f"data_stream/{name}"
    manifest = {
        "title": f"Audit entries kept for {days} days",
        "type": "logs",
        "dataset": f"{PREFIX}.{name}",
        "ilm_policy": f"logs-{PREFIX}.{name}-{_LIFECYCLE}",
    }
    lifecycle = Template(root.joinpath(*DEFINITIONS, "lifecycle.json").read_text())
    return {
        f"{folder}/manifest.yml": yaml(manifest),
        f"{folder}/fields/base-fields.yml": yaml(_BASE_FIELDS),
        f"{folder}/fields/fields.yml": yaml(_field_list(fields)),
        f"{folder}/elasticsearch/ilm/{_LIFECYCLE}.json": lifecycle.substitute(policy=name, retention_days=days),
    }


_BASE_FIELDS: Final = [
    {"name": "data_stream.type", "type": "constant_keyword", "description": "Data stream type."},
    {"name": "data_stream.dataset", "type": "constant_keyword", "description": "Data stream dataset."},
    {"name": "data_stream.namespace", "type": "constant_keyword", "description": "Data stream namespace."},
    {"name": "@timestamp", "type": "date_nanos", "description": "When the event happened."},
]


def _field_list(fields: Fields) -> list[Json]:
    """Return the fields of entries; a second way of finding a text is left to the templates."""
    return [
        {"name": name, "type": field["type"], "description": _description(name)} | _details(field)
        for name, field in sorted(fields.items())
        if name != "@timestamp" and field["type"] != "text"
    ]


def _details(field: Json) -> Json:
    return {name: field[name] for name in ("path", "ignore_above", "index", "doc_values") if name in field}


def _description(name: str) -> str:
    if name.startswith("metadata."):
        return f"What the event says of its {name.removeprefix('metadata.').replace('_', ' ')}."
    if name.startswith("klyra."):
        return "What is needed to find, keep and verify the entry."
    return f"The entry's {name.replace('.', ' ').replace('_', ' ')}."


def _pretty(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, indent=4, sort_keys=True) + "\n"
