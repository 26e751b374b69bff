"""Sumo Logic's HTTP source, whose URL is the secret, against one that keeps every rule."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING

import pytest

from klyra_audit import timestamps
from klyra_siem.errors import BadDestination
from klyra_siem.http_sending import Answer
from klyra_siem.outcome import Action
from klyra_siem.sumo_logic import LIMITS, checked_fields, create, of_answer
from support.siem.cloud import PlainFormat, entry, options, send
from support.siem.cloud_server import Fault, Reply, serving
from support.siem.sumo_logic import CODE, LONGEST_LINE, MOST_BYTES, PATH, StrictSource, bad_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_siem.destination import Destination
    from support.siem.cloud_server import CloudServer

NOW = 1_782_000_000.0


@pytest.fixture
def source() -> StrictSource:
    """A source."""
    return StrictSource()


@pytest.fixture
def server(source) -> Iterator[CloudServer]:
    """The source's server."""
    with serving(source) as made:
        yield made


@contextlib.contextmanager
def destination(
    server: CloudServer, *, members: dict[str, object] | None = None, **settings: str
) -> Iterator[Destination]:
    """Give a destination; `members` are those of `DestinationOptions`."""
    with contextlib.closing(create(options(server.url + PATH, settings, **(members or {})))) as made:
        yield made


