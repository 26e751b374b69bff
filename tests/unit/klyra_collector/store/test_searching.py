"""Any search of any entries equals a plain filter over the same list, whole or page by page."""

from __future__ import annotations

import ipaddress
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit import timestamps
from klyra_collector.store.addresses import range_of
from klyra_collector.store.follower import Follower
from klyra_collector.store.searching import Filters, Search, SortKey
from klyra_collector.store.sqlite import SqliteStore
from klyra_collector.store.summarizing import NOTHING, Bucket, Frequent, Shape, Summary, interval_for, spread
from support.entries import ACME, TODAY, TODAY_US, MemoryLedger, document, entry_of

ORIGINS = ("log/b/2026", "log/a/2026", "log/a/2026-2")
ORGANIZATIONS = (ACME, "org_other")
TYPES = ("moderation.created", "user.added", "settings.updated")
ADDRESSES = ("198.51.100.7", "198.51.100.200", "2001:db8::1", "2001:db8:1::1", "no address", None)
BLOCKS = ("198.51.100.7", "198.51.100.0/25", "0.0.0.0/0", "2001:db8::/48", "::/0")
BASE_NS = timestamps.to_nanoseconds("2026-03-10T11:00:00Z")
DAY_US = 86_400 * 1_000_000

ids = st.sampled_from(["a", "b", "c", "ünï", "d,e"])
offsets = st.integers(0, 6).map(lambda step: step * 700_000_000)


FAR = ("1677-09-21T00:12:44Z", "1969-12-31T23:59:59.999999999Z", "2262-04-11T23:47:16.854775807Z")


def moment(offset: int) -> str:
    """Return a time near most others."""
    return timestamps.from_nanoseconds(BASE_NS + offset)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """Draw an event whose values collide often with those of others, except for its id."""
    address = draw(st.sampled_from(ADDRESSES))
    return document(
        0,
        organization_id=draw(st.sampled_from(ORGANIZATIONS)),
        timestamp=draw(st.one_of(*[offsets.map(moment)] * 3, st.sampled_from(FAR))),
        event_type=draw(st.sampled_from(TYPES)),
        actor={"type": draw(st.sampled_from(["user", "system"])), "id": draw(ids), "name": None},
        resource={"type": draw(st.sampled_from(["user", "moderation"])), "id": draw(ids), "name": "x"},
        action=draw(st.sampled_from(["create", "delete"])),
        status=draw(st.sampled_from(["success", "failure"])),
        metadata={} if address is None else {"client_ip": address},
    )


