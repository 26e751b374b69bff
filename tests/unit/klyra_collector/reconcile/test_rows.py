"""Rows of exports: the shapes that each vendor gives, in any size, and what is none of them."""

from __future__ import annotations

import csv
import gzip
import io
import json

import pytest

from klyra_collector.reconcile import rows
from klyra_collector.reconcile.errors import ExportUnreadable
from klyra_collector.reconcile.rows import read_rows

RECORD = {"id": "log_1", "klyra": {"leaf": "AA==", "results": [1]}}


def read(content: bytes | str | object) -> list:
    """Return the rows of an export."""
    if not isinstance(content, bytes | str):
        content = json.dumps(content)
    return list(read_rows(io.BytesIO(content.encode() if isinstance(content, str) else content)))


class TestShapes:
    """What vendors write."""

    @pytest.mark.parametrize(
        "content",
        [
            [RECORD, RECORD],
            {"results": [RECORD, RECORD]},
            {"data": [RECORD, RECORD], "meta": {"page": 1}},
            {"entries": [RECORD, RECORD]},
            {"events": [RECORD, RECORD], "nextForwardToken": "f/1"},
            "\n".join([json.dumps({"preview": False, "result": RECORD})] * 2),
            "\n".join([json.dumps(RECORD)] * 2) + "\n",
            json.dumps(RECORD, indent=2) + "\n\n" + json.dumps(RECORD, indent=2),
            "\ufeff" + json.dumps([RECORD, RECORD], indent=1),
        ],
    )
    def test_json(self, content) -> None:
        """Arrays, envelopes, one value after another, however they are indented."""
        assert read(content) == [RECORD, RECORD]

    def test_a_record_is_no_envelope(self) -> None:
        """A record whose own members have an envelope's names is one row."""
        assert read({"klyra": {}, "data": [1]}) == [{"klyra": {}, "data": [1]}]

    def test_insights_of_cloudwatch_logs(self) -> None:
        """A row is a list of fields."""
        fields = [{"field": "@timestamp", "value": "2026"}, {"field": "@message", "value": "{}"}]
        assert read({"results": [fields], "status": "Complete"}) == [{"@timestamp": "2026", "@message": "{}"}]

    def test_tables_of_azure_monitor(self) -> None:
        """Column names stand beside the rows."""
        table = {"name": "PrimaryResult", "columns": [{"name": "EventId"}, {"name": "Record"}], "rows": [["a", "b"]]}
        assert read({"tables": [table]}) == [{"EventId": "a", "Record": "b"}]

    def test_csv(self) -> None:
        """Quotes, line ends inside a value, a byte order mark."""
        written = io.StringIO()
        writer = csv.writer(written)
        writer.writerows([["_time", "_raw"], ["2026", '{"a": "b,\n"}'], ["2027", "CEF:0|x"]])
        expected = [{"_time": "2026", "_raw": '{"a": "b,\n"}'}, {"_time": "2027", "_raw": "CEF:0|x"}]
        assert read("\ufeff" + written.getvalue()) == expected

    def test_lines_of_text(self) -> None:
        """CEF and LEEF files, and lines with a time before their JSON."""
        assert read("CEF:0|a|\r\n\nCEF:0|b|\n") == ["CEF:0|a|", "CEF:0|b|"]
        assert read('2026-01-01T00:00:00.000Z {"a": 1}\n') == ['2026-01-01T00:00:00.000Z {"a": 1}']

    def test_compressed(self) -> None:
        """CloudWatch Logs exports gzip to S3."""
        assert read(gzip.compress(b'[{"a": 1}]')) == [{"a": 1}]

    @pytest.mark.parametrize("content", ["", "\n \n", "[]", '{"results": []}', "_time,_raw\n"])
    def test_nothing(self, content) -> None:
        """An empty export has no rows."""
        assert read(content) == []


class TestSizes:
    """Nothing is read whole that need not be."""

    def test_values_across_chunks(self, monkeypatch) -> None:
        """Where a chunk ends does not matter."""
        values = [{"n": number, "text": "x" * (number * 7 % 90)} for number in range(300)]
        for chunk in (1, 2, 17, 64):
            monkeypatch.setattr(rows, "_CHUNK", chunk)
            assert read(values) == values
            assert read("\n".join(map(json.dumps, values))) == values

    def test_rows_come_before_the_end_is_read(self) -> None:
        """The first rows are there while the rest is still unread."""
        content = io.BytesIO(b"[" + b",".join([b'{"a": "' + b"x" * 1000 + b'"}'] * 20_000) + b"]")
        found = read_rows(content)
        next(found)
        assert content.tell() < 5_000_000

    def test_a_value_without_end_is_refused(self, monkeypatch) -> None:
        """Memory has a limit."""
        monkeypatch.setattr(rows, "LONGEST_VALUE", 4096)
        monkeypatch.setattr(rows, "_CHUNK", 1024)
        with pytest.raises(ExportUnreadable):
            read('{"a": "' + "x" * 100_000 + '"}')
        with pytest.raises(ExportUnreadable):
            read("CEF:0|" + "x" * 100_000)


@pytest.mark.parametrize(
    "content",
    [
        b'[{"a": 1}, {"a": ',
        b'[{"a": 1}',
        b'{"a": 1}\n{"a',
        b'{"a": 1} nonsense',
        b"_time,_raw\n1,\xff\xfe",
        b"\x1f\x8bnonsense",
        gzip.compress(b'[{"a": 1}]' * 100, mtime=0)[:-12],
        b"[" * 100_000,
        b'{"tables": [{"rows": []}]}',
    ],
)
def test_what_cannot_be_read_to_its_end_says_so(content) -> None:
    """Half an export must not pass for a whole one."""
    with pytest.raises(ExportUnreadable) as raised:
        read(content)
    assert (raised.value.code, raised.value.remedy != "") == ("export_unreadable", True)
