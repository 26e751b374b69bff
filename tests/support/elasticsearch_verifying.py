"""What verification says of entries in Elasticsearch, and what somebody can do to them."""

from __future__ import annotations

from klyra_collector.verify import Verdict

V = Verdict
GOOD = {V.OK, V.EXPIRED_OK, V.REDACTED_OK}


def bad(report) -> dict[Verdict, int]:
    """Return what is wrong in all shards."""
    counts: dict[Verdict, int] = {}
    for shard in report.shards:
        for verdict, count in shard.counts.items():
            if count and verdict not in GOOD:
                counts[verdict] = counts.get(verdict, 0) + count
    return counts


def put_back(shard) -> None:
    """Leave a shard with its first signed head, and nothing that was sealed after it."""
    first = min(shard.glob("checkpoints/*"), key=lambda path: int(path.read_text().split("\n")[1]))
    size = int(first.read_text().split("\n")[1])
    for path in (shard / "checkpoint", shard / "state" / "last-signed"):
        path.write_bytes(first.read_bytes())
    for path in shard.glob("checkpoints/*"):
        if int(path.read_text().split("\n")[1]) > size:
            path.unlink()
    with (shard / "leaves").open("r+b") as leaves:
        leaves.truncate(size * 112)
    (shard / "state" / "committed").write_bytes(size.to_bytes(8))


def entries_of(server, log):
    """Return the entry documents of a shard that stand in a stream for entries, by index."""
    found = [
        each for each in server.documents if each.source.get("klyra", {}).get("log") == log and "id" in each.source
    ]
    return sorted(found, key=lambda each: each.source["klyra"]["index"])
