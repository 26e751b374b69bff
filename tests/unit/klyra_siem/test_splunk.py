"""Splunk's HTTP Event Collector, with and without indexer acknowledgement, against one that keeps every rule."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING

import pytest

from klyra_siem import splunk
from klyra_siem.destination import Payload
from klyra_siem.errors import BadDestination
from klyra_siem.outcome import Action
from klyra_siem.splunk import LIMITS, HecSettings, SplunkHec, create, sourcetype_of
from support.siem.cloud import PlainFormat, entry, options, send
from support.siem.cloud_server import Fault, Reply, serving
from support.siem.splunk import TOKEN, StrictHec, reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.siem.cloud_server import CloudServer

SETTINGS = {"token": TOKEN, "acknowledge": False}


class QuickTimer:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waits: list[float] = []

    def now(self) -> float:
        """Return the sum of all waits."""
        return self.seconds

    def wait(self, seconds: float) -> None:
        """Remember it."""
        self.seconds += seconds
        self.waits.append(seconds)


@pytest.fixture
def hec() -> StrictHec:
    """A collector."""
    return StrictHec()


@pytest.fixture
def server(hec) -> Iterator[CloudServer]:
    """The collector's server."""
    with serving(hec) as made:
        yield made


@contextlib.contextmanager
def destination(server: CloudServer, timer: QuickTimer | None = None, **settings: object) -> Iterator[SplunkHec]:
    """Give a destination; members of `DestinationOptions` are given as `options_…`."""
    members = {name[8:]: settings.pop(name) for name in list(settings) if name.startswith("options_")}
    made_of = options(server.url, SETTINGS | settings, **members)
    with contextlib.closing(SplunkHec(made_of, HecSettings.read(made_of), timer or QuickTimer())) as made:
        yield made


class TestEvents:
    """What arrives."""

    def test_an_event(self, server, hec) -> None:
        """Metadata beside the record, which stands in `event` as the format wrote it."""
        item = entry(42, name="ключ 🔑")
        with destination(server, index="klyra_audit") as made:
            assert send(made, [item]).action is Action.DELIVERED
        [event] = hec.indexed
        assert event == {
            "time": item.filed_ns // 1_000_000 / 1000,
            "host": "c1",
            "source": "klyra",
            "sourcetype": "klyra:audit:json",
            "index": "klyra_audit",
            "event": json.loads(PlainFormat().encode(item)),
            "fields": {
                "event_id": item.entry_id,
                "event_type": "moderation.created",
                "organization_id": item.organization_id,
                "klyra_log": item.origin,
                "seq": "42",
            },
        }

    def test_a_record_keeps_its_bytes(self, server) -> None:
        """What the format wrote is in the request unchanged: nothing is decoded and written again."""
        item = entry(1)
        with destination(server, options_compression="none") as made:
            send(made, [item])
        assert b'"event":' + PlainFormat().encode(item) in server.requests[0].body

    def test_a_text_record_is_a_string(self, server, hec) -> None:
        """CEF and LEEF are one line each, with a source type of their own."""
        with destination(server, options_record=PlainFormat("cef", "text")) as made:
            send(made, [entry(1)])
        [event] = hec.indexed
        assert event["event"].startswith("CEF:0|Klyra|")
        assert event["sourcetype"] == "klyra:audit:cef"

    def test_what_is_sent(self, server) -> None:
        """Path, token, and JSON objects one after the other, compressed."""
        with destination(server) as made:
            send(made, [entry(1), entry(2)])
        [request] = server.requests
        assert (request.method, request.path) == ("POST", "/services/collector/event")
        assert request.headers["authorization"] == f"Splunk {TOKEN}"
        assert request.headers["content-type"] == "application/json"
        assert "x-splunk-request-channel" not in request.headers
        assert [json.loads(line)["fields"]["seq"] for line in request.content.splitlines()] == ["1", "2"]

    def test_settings(self, server, hec) -> None:
        """An operator chooses how events are filed."""
        with destination(server, host="audit-7", source="klyra:eu", sourcetype="own:type") as made:
            send(made, [entry()])
        [event] = hec.indexed
        assert [event[name] for name in ("host", "source", "sourcetype")] == ["audit-7", "klyra:eu", "own:type"]
        assert "index" not in event

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("native", "json"), ("ocsf-1.9.0", "ocsf"), ("ocsf-1.1.0", "ocsf"), ("ecs", "ecs"), ("leef", "leef")],
    )
    def test_source_types(self, name: str, expected: str) -> None:
        """One for each family of formats: fields are extracted by source type."""
        assert sourcetype_of(name) == f"klyra:audit:{expected}"

    def test_the_same_bytes_again(self, server) -> None:
        """A batch is the same request whenever it is made."""
        entries = [entry(number) for number in range(3)]
        with destination(server) as made:
            assert made.encode(entries) == made.encode(entries)

    def test_a_batch_is_as_long_as_measured(self, server) -> None:
        """Batches are cut by what is really sent, up to the last line break."""
        entries = [entry(number, name="ß" * number) for number in range(20)]
        with destination(server, options_compression="none") as made:
            assert len(made.encode(entries).content) == sum(made.measure(item) for item in entries) - 1
            assert made.limits == LIMITS


