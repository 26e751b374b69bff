"""How well the cluster keeps what it promised: the oldest entry of each policy, and lifecycles that are stuck.

A lifecycle that stopped, or that a cluster in trouble runs late, keeps entries too long, and no request of ours fails
by it. So the entries themselves are asked how old they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.errors import Rejected
from klyra_audit.timestamps import MICROSECONDS, SECONDS_PER_DAY, day_of
from klyra_collector.store.elasticsearch.connection import Flavor, request
from klyra_collector.store.elasticsearch.names import ENTRY_STREAMS, PREFIX, QUARANTINE_STREAMS, WHOLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from elasticsearch import Elasticsearch

_POLICIES: Final = 10_000  # more than there can be: each length that is kept has one
_WHOLE: Final = f"allow_partial_search_results=false&{WHOLE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is kept by one retention policy; entries under legal hold are left out.

    Attributes:
        policy: such as `enterprise-730d`.
        documents: entries and quarantined inputs.
        oldest_days: since the oldest of them was sealed.
        overdue: documents whose last day is over, which the sweep of that day should have deleted.
    """

    policy: str
    documents: int
    oldest_days: float
    overdue: int


@dataclass(frozen=True, slots=True)
class StuckIndex:
    """An index whose lifecycle does not go on by itself.

    Attributes:
        index: its name.
        policy: its lifecycle policy.
        step: the step that failed.
        reason: the cluster's words.
    """

    index: str
    policy: str
    step: str
    reason: str


def kept(client: Elasticsearch, now_us: int) -> list[Kept]:
    """Return what is kept by each policy, by name.

    Args:
        client: of a key that may read.
        now_us: microseconds since 1970.

    Raises:
        ClusterUnreachable, ClusterRefuses: see `connection.request`.
    """
    body = {
        "size": 0,
        "query": {"bool": {"must_not": {"term": {"klyra.held": True}}}},
        "aggs": {
            "policies": {
                "terms": {"field": "klyra.policy", "size": _POLICIES, "order": {"_key": "asc"}},
                "aggs": {
                    "oldest": {"min": {"field": "klyra.ingested_at"}},
                    "overdue": {"filter": {"range": {"klyra.expire_day": {"lt": day_of(now_us)}}}},
                },
            }
        },
    }
    answer = request(client, "POST", f"/{ENTRY_STREAMS},{QUARANTINE_STREAMS}/_search?{_WHOLE}", body)
    # A cluster that has no stream yet has nothing to count.
    buckets = answer.get("aggregations", {}).get("policies", {}).get("buckets", [])
    return [_kept(bucket, now_us) for bucket in buckets]


def stuck_indexes(client: Elasticsearch, flavor: Flavor) -> list[StuckIndex] | None:
    """Return the indexes whose lifecycle is in the step ERROR; a serverless cluster has no such lifecycles.

    None where a cluster cannot explain lifecycles at all, as one without Elastic's default distribution.

    Raises:
        ClusterUnreachable, ClusterRefuses: see `connection.request`.
    """
    if flavor is Flavor.SERVERLESS:
        return []
    try:
        answer = request(client, "GET", f"/{PREFIX}*/_ilm/explain?only_errors=true")
    except Rejected:
        return None
    return [_stuck(name, told) for name, told in sorted(answer["indices"].items())]


def _kept(bucket: Mapping[str, Any], now_us: int) -> Kept:
    age_us = now_us - int(bucket["oldest"]["value"]) * 1000
    return Kept(
        policy=bucket["key"],
        documents=bucket["doc_count"],
        oldest_days=round(age_us / (SECONDS_PER_DAY * MICROSECONDS), 2),
        overdue=bucket["overdue"]["doc_count"],
    )


def _stuck(name: str, told: Mapping[str, Any]) -> StuckIndex:
    info = told.get("step_info") or {}
    reason = ": ".join(str(info[part]) for part in ("type", "reason") if part in info)
    return StuckIndex(name, str(told.get("policy", "")), str(told.get("failed_step", told.get("step", ""))), reason)
