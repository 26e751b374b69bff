"""Measure export packets: how long one of 100,000 entries takes to be made and to be verified, and in how much memory.

Run it alone: `python tests/bench/packets.py`. Nothing here passes or fails. Processor time is that of one process.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from klyra_audit.format.leaf import LEAF_SIZE, Leaf
from klyra_collector.stages import Tenancy
from support import records
from support.packets import Sealed
from support.sealing import SetClock

BATCH = 500
OTHER = Tenancy("org_other", "startup", "startup", 30)


def main() -> None:
    """Seal, export, verify; each measured in a process of its own, so that memory is its own too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--step", choices=["export", "verify"], help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step is not None:
        measure(options.step, options.root, options.entries)
        return
    say(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    say(f"load average before: {os.getloadavg()[0]:.1f} (figures of a busy machine are worse)")
    with tempfile.TemporaryDirectory() as folder:
        seal(Path(folder) / "data", options.entries)
        for step in ("export", "verify"):
            command = [sys.executable, __file__, "--step", step, "--root", folder, "--entries", str(options.entries)]
            subprocess.run(command, check=True)


def reopen(folder: Path) -> Sealed:
    """Open the ledger again, with the clock where it stood."""
    clock = SetClock()
    leaves = max((folder / "data/ledger").glob("*/leaves")).read_bytes()
    clock.wall = Leaf.unpack(leaves[-LEAF_SIZE:]).ingest_us
    return Sealed(folder / "data", clock)


def seal(root: Path, entries: int) -> None:
    """Seal as many entries of one organization, and a tenth as many of another between them."""
    sealed = Sealed(root)
    for _ in range(entries // BATCH):
        sealed.seal(*[records.record() for _ in range(BATCH)], *[records.record(OTHER) for _ in range(BATCH // 10)])
    sealed.settle()
    sealed.ledger.close()


def measure(step: str, folder: Path, entries: int) -> None:
    """Do one step and say what it took."""
    sealed = reopen(folder)
    packet = folder / "packet.zip"
    before, began = time.process_time(), time.perf_counter()
    if step == "export":
        sealed.export(packet)
    else:
        report = sealed.verify(packet)
        say(f"  {report.verdict}, exit {report.exit_status}")
    used, seconds = time.process_time() - before, time.perf_counter() - began
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    size = packet.stat().st_size >> 20
    say(
        f"packet {step} of {entries:,} entries ({size} MiB): {used:.2f} s of processor, {seconds:.2f} s by the clock, "
        f"{used / entries * 1e6:.1f} us an entry, {resident} MiB resident at most (maps of the ledger included)"
    )


def say(text: str) -> None:
    """Print one line."""
    print(text, flush=True)  # noqa: T201 - a report is what this program is for


if __name__ == "__main__":
    main()
