"""Ledgers to publish: data directories written by the format functions, small ones and ones of many tiles."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from klyra_audit.format import checkpoint, merkle
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.merkle import Frontier
from klyra_audit.format.policy import LogLine, Policy, render
from klyra_collector.publish.policy import PolicyPublisher
from klyra_collector.publish.published import PublishedLedger, PublishedShard
from klyra_collector.query.services import PublicLog
from klyra_collector.seal.reader import LedgerReader
from support.api import Api, running_api
from support.ledgers import ACME, DAY_US, UMBRELLA, LedgerBuilder, put, signing_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

IDENTITY = b'{"ledger_name": "klyra-audit.test", "collector_id": "collector-1"}'


def write_published(builder: LedgerBuilder, root: Path, *, signed: int | None = None) -> PublishedLedger:
    """Write a builder's data directory, with the names that a collector keeps; return what of it is published."""
    builder.write(root, signed=signed)
    put(root / "ledger" / "identity.json", IDENTITY)
    return PublishedLedger(root / "ledger")


@contextmanager
def publishing_api(builder: LedgerBuilder, folder: Path, *, signed: int | None = None, **how: Any) -> Iterator[Api]:
    """Run the API beside a builder's ledger, its store up to date; `how` is more of `PublicLog`."""
    published = write_published(builder, folder, signed=signed)
    log = PublicLog(**{"ledger": published, "policy": PolicyPublisher(published), "patience_seconds": 0.3} | how)
    reader = LedgerReader(folder / "ledger")
    with closing(reader), running_api(folder, ledger=reader, public_log=log) as api:
        api.seal()
        yield api


def write_leaves(root: Path, count: int, leaf_of: Callable[[int], bytes]) -> PublishedShard:
    """Write a shard of bare leaves, quickly and in bounded memory: no bodies, no control documents."""
    origin = LedgerBuilder().origin
    shard = root / "ledger" / origin.rpartition("/")[2]
    (shard / "hashes").mkdir(parents=True)
    frontier = Frontier()
    with (shard / "leaves").open("wb") as leaves:
        for first in range(0, count, 65_536):
            block = [leaf_of(index) for index in range(first, min(first + 65_536, count))]
            leaves.write(b"".join(block))
            for leaf in block:
                frontier.append(merkle.leaf_hash(leaf))
            for level, hashes in frontier.take_tile_hashes().items():
                with (shard / "hashes" / str(level)).open("ab") as file:
                    file.write(hashes)
    head = checkpoint.sign(Checkpoint(origin, count, frontier.root()), signing_key())
    put(shard / "checkpoint", head)
    put(root / "ledger" / "identity.json", IDENTITY)
    return PublishedLedger(root / "ledger").current()


def chained(organizations: int = 3) -> Callable[[int], bytes]:
    """Return a maker of valid leaves in index order, chained for so many organizations."""
    builder = LedgerBuilder()
    names = [ACME, UMBRELLA, "org_initech", "org_hooli"][:organizations]

    def leaf_of(index: int) -> bytes:
        expire_day = builder.now_us // DAY_US + 31
        builder.leaf(0, names[index % organizations], index.to_bytes(32), expire_day=expire_day)
        return builder.leaves.pop()

    return leaf_of


def policy_text() -> bytes:
    """Return the policy file that pins the test ledger's key."""
    return render(Policy((LogLine(signing_key().verifying_key),))).encode()
