"""Whatever is done to a ledger or a store at random is never OK; whatever it may live through always is."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from klyra_collector.verify import CannotVerify, Options, Report, Verdict, verify_target
from klyra_collector.verify.copies_store import verify_store
from support.chance import ANYWHERE, STRUCTURED, Life, tamper_with_store, vouched_files
from support.forge import SECOND_US
from support.workshop import Workshop

GOOD = {Verdict.OK, Verdict.EXPIRED_OK, Verdict.REDACTED_OK}


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The baseline, made once."""
    return Workshop(tmp_path_factory.mktemp("workshop"))


def contents(root: Path) -> dict[str, bytes]:
    """Return every file that the ledger vouches for."""
    return {str(path.relative_to(root)): path.read_bytes() for path in vouched_files(root)}


def findings(report: Report) -> list[str]:
    """Return what was said, for a failing test."""
    return [f"{finding.verdict} {finding.reason}" for shard in report.shards for finding in shard.findings]


def tamper(seed: int, workshop: Workshop, folder: Path) -> None:
    """Make up to five changes to a copy of the baseline, and judge it."""
    chance = random.Random(seed)  # noqa: S311 - the same on every run
    root = Path(shutil.copytree(workshop.data, folder / "data"))
    before = contents(root)
    for _ in range(chance.randint(1, 5)):
        change = chance.choice(ANYWHERE + STRUCTURED)
        try:
            change(chance, root)
        except (ValueError, IndexError, FileNotFoundError, ArithmeticError):
            continue  # an earlier change left nothing to work on
        except Exception as error:  # noqa: BLE001 - frames that an earlier change damaged cannot be split any more
            assert "frame" in str(error)
    try:
        status = verify_target(root, workshop.options()).exit_status
    except CannotVerify:
        status = 2
    assert (status == 0) == (contents(root) == before)


@pytest.mark.parametrize("seed", range(60))
def test_no_tampering_goes_unnoticed(seed, workshop, tmp_path) -> None:
    """One to five random changes to the ledger's files: exit 1 or 2, never 0, and nothing is raised."""
    tamper(seed, workshop, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("hundred", range(30))
def test_no_tampering_goes_unnoticed_at_length(hundred, workshop, tmp_path) -> None:
    """The same with thousands of seeds."""
    for seed in range(1000 + hundred * 100, 1100 + hundred * 100):
        tamper(seed, workshop, tmp_path / str(seed))
        shutil.rmtree(tmp_path / str(seed))


def tamper_store(seed: int, workshop: Workshop, folder: Path) -> None:
    """Make up to five changes to a copy of the store, and judge it."""
    chance = random.Random(seed)  # noqa: S311 - the same on every run
    folder.mkdir(exist_ok=True)
    store = Path(shutil.copy(workshop.data / "store.sqlite", folder / "store.sqlite"))
    for _ in range(chance.randint(1, 5)):
        tamper_with_store(chance, store)
    report = verify_store(store, workshop.data, workshop.options())
    assert report.exit_status == 1, findings(report)


@pytest.mark.parametrize("seed", range(20))
def test_no_change_of_the_store_goes_unnoticed(seed, workshop, tmp_path) -> None:
    """One to five random changes of its rows: exit 1."""
    tamper_store(seed, workshop, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("hundred", range(10))
def test_no_change_of_the_store_goes_unnoticed_at_length(hundred, workshop, tmp_path) -> None:
    """The same with a thousand seeds."""
    for seed in range(1000 + hundred * 100, 1100 + hundred * 100):
        tamper_store(seed, workshop, tmp_path)


def live(seed: int, folder: Path) -> None:
    """Let a ledger live at random, and judge it."""
    forge = Life(random.Random(seed)).live(25)  # noqa: S311 - the same on every run
    root = forge.write(folder / "data")
    now_us = forge.newest.now_us + SECOND_US
    report = verify_target(root, Options(policy=forge.policy(), patience=0.0, now_us=now_us))
    found = {verdict for shard in report.shards for verdict, count in shard.counts.items() if count}
    assert found <= GOOD, findings(report)
    assert report.exit_status == 0


@pytest.mark.parametrize("seed", range(25))
def test_erasure_and_expiry_in_any_order_are_ok(seed, tmp_path) -> None:
    """Sealing, erasing, holding, releasing, extending and expiring in any order leaves an intact ledger."""
    live(seed, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("hundred", range(20))
def test_erasure_and_expiry_in_any_order_are_ok_at_length(hundred, tmp_path) -> None:
    """The same with thousands of seeds."""
    for seed in range(1000 + hundred * 100, 1100 + hundred * 100):
        live(seed, tmp_path / str(seed))
        shutil.rmtree(tmp_path / str(seed))
