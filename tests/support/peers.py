"""Programs of others that `make peers` has put into the cache."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

INTEGRATION = Path(__file__).parents[1] / "integration"


def cache() -> Path:
    """Return the folder that `tools/peers.sh` fills."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "klyra-audit"


def go_program(name: str) -> Path | None:
    """Return a Go program built from the sources as they are now in `tests/integration/<name>/`; None if there is none.

    Its place is what `tools/peers/build_go` chooses.
    """
    folder = INTEGRATION / name
    sources = [*sorted(folder.glob("*.go")), folder / "go.mod", folder / "go.sum"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    program = cache() / name / digest / name
    return program if program.is_file() else None