class TestWithoutAcknowledgement:
    """A 200 with a code is all there is."""

    def test_a_bad_event_is_found_by_halving(self, server, hec) -> None:
        """Splunk stops there, with the events before it in: those are sent twice, nothing is lost."""
        entries = [entry(number) for number in range(4)]
        hec.poison = {entries[2].entry_id}
        with destination(server) as made:
            assert send(made, entries).action is Action.BISECT
            assert send(made, entries[:2]).action is Action.DELIVERED
            assert send(made, entries[2:3]).action is Action.BISECT
            assert send(made, entries[3:]).action is Action.DELIVERED
        expected = [item.entry_id for item in (*entries[:2], *entries[:2], entries[3])]
        assert hec.ids() == expected

    def test_busy_with_a_part_in(self, server, hec) -> None:
        """The whole batch goes again: its first events are there twice, none is missing."""
        entries = [entry(number) for number in range(3)]
        hec.busy_after = 2
        with destination(server) as made:
            busy = send(made, entries)
            assert (busy.action, busy.status, "event 2" in busy.reason) == (Action.RETRY, "503/9", True)
            assert send(made, entries).action is Action.DELIVERED
        ids = [item.entry_id for item in entries]
        assert hec.ids() == ids[:2] + ids

    @pytest.mark.parametrize("code", [24, 25])
    def test_nearly_full(self, server, hec, code: int) -> None:
        """Nothing is sent twice; the next request waits, the one after it does not."""
        hec.success = code
        timer = QuickTimer()
        with destination(server, timer) as made:
            outcome = send(made, [entry(1)])
            assert (outcome.action, f"code {code}" in outcome.reason, timer.waits) == (Action.DELIVERED, True, [])
            hec.success = 0
            send(made, [entry(2)])
            send(made, [entry(3)])
        assert (timer.waits, len(hec.indexed)) == ([splunk.SLOW_DOWN_SECONDS], 3)

    @pytest.mark.parametrize("code", [1, 4])
    def test_a_token_that_is_taken_away(self, server, hec, code: int) -> None:
        """An operator must act; nothing is given up."""
        hec.token_code = code
        with destination(server) as made:
            assert send(made, [entry()]).action is Action.PAUSE

    def test_an_index_that_is_not_allowed(self, server) -> None:
        """It is no fault of the events: halving them would make dead letters of all."""
        with destination(server, index="elsewhere") as made:
            outcome = send(made, [entry()])
        assert (outcome.action, outcome.status) == (Action.PAUSE, "400/7")

    def test_a_reply_that_is_lost(self, server, hec) -> None:
        """Nobody knows what was taken: the same bytes go again, and are there twice."""
        server.plan(Fault(reply_lost=True))
        item = entry()
        with destination(server) as made:
            assert send(made, [item]).action is Action.RETRY
            assert send(made, [item]).action is Action.DELIVERED
        assert server.requests[0].body == server.requests[1].body
        assert hec.ids() == [item.entry_id] * 2

    @pytest.mark.parametrize(
        ("fault", "action"),
        [
            (Fault(reset=True), Action.RETRY),
            (Fault(truncated=True), Action.RETRY),
            (Fault(delay_seconds=0.6), Action.RETRY),
            (Fault(reply=Reply(302, b"", {"Location": "https://elsewhere.example"})), Action.PAUSE),
            (Fault(reply=Reply(200, b"<html>log in</html>")), Action.PAUSE),
            (Fault(reply=Reply(413, b"too large")), Action.BISECT),
            (Fault(reply=reply(18)), Action.RETRY),
        ],
    )
    def test_what_goes_wrong_between_us(self, server, fault: Fault, action: Action) -> None:
        """Each has its one meaning; the next request is answered again."""
        server.plan(fault)
        with destination(server, options_timeout_seconds=0.4) as made:
            assert send(made, [entry()]).action is action
            assert send(made, [entry()]).action is Action.DELIVERED


