"""What replays quarantined input, over a real ledger, registry and pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klyra_audit.catalog import Catalog
from klyra_audit.mapping.table import Additions, MappingTable
from klyra_audit.validation import Validator
from klyra_collector.data_directory import DataDirectory
from klyra_collector.pipeline import Pipeline
from klyra_collector.receive.forward.tags import TagTypes
from klyra_collector.receive.replay import Replays
from klyra_collector.receive.senders import Senders
from klyra_collector.seal.reader import LedgerReader

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.registry import Registry
    from klyra_collector.seal.clock import Clock
    from klyra_collector.seal.ledger import Ledger
    from klyra_collector.stages import Seal


def pipeline(
    registry: Registry, seal: Seal, clock: Clock, catalog: Catalog | None = None, additions: Additions | None = None
) -> Pipeline:
    """Return a pipeline with the built-in catalog and mapping, or others."""
    catalog = catalog or Catalog.load()
    return Pipeline(
        senders=Senders(registry),
        mapping=MappingTable(catalog, additions or Additions()),
        validator=Validator(catalog),
        seal=seal,
        wall_us=clock.wall_us,
    )


def replays(
    root: Path, registry: Registry, ledger: Ledger, seal: Seal, clock: Clock, through: Pipeline | None = None
) -> Replays:
    """Return what replays the quarantined input of a ledger."""
    return Replays(
        pipeline=through or pipeline(registry, seal, clock),
        seal=seal,
        registry=registry,
        reader=LedgerReader(DataDirectory(root).ledger),
        org_salt=ledger.identity.org_salt,
        types=TagTypes({"app.*": "user.added"}),
    )