class TestLines:
    """What arrives."""

    def test_a_line(self, server, source) -> None:
        """The time first, then what searches need, then the record."""
        item = entry(42, name="ключ 🔑")
        with destination(server) as made:
            assert send(made, [item]).action is Action.DELIVERED
        [line] = source.records()
        assert next(iter(line)) == "timestamp"
        assert line == {
            "timestamp": timestamps.from_microseconds(item.filed_ns // 1000),
            "id": item.entry_id,
            "event_type": "moderation.created",
            "organization_id": item.organization_id,
            "klyra_log": item.origin,
            "seq": "42",
            "audit": json.loads(PlainFormat().encode(item)),
        }
        assert source.complaints == []

    def test_a_record_keeps_its_bytes(self, server) -> None:
        """What the format wrote is in the request unchanged."""
        item = entry(1)
        with destination(server, members={"compression": "none"}) as made:
            send(made, [item])
        assert b'"audit":' + PlainFormat().encode(item) in server.requests[0].body

    def test_a_text_record_follows_its_time(self, server, source) -> None:
        """CEF and LEEF have their time somewhere inside, in another notation."""
        with destination(server, members={"record": PlainFormat("cef", "text")}) as made:
            send(made, [entry()])
        time, _, record = source.lines[0].partition(" ")
        assert (timestamps.to_nanoseconds(time) > 0, record.startswith("CEF:0|Klyra|")) == (True, True)
        assert source.complaints == []

    def test_headers(self, server, source) -> None:
        """How lines are filed is said once for a request."""
        with destination(server, category="klyra/audit/eu", fields="environment=production,team=security") as made:
            send(made, [entry()])
        assert source.headers == [
            {
                "x-sumo-category": "klyra/audit/eu",
                "x-sumo-name": "klyra-audit",
                "x-sumo-host": "c1",
                "x-sumo-fields": "environment=production,team=security",
            }
        ]
        assert server.requests[0].headers["content-type"] == "text/plain; charset=utf-8"

    def test_the_host_is_a_setting(self, server, source) -> None:
        """Otherwise it is the collector that sealed the entries."""
        with destination(server, host="audit-7", name="own") as made:
            send(made, [entry()])
        assert (source.headers[0]["x-sumo-host"], source.headers[0]["x-sumo-name"]) == ("audit-7", "own")

    def test_the_same_bytes_again(self, server) -> None:
        """A batch is the same request whenever it is made."""
        entries = [entry(number) for number in range(3)]
        with destination(server) as made:
            assert made.encode(entries) == made.encode(entries)

    def test_a_batch_is_as_long_as_measured(self, server) -> None:
        """Batches are cut by what is really sent."""
        entries = [entry(number, name="ß" * number) for number in range(20)]
        with destination(server, members={"compression": "none"}) as made:
            assert len(made.encode(entries).content) == sum(made.measure(item) for item in entries)

    def test_limits_are_within_sumo_logics(self) -> None:
        """What is longer than an entry may be would be sliced, and answered with 200."""
        assert LIMITS.encoded_bytes < MOST_BYTES
        assert (LIMITS.entry_bytes or 0) < LONGEST_LINE


class TestAnswers:
    """What an answer means."""

    @pytest.mark.parametrize(
        ("status", "action"),
        [
            (200, Action.DELIVERED),
            (202, Action.PAUSE),
            (204, Action.PAUSE),
            (302, Action.PAUSE),
            (400, Action.BISECT),
            (401, Action.PAUSE),
            (404, Action.PAUSE),
            (408, Action.RETRY),
            (413, Action.BISECT),
            (429, Action.RETRY),
            (500, Action.RETRY),
            (502, Action.RETRY),
            (503, Action.RETRY),
            (504, Action.RETRY),
        ],
    )
    def test_every_status(self, status: int, action: Action) -> None:
        """502 comes too, although it is not documented; whoever gave up on it lost data."""
        assert of_answer(Answer(status, {}, ""), NOW).action is action

    def test_a_200_that_did_not_like_the_fields(self) -> None:
        """The lines are in, without fields: delivered, and said."""
        outcome = of_answer(Answer(200, {}, bad_fields().body.decode()), NOW)
        assert (outcome.action, outcome.status) == (Action.DELIVERED, "200 bad.http.header.fields")
        assert outcome.reason == "bad.http.header.fields: Header X-Sumo-Fields is invalid"

    def test_a_list_of_errors(self) -> None:
        """The other way in which Sumo Logic words it."""
        body = '{"id":"X","errors":[{"code":"bad.request","message":"no"},{"code":"other","message":"nor this"}]}'
        assert of_answer(Answer(400, {}, body), NOW).reason == "bad.request: no; other: nor this"

    @pytest.mark.parametrize("body", ["<html>log in</html>", "OK", "[]"])
    def test_a_200_that_sumo_logic_never_gives(self, body: str) -> None:
        """A proxy's page confirms nothing."""
        outcome = of_answer(Answer(200, {}, body), NOW)
        assert (outcome.action, "Sumo Logic" in outcome.reason) == (Action.PAUSE, True)

    def test_when_to_come_again(self) -> None:
        """It is not documented that Sumo Logic says so; if it does, it is heard."""
        assert of_answer(Answer(429, {"retry-after": "9"}, ""), NOW).retry_after == 9.0

    def test_fields_that_are_refused_do_not_stop_delivery(self, server, source) -> None:
        """What the source did with the fields is seen in the outcome alone."""
        server.plan(Fault(reply=bad_fields()))
        with destination(server) as made:
            outcome = send(made, [entry()])
        assert (outcome.action, "X-Sumo-Fields" in outcome.reason) == (Action.DELIVERED, True)

    def test_a_bad_line_is_found_by_halving(self, server, source) -> None:
        """It stands alone in the end; the others arrive once."""
        entries = [entry(number) for number in range(3)]
        source.poison = {entries[1].entry_id}
        with destination(server) as made:
            assert send(made, entries).action is Action.BISECT
            for item in entries:
                send(made, [item])
        assert source.ids() == [entries[0].entry_id, entries[2].entry_id]

    def test_what_an_ingest_budget_drops_cannot_be_seen(self, server, source) -> None:
        """Sumo Logic says 200 to it: the documents say so, and what to do about it."""
        source.is_over_budget = True
        with destination(server) as made:
            assert send(made, [entry()]).action is Action.DELIVERED
        assert source.lines == []

    @pytest.mark.parametrize(
        ("fault", "action"),
        [
            (Fault(reset=True), Action.RETRY),
            (Fault(truncated=True), Action.RETRY),
            (Fault(reply_lost=True), Action.RETRY),
            (Fault(delay_seconds=0.6), Action.RETRY),
            (Fault(reply=Reply(302, b"", {"Location": "https://elsewhere.example"})), Action.PAUSE),
            (Fault(reply=Reply(429)), Action.RETRY),
        ],
    )
    def test_what_goes_wrong_between_us(self, server, fault: Fault, action: Action) -> None:
        """Each has its one meaning; the same bytes are answered the next time."""
        server.plan(fault)
        entries = [entry()]
        with destination(server, members={"timeout_seconds": 0.4}) as made:
            assert send(made, entries).action is action
            assert send(made, entries).action is Action.DELIVERED
        assert server.requests[0].body == server.requests[1].body


class TestProbe:
    """Whether it would work, without a line."""

    def test_all_is_well(self, server, source) -> None:
        """Nothing arrives."""
        with destination(server) as made:
            assert made.probe().action is Action.DELIVERED
        assert source.lines == []

    def test_a_url_that_is_no_longer_valid(self, server) -> None:
        """Sumo Logic's words are shown, without the URL that they repeat."""
        with contextlib.closing(create(options(server.url + PATH.replace("Za", "Zb"), {}))) as made:
            outcome = made.probe()
        assert (outcome.action, outcome.status) == (Action.PAUSE, "401")
        assert outcome.reason == "no such source: [hidden]"


class TestSettings:
    """What cannot be used is refused when the destination is made, and not repeated."""

    @pytest.mark.parametrize(
        "endpoint",
        [
            f"http://collectors.sumologic.com{PATH}",
            "https://collectors.sumologic.com/",
            f"https://collectors.sumologic.com{PATH}?x=1",
            f"https://collectors.sumologic.com{PATH}#x",
            f"https://{PATH}",
            PATH,
            "",
        ],
    )
    def test_bad_urls(self, endpoint: str) -> None:
        """Nothing of what was given is in the error: it may be the secret."""
        with pytest.raises(BadDestination) as caught:
            create(options(endpoint, {}))
        said = str(caught.value) + caught.value.remedy
        assert (caught.value.code, "env:SUMO_URL" in said) == ("bad_destination", True)
        assert CODE not in said

    @pytest.mark.parametrize(
        ("settings", "hint"),
        [
            ({"category": "two\nlines"}, "category = "),
            ({"category": "ключ"}, "category = "),
            ({"name": ""}, "name = "),
            ({"fields": "no pair"}, "fields = "),
            ({"fields": ",".join(f"key{number}=x" for number in range(31))}, "fields = "),
            ({"fields": f"key={'x' * 201}"}, "fields = "),
            ({"site": "us2"}, "Known are: "),
        ],
    )
    def test_bad_options(self, settings: dict[str, str], hint: str) -> None:
        """Sumo Logic would say 200 to these, and take no notice of them."""
        with pytest.raises(BadDestination) as caught:
            create(options(f"https://collectors.sumologic.com{PATH}", settings))
        assert hint in caught.value.remedy
        assert CODE not in str(caught.value) + caught.value.remedy

    def test_as_many_fields_as_are_allowed(self) -> None:
        """Thirty, of two hundred characters."""
        fields = ",".join(f"key{number}={'x' * 200}" for number in range(30))
        assert checked_fields(fields, "back") == fields


class TestSecrets:
    """The URL is nowhere."""

    def test_not_in_logs_outcomes_or_reprs(self, server, caplog) -> None:
        """Neither in what the HTTP library writes down at any level, nor where a server repeats it, nor in part."""
        caplog.set_level(logging.DEBUG)
        server.plan(
            Fault(reply=Reply(404, f"{PATH} was not found".encode())),
            Fault(reply=Reply(502, f"upstream {CODE} is down".encode())),
            Fault(reply=Reply(400, (b"x" * 190) + CODE.encode())),
            Fault(reply=Reply(307, b"", {"Location": f"https://elsewhere.example{PATH}"})),
            Fault(reset=True),
        )
        with destination(server) as made:
            outcomes = [send(made, [entry()]) for _ in range(6)]
            shown = [
                repr(made),
                repr(options(server.url + PATH, {})),
                repr(made.encode([entry()])),
                *map(repr, outcomes),
            ]
        assert outcomes[-1].action is Action.DELIVERED
        assert not [text for text in (*shown, caplog.text) if CODE[:11] in text]

    def test_other_requests_are_still_logged(self, server, caplog) -> None:
        """Only what concerns the source is kept out of the log of httpx, and only as long as there is one."""
        import httpx

        caplog.set_level(logging.INFO)
        with destination(server):
            httpx.get(f"{server.url}/elsewhere")
        httpx.post(server.url + PATH)
        assert [f"{server.url}/elsewhere" in text for text in caplog.messages] == [True, False]
        assert CODE in caplog.messages[1]
