"""What the log says of a mistake of ours: where it happened, and not what it says.

What a library says of a header, a URL or a key may quote it, and that may be a destination's secret.
"""

from __future__ import annotations

import traceback


def places_of(error: BaseException) -> list[str]:
    """Return file, line and function of each call that led to an error, the innermost last."""
    return [f"{one.filename}:{one.lineno} {one.name}" for one in traceback.extract_tb(error.__traceback__)]
