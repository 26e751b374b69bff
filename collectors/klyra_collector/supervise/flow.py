"""The pipeline and what replays through it, out of the configuration: the same for server and command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klyra_audit.mapping.table import MappingTable
from klyra_collector.pipeline import Pipeline
from klyra_collector.receive.forward.tags import TagTypes
from klyra_collector.receive.replay import Replays
from klyra_collector.receive.signing_keys import load_keys
from klyra_collector.receive.signing_processor import SignatureCheck
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.supervise.stored import StoredSeal

if TYPE_CHECKING:
    from klyra_audit.catalog import Catalog
    from klyra_audit.validation import Validator
    from klyra_collector.config import Settings
    from klyra_collector.receive.senders import Senders
    from klyra_collector.registry import Registry
    from klyra_collector.seal.ledger import Ledger
    from klyra_collector.seal.sealer import Sealer
    from klyra_collector.stages import Seal


def pipeline_of(
    settings: Settings, *, senders: Senders, catalog: Catalog, validator: Validator, sealer: Sealer
) -> Pipeline:
    """Return the pipeline as configured."""
    return Pipeline(
        senders=senders,
        mapping=MappingTable(catalog, settings.mapping.additions()),
        validator=validator,
        seal=_acknowledging(settings, sealer),
        wall_us=SystemClock().wall_us,
        signatures=SignatureCheck(load_keys(settings.signing_processor)),
    )


def _acknowledging(settings: Settings, sealer: Sealer) -> Seal:
    """Return what answers senders: the seal, or the store behind it."""
    writing = settings.store.elasticsearch
    if writing.ack == "sealed":
        return sealer
    return StoredSeal(sealer, settings.data_directory.cursors, seconds=writing.ack_seconds)


def replays_of(
    settings: Settings, *, pipeline: Pipeline, registry: Registry, ledger: Ledger, sealer: Sealer
) -> Replays:
    """Return what replays quarantined input of a ledger that is open for writing."""
    return Replays(
        pipeline=pipeline,
        seal=sealer,
        registry=registry,
        reader=LedgerReader(settings.data_directory.ledger),
        org_salt=ledger.identity.org_salt,
        types=TagTypes(settings.forward.event_types),
    )
