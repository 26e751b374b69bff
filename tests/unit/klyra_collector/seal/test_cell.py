"""Cells: one value with compare-and-swap in a file or an Elasticsearch document."""

from __future__ import annotations

import fcntl

import pytest

from klyra_audit.errors import Halted, Rejected, RetryLater
from klyra_collector.errors import CellConflict, CellUnreachable, SecretUnavailable
from klyra_collector.seal.cell import open_cell
from klyra_collector.seal.cell_elasticsearch import ElasticsearchCell
from klyra_collector.seal.cell_file import FileCell
from support import documents
from support.cells import check_cell, check_race


@pytest.fixture
def server():
    """A document server."""
    with documents.serving() as server:
        yield server


@pytest.fixture(params=["file", "elasticsearch"])
def make(request, tmp_path, server):
    """A function that opens a cell on one place, of each kind."""
    url = f"file:{tmp_path}/cell" if request.param == "file" else f"elasticsearch+{server.url}/heads/collector-1"
    return lambda: open_cell(url)


def test_a_cell(make) -> None:
    """Empty, written, replaced; nothing is replaced that is not expected."""
    check_cell(make)


def test_many_writers(make) -> None:
    """Exactly one of those that expect the same value gets its own in."""
    check_race(make)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis://x",
        "file:relative",
        "file:/",
        "elasticsearch+http://x/only-index",
        "elasticsearch+http://user:secret@x/i/d",
        "elasticsearch+http:///i/d",
        "elasticsearch+http://x/i/d?key=1",
    ],
)
def test_an_address_that_is_no_cell(url) -> None:
    """Refused before anything is connected, without repeating what may be a secret."""
    with pytest.raises(Rejected) as caught:
        open_cell(url)
    assert (caught.value.code, bool(caught.value.remedy), "secret" in str(caught.value)) == ("bad_cell", True, False)


def test_another_kind_of_cell(tmp_path) -> None:
    """Schemes are looked up in a table that can be another one."""
    cell = open_cell("memory:x", {"memory": lambda _url: FileCell(tmp_path / "cell")})
    assert cell.read() is None


def test_errors_say_what_to_do_next() -> None:
    """An unreachable cell is tried again; a conflict stops the collector."""
    assert issubclass(CellUnreachable, RetryLater)
    assert issubclass(CellConflict, Halted)