class TestWithAcknowledgement:
    """Delivered is what the indexers have."""

    @pytest.fixture
    def hec(self) -> StrictHec:
        """A token with indexer acknowledgement."""
        return StrictHec(acknowledges=True, falses=2)

    def test_asks_until_it_is_indexed(self, server, hec) -> None:
        """Each time a little later, with channel and token; the channel stays the same."""
        timer = QuickTimer()
        with destination(server, timer, acknowledge=True) as made:
            for number in range(2):
                assert send(made, [entry(number)]).action is Action.DELIVERED
                assert len(hec.indexed) == number + 1
        assert timer.waits == [0.25, 0.5] * 2
        [channel] = hec.channels
        asked = server.requests[1]
        assert asked.path == f"/services/collector/ack?channel={channel}"
        assert (asked.method, asked.body) == ("POST", b'{"acks":[0]}')
        assert asked.headers["authorization"] == f"Splunk {TOKEN}"
        assert server.requests[-1].body == b'{"acks":[1]}'

    def test_what_the_indexer_loses_goes_again(self, server, hec) -> None:
        """A crash between 200 and index: not acknowledged in time, sent again through a new channel."""
        item, timer = entry(), QuickTimer()
        hec.falses = 1_000_000
        with destination(server, timer, acknowledge=True) as made:
            lost = send(made, [item])
            assert (lost.action, lost.status, hec.indexed) == (Action.RETRY, "not_acknowledged", [])
            assert 250 < timer.seconds <= 300
            hec.crash()
            hec.falses = 0
            assert send(made, [item]).action is Action.DELIVERED
        assert (hec.ids(), len(hec.channels)) == ([item.entry_id], 2)
        assert max(timer.waits) <= 10

    def test_how_long_to_wait_is_a_setting(self, server, hec) -> None:
        """A cluster that replicates slowly needs longer."""
        hec.falses, timer = 1_000_000, QuickTimer()
        with destination(server, timer, acknowledge=True, acknowledge_seconds=20) as made:
            assert send(made, [entry()]).action is Action.RETRY
        assert 10 < timer.seconds <= 20

    def test_a_true_that_is_lost(self, server, hec) -> None:
        """It is said once: the batch goes again and is there twice, never not at all."""
        hec.falses = 0
        server.plan(Fault(), Fault(reply_lost=True))
        item = entry()
        with destination(server, acknowledge=True) as made:
            assert send(made, [item]).action is Action.RETRY
            assert send(made, [item]).action is Action.DELIVERED
        assert hec.ids() == [item.entry_id] * 2

    def test_behind_a_load_balancer(self, server) -> None:
        """Ids begin at 0 on every indexer: with the balancer's cookie the question reaches the one that knows."""
        hec = StrictHec(acknowledges=True, indexers=3, falses=2)
        with serving(hec) as balanced, destination(balanced, acknowledge=True) as made:
            for number in range(5):
                assert send(made, [entry(number)]).action is Action.DELIVERED
        assert len(hec.indexed) == 5
        assert [request.headers.get("cookie") for request in balanced.requests[:2]] == [None, "AWSALB=1"]

    def test_a_new_channel_goes_to_whom_the_balancer_chooses(self, server) -> None:
        """Cookies belong to a channel: with the old ones the same broken indexer would be asked for ever."""
        hec = StrictHec(acknowledges=True, indexers=2, falses=1_000_000)
        with serving(hec) as balanced, destination(balanced, acknowledge=True) as made:
            assert send(made, [entry()]).action is Action.RETRY
            hec.falses = 0
            assert send(made, [entry()]).action is Action.DELIVERED
        cookies = [request.headers.get("cookie") for request in balanced.requests]
        assert (cookies[0], cookies[-2], cookies[-1]) == (None, None, "AWSALB=0")

    def test_a_token_without_acknowledgement(self, server, hec) -> None:
        """A success without an id is no delivery: paused, and the setting is named."""
        hec.acknowledges = False
        with destination(server, acknowledge=True) as made:
            outcome = send(made, [entry()])
        assert (outcome.action, outcome.status) == (Action.PAUSE, "no_ack_id")
        assert "acknowledge = false" in outcome.reason

    def test_what_is_never_acknowledged_is_not_sent_over_and_over(self, server, hec) -> None:
        """Until the token is put right one copy is there; then the batch is delivered."""
        hec.acknowledges = False
        item = entry()
        with destination(server, acknowledge=True) as made:
            assert [send(made, [item]).status for _ in range(4)] == ["no_ack_id", "400/14", "400/14", "400/14"]
            assert len(hec.indexed) == 1
            hec.acknowledges = True
            assert send(made, [item]).action is Action.DELIVERED
            assert send(made, [entry()]).action is Action.DELIVERED
        assert hec.ids().count(item.entry_id) == 2

    def test_acknowledgement_is_needed_for_a_token_that_has_it(self, server) -> None:
        """Without a channel Splunk takes nothing: paused."""
        with destination(server) as made:
            outcome = send(made, [entry()])
        assert (outcome.action, outcome.status) == (Action.PAUSE, "400/10")

    @pytest.mark.parametrize("code", [24, 25])
    def test_nearly_full(self, server, hec, code: int) -> None:
        """It is still acknowledged; the reason is not lost on the way."""
        hec.success, timer = code, QuickTimer()
        with destination(server, timer, acknowledge=True) as made:
            outcome = send(made, [entry()])
            assert (outcome.action, outcome.status) == (Action.DELIVERED, f"200/{code}")
            send(made, [entry()])
        assert splunk.SLOW_DOWN_SECONDS in timer.waits

    @pytest.mark.parametrize(
        ("fault", "action", "channels"),
        [
            (Fault(reply=reply(9)), Action.DELIVERED, 1),
            (Fault(reset=True), Action.DELIVERED, 1),
            (Fault(reply=Reply(503, b"", {"Retry-After": "3"})), Action.DELIVERED, 1),
            (Fault(reply=reply(4)), Action.PAUSE, 1),
            (Fault(reply=reply(14)), Action.PAUSE, 1),
            (Fault(reply=Reply(404, b"no such path")), Action.PAUSE, 1),
            (Fault(reply=Reply(200, b"<html>log in</html>")), Action.PAUSE, 1),
        ],
    )
    def test_what_goes_wrong_with_a_question(self, server, hec, fault, action, channels) -> None:
        """What passes is asked again, anything else pauses; none of it confirms."""
        timer = QuickTimer()
        server.plan(Fault(), fault)
        with destination(server, timer, acknowledge=True) as made:
            assert send(made, [entry()]).action is action
        assert len(hec.channels) == channels
        if fault.reply and "Retry-After" in fault.reply.headers:
            assert timer.waits[0] == 3.0

    def test_a_refused_batch_keeps_the_channel(self, server, hec) -> None:
        """Only what was taken and not acknowledged makes a channel doubtful."""
        server.plan(Fault(reply=reply(9)))
        with destination(server, acknowledge=True) as made:
            assert send(made, [entry()]).action is Action.RETRY
            assert send(made, [entry()]).action is Action.DELIVERED
        channels = {request.headers["x-splunk-request-channel"] for request in server.requests}
        assert channels == set(hec.channels)

    def test_two_destinations_have_two_channels(self, server, hec) -> None:
        """Whoever sends at the same time asks for his own ids."""
        with destination(server, acknowledge=True) as one, destination(server, acknowledge=True) as other:
            send(one, [entry()])
            send(other, [entry()])
        assert len(set(hec.channels)) == 2


