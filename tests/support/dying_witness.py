"""`klyra-audit witness`, killed by the kernel at the moment that matters: run it with the witness's own options.

DYING_MOMENT says when, at the first checkpoint it is to keep: `before` it is kept, or `after`, when it is durable
and not yet answered.
"""

from __future__ import annotations

import os
import signal
import sys

from klyra_collector.cli import main
from klyra_collector.seal.durable import Disk

_replace = Disk.replace


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _replace_and_die(disk, path, content, *, mode=0o640) -> None:
    if path.parent.name != "checkpoints":
        _replace(disk, path, content, mode=mode)
        return
    if os.environ["DYING_MOMENT"] == "before":
        _die()
    _replace(disk, path, content, mode=mode)
    _die()


Disk.replace = _replace_and_die
sys.argv[1:1] = ["witness"]
main()
