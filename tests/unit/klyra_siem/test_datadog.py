"""Datadog's logs intake against one that keeps every rule, and beside Datadog's own client."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING

import pytest

from klyra_siem.datadog import LIMITS, SITES, create, intake, of_answer
from klyra_siem.errors import BadDestination
from klyra_siem.http_sending import Answer
from klyra_siem.outcome import Action
from support.siem.cloud import HOUR_NS, PlainFormat, entry, options, send
from support.siem.cloud_server import Fault, Reply, serving
from support.siem.datadog import API_KEY, LONGEST_LOG, StrictIntake, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_siem.destination import Destination
    from support.siem.cloud_server import CloudServer

NOW = 1_782_000_000.0
SETTINGS = {"api_key": API_KEY}


@pytest.fixture
def datadog() -> StrictIntake:
    """An intake."""
    return StrictIntake()


@pytest.fixture
def server(datadog) -> Iterator[CloudServer]:
    """The intake's server."""
    with serving(datadog) as made:
        yield made


@contextlib.contextmanager
def destination(
    server: CloudServer, *, members: dict[str, object] | None = None, **settings: str
) -> Iterator[Destination]:
    """Give a destination; `members` are those of `DestinationOptions`."""
    with contextlib.closing(create(options(server.url, SETTINGS | settings, **(members or {})))) as made:
        yield made


class TestLogs:
    """What arrives."""

    def test_a_log(self, server, datadog) -> None:
        """Datadog's attributes beside the record, which has a member of its own."""
        item = entry(42, name="ключ 🔑")
        with destination(server, tags="env:production,team:security") as made:
            assert send(made, [item]).action is Action.DELIVERED
        [log] = datadog.indexed
        assert log == {
            "message": "moderation.created success",
            "ddsource": "klyra",
            "ddtags": "env:production,team:security,event_type:moderation.created,organization:org_startup",
            "hostname": "c1",
            "service": "klyra-audit",
            "status": "info",
            "timestamp": item.filed_ns // 1_000_000,
            "evt": {"id": item.entry_id, "name": "moderation.created", "outcome": "success"},
            "klyra_log": item.origin,
            "seq": "42",
            "audit": json.loads(PlainFormat().encode(item)),
        }
        assert datadog.complaints == []

    def test_a_failure_is_a_warning(self, server, datadog) -> None:
        """What went wrong can be filtered by Datadog's own status."""
        with destination(server) as made:
            send(made, [entry(status="failure")])
        assert [log["status"] for log in datadog.indexed] == ["warn"]

    def test_a_record_keeps_its_bytes(self, server) -> None:
        """What the format wrote is in the request unchanged."""
        item = entry(1)
        with destination(server, members={"compression": "none"}) as made:
            send(made, [item])
        assert b'"audit":' + PlainFormat().encode(item) in server.requests[0].body

    def test_ocsf_stands_where_cloud_siem_looks(self, server, datadog) -> None:
        """Datadog reads OCSF from an attribute of that name."""
        with destination(server, members={"record": PlainFormat("ocsf-1.1.0")}) as made:
            send(made, [entry()])
        assert "ocsf" in datadog.indexed[0]

    def test_a_text_record_is_the_message(self, server, datadog) -> None:
        """CEF and LEEF are texts."""
        with destination(server, members={"record": PlainFormat("cef", "text")}) as made:
            send(made, [entry()])
        assert datadog.indexed[0]["message"].startswith("CEF:0|Klyra|")

    def test_the_same_bytes_again(self, server) -> None:
        """A batch is the same request whenever it is made."""
        entries = [entry(number) for number in range(3)]
        with destination(server) as made:
            assert made.encode(entries) == made.encode(entries)

    def test_a_batch_is_as_long_as_measured(self, server) -> None:
        """Batches are cut by what is really sent, but for one bracket."""
        entries = [entry(number, name="ß" * number) for number in range(20)]
        with destination(server, members={"compression": "none"}) as made:
            assert len(made.encode(entries).content) == sum(made.measure(item) for item in entries) + 1

    def test_limits_are_within_datadogs(self) -> None:
        """What is longer than an entry may be would be cut off, and answered with 202."""
        assert LIMITS.entries == 1000
        assert LIMITS.encoded_bytes < 5_000_000
        assert (LIMITS.entry_bytes or 0) <= LONGEST_LOG
        assert (LIMITS.oldest_seconds, LIMITS.newest_seconds) == (18 * 3600, 2 * 3600)

    def test_why_entries_must_not_be_too_old(self, server, datadog) -> None:
        """Datadog says 202 and does not index them: only the limit on age prevents that."""
        with destination(server) as made:
            assert send(made, [entry(ago_ns=19 * HOUR_NS), entry(ago_ns=17 * HOUR_NS)]).action is Action.DELIVERED
        assert (len(datadog.indexed), len(datadog.not_indexed)) == (1, 1)