class TestFile:
    """A file on another mount."""

    def test_a_missing_mount_is_not_an_empty_cell(self, tmp_path) -> None:
        """The folder is never made."""
        cell = open_cell(f"file:{tmp_path}/mount/cell")
        for use in (cell.read, lambda: cell.compare_and_swap(None, b"x")):
            with pytest.raises(CellUnreachable) as caught:
                use()
            assert (caught.value.code, "Mount" in caught.value.remedy) == ("cell_unreachable", True)
        assert not (tmp_path / "mount").exists()

    def test_a_lock_that_another_keeps(self, tmp_path) -> None:
        """It waits for a while, then says that the cell does not answer."""
        with (tmp_path / "cell.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(CellUnreachable):
                FileCell(tmp_path / "cell", lock_seconds=0.1).compare_and_swap(None, b"x")
        FileCell(tmp_path / "cell").compare_and_swap(None, b"x")

    def test_a_crash_in_between_leaves_the_old_value(self, tmp_path) -> None:
        """What an unfinished write left beside the file is overwritten."""
        cell = FileCell(tmp_path / "cell")
        cell.compare_and_swap(None, b"old")
        (tmp_path / "cell.new").write_bytes(b"half a va")
        assert cell.read() == b"old"
        cell.compare_and_swap(b"old", b"new")
        assert cell.read() == b"new"


class TestElasticsearch:
    """A document of an index."""

    def test_a_write_between_our_read_and_ours(self, server) -> None:
        """The sequence number of what was read fails ours."""
        cell = open_cell(f"elasticsearch+{server.url}/heads/one")
        cell.compare_and_swap(None, b"a")
        read = cell._get()
        server.write(("heads", "one"), server.documents["heads", "one"][1])
        cell._get = lambda: read
        with pytest.raises(CellConflict):
            cell.compare_and_swap(b"a", b"b")

    def test_a_write_whose_answer_is_lost(self, server) -> None:
        """Unreachable: it may have been written, and here it was."""
        cell = open_cell(f"elasticsearch+{server.url}/heads/one")
        server.lose_answers = True
        with pytest.raises(CellUnreachable):
            cell.compare_and_swap(None, b"a")
        assert cell.read() == b"a"

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503, 301])
    def test_any_other_answer(self, server, status) -> None:
        """A 404 of a proxy is no empty cell; nothing else is one either."""
        server.fail_with = status
        cell = open_cell(f"elasticsearch+{server.url}/heads/one")
        for use in (cell.read, lambda: cell.compare_and_swap(None, b"x")):
            with pytest.raises(CellUnreachable) as caught:
                use()
            assert (caught.value.code, str(status) in str(caught.value), bool(caught.value.remedy)) == (
                "cell_unreachable",
                True,
                True,
            )

    def test_a_refused_write(self, server) -> None:
        """Read, but not written: a key that may only read."""
        cell = open_cell(f"elasticsearch+{server.url}/heads/one")
        cell.compare_and_swap(None, b"a")
        read = cell._get()
        cell._get = lambda: read
        server.fail_with = 403
        with pytest.raises(CellUnreachable):
            cell.compare_and_swap(b"a", b"b")

    def test_nothing_listens(self) -> None:
        """Named with its address."""
        with documents.serving() as server:
            url = server.url
        with pytest.raises(CellUnreachable) as caught:
            open_cell(f"elasticsearch+{url}/heads/one").read()
        assert f"{url}/heads/one" in str(caught.value)

    @pytest.mark.parametrize("source", [{}, {"head": 7}, {"head": "not base64"}])
    def test_a_document_that_is_no_cell(self, server, source) -> None:
        """Another program's document is not overwritten."""
        server.write(("heads", "one"), source)
        with pytest.raises(CellUnreachable) as caught:
            open_cell(f"elasticsearch+{server.url}/heads/one").read()
        assert "document of its own" in caught.value.remedy

    @pytest.mark.parametrize(
        ("parameters", "header"),
        [
            ("?api_key=env:CELL_SECRET", "ApiKey geheim"),
            ("?user=writer&password=env:CELL_SECRET", "Basic d3JpdGVyOmdlaGVpbQ=="),
        ],
    )
    def test_credentials_come_by_reference(self, server, monkeypatch, parameters, header) -> None:
        """From the environment or a file, into the header that Elasticsearch wants."""
        monkeypatch.setenv("CELL_SECRET", "geheim")
        server.authorization = header
        open_cell(f"elasticsearch+{server.url}/heads/one{parameters}").compare_and_swap(None, b"a")
        with pytest.raises(CellUnreachable):
            open_cell(f"elasticsearch+{server.url}/heads/one").read()

    @pytest.mark.parametrize(
        ("parameters", "kind", "code"),
        [
            ("?api_key=geheim", Rejected, "bad_reference"),
            ("?user=writer", Rejected, "bad_reference"),
            ("?api_key=env:NOT_SET_ANYWHERE", SecretUnavailable, "secret_unavailable"),
            ("?api_key=file:/nowhere/secret", SecretUnavailable, "secret_unavailable"),
        ],
    )
    def test_credentials_that_are_not_there(self, parameters, kind, code) -> None:
        """A secret as a value is refused, and not repeated; a missing one is named."""
        with pytest.raises(kind) as caught:
            ElasticsearchCell.at(f"elasticsearch+http://127.0.0.1:9/heads/one{parameters}")
        assert (caught.value.code, bool(caught.value.remedy), "geheim" in str(caught.value)) == (code, True, False)
