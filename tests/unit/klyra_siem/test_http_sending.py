"""What Splunk, Datadog and Sumo Logic share."""

from __future__ import annotations

import dataclasses
import gzip

import pytest

from klyra_siem.http_sending import (
    Answer,
    EncodedOnce,
    HttpSender,
    collector_of,
    milliseconds,
    packed,
    parts_of_secret_url,
    record_member,
)
from klyra_siem.outcome import Action, Outcome
from support.siem.cloud import entry, options
from support.siem.cloud_server import Reply, serving

SECRET = "a-token-that-nobody-may-see"


@pytest.mark.parametrize(
    ("body", "members"),
    [('{"code": 1}', {"code": 1}), ("[1]", {}), ('"text"', {}), ("", {}), ("<html>", {}), ('{"code":', {})],
)
def test_members_of_an_answer(body: str, members: dict[str, int]) -> None:
    """An answer that is no JSON object has none; nothing is raised."""
    assert Answer(200, {}, body).members == members


def test_a_secret_in_an_answer_is_hidden_before_it_is_read() -> None:
    """Neither the text nor what is found in it holds one; bytes that are no text do no harm."""
    with serving(
        lambda _: Reply(403, f'{{"text":"{SECRET}"}}'.encode(), {"Content-Type": "application/json"})
    ) as server:
        sender = HttpSender(options(server.url, {}), (SECRET,))
        answer = sender.post(server.url, b"", {})
        sender.close()
    assert isinstance(answer, Answer)
    assert answer.members == {"text": "[hidden]"}


def test_bytes_that_are_no_text() -> None:
    """Whatever a server says can be read."""
    with serving(lambda _: Reply(500, b"\xff\xfe\x00", {"Content-Type": "text/plain; charset=utf-8"})) as server:
        sender = HttpSender(options(server.url, {}), ())
        answer = sender.post(server.url, b"", {})
        sender.close()
    assert isinstance(answer, Answer)
    assert (answer.status, answer.members) == (500, {})


def test_a_compressed_answer_that_cannot_be_unpacked() -> None:
    """It is no answer: the same request goes again."""
    with serving(lambda _: Reply(200, b"not gzip", {"Content-Encoding": "gzip"})) as server:
        sender = HttpSender(options(server.url, {}), ())
        answer = sender.post(server.url, b"", {})
        sender.close()
    assert isinstance(answer, Outcome)
    assert answer.action is Action.RETRY


def test_beginning_anew_forgets_cookies() -> None:
    """Cookies stay with connections until then."""
    with serving(lambda _: Reply(200, b"", {"Set-Cookie": "a=1; Path=/"})) as server:
        sender = HttpSender(options(server.url, {}), ())
        sender.post(server.url, b"", {})
        sender.post(server.url, b"", {})
        sender.begin_anew()
        sender.post(server.url, b"", {})
        sender.close()
    assert [request.headers.get("cookie") for request in server.requests] == [None, "a=1", None]


def test_what_a_secret_url_consists_of() -> None:
    """Servers repeat the path, or its end, encoded or not."""
    parts = parts_of_secret_url("https://host/receiver/v1/http/abc%3D%3D")
    assert set(parts) >= {
        "https://host/receiver/v1/http/abc%3D%3D",
        "/receiver/v1/http/abc%3D%3D",
        "abc%3D%3D",
        "abc==",
    }


def test_packed() -> None:
    """The same content gives the same bytes, whatever the time is."""
    payload = packed(b"lines", "gzip", {"Content-Type": "text/plain"})
    assert gzip.decompress(payload.content) == b"lines"
    assert payload.content[4:8] == b"\0\0\0\0"  # no time of day (RFC 1952, MTIME)
    assert payload.headers == {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    assert packed(b"lines", "none", {"Content-Type": "text/plain"}).headers == {"Content-Type": "text/plain"}


class TestEncodedOnce:
    """An entry that is measured and sent is encoded once."""

    def test_once(self) -> None:
        """Until it is sent; a second attempt reads it from the ledger again."""
        calls: list[str] = []
        items = [entry(number) for number in range(3)]
        encoded = EncodedOnce(lambda item: calls.append(item.entry_id) or b"x", 1000)
        for item in (*items, *items):
            assert encoded.one(item) == b"x"
        assert encoded.batch(items) == [b"x"] * 3
        assert calls == [item.entry_id for item in items]
        encoded.batch(items[:1])
        assert len(calls) == 4

    def test_an_entry_that_was_read_again_is_another_one(self) -> None:
        """Of the same id: what was erased in between must not be sent out of memory."""
        item = entry(1)
        erased = dataclasses.replace(item, redacted=("actor",))
        encoded = EncodedOnce(lambda given: repr(given.redacted).encode(), 1000)
        assert encoded.one(item) != encoded.batch([erased])[0]

    def test_it_does_not_grow(self) -> None:
        """Entries that are measured and never sent are forgotten."""
        encoded = EncodedOnce(lambda _: bytes(100), 1000)
        for number in range(100):
            encoded.one(entry(number))
        assert len(encoded._kept) <= 10


def test_small_things() -> None:
    """Times in milliseconds, collectors by their logs, members by formats."""
    assert milliseconds(1_782_000_000_123_999_999) == 1_782_000_000_123
    assert [collector_of(origin) for origin in ("ledger/c1/2026", "ledger")] == ["c1", "ledger"]
    assert [record_member(name) for name in ("native", "ocsf-1.9.0", "ecs")] == ["audit", "ocsf", "ecs"]