class TestAnswers:
    """What an answer means."""

    @pytest.mark.parametrize(
        ("status", "action"),
        [
            (202, Action.DELIVERED),
            (200, Action.PAUSE),
            (204, Action.PAUSE),
            (302, Action.PAUSE),
            (400, Action.BISECT),
            (401, Action.PAUSE),
            (403, Action.PAUSE),
            (404, Action.PAUSE),
            (408, Action.RETRY),
            (413, Action.BISECT),
            (429, Action.RETRY),
            (500, Action.RETRY),
            (503, Action.RETRY),
        ],
    )
    def test_every_status(self, status: int, action: Action) -> None:
        """Only 202 confirms; every documented refusal has its one meaning."""
        assert of_answer(Answer(status, {}, "{}"), NOW).action is action

    def test_a_page_is_no_confirmation(self) -> None:
        """A 202 with a page in it is not Datadog's, which answers with nothing or with an object."""
        assert of_answer(Answer(202, {}, "<h1>Sign in</h1>"), NOW).action is Action.PAUSE
        for said in ("", " ", "{}", '{"status": "ok"}'):
            assert of_answer(Answer(202, {}, said), NOW).action is Action.DELIVERED

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"x-ratelimit-reset": "12"}, 12.0),
            ({"retry-after": "3", "x-ratelimit-reset": "12"}, 3.0),
            ({"x-ratelimit-reset": "soon"}, None),
            ({}, None),
        ],
    )
    def test_when_to_come_again(self, headers: dict[str, str], seconds: float | None) -> None:
        """Datadog has a header of its own for it."""
        assert of_answer(Answer(429, headers, ""), NOW).retry_after == seconds

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ('{"errors":[{"status":"403","title":"Forbidden","detail":"API key is invalid"}]}', "API key is invalid"),
            ('{"errors":["one","two"]}', "one; two"),
            ('{"errors":[{"title":"Forbidden"}]}', "Forbidden"),
            ("<html>no</html>", "<html>no</html>"),
        ],
    )
    def test_reasons(self, body: str, reason: str) -> None:
        """Whichever way Datadog words it."""
        assert of_answer(Answer(403, {}, body), NOW).reason == reason

    def test_a_bad_log_is_found_by_halving(self, server, datadog) -> None:
        """An array with one is refused whole: nothing arrives twice."""
        entries = [entry(number) for number in range(3)]
        datadog.poison = {entries[1].entry_id}
        with destination(server) as made:
            assert send(made, entries).action is Action.BISECT
            for item in entries:
                send(made, [item])
        assert datadog.ids() == [entries[0].entry_id, entries[2].entry_id]

    @pytest.mark.parametrize(
        ("fault", "action"),
        [
            (Fault(reset=True), Action.RETRY),
            (Fault(truncated=True), Action.RETRY),
            (Fault(reply_lost=True), Action.RETRY),
            (Fault(delay_seconds=0.6), Action.RETRY),
            (Fault(reply=Reply(302, b"", {"Location": "https://elsewhere.example"})), Action.PAUSE),
            (Fault(reply=Reply(200, b"<html>log in</html>")), Action.PAUSE),
            (Fault(reply=refusal(429, "Too Many Requests")), Action.RETRY),
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
    """Whether it would work, without a log."""

    def test_all_is_well(self, server, datadog) -> None:
        """Nothing arrives."""
        with destination(server) as made:
            assert made.probe().action is Action.DELIVERED
        assert datadog.indexed == []

    def test_an_empty_array_may_be_refused(self, server) -> None:
        """Whoever says so has looked at the key before."""
        server.plan(Fault(reply=refusal(400, "Bad Request")))
        with destination(server) as made:
            assert made.probe().action is Action.DELIVERED

    def test_a_wrong_key(self, server) -> None:
        """Datadog's own words are shown."""
        with destination(server, api_key="another-key") as made:
            outcome = made.probe()
        assert (outcome.action, outcome.status, outcome.reason) == (Action.PAUSE, "403", "Forbidden by the intake")


class TestSettings:
    """What cannot be used is refused when the destination is made, and not repeated."""

    @pytest.mark.parametrize(
        ("settings", "hint"),
        [
            ({}, "api_key = "),
            ({"api_key": "with\nline"}, "api_key = "),
            (SETTINGS | {"service": "Not a service"}, "service = "),
            (SETTINGS | {"tags": "no spaces here"}, "tags = "),
            (SETTINGS | {"tags": ",".join(f"t{number}" for number in range(91))}, "tags = "),
            (SETTINGS | {"site": "us3"}, "Known are: "),
        ],
    )
    def test_bad_options(self, settings: dict[str, str], hint: str) -> None:
        """Each with what to write instead."""
        with pytest.raises(BadDestination) as caught:
            create(options("https://http-intake.logs.datadoghq.eu", settings))
        assert (caught.value.code, hint in caught.value.remedy) == ("bad_destination", True)
        assert API_KEY not in str(caught.value) + caught.value.remedy

    @pytest.mark.parametrize("host", ["app.datadoghq.com", "api.us3.datadoghq.com", "datadoghq.eu", "api.ddog-gov.com"])
    def test_an_address_that_takes_no_logs(self, host: str) -> None:
        """The address of the web pages is what people have at hand: every site is named instead."""
        with pytest.raises(BadDestination) as caught:
            create(options(f"https://{host}", SETTINGS))
        assert all(site in caught.value.remedy for site in SITES)

    def test_a_proxy_is_welcome(self) -> None:
        """What is not Datadog's may lead to it."""
        assert intake("https://proxy.example.com", "back") == "https://proxy.example.com"


class TestSecrets:
    """The key is nowhere."""

    def test_not_in_logs_outcomes_or_reprs(self, server, caplog) -> None:
        """Not even where a server repeats it."""
        caplog.set_level(logging.DEBUG)
        server.plan(
            Fault(reply=refusal(403, f"key {API_KEY} is wrong")),
            Fault(reply=Reply(502, f"upstream said no to {API_KEY}".encode())),
            Fault(reset=True),
        )
        with destination(server) as made:
            outcomes = [send(made, [entry()]) for _ in range(4)]
            shown = [
                repr(made),
                repr(options(server.url, SETTINGS)),
                repr(made.__dict__["_settings"]),
                repr(made.encode([entry()])),
                *map(repr, outcomes),
            ]
        assert outcomes[-1].action is Action.DELIVERED
        assert not [text for text in (*shown, caplog.text) if API_KEY[:12] in text]


class TestBesideDatadogsClient:
    """What Datadog's own client sends is what we send."""

    @pytest.fixture
    def client(self, server):
        """The client, which believes our server to be Datadog."""
        pytest.importorskip("datadog_api_client", reason="for want of datadog-api-client")
        from datadog_api_client import ApiClient, Configuration
        from datadog_api_client.v2.api.logs_api import LogsApi

        with ApiClient(Configuration(api_key={"apiKeyAuth": API_KEY})) as api_client:
            made = LogsApi(api_client)
            made._submit_log_endpoint.settings["servers"] = [{"url": server.url, "variables": {}}]
            yield made

    @pytest.mark.parametrize("compression", ["gzip", "none"])
    def test_the_same_request(self, server, datadog, client, compression: str) -> None:
        """Path, key, type, encoding, and what the JSON says are the same; both are taken."""
        from datadog_api_client.v2.model.content_encoding import ContentEncoding
        from datadog_api_client.v2.model.http_log import HTTPLog
        from datadog_api_client.v2.model.http_log_item import HTTPLogItem

        items = [entry(number, name="ключ 🔑") for number in range(3)]
        with destination(server, members={"compression": compression}) as made:
            assert send(made, items).action is Action.DELIVERED
            logs = json.loads(server.requests[0].content)
            names = {"gzip": {"content_encoding": ContentEncoding.GZIP}, "none": {}}
            client.submit_log(body=HTTPLog([HTTPLogItem(**log) for log in logs]), **names[compression])
        ours, theirs = server.requests
        assert (ours.method, ours.path) == (theirs.method, theirs.path)
        for name in ("dd-api-key", "content-type", "content-encoding", "accept"):
            assert ours.headers.get(name) == theirs.headers.get(name), name
        assert json.loads(ours.content) == json.loads(theirs.content)
        assert datadog.indexed[:3] == datadog.indexed[3:]

    def test_all_sites(self, client) -> None:
        """The client knows the sites that we name, and no other."""
        from datadog_api_client import Configuration
        from datadog_api_client.v2.api.logs_api import LogsApi

        known = set(LogsApi()._submit_log_endpoint.settings["servers"][0]["variables"]["site"]["enum_values"])
        assert known == set(SITES)
        for site in SITES:
            configuration = Configuration(server_variables={"site": site})
            endpoint = LogsApi()._submit_log_endpoint.settings["servers"]
            theirs = configuration.get_host_from_settings(0, servers=endpoint, variables={"site": site})
            assert intake(theirs, "back") == theirs == f"https://http-intake.logs.{site}"

    def test_errors_of_the_client(self, server, client) -> None:
        """Its idea of a refusal and ours come from the same answer."""
        from datadog_api_client.exceptions import ForbiddenException
        from datadog_api_client.v2.model.http_log import HTTPLog
        from datadog_api_client.v2.model.http_log_item import HTTPLogItem

        answer = refusal(403, "Forbidden")
        server.plan(Fault(reply=answer))
        with pytest.raises(ForbiddenException):
            client.submit_log(body=HTTPLog([HTTPLogItem(message="x")]))
        assert of_answer(Answer(403, {}, answer.body.decode()), NOW).action is Action.PAUSE
