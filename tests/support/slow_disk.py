"""A collector whose disk is as slow as a file says: `python -m support.slow_disk FILE serve …`.

The file holds the seconds that every sync of the seal takes longer; without it nothing is slowed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from klyra_collector.cli import main
from klyra_collector.seal.durable import Disk

if TYPE_CHECKING:
    from collections.abc import Iterable


def slow_down(file: Path) -> None:
    """Make every sync of this process's seal wait for what the file says."""
    sync = Disk.sync

    def slowed(disk: Disk, descriptors: Iterable[int]) -> None:
        if file.exists():
            time.sleep(float(file.read_text() or 0))
        sync(disk, descriptors)

    Disk.sync = slowed


if __name__ == "__main__":
    slow_down(Path(sys.argv.pop(1)))
    main()