def some(values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    """Draw no filter half of the time, else one to three values."""
    lists = st.lists(values, min_size=1, max_size=3, unique=True).map(lambda drawn: tuple(sorted(drawn)))
    return st.one_of(st.just(()), lists)


filters = st.builds(
    Filters,
    start_ns=st.one_of(st.none(), offsets.map(lambda offset: BASE_NS + offset)),
    end_ns=st.one_of(st.none(), offsets.map(lambda offset: BASE_NS + offset)),
    event_types=some(st.sampled_from([*TYPES, "unknown.type"])),
    actor_ids=some(ids),
    actor_types=some(st.sampled_from(["user", "system", "api_key"])),
    resource_ids=some(ids),
    resource_types=some(st.sampled_from(["user", "moderation"])),
    actions=some(st.sampled_from(["create", "delete", "read"])),
    status=some(st.sampled_from(["success", "failure"])),
    client_ip=st.one_of(st.none(), st.sampled_from(BLOCKS).map(range_of)),
)
sealings = st.tuples(events(), st.sampled_from(ORIGINS), st.integers(0, 3), st.sampled_from([1, 30]))


def matches(asked: Filters, event: dict[str, Any]) -> bool:
    """Apply filters as a reader of the documentation would."""
    moment = timestamps.to_nanoseconds(event["timestamp"])
    return (
        (asked.start_ns is None or moment >= asked.start_ns)
        and (asked.end_ns is None or moment < asked.end_ns)
        and all(
            not wanted or value in wanted
            for wanted, value in (
                (asked.event_types, event["event_type"]),
                (asked.actor_ids, event["actor"]["id"]),
                (asked.actor_types, event["actor"]["type"]),
                (asked.resource_ids, event["resource"]["id"]),
                (asked.resource_types, event["resource"]["type"]),
                (asked.actions, event["action"]),
                (asked.status, event["status"]),
            )
        )
        and (asked.client_ip is None or address_matches(asked, event["metadata"].get("client_ip")))
    )


def address_matches(asked: Filters, text: str | None) -> bool:
    """Compare addresses as 128-bit numbers, IPv4 in the mapped block."""
    assert asked.client_ip is not None
    try:
        address = ipaddress.ip_address(text or "")
    except ValueError:
        return False
    number = int(address) | (0xFFFF << 32 if address.version == 4 else 0)
    return int.from_bytes(asked.client_ip.low) <= number <= int.from_bytes(asked.client_ip.high)


@given(
    sealed=st.lists(sealings, max_size=25),
    asked=filters,
    order=st.sampled_from(["asc", "desc"]),
    page=st.integers(1, 7),
    buckets=st.integers(2, 5),
)
def test_a_search_equals_a_plain_filter(
    sealed: list[tuple[dict[str, Any], str, int, int]], asked: Filters, order: Any, page: int, buckets: int
) -> None:
    """The store's answer is that of a loop over all entries; so are an export and the pages put together."""
    ledger = MemoryLedger(*ORIGINS)
    expected: list[tuple[SortKey, dict[str, Any]]] = []
    for number, (drawn, origin, days_ago, retention_days) in enumerate(sealed):
        event = drawn | {"id": document(number)["id"]}
        record = ledger.seal(
            event, origin=origin, ingest_us=TODAY_US - days_ago * DAY_US, retention_days=retention_days
        )
        visible = record.leaf.expire_day > TODAY
        if visible and event["organization_id"] == ACME and matches(asked, event):
            key = SortKey(timestamps.to_nanoseconds(event["timestamp"]), origin, record.index)
            expected.append((key, entry_of(event)))
    expected.sort(key=lambda pair: pair[0], reverse=order == "desc")
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore.open(Path(folder) / "store.sqlite")
        follower = Follower(ledger, store, batch=4)
        while follower.step():
            pass
        search = Search(organization_id=ACME, filters=asked, today=TODAY, order=order)
        found = store.search(search, 1000)
        assert [(item.key, orjson.loads(item.entry)) for item in found] == expected
        with store.export(search) as exported:
            assert list(exported) == found
        paged = []
        snapshot = store.snapshot()
        while items := store.search(replace(search, after=paged[-1].key if paged else None, snapshot=snapshot), page):
            paged += items
        assert paged == found
        summary = store.summarize(search, Shape(buckets, top=3))
        assert summary == counted([event for _, event in expected], summary.interval_ns, buckets)
        store.close()


def counted(found: list[dict[str, Any]], interval_ns: int, buckets: int) -> Summary:
    """Count as a reader of the documentation would."""
    if not found:
        return NOTHING
    moments = [timestamps.to_nanoseconds(event["timestamp"]) for event in found]
    first, last = min(moments) // interval_ns, max(moments) // interval_ns
    assert last - first < buckets
    spans = Counter((moment // interval_ns, event["status"]) for moment, event in zip(moments, found, strict=True))
    values = {
        "event_types": [event["event_type"] for event in found],
        "actor_ids": [event["actor"]["id"] for event in found],
        "actor_types": [event["actor"]["type"] for event in found],
        "resource_ids": [event["resource"]["id"] for event in found],
        "resource_types": [event["resource"]["type"] for event in found],
        "actions": [event["action"] for event in found],
        "status": [event["status"] for event in found],
        "client_ip": [
            ip for event in found if (ip := event["metadata"].get("client_ip", "no address")) != "no address"
        ],
    }
    return Summary(
        total=len(found),
        first_ns=min(moments),
        last_ns=max(moments),
        interval_ns=interval_ns,
        buckets=tuple(
            Bucket(number * interval_ns, spans[number, "success"], spans[number, "failure"])
            for number in range(first, last + 1)
        ),
        top={name: most_frequent(listed, by_address=name == "client_ip") for name, listed in values.items()},
    )


def most_frequent(listed: list[str], *, by_address: bool) -> tuple[Frequent, ...]:
    """Return the three most frequent values; equal ones by code points, addresses as numbers."""
    order = (lambda text: range_of(text).low) if by_address else str.__str__
    found = sorted(Counter(listed).items(), key=lambda item: (-item[1], order(item[0])))
    return tuple(Frequent(*item) for item in found[:3])


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1), st.integers(2, 1000))
def test_buckets_are_round_and_not_too_many(first: int, length: int, buckets: int) -> None:
    """Whatever is summarized, the interval is the shortest of the round ones with which the buckets are enough."""
    last = min(first + length, 2**63 - 1)
    interval = interval_for(first, last, buckets)
    spans = spread({}, first, last, interval)
    assert len(spans) <= buckets
    assert spans[0].start_ns <= first < spans[0].start_ns + interval
    assert spans[-1].start_ns <= last < spans[-1].start_ns + interval
    assert all(one.start_ns % interval == 0 for one in spans)
