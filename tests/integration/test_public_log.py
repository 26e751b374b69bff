"""The published log, judged by programs that share no code with ours: one on golang.org/x/mod, and Tessera's fsck."""

from __future__ import annotations

import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from klyra_collector.publish.policy import PolicyPublisher
from klyra_collector.publish.published import PublishedLedger
from klyra_collector.publish.tiles import export_tiles
from klyra_collector.query.services import PublicLog
from klyra_collector.seal.reader import LedgerReader
from support.api import running_api
from support.ledgers import SHARD, put, signing_key
from support.peers import go_program
from support.published import chained, write_leaves
from support.records import record, submission
from support.sealing import SetClock, open_ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klyra_collector.publish.published import PublishedShard
    from support.api import Api

JUDGES = ("go_verifier", "tessera_fsck")
DEADLINE_SECONDS = 60
MANY = 70_123  # three levels of tiles, the right edge of each partial


def quiet(done: int, total: int) -> None:
    """Show no progress."""


@pytest.fixture(params=JUDGES)
def judge(request: pytest.FixtureRequest, require_peer: Callable[[str, object], None]) -> Callable[..., int]:
    """One of the two programs: takes a directory or URL and options, returns its exit status."""
    program = go_program(request.param)
    require_peer(request.param, program)

    def run(source: Path | str, vkey: str, *options: str) -> int:
        command = [str(program), "-vkey", vkey, *options, str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS)
        assert done.returncode == 0 or "FAIL" in done.stderr, done.stderr
        return done.returncode

    run.program = request.param
    return run


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose ledger was sealed by the collector's own writer, and finished."""
    root = tmp_path_factory.mktemp("sealed")
    clock = SetClock()
    ledger = open_ledger(root, clock)
    for _ in range(6):
        ledger.commit([submission(*(record() for _ in range(100)))])
        clock.pass_seconds(1)
        ledger.sign()
    ledger.close()
    return root


@pytest.fixture(scope="module")
def shard(sealed: Path) -> PublishedShard:
    """Its shard."""
    return PublishedLedger(sealed / "ledger").current()


@pytest.fixture(scope="module")
def vkey(sealed: Path) -> str:
    """The key line of the published policy."""
    return str(PolicyPublisher(PublishedLedger(sealed / "ledger")).policy().logs[0].key)


@pytest.fixture
def tree(shard: PublishedShard, tmp_path: Path) -> Path:
    """The shard, exported."""
    export_tiles(shard, tmp_path / "tree", quiet)
    return tmp_path / "tree"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> PublishedShard:
    """A shard of many leaves."""
    return write_leaves(tmp_path_factory.mktemp("many"), MANY, chained())


def test_an_exported_log_is_accepted(judge: Callable[..., int], tree: Path, vkey: str) -> None:
    """Signature, every tile, every entry, inclusion and consistency."""
    assert judge(tree, vkey) == 0


def test_an_exported_log_of_many_leaves_is_accepted(
    judge: Callable[..., int], many: PublishedShard, tmp_path: Path
) -> None:
    """Over 70,000 leaves: tiles of three levels."""
    export_tiles(many, tmp_path, quiet)
    assert judge(tmp_path, signing_key().vkey) == 0
    for name in ("tile/2/000.p/1", "tile/1/001.p/17", "tile/entries/272", "tile/0/273.p/235"):
        spoil(tmp_path / name)
        assert judge(tmp_path, signing_key().vkey) == 1, name
        spoil(tmp_path / name)


def test_an_older_export_brought_up_to_date_is_accepted(
    judge: Callable[..., int], tmp_path: Path, vkey: str, sealed: Path
) -> None:
    """The partial tiles of the older state stay and do no harm."""
    clock, root = SetClock(), tmp_path / "data"
    ledger = open_ledger(root, clock)
    published = PublishedLedger(root / "ledger")
    for _ in range(3):
        ledger.commit([submission(*(record() for _ in range(150)))])
        ledger.sign()
        export_tiles(published.current(), tmp_path / "tree", quiet)
        assert judge(tmp_path / "tree", str(PolicyPublisher(published).policy().logs[0].key)) == 0
    ledger.close()


