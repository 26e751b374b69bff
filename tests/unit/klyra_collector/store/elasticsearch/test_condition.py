"""Oldest entries and stuck lifecycles, as a cluster tells them, and what `klyra-audit status` makes of it."""

from __future__ import annotations

import http.server
import json
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from klyra_collector.cli.status_store import store_is_well, store_lines, store_report
from klyra_collector.config import Settings
from klyra_collector.data_directory import DataDirectory
from klyra_collector.dead_letters import DeadLetter, DeadLetters
from klyra_collector.seal.durable import Disk
from klyra_collector.store.elasticsearch.condition import Kept, StuckIndex, kept, stuck_indexes
from klyra_collector.store.elasticsearch.connection import ClusterRefuses, ClusterUnreachable, Flavor, connect, parse
from klyra_collector.store.elasticsearch.cursor import StoreCursor, save
from support.sealing import SetClock, open_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_MS = 86_400_000
NOW_MS = 20_000 * DAY_MS + DAY_MS // 2
VERSION = {"version": {"number": "9.1.0", "build_flavor": "default"}}
INDEX = ".ds-klyra-audit-startup-2026.06.15-000003"
STUCK = {
    "index": INDEX,
    "managed": True,
    "policy": "klyra-audit-startup",
    "phase": "hot",
    "action": "rollover",
    "step": "ERROR",
    "failed_step": "check-rollover-ready",
    "step_info": {"type": "illegal_argument_exception", "reason": "it is not the write index"},
}


def bucket(policy: str, *, age_days: float, overdue: int) -> dict[str, Any]:
    """Return what an aggregation says of one policy."""
    return {
        "key": policy,
        "doc_count": 12,
        "oldest": {"value": float(NOW_MS - age_days * DAY_MS)},
        "overdue": {"doc_count": overdue},
    }


