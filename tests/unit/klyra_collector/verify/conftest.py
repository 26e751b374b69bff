"""Small sealed ledgers on disk, and a verification that does not wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from klyra_audit.format import policy
from klyra_collector.verify import Options, verify_target
from support.ledgers import large_ledger, small_ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klyra_collector.verify import Report
    from support.ledgers import LedgerBuilder


@pytest.fixture
def small() -> LedgerBuilder:
    """A ledger of one tile, with one of everything."""
    return small_ledger()


@pytest.fixture(scope="session")
def large() -> LedgerBuilder:
    """A ledger of three tiles; not to be changed."""
    return large_ledger()


@pytest.fixture
def verify() -> Callable[..., Report]:
    """Verify a target with the builder's key pinned, without waiting for a collector."""

    def run(target: Path, builder: LedgerBuilder | None = None, **options: object) -> Report:
        pinned = None if builder is None else policy.parse(f"log {builder.vkey}\nquorum none\n".encode())
        return verify_target(target, Options(**{"policy": pinned, "patience": 0.0} | options))

    return run
