"""Files of one JSON object per line that are only ever added to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from klyra_collector.seal.durable import Disk


def append_lines(disk: Disk, path: Path, lines: Iterable[bytes]) -> None:
    """Add lines to a file; durable when this returns.

    A crash leaves any beginning of what was added; the next call ends a line that was broken off with a newline, so
    readers pass over a line that is no JSON.
    """
    descriptor, created = disk.open_append(path)
    try:
        content = b"".join(line + b"\n" for line in lines)
        disk.append(descriptor, content if os.fstat(descriptor).st_size == 0 else b"\n" + content)
        disk.sync([descriptor])
    finally:
        disk.close_file(descriptor)
    if created:
        disk.sync_directory(path.parent)
