"""A whole server in processes of its own: `klyra-audit serve`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from klyra_collector.data_directory import DataDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_SECONDS = 60
_LISTENERS = ("OTLP__HTTP", "OTLP__GRPC", "FORWARD", "API")
_STOPS_WITHIN_SECONDS = 40


@contextlib.contextmanager
def serve(root: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """Run a server on a data directory and free ports until the block ends; yield it and its `run.json`.

    The settings are variables without their prefix, such as ``API__LISTEN="127.0.0.1:0"``. What it says is appended to
    `log_of(root)`. One that a test has killed is not stopped again.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KLYRA_")}
    environment |= {f"KLYRA_{name}__LISTEN": "127.0.0.1:0" for name in _LISTENERS}
    environment |= {f"KLYRA_{name}": value for name, value in settings.items()}
    run_json = DataDirectory(root).run_json
    run_json.unlink(missing_ok=True)
    with log_of(root).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "klyra_collector", "serve", "--data", str(root)],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        await_that(lambda: run_json.exists() or process.poll() is not None, root)
        yield process, json.loads(run_json.read_text())
    finally:
        if process.poll() is None:
            process.terminate()
            assert process.wait(_STOPS_WITHIN_SECONDS) == 0, log_of(root).read_text()[-4000:]


def log_of(root: Path) -> Path:
    """Return the file of what the server on a data directory says."""
    return root.with_name(f"{root.name}.log")


def await_that(condition: Callable[[], Any], root: Path) -> Any:
    """Wait until it holds; show the log if it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, log_of(root).read_text()[-4000:]
        time.sleep(0.05)
    return found
