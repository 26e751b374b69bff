"""Record formats: what one entry looks like at a destination.

    record = record_format("ocsf-1.1.0", key)     # `BadDestination` for a name that is none
    line = record.encode(entry)                   # one JSON object, or one line of text; without a line end

Whatever the format, the copy carries what it is verified by (`integrity`); `reading` finds it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from klyra_siem.errors import BadDestination
from klyra_siem.formats.ecs import EcsFormat
from klyra_siem.formats.native import NativeFormat
from klyra_siem.formats.ocsf import OcsfFormat
from klyra_siem.formats.text import CefFormat, LeefFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klyra_audit.audit_integrity import RecordKey
    from klyra_siem.destination import RecordFormat

NATIVE: Final = "native"

_FORMATS: Mapping[str, Callable[[RecordKey | None], RecordFormat]] = {
    NATIVE: NativeFormat,
    "ocsf-1.1.0": lambda key: OcsfFormat("1.1.0", key),
    "ocsf-1.9.0": lambda key: OcsfFormat("1.9.0", key),
    "ecs": EcsFormat,
    "cef": CefFormat,
    "leef": LeefFormat,
}
NAMES: Final = tuple(_FORMATS)


def record_format(name: str, key: RecordKey | None) -> RecordFormat:
    """Return a format.

    Args:
        name: one of `NAMES`.
        key: signs each record; None signs none.

    Raises:
        BadDestination: no format has that name (`unknown_format`).
    """
    if name not in _FORMATS:
        raise BadDestination(
            f"There is no record format {name}.",
            remedy=f"Write format = one of {', '.join(NAMES)}.",
            code="unknown_format",
        )
    return _FORMATS[name](key)
