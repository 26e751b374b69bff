"""CloudWatch Logs against moto behind a proxy that is as strict as AWS."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING

import pytest

from klyra_siem import cloudwatch
from klyra_siem.cloudwatch import LIMITS, create
from klyra_siem.destination import Payload
from klyra_siem.errors import BadDestination
from klyra_siem.outcome import Action
from support.siem import moto as far
from support.siem.cloud import DAY_NS, HOUR_NS, PlainFormat, entry, options, send
from support.siem.cloud_server import Fault, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_siem.cloudwatch import CloudWatch
    from support.siem.cloud_server import CloudServer
    from support.siem.moto import StrictMoto

pytest.importorskip("moto", reason="for want of moto")

SETTINGS = {
    "log_group": far.GROUP,
    "region": far.REGION,
    "log_stream": "klyra",
    "access_key_id": far.KEY_ID,
    "secret_access_key": far.SECRET,
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    """One moto; every test empties it."""
    with far.running() as url:
        yield url


@pytest.fixture
def aws(upstream) -> Iterator[tuple[CloudServer, StrictMoto]]:
    """The proxy, and what it knows."""
    with far.cloudwatch(upstream) as made:
        yield made


@contextlib.contextmanager
def destination(server: CloudServer, **settings: str | bool | None) -> Iterator[CloudWatch]:
    """Give a destination; settings that are None are left out."""
    chosen = {name: value for name, value in (SETTINGS | settings).items() if value is not None}
    with contextlib.closing(create(options(server.url, chosen))) as made:
        yield made


def error(kind: str, message: str = "", status: int = 400, **headers: str) -> Fault:
    """Return an error of AWS."""
    body = json.dumps({"__type": kind, "message": message}).encode()
    return Fault(reply=Reply(status, body, {"Content-Type": far.CONTENT_TYPE, **headers}))


class TestSending:
    """What arrives."""

    def test_events_arrive_as_they_were_written(self, aws) -> None:
        """A message is the record, byte for byte; the stream was not there and is made."""
        server, moto = aws
        entries = [entry(number, name="ключ 🔑") for number in range(3)]
        with destination(server) as made:
            assert send(made, entries).action is Action.DELIVERED
            assert send(made, [entry(3)]).action is Action.DELIVERED
        assert moto.messages("klyra")[:3] == [PlainFormat().encode(item).decode() for item in entries]
        operations = [request.headers["x-amz-target"].rpartition(".")[2] for request in server.requests]
        assert operations == ["PutLogEvents", "CreateLogStream", "PutLogEvents", "PutLogEvents"]

    def test_the_same_bytes_again(self, aws) -> None:
        """A retry sends what the first attempt sent; only time and signature differ."""
        server, _ = aws
        entries = [entry(number) for number in range(3)]
        with destination(server) as made:
            assert made.encode(entries) == made.encode(entries)
            send(made, entries)
        assert server.requests[0].body == server.requests[-1].body

    def test_entries_out_of_order_are_put_in_order(self, aws) -> None:
        """AWS takes chronological batches only; entries of one time keep their order."""
        server, moto = aws
        entries = [entry(0, ago_ns=HOUR_NS), entry(1, ago_ns=3 * HOUR_NS), entry(2, ago_ns=2 * HOUR_NS)]
        with destination(server) as made:
            assert made.encode(entries).order == (1, 2, 0)
            assert send(made, entries).action is Action.DELIVERED
        assert [json.loads(text)["klyra"]["index"] for text in moto.messages("klyra")] == [1, 2, 0]

    def test_rejected_entries_are_named_by_their_place_in_the_batch(self, aws) -> None:
        """Too old and too new ones are refused for good; all others are there."""
        server, moto = aws
        entries = [entry(0), entry(1, ago_ns=-3 * HOUR_NS), entry(2, ago_ns=15 * DAY_NS), entry(3)]
        with destination(server) as made:
            outcome = send(made, entries)
        assert (outcome.action, outcome.status, outcome.refused) == (Action.DELIVERED, "rejected", (1, 2))
        assert [json.loads(text)["klyra"]["index"] for text in moto.messages("klyra")] == [0, 3]

    def test_several_rejected_at_both_ends(self, aws) -> None:
        """Where moto gives the wrong index the proxy gives AWS's: two too old, two too new, one taken."""
        server, _ = aws
        ages = (16 * DAY_NS, 15 * DAY_NS, 0, -3 * HOUR_NS, -4 * HOUR_NS)
        with destination(server) as made:
            assert send(made, [entry(n, ago_ns=age) for n, age in enumerate(ages)]).refused == (0, 1, 3, 4)

    def test_a_batch_of_more_than_a_day_is_refused(self, aws) -> None:
        """The engine keeps to the span that the limits tell; AWS refuses what does not."""
        server, _ = aws
        with destination(server) as made:
            outcome = send(made, [entry(0, ago_ns=25 * HOUR_NS), entry(1)])
        assert (outcome.action, outcome.status) == (Action.BISECT, "InvalidParameterException")
        assert LIMITS.span_seconds == 24 * 3600

    def test_a_stream_for_each_day(self, aws) -> None:
        """`{date}` is the day of the first event, the same for every attempt."""
        server, moto = aws
        old = entry(0, ago_ns=2 * DAY_NS)
        with destination(server, log_stream="{destination}/{date}") as made:
            send(made, [old])
        assert moto.streams() == [f"back/{old.document['timestamp'][:10]}"]

    def test_measured_exactly(self, aws) -> None:
        """What is measured is what AWS counts: the largest batch is taken, one byte more is not."""
        server, _ = aws
        with destination(server) as made:
            one = entry(0)
            size = len(PlainFormat().encode(one)) + 26
            assert made.measure(one) == size
            room = far.MAX_BATCH_BYTES // size
            assert send(made, [one] * room).action is Action.DELIVERED
            assert send(made, [one] * (room + 1)).action is Action.BISECT

    def test_limits_are_within_those_of_aws(self) -> None:
        """A batch that keeps to ours keeps to theirs."""
        assert LIMITS.entries <= far.MAX_EVENTS
        assert LIMITS.encoded_bytes <= far.MAX_BATCH_BYTES
        assert (LIMITS.oldest_seconds, LIMITS.newest_seconds) == (14 * 86400, 2 * 3600)

    def test_the_request_is_that_of_boto3(self, aws) -> None:
        """AWS's own client sends the same members to the same place, signed the same way."""
        boto3 = pytest.importorskip("boto3", reason="for want of boto3")
        server, moto = aws
        moto.ask("CreateLogStream", {"logGroupName": far.GROUP, "logStreamName": "klyra"})
        one = entry(0)
        with destination(server) as made:
            send(made, [one])
        client = boto3.client(
            "logs",
            endpoint_url=server.url,
            region_name=far.REGION,
            aws_access_key_id=far.KEY_ID,
            aws_secret_access_key=far.SECRET,
        )
        event = {"timestamp": one.filed_ns // 1_000_000, "message": PlainFormat().encode(one).decode()}
        client.put_log_events(logGroupName=far.GROUP, logStreamName="klyra", logEvents=[event])
        client.close()
        ours, theirs = server.requests[-2:]
        assert (ours.method, ours.path) == (theirs.method, theirs.path)
        assert json.loads(ours.body) == json.loads(theirs.body)
        for name in ("content-type", "x-amz-target", "host"):
            assert ours.headers[name] == theirs.headers[name]
        scopes = [request.headers["authorization"].partition("SignedHeaders=")[0] for request in (ours, theirs)]
        assert scopes[0] == scopes[1]
        assert moto.messages("klyra") == [event["message"]] * 2


class TestStreams:
    """Streams and groups that are missing."""

    def test_a_missing_group_is_an_operators_matter(self, aws) -> None:
        """Unless it may be made, nothing is sent and the message says what to do."""
        server, _ = aws
        with destination(server, log_group="/klyra/other") as made:
            outcome = send(made, [entry()])
        assert (outcome.action, outcome.status) == (Action.PAUSE, "ResourceNotFoundException")
        assert "create_log_group = true" in outcome.reason

    def test_a_missing_group_is_made_if_that_is_allowed(self, aws) -> None:
        """Group, stream, events: in one attempt."""
        server, moto = aws
        with destination(server, log_group="/klyra/other", create_log_group=True) as made:
            assert send(made, [entry()]).action is Action.DELIVERED
        assert len(moto.messages("klyra", "/klyra/other")) == 1

    def test_another_sender_made_it_first(self, aws) -> None:
        """A stream that is there after all is as good as one that was made."""
        server, moto = aws
        moto.ask("CreateLogStream", {"logGroupName": far.GROUP, "logStreamName": "klyra"})
        server.plan(error("ResourceNotFoundException"))
        with destination(server) as made:
            assert send(made, [entry()]).action is Action.DELIVERED

    @pytest.mark.parametrize(
        ("kind", "action"), [("ThrottlingException", Action.RETRY), ("AccessDeniedException", Action.PAUSE)]
    )
    def test_a_stream_that_cannot_be_made(self, aws, kind, action) -> None:
        """Making one is refused like anything else."""
        server, _ = aws
        server.plan(error("ResourceNotFoundException"), error(kind))
        with destination(server) as made:
            assert (send(made, [entry()]).action, len(server.requests)) == (action, 2)

    def test_a_group_that_cannot_be_made(self, aws) -> None:
        """The reason is why the group could not be made."""
        server, _ = aws
        server.plan(*[error("ResourceNotFoundException")] * 2, error("AccessDeniedException", "not CreateLogGroup"))
        with destination(server, create_log_group=True) as made:
            assert send(made, [entry()]).reason == "not CreateLogGroup"

    def test_a_stream_that_is_missing_again(self, aws) -> None:
        """After one stream made and one more attempt the answer is the answer."""
        server, _ = aws
        server.plan(error("ResourceNotFoundException"), Fault(), error("ResourceNotFoundException"))
        with destination(server) as made:
            assert (send(made, [entry()]).action, len(server.requests)) == (Action.PAUSE, 3)

    def test_a_probe_makes_the_stream_and_delivers_nothing(self, aws) -> None:
        """Keys, region, group and rights are those of delivering; twice is as good as once."""
        server, moto = aws
        with destination(server) as made:
            assert [made.probe().action for _ in range(2)] == [Action.DELIVERED] * 2
        assert moto.messages("klyra") == []

    def test_bytes_of_somebody_else(self, aws) -> None:
        """A payload that no `encode` of this module made is sent as it is."""
        server, _ = aws
        server.plan(error("ResourceNotFoundException"))
        with destination(server) as made:
            assert made.send(Payload(b"{}")).action is Action.PAUSE


class TestFailures:
    """What goes wrong."""

    @pytest.mark.parametrize(
        ("fault", "action", "status"),
        [
            (error("ThrottlingException", "Rate exceeded"), Action.RETRY, "ThrottlingException"),
            (error("ServiceUnavailableException", status=503), Action.RETRY, "ServiceUnavailableException"),
            (Fault(reply=Reply(500)), Action.RETRY, "500"),
            (Fault(reply=Reply(502, b"<html>")), Action.RETRY, "502"),
            (Fault(reply=Reply(413)), Action.BISECT, "413"),
            (Fault(reply=Reply(301, b"", {"Location": "http://127.0.0.1:1/"})), Action.PAUSE, "301"),
            (Fault(reply=Reply(200, b"<h1>Sign in</h1>", {"Content-Type": "text/html"})), Action.PAUSE, "200"),
            (Fault(reset=True), Action.RETRY, "no_answer"),
            (Fault(truncated=True), Action.RETRY, "no_answer"),
            (Fault(reply_lost=True), Action.RETRY, "no_answer"),
        ],
    )
    def test_outcome(self, aws, fault, action, status) -> None:
        """Nothing that the network or AWS does is an exception."""
        server, moto = aws
        moto.ask("CreateLogStream", {"logGroupName": far.GROUP, "logStreamName": "klyra"})
        server.plan(fault)
        with destination(server) as made:
            outcome = send(made, [entry()])
            assert (outcome.action, outcome.status, outcome.refused) == (action, status, ())
            assert send(made, [entry()]).action is Action.DELIVERED

    def test_an_answer_that_is_lost_leaves_a_duplicate(self, aws) -> None:
        """AWS has taken the batch and takes it again: the same messages twice, the duplicate a reader removes."""
        server, moto = aws
        moto.ask("CreateLogStream", {"logGroupName": far.GROUP, "logStreamName": "klyra"})
        server.plan(Fault(reply_lost=True))
        one = [entry()]
        with destination(server) as made:
            assert [send(made, one).action for _ in range(2)] == [Action.RETRY, Action.DELIVERED]
        assert moto.messages("klyra") == [PlainFormat().encode(one[0]).decode()] * 2

    def test_a_slow_answer(self, upstream) -> None:
        """Behind the timeout nobody knows what was taken."""
        with far.cloudwatch(upstream) as (server, _):
            server.plan(Fault(delay_seconds=0.5))
            made = create(options(server.url, SETTINGS, timeout_seconds=0.1))
            with contextlib.closing(made):
                assert send(made, [entry()]).status == "no_answer"

    def test_throttling_with_a_time(self, aws) -> None:
        """`Retry-After` is heard."""
        server, _ = aws
        server.plan(error("ThrottlingException", **{"Retry-After": "3"}))
        with destination(server) as made:
            assert send(made, [entry()]).retry_after == 3.0


class TestCredentials:
    """Keys that are wrong, old, or of a role."""

    def test_a_wrong_secret_is_not_repeated(self, aws, caplog) -> None:
        """AWS answers with the request it would have signed; of what we hold nothing is in outcome or log."""
        caplog.set_level(logging.DEBUG)
        server, moto = aws
        moto.keys[far.KEY_ID] = ("another", "session-token-that-nobody-may-see")
        token = {"secret_access_key": "wrong-that-nobody-may-see", "session_token": "session-token-that-nobody-may-see"}
        with destination(server, **token) as made:
            outcome = send(made, [entry()])
            assert "nobody-may-see" not in repr(made) + repr(outcome) + caplog.text
        assert (outcome.action, outcome.status) == (Action.PAUSE, "InvalidSignatureException")
        assert "Canonical String" in outcome.reason

    @pytest.mark.parametrize("kind", ["ExpiredTokenException", "UnrecognizedClientException"])
    def test_keys_that_were_replaced_are_found(self, aws, monkeypatch, kind) -> None:
        """After a refusal the chain is asked anew, without a restart."""
        server, moto = aws
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOLD")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "old-secret")
        if kind == "ExpiredTokenException":
            moto.keys["AKIDOLD"] = ("old-secret", "old-token")
            moto.expired.add("old-token")
            monkeypatch.setenv("AWS_SESSION_TOKEN", "old-token")
        with destination(server, access_key_id=None, secret_access_key=None) as made:
            outcome = send(made, [entry()])
            assert (outcome.action, outcome.status) == (Action.PAUSE, kind)
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", far.KEY_ID)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", far.SECRET)
            monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
            assert send(made, [entry()]).action is Action.DELIVERED

    def test_a_role(self, aws, monkeypatch) -> None:
        """A role is assumed through the token service, with the external id; its token is signed and hidden."""
        server, moto = aws
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        role = {"role_arn": "arn:aws:iam::123456789012:role/klyra-writer", "external_id": "external-id-of-acme"}
        with destination(server, **role) as made:
            assert send(made, [entry()]).action is Action.DELIVERED
            token = server.requests[-1].headers["x-amz-security-token"]
            server.plan(error("AccessDeniedException", f"denied for {token}"))
            assert token not in send(made, [entry()]).reason
        asked = server.requests[0].body.decode()
        assert "ExternalId=external-id-of-acme" in asked
        assert "RoleSessionName=klyra-audit-back" in asked
        assert len(moto.messages("klyra")) == 1

    def test_no_keys(self, aws, monkeypatch, tmp_path) -> None:
        """Without any nothing is sent."""
        server, _ = aws
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
        with destination(server, access_key_id=None, secret_access_key=None) as made:
            assert (send(made, [entry()]).status, server.requests) == ("no_credentials", [])