class TestProbe:
    """Whether it would work, without an event."""

    @pytest.mark.parametrize("acknowledge", [False, True])
    def test_all_is_well(self, server, hec, acknowledge) -> None:
        """Nothing arrives."""
        hec.acknowledges = acknowledge
        with destination(server, acknowledge=acknowledge) as made:
            assert made.probe().action is Action.DELIVERED
        assert hec.indexed == []

    def test_a_token_without_acknowledgement(self, server) -> None:
        """It is found out before the first entry is delivered."""
        with destination(server, acknowledge=True) as made:
            outcome = made.probe()
        assert (outcome.action, "acknowledge = false" in outcome.reason) == (Action.PAUSE, True)

    def test_a_token_that_is_unknown(self, server) -> None:
        """Splunk's own words are shown."""
        with destination(server, token="another-token") as made:
            outcome = made.probe()
        assert (outcome.action, outcome.reason) == (Action.PAUSE, "code 4: Invalid token")

    def test_nobody_is_there(self) -> None:
        """No answer, to be tried again."""
        with serving(StrictHec()) as server:
            pass
        with destination(server) as made:
            assert made.probe().action is Action.RETRY


class TestSettings:
    """What cannot be used is refused when the destination is made, and not repeated."""

    @pytest.mark.parametrize(
        ("settings", "hint"),
        [
            ({}, "token = "),
            ({"token": "with\nline"}, "token = "),
            ({"token": TOKEN, "acknowledge": "yes"}, "acknowledge = true"),
            ({"token": TOKEN, "acknowledge_seconds": 0}, "acknowledge_seconds = 300"),
            ({"token": TOKEN, "acknowledge_seconds": True}, "acknowledge_seconds = 300"),
            ({"token": TOKEN, "index": "Upper Case"}, "index = "),
            ({"token": TOKEN, "tokenn": "x"}, "Known are: "),
        ],
    )
    def test_bad_options(self, settings: dict[str, object], hint: str) -> None:
        """Each with what to write instead."""
        with pytest.raises(BadDestination) as caught:
            create(options("https://splunk.example.com:8088", settings))
        assert (caught.value.code, hint in caught.value.remedy) == ("bad_destination", True)
        assert TOKEN not in str(caught.value) + caught.value.remedy

    @pytest.mark.parametrize(
        "endpoint",
        ["http://splunk.example.com:8088", "https://splunk.example.com:8088/services/collector", "splunk:8088", ""],
    )
    def test_bad_endpoints(self, endpoint: str) -> None:
        """Only https, except on this machine, and only the address: paths are ours."""
        with pytest.raises(BadDestination) as caught:
            create(options(endpoint, SETTINGS))
        assert splunk.EXAMPLE in caught.value.remedy

    def test_acknowledgement_is_on_unless_it_is_switched_off(self) -> None:
        """The strongest confirmation is what one gets without asking."""
        assert HecSettings.read(options("https://s.example", {"token": TOKEN})).acknowledge_seconds == 300
        assert HecSettings.read(options("https://s.example", SETTINGS)).acknowledge_seconds is None


