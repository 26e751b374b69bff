"""Put a rebuilt ledger in the place of the lost one, left behind for a new shard in which the collector goes on.

A crash after each step leaves:

1. the new shard's key: a key that nobody has heard of.
2. consent and sequences in the folder that was gathered: the next run throws them away.
3. quarantined bytes in their place: the next run writes the same ones again.
4. everything on disk; `ledger/` moved aside, which had no record: there is no ledger, and the next run begins again.
5. `rebuilding/ledger` moved to `ledger/`, in one rename: the next start opens the new shard, as after any disaster.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

from klyra_audit.errors import Halted, Rejected
from klyra_audit.timestamps import day_of
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.seal.disaster import Examination, KnownHead, leave_behind, lost_of, read_through
from klyra_collector.seal.shards import leaf_count, shards_of

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.rebuild.gather import Gathered
    from klyra_collector.seal.durable import Disk
    from klyra_collector.seal.identity import Identity

FOLDER: Final = "rebuilding"

_ASIDE: Final = "ledger.before-rebuild"
_KEPT: Final = ("identity.json", "cell", "witness-policy")


def refuse_present(data: DataDirectory) -> None:
    """Refuse to rebuild where something is left that only this directory has.

    Raises:
        Rejected: `ledger_exists`.
        Halted: `no_org_salt`.
    """
    if any(leaf_count(shard) or shard.last_signed.exists() or shard.consent.exists() for shard in shards_of(data)):
        raise Rejected(
            f"There is a ledger in {data.ledger}.",
            remedy="If it is damaged, see `klyra-audit ledger explain`; to rebuild in spite of it, move ledger/ away.",
            code="ledger_exists",
        )
    if not (data.keys / "org-salt").exists():
        raise Halted(
            f"{data.keys / 'org-salt'} is not there, and without it no record can be told by organization.",
            remedy="Bring keys/ back from your backup; the salt alone (32 bytes) is also in every export packet.",
            code="no_org_salt",
        )


def install(
    data: DataDirectory, disk: Disk, identity: Identity, gathered: Gathered, reason: str, now_us: int
) -> ShardDirectory:
    """Put a gathered ledger in its place, and return the shard in which it goes on; its first start opens that.

    The caller holds the lock of the old `ledger/`.

    Args:
        data: where to, as `refuse_present` has found it.
        disk: to write with.
        identity: of the collector.
        gathered: the ledger, in a folder below `data`.
        reason: the operator's, which is kept in the ledger.
        now_us: the present, microseconds since 1970.

    Raises:
        Rejected: `bad_reason`.
    """
    staged = DataDirectory(gathered.folder)
    found = _examine(staged, gathered, now_us)
    following = leave_behind(staged, disk, identity, found, reason, now_us)
    _move_quarantined(staged.quarantine, data.quarantine)
    for name in _KEPT:
        if (data.ledger / name).exists():
            shutil.copy2(data.ledger / name, staged.ledger / name)
    aside = data.root / _ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    os.sync()
    data.ledger.rename(aside)
    staged.ledger.rename(data.ledger)
    disk.sync_directory(data.root)
    shutil.rmtree(aside)
    shutil.rmtree(gathered.folder)
    return ShardDirectory(data.ledger / following.root.name)


def _examine(staged: DataDirectory, gathered: Gathered, now_us: int) -> Examination:
    """Return what is left of the newest rebuilt shard."""
    shard, origin = shards_of(staged)[-1], gathered.shards[-1].origin
    state, problem = read_through(staged, origin, leaf_count(shard), day_of(now_us))
    signed = KnownHead("klyra-audit-ledger", now_us, gathered.signed)
    return Examination(
        shard=shard,
        refusal=Halted("It was rebuilt from Elasticsearch.", remedy="Go on in a new shard.", code="rebuilt"),
        leaves=leaf_count(shard),
        readable=state.size,
        problem=problem,
        signed=signed,
        lost=lost_of(signed, origin, state.size),
        state=state,
    )


def _move_quarantined(source: Path, target: Path) -> None:
    for path in sorted(source.glob("*/*")):
        place = target / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