def answers(*buckets: dict[str, Any], stuck: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what a cluster answers, by the last part of the path."""
    return {
        "": VERSION,
        "_search": {"aggregations": {"policies": {"buckets": list(buckets)}}},
        "explain": {"indices": {INDEX: stuck} if stuck else {}},
    }


@contextmanager
def cluster(known: dict[str, Any], asked: list[tuple[str, Any]] | None = None, status: int = 200) -> Iterator[str]:
    """Yield the URL of a server that answers by the last part of the path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if asked is not None:
                asked.append((self.path, body))
            content = json.dumps(known[self.path.partition("?")[0].rpartition("/")[2]]).encode()
            self.send_response(status)
            self.send_header("X-Elastic-Product", "Elasticsearch")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - as the base class calls it

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"elasticsearch+http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestKept:
    """What the search for the oldest entries gives."""

    def test_each_policy_is_told_with_its_oldest_entry(self) -> None:
        """By the time of sealing, to the hundredth of a day."""
        known = answers(bucket("business", age_days=89.5, overdue=0), bucket("startup", age_days=33.25, overdue=4))
        with cluster(known) as url, closing(connect(parse(url))) as client:
            assert kept(client, NOW_MS * 1000) == [
                Kept(policy="business", documents=12, oldest_days=89.5, overdue=0),
                Kept(policy="startup", documents=12, oldest_days=33.25, overdue=4),
            ]

    def test_a_cluster_without_streams_keeps_nothing(self) -> None:
        """There the answer has no aggregations."""
        with cluster({"_search": {"hits": {"hits": []}}}) as url, closing(connect(parse(url))) as client:
            assert kept(client, NOW_MS * 1000) == []

    def test_a_cluster_that_is_in_trouble_says_so(self) -> None:
        """Missing shards are no answer."""
        known = {"_search": {"error": {"type": "search_phase_execution_exception", "reason": "Partial shards failure"}}}
        with cluster(known, status=503) as url, closing(connect(parse(url))) as client:
            with pytest.raises(ClusterUnreachable, match="Partial shards") as error:
                kept(client, NOW_MS * 1000)
            assert error.value.code == "cluster_unreachable"


class TestStuckIndexes:
    """What the explanation of lifecycles gives."""

    def test_the_failed_step_and_its_reason_are_told(self) -> None:
        """Only those in error are asked for, of all our names."""
        asked: list[tuple[str, Any]] = []
        with cluster(answers(stuck=STUCK), asked) as url, closing(connect(parse(url))) as client:
            assert stuck_indexes(client, Flavor.DEFAULT) == [
                StuckIndex(
                    INDEX,
                    "klyra-audit-startup",
                    "check-rollover-ready",
                    "illegal_argument_exception: it is not the write index",
                )
            ]
        assert asked[-1][0] == "/klyra-audit-*/_ilm/explain?only_errors=true"

    def test_a_serverless_cluster_is_not_asked(self) -> None:
        """It has no such address."""
        asked: list[tuple[str, Any]] = []
        with cluster({}, asked) as url, closing(connect(parse(url))) as client:
            assert stuck_indexes(client, Flavor.SERVERLESS) == []
        assert asked == []

    @pytest.mark.parametrize("status", [400, 404, 405])
    def test_a_cluster_that_cannot_explain_lifecycles(self, status) -> None:
        """It is not known whether one is stuck: that is no list of none, and nobody's alarm."""
        known = {"explain": {"error": {"type": "illegal_argument_exception", "reason": "no handler found"}}}
        with cluster(known, status=status) as url, closing(connect(parse(url))) as client:
            assert stuck_indexes(client, Flavor.DEFAULT) is None
        report = {"trouble": None, "policies": [], "stuck": None, "behind": 0, "dead_letters": 0}
        assert "does not explain lifecycles" in store_lines(report)[-1]
        assert store_is_well(report)

    def test_a_key_that_may_not_ask(self) -> None:
        """That is trouble: somebody gave the wrong key."""
        known = {"explain": {"error": {"type": "security_exception", "reason": "unauthorized"}}}
        with cluster(known, status=403) as url, closing(connect(parse(url))) as client:
            with pytest.raises(ClusterRefuses) as refused:
                stuck_indexes(client, Flavor.DEFAULT)
            assert refused.value.code == "cluster_refuses"


class TestStatus:
    """What the command shows."""

    def test_a_cluster_in_order(self, tmp_path, monkeypatch) -> None:
        """One line for each policy, and nobody has to do anything."""
        with cluster(answers(bucket("startup", age_days=29.4, overdue=0))) as url:
            monkeypatch.setenv("KLYRA_STORE__URL", url)
            report = store_report(Settings.load(data=tmp_path), NOW_MS * 1000)
        assert store_lines(report) == [
            "  store      Elasticsearch is 0 records behind the ledger",
            "  store      startup: 12 kept, the oldest for 29.4 days",
        ]
        assert store_is_well(report)

    def test_what_is_kept_too_long_and_what_is_stuck(self, tmp_path, monkeypatch) -> None:
        """Both are alarms that say what to do."""
        with cluster(answers(bucket("startup", age_days=33.25, overdue=4), stuck=STUCK)) as url:
            monkeypatch.setenv("KLYRA_STORE__URL", url)
            report = store_report(Settings.load(data=tmp_path), NOW_MS * 1000)
        assert [line.strip() for line in store_lines(report)[2:]] == [
            "ALARM      startup: 4 should have been deleted; is the sweep running?",
            (
                f"ALARM      {INDEX}: lifecycle step check-rollover-ready failed: illegal_argument_exception: "
                f"it is not the write index; mend it, then POST /{INDEX}/_ilm/retry"
            ),
        ]
        assert not store_is_well(report)

    def test_a_cluster_that_does_not_answer(self, tmp_path, monkeypatch) -> None:
        """That is an alarm itself; the rest of the report is shown all the same."""
        with cluster(answers()) as url:
            monkeypatch.setenv("KLYRA_STORE__URL", url)
        report = store_report(Settings.load(data=tmp_path), NOW_MS * 1000)
        _, line = store_lines(report)
        assert (line.startswith("  ALARM      store: The cluster does not answer"), store_is_well(report)) == (
            True,
            False,
        )

    def test_what_was_refused_and_what_is_still_to_come(self, tmp_path, monkeypatch) -> None:
        """Entries that only the ledger has are an alarm; those that will follow are counted."""
        data = DataDirectory(tmp_path)
        with closing(open_ledger(tmp_path, SetClock())) as ledger, closing(Disk()) as disk:
            origin, size = ledger.origin, ledger.size
            data.cursors.mkdir()
            letter = DeadLetter(
                origin=origin, index=1, entry_id="log_1", organization_id="org_acme", status="400", refused_us=1
            )
            DeadLetters(data.cursors, "elasticsearch", disk).add([letter])
            with cluster(answers()) as url:
                monkeypatch.setenv("KLYRA_STORE__URL", url)
                report = store_report(Settings.load(data=tmp_path), NOW_MS * 1000)
                save(data.cursors, StoreCursor({origin: size}, {}), disk)
                caught_up = store_report(Settings.load(data=tmp_path), NOW_MS * 1000)
        lines = store_lines(report)
        assert size > 0
        assert lines[0] == f"  store      Elasticsearch is {size} records behind the ledger"
        assert store_lines(caught_up)[0] == "  store      Elasticsearch is 0 records behind the ledger"
        assert "ALARM      store: 1 entries were refused for good: cursors/elasticsearch.dead.ndjson" in lines[1]
        assert not store_is_well(report)

    def test_another_store(self, tmp_path) -> None:
        """It has nothing to say of a cluster."""
        report = store_report(Settings.load(data=tmp_path), NOW_MS * 1000)
        assert (report, store_lines(report), store_is_well(report)) == (None, [], True)