class TestSettings:
    """What the configuration may say."""

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"log_group": None}, "log_group"),
            ({"log_group": "with spaces"}, "log_group"),
            ({"log_stream": "a:b"}, "log_stream"),
            ({"region": None}, "region"),
            ({"region": "nowhere"}, "region"),
            ({"create_log_group": "yes"}, "create_log_group"),
            ({"retention_days": 0}, "retention_days"),
            ({"secret_access_key": None}, "access_key_id and secret_access_key"),
            ({"log_groop": "x"}, "log_groop"),
        ],
    )
    def test_what_is_wrong_is_named_and_not_repeated(self, settings, named) -> None:
        """The option is named; its value, which may be a secret, is not."""
        chosen = {name: value for name, value in (SETTINGS | settings).items() if value is not None}
        with pytest.raises(BadDestination) as caught:
            create(options("https://example.com", chosen))
        told = str(caught.value) + caught.value.remedy
        assert (caught.value.code, named in told, far.SECRET in told) == ("bad_destination", True, False)

    @pytest.mark.parametrize(("days", "oldest"), [(1, 1), (14, 14), (400, 14)])
    def test_a_group_that_keeps_little(self, days, oldest) -> None:
        """What the group would drop is told apart before it is sent; more than 14 days AWS takes from no one."""
        with contextlib.closing(create(options("https://example.com", SETTINGS | {"retention_days": days}))) as made:
            assert made.limits.oldest_seconds == oldest * 86400

    @pytest.mark.parametrize(
        "endpoint",
        ["http://logs.eu-central-1.amazonaws.com", "https://", "ftp://127.0.0.1", "https://host/path", "nothing"],
    )
    def test_an_endpoint_that_is_not_safe(self, endpoint) -> None:
        """Keys and entries go over TLS, except to this machine."""
        with pytest.raises(BadDestination) as caught:
            create(options(endpoint, SETTINGS))
        assert cloudwatch.EXAMPLE in caught.value.remedy

    @pytest.mark.parametrize(
        ("host", "region"),
        [
            ("logs.us-east-2.amazonaws.com", "us-east-2"),
            ("logs-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("logs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("logs.eu-west-1.api.aws", "eu-west-1"),
            ("vpce-0a1b2c-3d4e.logs.eu-central-1.vpce.amazonaws.com", "eu-central-1"),
        ],
    )
    def test_the_region_of_an_endpoint_of_aws(self, host, region) -> None:
        """It need not be written twice."""
        settings = {name: value for name, value in SETTINGS.items() if name != "region"}
        made = create(options(f"https://{host}", settings))
        made.close()
        assert made._target.region == region
