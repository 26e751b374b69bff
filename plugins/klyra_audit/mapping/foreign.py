"""A log record of any other program, whatever protocol it came by."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Foreign(NamedTuple):
    """Any other log record, its values as Python's own; what a protocol does not have is left out.

    Attributes:
        trace_id, span_id: hexadecimal.
        severity_number, severity_text, flags: 0 and "" when unset.
        dropped_attributes_count: attributes that were lost before the record came here.
        scope_name, scope_version, scope_attributes: of the instrumentation scope.
        tag: Forward's.
        best_effort: it came over a connection on which it cannot be acknowledged.
    """

    event_name: str
    body: Any
    attributes: dict[str, Any]
    time_unix_nano: int
    observed_time_unix_nano: int
    trace_id: str
    span_id: str
    severity_number: int = 0
    severity_text: str = ""
    flags: int = 0
    dropped_attributes_count: int = 0
    scope_name: str = ""
    scope_version: str = ""
    scope_attributes: Mapping[str, Any] = NOTHING
    tag: str = ""
    best_effort: bool = False
