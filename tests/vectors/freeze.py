"""Freeze a small ledger and store, or a packet, of the present format version: `python tests/vectors/freeze.py NAME`.

A name that begins with `packet-` makes a packet: NAME.zip, and the policy that pins its key, NAME.policy.

Run once for a new format version; what is frozen is never made again, since it must verify for ever.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from klyra_audit.format import policy as policies
from klyra_audit.timestamps import SECONDS_PER_DAY
from klyra_collector.data_directory import DataDirectory
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.stages import EmitterPosition
from klyra_collector.store.follower import Follower
from klyra_collector.store.sqlite import SqliteStore
from support import records
from support.packets import example
from support.records import BUSINESS, STARTUP, submission
from support.sealing import SetClock, open_ledger

BOOT = "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b10"
VECTORS = Path(__file__).parent


def main(name: str) -> None:
    """Write VECTORS/NAME."""
    if name.startswith("packet-"):
        freeze_packet(name)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        clock = SetClock()
        ledger = open_ledger(root, clock)
        for number in range(6):
            position = EmitterPosition("api-1", BOOT, number)
            user = {"type": "user", "id": f"usr_{number}", "name": "Zo\u00eb"}
            ledger.commit([submission(records.record(STARTUP, position=position), records.record(BUSINESS))])
            ledger.commit([submission(records.record(BUSINESS, event_type="user.added", resource=user))])
            clock.pass_seconds(1)
        ledger.commit([submission(records.bad(STARTUP, b"\x00 not an event"))])
        ledger.sign()
        ledger.commit_policy(records.Tenancy(STARTUP.organization_id, "business", "business", 90))
        ledger.commit([submission(records.record(STARTUP))])
        ledger.close()
        follow(DataDirectory(root), clock)
        (root / "ledger" / "recent.sqlite").unlink()
        shutil.copytree(root, VECTORS / name)


def freeze_packet(name: str) -> None:
    """Write a packet of two shards with everything that one can have but cosignatures and erasures."""
    with tempfile.TemporaryDirectory() as folder:
        sealed = example(Path(folder) / "data")
        policy = policies.render(sealed.policy())
        sealed.clock.pass_seconds(200 * SECONDS_PER_DAY)
        sealed.seal(records.record(STARTUP))
        sealed.export(VECTORS / f"{name}.zip")
        (VECTORS / f"{name}.policy").write_text(policy)


def follow(data: DataDirectory, clock: SetClock) -> None:
    """Bring everything into the store."""
    reader, store = LedgerReader(data.ledger), SqliteStore.open(data.store)
    follower = Follower(reader, store)
    while follower.step():
        pass
    store.close()
    reader.close()


if __name__ == "__main__":
    main(sys.argv[1])
