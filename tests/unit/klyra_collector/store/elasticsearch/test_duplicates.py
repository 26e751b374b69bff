"""Where records may have several documents, and which of those are left out of counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from klyra_collector.store.elasticsearch.duplicates import Span, documents_body, further_ones, overlaps_of, without

LOGS = ("log/2026", "log/2026-2")

spans = st.builds(
    lambda log, first, length: Span(log, first, first + length),
    st.sampled_from(LOGS),
    st.integers(0, 40),
    st.integers(0, 20),
)


def answered(found: list[Span]) -> dict:
    """Return the aggregations over indexes each of which has one span."""
    indexes = [
        {
            "key": f".ds-{number}",
            "logs": {
                "buckets": [{"key": span.log, "first": {"value": float(span.first)}, "last": {"value": span.last}}]
            },
        }
        for number, span in enumerate(found)
    ]
    return {"aggregations": {"indexes": {"buckets": indexes}}}


@given(st.lists(spans, max_size=8))
def test_exactly_what_two_indexes_cover_is_looked_at_and_once(found: list[Span]) -> None:
    """Every record within two spans of one shard is in one overlap, and no other record is."""
    for log in LOGS:
        covered = [number for span in overlaps_of(answered(found)) if span.log == log for number in _numbers(span)]
        times = [number for span in found if span.log == log for number in _numbers(span)]
        assert sorted(covered) == sorted({number for number in times if times.count(number) > 1})


def test_the_first_document_of_a_record_stays() -> None:
    """The others are excluded where they stand, and nothing else of their index is."""
    hits = [{"_index": index, "sort": [number, index]} for number, index in [(3, "a"), (4, "a"), (4, "b"), (4, "c")]]
    further = further_ones(Span("log", 3, 4), hits)
    assert further == {("b", "log"): [4], ("c", "log"): [4]}
    [first, _] = without(further)
    assert first == {
        "bool": {
            "must_not": [
                {"bool": {"filter": [{"term": {"_index": "b"}}, {"term": {"klyra.log": "log"}}, {"terms": _four()}]}}
            ]
        }
    }


def test_many_are_left_out_by_several_conditions() -> None:
    """A query may have only so many terms."""
    conditions = list(without({("a", "log"): range(120_000)}))
    terms = [condition["bool"]["must_not"][0]["bool"]["filter"][2]["terms"]["klyra.index"] for condition in conditions]
    assert [len(some) for some in terms] == [50_000, 50_000, 20_000]
    assert [number for some in terms for number in some] == list(range(120_000))


def test_what_is_asked_for_is_in_order() -> None:
    """Documents of one record follow one another, and can be told apart from page to page."""
    body = documents_body([{"term": {"id": "x"}}], Span("log", 3, 4))
    assert [next(iter(each)) for each in body["sort"]] == ["klyra.index", "_index"]
    assert {"range": {"klyra.index": {"gte": 3, "lte": 4}}} in body["query"]["bool"]["filter"]


def _numbers(span: Span) -> range:
    return range(span.first, span.last + 1)


def _four() -> dict:
    return {"klyra.index": [4]}
