"""Requests held against Elastic's own description of every request, which `make peers` has put into the cache.

It knows addresses, members, nesting and closed sets of words; not what settings there are, nor what a body means.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from support import peers

SOURCES = peers.INTEGRATION / "elasticsearch_schema"
_TEXT = {"string", "binary"}


def description() -> Path | None:
    """Return the file, None if it is not there."""
    digest = hashlib.sha256((SOURCES / "package-lock.json").read_bytes()).hexdigest()[:16]
    packages = peers.cache() / "elasticsearch_schema" / digest / "node_modules"
    file = packages / "@elastic" / "request-converter" / "dist" / "schema.json"
    return file if file.is_file() else None


class Schema:
    """What requests there are, and what their bodies may have."""

    def __init__(self, file: Path) -> None:
        content = json.loads(file.read_bytes())
        self._endpoints = content["endpoints"]
        self._types = {_name(each["name"]): each for each in content["types"]}

    def problems(self, method: str, path: str, body: Any) -> list[str]:
        """Return what is wrong with a request; empty if nothing is."""
        endpoint = self._endpoint(method, path)
        if endpoint is None:
            return [f"there is no {method} {path}"]
        described = self._types[_name(endpoint["request"])]["body"]
        if described["kind"] == "no_body":
            return [] if body is None else [f"{method} {path} takes no body"]
        if body is None:
            return []
        if described["kind"] == "value":
            return self._of(described["value"], body, "")
        return self._members(described, body, "")

    def is_in_serverless(self, method: str, path: str) -> bool:
        """Say whether a serverless cluster has a request."""
        endpoint = self._endpoint(method, path)
        return endpoint is not None and "serverless" in endpoint["availability"]

    def _endpoint(self, method: str, path: str) -> dict[str, Any] | None:
        path = path.partition("?")[0]
        fitting = [
            (url["path"].count("{"), endpoint)
            for endpoint in self._endpoints
            for url in endpoint["urls"]
            if method in url["methods"] and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", url["path"]), path)
        ]
        return min(fitting, key=lambda found: found[0], default=(0, None))[1]

    def _of(self, kind: dict[str, Any], value: Any, place: str) -> list[str]:
        match kind["kind"]:
            case "instance_of":
                return self._instance(_name(kind["type"]), value, place)
            case "array_of":
                items = value if isinstance(value, list) else [value]
                return [
                    each
                    for number, item in enumerate(items)
                    for each in self._of(kind["value"], item, f"{place}[{number}]")
                ]
            case "dictionary_of" if isinstance(value, dict):
                return [
                    each for name, item in value.items() for each in self._of(kind["value"], item, f"{place}.{name}")
                ]
            case "union_of":
                return self._union(kind["items"], value, place)
            case "dictionary_of":
                return [f"{place}: is no object"]
        return [f"{place}: is not {kind['value']!r}"] if value != kind.get("value", value) else []

    def _instance(self, name: tuple[str, str], value: Any, place: str) -> list[str]:
        if name[0] == "_builtins":
            return _scalar(name[1], value, place)
        described = self._types.get(name)
        if described is None:
            return []
        if described["kind"] == "type_alias":
            return self._of(described["type"], value, place)
        if described["kind"] == "enum":
            return _word(described, value, place)
        if not isinstance(value, dict):
            return [] if described.get("shortcutProperty") else [f"{place}: is no object"]
        return self._members(described, value, place)

    def _members(self, described: dict[str, Any], value: dict[str, Any], place: str) -> list[str]:
        known = self._properties(described)
        names = known | {alias: member for member in known.values() for alias in member.get("aliases", ())}
        is_open = bool(described.get("behaviors") or described.get("attachedBehaviors"))
        found = [f"{place}.{name}: is not known" for name in value if name not in names and not is_open]
        found += [
            f"{place}.{name}: is missing"
            for name, member in known.items()
            if member["required"] and not {name, *member.get("aliases", ())} & value.keys()
        ]
        for name, item in value.items():
            if name in names and item is not None:
                found += self._of(names[name]["type"], item, f"{place}.{name}")
        return found

    def _properties(self, described: dict[str, Any]) -> dict[str, dict[str, Any]]:
        own = {member["name"]: member for member in described.get("properties", ())}
        parent = described.get("inherits")
        return self._properties(self._types[_name(parent["type"])]) | own if parent else own

    def _union(self, items: list[dict[str, Any]], value: Any, place: str) -> list[str]:
        """Return the problems of the alternative that fits best, or that the value's own `type` names."""
        if isinstance(value, dict) and "type" in value:
            items = [item for item in items if self._is_tagged(item, value["type"])] or items
        return min((self._of(item, value, place) for item in items), key=len)

    def _is_tagged(self, item: dict[str, Any], tag: Any) -> bool:
        described = self._types.get(_name(item["type"]), {}) if item["kind"] == "instance_of" else {}
        return any(
            member["name"] == "type" and member["type"].get("value") == tag
            for member in described.get("properties", ())
        )


def _name(reference: dict[str, str]) -> tuple[str, str]:
    return reference["namespace"], reference["name"]


def _scalar(name: str, value: Any, place: str) -> list[str]:
    """Servers take numbers and truth values as text, too."""
    fits = (
        isinstance(value, bool | str)
        if name == "boolean"
        else isinstance(value, str | int | float)
        if name == "number"
        else isinstance(value, str | bool | int | float)
        if name in _TEXT
        else True
    )
    return [] if fits else [f"{place}: is no {name}"]


def _word(described: dict[str, Any], value: Any, place: str) -> list[str]:
    members = described["members"]
    words = {word for member in members for word in (member["name"], *member.get("aliases", ()))}
    fits = described.get("isOpen") or isinstance(value, bool) or str(value) in words
    return [] if fits else [f"{place}: {value!r} is none of {described['name']['name']}"]
