"""Metrics of the collector: quarantined records by the key that brought them."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from klyra_audit.catalog import Catalog
from klyra_collector.data_directory import DataDirectory
from klyra_collector.observe import CollectorMetrics
from klyra_collector.pipeline import Accepted
from klyra_collector.registry import Registry
from klyra_collector.stages import Outcome, Sealed, Status
from support.records import bad, record

NAME = "klyra_quarantine_records_total"
PLACE = Sealed("l/c/2026", 1, bytes(112))


@pytest.fixture
def metrics(tmp_path):
    """Metrics over a real registry."""
    with contextlib.closing(Registry.open(DataDirectory(tmp_path).registry_url, Catalog.load())) as registry:
        yield CollectorMetrics(registry)


def counted(metrics: CollectorMetrics) -> dict[str, float]:
    """Return source → count."""
    lines = metrics.render()[0].decode().splitlines()
    series = [line.removeprefix(NAME).rpartition(" ") for line in lines if line.startswith(f"{NAME}{{")]
    return {labels.split('"')[1]: float(value) for labels, _, value in series}


def accept(metrics: CollectorMetrics, status: Status, *key_ids: str | None) -> None:
    """Have metrics told of records, one for each key."""
    made = bad() if status is Status.QUARANTINED else record()
    records = tuple(replace(made, key_id=key_id) for key_id in key_ids)
    metrics.accepted(Accepted(records, tuple(Outcome(status, PLACE) for _ in records), ()))


def test_quarantined_records_are_counted_by_key(metrics) -> None:
    """What is sealed, and a repeat of what is in quarantine, does not count."""
    accept(metrics, Status.QUARANTINED, "key_a", "key_b", "key_a", None)
    accept(metrics, Status.SEALED, "key_a")
    accept(metrics, Status.DUPLICATE, "key_a")
    assert counted(metrics) == {"key_a": 2, "key_b": 1, "none": 1}


def test_a_flood_of_keys_makes_no_flood_of_series(metrics) -> None:
    """Beyond so many keys the rest is counted together; those known go on."""
    accept(metrics, Status.QUARANTINED, *(f"key_{number}" for number in range(250)))
    accept(metrics, Status.QUARANTINED, "key_0", "key_249")
    found = counted(metrics)
    assert (len(found), found["other"], found["key_0"]) == (201, 51, 2)
