"""The table of what answers of the bulk API mean."""

from __future__ import annotations

from typing import Any

import pytest

from klyra_collector.store.elasticsearch.results import (
    ItemResult,
    Result,
    blames_mapping,
    of_deleted,
    of_item,
    of_request,
)


def answer(status: int, kind: str = "", **members: Any) -> dict[str, Any]:
    """Return the answer for one document."""
    error = {"error": {"type": kind, "reason": "because"}} if kind else {}
    return {"create": {"_index": ".ds-x-000001", "_id": "a", "status": status, **error, **members}}


@pytest.mark.parametrize(
    ("status", "kind", "members", "result"),
    [
        (201, "", {}, Result.STORED),
        (201, "", {"failure_store": "not_applicable_or_unknown"}, Result.STORED),
        (201, "", {"failure_store": "used"}, Result.REFUSED),
        (409, "version_conflict_engine_exception", {}, Result.EXISTS),
        (409, "some_other_exception", {}, Result.RETRY),
        (429, "es_rejected_execution_exception", {}, Result.RETRY),
        (429, "circuit_breaking_exception", {}, Result.RETRY),
        (429, "cluster_block_exception", {}, Result.RETRY),
        (403, "cluster_block_exception", {}, Result.RETRY),
        (408, "", {}, Result.RETRY),
        (503, "unavailable_shards_exception", {}, Result.RETRY),
        (500, "failure", {}, Result.RETRY),
        (400, "document_parsing_exception", {}, Result.REFUSED),
        (400, "mapper_parsing_exception", {}, Result.REFUSED),
        (400, "document_parsing_exception", {"failure_store": "failed"}, Result.REFUSED),
        (400, "strict_dynamic_mapping_exception", {}, Result.REFUSED),
        (400, "index_closed_exception", {}, Result.PAUSE),
        (401, "security_exception", {}, Result.PAUSE),
        (403, "security_exception", {}, Result.PAUSE),
        (404, "index_not_found_exception", {}, Result.PAUSE),
        (302, "", {}, Result.PAUSE),
    ],
)
def test_document(status: int, kind: str, members: dict[str, Any], result: Result) -> None:
    """Every row of the table for one document."""
    assert of_item(answer(status, kind, **members)).result is result


@pytest.mark.parametrize(
    ("status", "kind", "result"),
    [
        (0, "", Result.RETRY),
        (408, "", Result.RETRY),
        (429, "", Result.RETRY),
        (500, "", Result.RETRY),
        (503, "", Result.RETRY),
        (403, "cluster_block_exception", Result.RETRY),
        (413, "", Result.SPLIT),
        (401, "security_exception", Result.PAUSE),
        (403, "security_exception", Result.PAUSE),
        (404, "index_not_found_exception", Result.PAUSE),
        (400, "media_type_header_exception", Result.HALT),
        (405, "", Result.HALT),
    ],
)
def test_request(status: int, kind: str, result: Result) -> None:
    """Every row of the table for a whole request."""
    assert of_request(status, kind) is result


def test_what_is_said_for_people() -> None:
    """Where the document would be, and the server's own words in one line of bounded length."""
    item = answer(400, "document_parsing_exception")
    item["create"]["error"]["reason"] = "failed\n to parse" + "x" * 1000
    found = of_item(item)
    assert found.index == ".ds-x-000001"
    assert found.reason.startswith("document_parsing_exception: failed to parsexxx")
    assert len(found.reason) < 400
    stray = of_item(answer(201, failure_store="used"))
    assert stray.reason == "it went to the failure store .ds-x-000001."


def test_what_is_gone_is_deleted() -> None:
    """A deletion that finds nothing has done its work; one that may not be done is an error like any other."""
    assert of_deleted({"delete": {"status": 200, "result": "deleted"}}).result is Result.STORED
    assert of_deleted({"delete": {"status": 404, "result": "not_found"}}).result is Result.STORED
    assert of_deleted(answer(404, "index_not_found_exception")).result is Result.PAUSE
    assert of_deleted(answer(403, "cluster_block_exception")).result is Result.RETRY


def test_a_mapping_that_refuses_most_documents_is_blamed() -> None:
    """A few refusals are those documents' fault; most of many are the mapping's."""
    stored, refused = ItemResult(Result.STORED), ItemResult(Result.REFUSED, reason="conflict")
    assert blames_mapping([refused] * 9) is None
    assert blames_mapping([refused] * 10 + [stored] * 10) is None
    assert blames_mapping([refused] * 11 + [stored] * 10) == "conflict"
