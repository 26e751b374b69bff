"""A ledger's files written out of what Elasticsearch keeps, beside those of the ledger itself."""

from __future__ import annotations

import copy as copying
from dataclasses import replace

import pytest

from klyra_collector.verify import Options
from klyra_collector.verify.elasticsearch_address import ElasticsearchAddress
from klyra_collector.verify.elasticsearch_bodies import restore_bodies
from klyra_collector.verify.elasticsearch_client import ElasticsearchClient
from klyra_collector.verify.elasticsearch_copy import ElasticsearchCopy
from klyra_collector.verify.elasticsearch_restore import restore_records
from klyra_collector.verify.retention import MICROSECONDS_PER_DAY
from klyra_collector.verify.target import run_over
from support.baseline import FIRST_DAY, Baseline, baseline
from support.elasticsearch_copies import stored_of
from support.elasticsearch_reading import ReadingElasticsearch, reading
from support.forge import SECOND_US


@pytest.fixture(scope="module")
def forge():
    """Two shards with holds, extensions, expiries, erasures and witnesses; not to be changed."""
    return baseline()


@pytest.fixture(scope="module")
def data(forge, tmp_path_factory):
    """The same on disk; not to be changed."""
    return forge.write(tmp_path_factory.mktemp("pristine") / "data")


@pytest.fixture
def server(forge, data):
    """A cluster with it."""
    with reading(ReadingElasticsearch(stored_of(forge, data))) as server:
        yield server


@pytest.fixture
def restore(forge, data, server, tmp_path):
    """Restore everything; return the counts of the bodies and the reports on the whole."""
    options = Options(
        policy=forge.policy(),
        patience=0.0,
        now_us=forge.newest.now_us + SECOND_US,
        org_salt=(data / "keys" / "org-salt").read_bytes(),
    )

    def run():
        today = options.now_us // MICROSECONDS_PER_DAY
        client = ElasticsearchClient(ElasticsearchAddress.parse(server.url), sleep=lambda _seconds: None)
        with ElasticsearchCopy(client) as copy:
            restore_records(copy.ledger, tmp_path, policy=options.policy)
            records, _ = run_over(tmp_path, replace(options, bodies=False))
            bodies = [restore_bodies(copy, shard, today) for shard in records.shards]
        _, reports = run_over(tmp_path, options)
        _, originals = run_over(data, options)
        return bodies, reports, originals

    return run


def test_the_same_files(restore, data, tmp_path) -> None:
    """Leaves, hashes and control records to the byte; bodies in the same files, in an order that verifies."""
    bodies, reports, originals = restore()
    assert [report.counts for report in reports] == [report.counts for report in originals]
    assert not [finding for report in reports for finding in report.findings]
    assert [(each.refused, each.expired) for each in bodies] == [(0, 0), (0, 0)]
    kept = [path for shard in ("2025", "2026") for path in (data / "ledger" / shard).rglob("*") if path.is_file()]
    for path in kept:
        ours = tmp_path / path.relative_to(data)
        if path.parent.name in ("hashes", "control") or path.name == "leaves":
            assert ours.read_bytes() == path.read_bytes()
        elif path.name == "frames":
            assert ours.exists()
    assert not list(tmp_path.rglob("*.moved*"))


def test_what_was_deleted_or_erased_stays_so(restore, server, tmp_path_factory) -> None:
    """Documents that the cluster should have deleted, or taken a section from, bring nothing back."""
    earlier = Baseline(last_day=FIRST_DAY + 27).build()  # the same ledger, before anything was deleted or erased
    folder = earlier.write(tmp_path_factory.mktemp("earlier") / "data")
    older = [each for each in stored_of(earlier, folder) if "klyra" in each.source]
    kept = [each for each in server.documents if "klyra" not in each.source]
    server.documents = [*kept, *older, *(each for each in server.documents if "klyra" in each.source)]
    bodies, reports, originals = restore()
    assert sum(each.expired for each in bodies) > 0
    assert [report.counts for report in reports] == [report.counts for report in originals]


def test_documents_of_no_record(restore, server) -> None:
    """Counted, and left out: another leaf's content, a control record's place, a place behind the end."""
    entry = next(each for each in server.documents if "id" in each.source)
    for index in (0, entry.source["klyra"]["index"] + 1, 10**9):
        other = copying.deepcopy(entry)
        other.source["klyra"]["index"] = index
        server.documents.append(other)
    bodies, reports, originals = restore()
    assert sum(each.refused for each in bodies) == 3
    assert [report.counts for report in reports] == [report.counts for report in originals]


def test_the_same_entry_twice_is_one_body(restore, server) -> None:
    """The first that is as it was sealed."""
    entry = copying.deepcopy(next(each for each in server.documents if "id" in each.source))
    server.documents.append(entry)
    _, reports, originals = restore()
    assert [report.counts for report in reports] == [report.counts for report in originals]
