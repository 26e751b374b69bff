"""What `/openapi.json` says of calls whose parameters may stand in the query string or in the body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel


def takes(model: type[BaseModel], *, query: bool = False, body: bool = False) -> dict[str, Any]:
    """Return the description of a call that takes the parameters of a model, in one place or the other."""
    schema = model.model_json_schema()
    described: dict[str, Any] = {}
    if query:
        described["parameters"] = [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": member.get("description", ""),
                "schema": _without_null(member),
            }
            for name, member in schema["properties"].items()
        ]
    if body:
        described["requestBody"] = {"required": False, "content": {"application/json": {"schema": schema}}}
    return described


def _without_null(member: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter that is left out instead of null."""
    choices = [choice for choice in member.get("anyOf", [member]) if choice.get("type") != "null"]
    return {name: value for name, value in choices[0].items() if name not in {"description", "title"}}
