"""Run a module until it ends or its supervisor does: ``python -m klyra_collector.demo.guarded PID MODULE ARGUMENT…``.

A supervisor that is killed cannot stop a program that knows nothing of it; this stops the program then.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

_POLL_SECONDS: Final = 0.5


def main(arguments: list[str]) -> None:
    """Run a module as if it had been started by its name.

    Args:
        arguments: the supervisor's process id, the module, and what the module finds in `sys.argv`.
    """
    supervisor, module = int(arguments[0]), arguments[1]
    threading.Thread(target=_die_with, args=(supervisor,), daemon=True).start()
    sys.argv = arguments[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _die_with(supervisor: int) -> None:
    """Ask this process to stop once its parent is another than the supervisor: an orphan is adopted."""
    while os.getppid() == supervisor:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])
