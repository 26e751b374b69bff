"""The example that shows Elasticsearch from set-up to a rebuilt ledger, as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import elasticsearch

EXAMPLE = Path(__file__).parents[2] / "examples" / "elasticsearch" / "run.sh"
SECONDS = 240


@pytest.mark.skipif(elasticsearch.front() is None, reason="for want of elasticsearch_front")
def test_it_runs_from_nothing_to_a_rebuilt_ledger(tmp_path: Path) -> None:
    """Every step says what it found: entries, an export, three verdicts, and an entry in the shard that goes on."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KLYRA_")}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "WORK": str(tmp_path / "work")}
    done = subprocess.run([EXAMPLE], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    steps = {part.partition("\n")[0].partition(":")[0]: part for part in done.stdout.split("\n== ")[1:]}
    assert steps["Serving, and sending events"].count('"record_id"') == 4
    assert "mod_2" in steps["Searching"]
    assert "mod_1" not in steps["Searching"]
    assert len((tmp_path / "work" / "entries.csv").read_text().splitlines()) == 4
    assert steps["Verifying what Elasticsearch has"].count("INTACT") == 2
    assert "The ledger goes on in" in steps["The disk is lost"] + done.stderr
    assert "INTACT" in steps["The disk is lost"]
    assert "user.added" in steps["Going on"]
    assert "moderation.flagged" in steps["Going on"]
