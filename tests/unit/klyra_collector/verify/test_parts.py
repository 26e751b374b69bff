"""However the work is cut into parts, the report on any damage is the same."""

from __future__ import annotations

import random

import pytest

from klyra_collector.verify import filing, tree

SHARD = "ledger/2026"


@pytest.fixture
def data(large, tmp_path):
    """The large ledger on disk."""
    return large.write(tmp_path / "data")


def account(report) -> list[object]:
    """Return everything a report says of its only shard."""
    (shard,) = report.shards
    findings = [(one.verdict, one.first, one.last, one.file, one.offset, one.reason) for one in shard.findings]
    return [report.exit_status, dict(shard.counts), sorted(findings, key=str)]


def mangle(content: bytes, chance: random.Random) -> bytes:
    """Flip, remove, put in, blank or repeat some bytes."""
    first = chance.randrange(len(content))
    last = min(first + chance.choice((1, 50, 600, 3000)), len(content))
    part = content[first:last]
    flipped = bytes([part[0] ^ 4]) + part[1:]
    between = chance.choice((flipped, b"", chance.randbytes(60) + part, bytes(len(part)), 2 * part))
    return content[:first] + between + content[last:]


@pytest.mark.parametrize("seed", range(12))
def test_the_size_of_the_parts_changes_nothing(data, large, verify, monkeypatch, seed) -> None:
    """Whatever was done to a file, on either side of where a part ends."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, and no secret
    paths = [*sorted((data / SHARD / "bodies").glob("*/frames")), data / SHARD / "leaves"]
    path = chance.choice(paths)
    path.write_bytes(mangle(path.read_bytes(), chance))
    whole = account(verify(data, large, limit_findings=10_000))
    monkeypatch.setattr(filing, "BYTES_PER_TASK", chance.choice((300, 700, 1500, 9000)))
    monkeypatch.setattr(tree, "TILES_PER_TASK", 1)
    assert account(verify(data, large, limit_findings=10_000)) == whole
    assert whole[0] == 1