class TestSecrets:
    """The token is nowhere."""

    def test_not_in_logs_outcomes_or_reprs(self, server, caplog) -> None:
        """Not even where a server repeats it."""
        caplog.set_level(logging.DEBUG)
        server.plan(
            Fault(reply=Reply(403, f'{{"text":"{TOKEN} is wrong","code":4}}'.encode())),
            Fault(reply=Reply(502, f"upstream said no to Splunk {TOKEN}".encode())),
            Fault(reply=Reply(400, (b"x" * 190) + TOKEN.encode())),
            Fault(reset=True),
        )
        made_of = options(server.url, SETTINGS | {"token": TOKEN})
        with contextlib.closing(create(made_of)) as made:
            outcomes = [send(made, [entry()]) for _ in range(5)]
            shown = [
                repr(made),
                repr(made_of),
                repr(made.__dict__["_settings"]),
                repr(made.encode([entry()])),
                *map(repr, outcomes),
            ]
        assert [outcome.action for outcome in outcomes][-1] is Action.DELIVERED
        assert not [text for text in (*shown, caplog.text) if TOKEN[:12] in text]

    def test_a_payload_holds_none(self, server) -> None:
        """What is kept for a retry could be written down."""
        with destination(server, acknowledge=True) as made:
            payload = made.encode([entry()])
        assert isinstance(payload, Payload)
        assert "authorization" not in {name.lower() for name in payload.headers}