@pytest.mark.parametrize(
    "name",
    [
        *("checkpoint", "tile/0/000", "tile/0/002.p/*", "tile/1/000.p/2"),
        *("tile/entries/000", "tile/entries/002.p/*"),
    ],
)
def test_a_corrupted_file_is_refused(judge: Callable[..., int], tree: Path, vkey: str, name: str) -> None:
    """One bit in a checkpoint, a tile or a bundle; a file that is cut short; a file that is gone."""
    (path,) = tree.glob(name)
    spoil(path)
    assert judge(tree, vkey) == 1
    spoil(path)
    content = path.read_bytes()
    path.write_bytes(content[:-32])
    assert judge(tree, vkey) == 1
    path.unlink()
    assert judge(tree, vkey) == 1
    path.write_bytes(content)
    assert judge(tree, vkey) == 0


def test_another_key_is_refused(judge: Callable[..., int], tree: Path, vkey: str) -> None:
    """A log is whose key signed it."""
    assert judge(tree, signing_key(b"\x55" * 32, vkey.partition("+")[0]).vkey) == 1


def test_a_proof_file_is_accepted(
    judge: Callable[..., int], shard: PublishedShard, tree: Path, vkey: str, tmp_path: Path
) -> None:
    """What `klyra-audit proof --tlog-proof` prints verifies elsewhere, and for no other entry."""
    if judge.program == "tessera_fsck":
        return  # it takes no proof files
    for index in (0, 255, 256, shard.head().size - 1):
        encoded = shard.proof(index).encode()
        put(tmp_path / "proof", encoded)
        assert judge(tree, vkey, "-proof", str(tmp_path / "proof")) == 0
        put(tmp_path / "proof", encoded.replace(f"index {index}\n".encode(), f"index {index ^ 1}\n".encode()))
        assert judge(tree, vkey, "-proof", str(tmp_path / "proof")) == 1


@pytest.fixture
def api(sealed: Path, tmp_path: Path) -> Iterator[Api]:
    """The API beside the sealed ledger."""
    published = PublishedLedger(sealed / "ledger")
    log = PublicLog(ledger=published, policy=PolicyPublisher(published))
    with (
        closing(LedgerReader(sealed / "ledger")) as reader,
        running_api(tmp_path, ledger=reader, public_log=log) as running,
    ):
        yield running


def test_a_served_log_is_accepted(judge: Callable[..., int], api: Api, shard: PublishedShard, vkey: str) -> None:
    """Over HTTP, with an operator's key for the entries; without it they cannot be had."""
    key = api.key("verify", organization_id=None)
    collector_id = vkey.split("/")[1]
    for address in ("/log", f"/log/{collector_id}/{shard.name}"):
        assert judge(api.url + address, vkey, "-key", key) == 0
        assert judge(api.url + address, vkey) == 1


@pytest.mark.parametrize("name", ["hashes/0", "hashes/1", "leaves", "checkpoint"])
def test_a_served_log_whose_files_are_corrupted_is_refused(
    judge: Callable[..., int], tmp_path: Path, name: str
) -> None:
    """The server hides nothing: what lies on its disk is what a reader checks."""
    write_leaves(tmp_path, 600, chained())
    spoil(tmp_path / "ledger" / SHARD / name)
    published = PublishedLedger(tmp_path / "ledger")
    log = PublicLog(ledger=published, policy=PolicyPublisher(published), public_entries=True)
    with running_api(tmp_path, public_log=log) as api:
        assert judge(f"{api.url}/log", signing_key().vkey) == 1


def spoil(path: Path) -> None:
    """Change one bit in the middle of a file; a second time, change it back."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
