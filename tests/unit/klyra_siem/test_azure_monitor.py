"""Azure Monitor against a strict rule, with Microsoft's own clients for tokens and for comparison."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from klyra_siem import azure_monitor, azure_monitor_rows
from klyra_siem.azure_monitor import LIMITS, create
from klyra_siem.azure_monitor_rows import COLUMNS, RECORD_COLUMNS, RESERVED, VALUE_BYTES, divided, row
from klyra_siem.destination import TlsOptions
from klyra_siem.errors import BadDestination
from klyra_siem.outcome import Action
from support.certificates import Authority
from support.siem import azure as far
from support.siem.cloud import DAY_NS, HOUR_NS, PlainFormat, entry, options, send
from support.siem.cloud_server import CloudServer, Fault, Reply, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_siem.azure_monitor import AzureMonitor
    from klyra_siem.destination import SealedEntry

pytest.importorskip("azure.identity", reason="for want of azure-identity")

SETTINGS = {
    "data_collection_rule": far.RULE,
    "stream": far.STREAM,
    "tenant_id": far.TENANT,
    "client_id": far.CLIENT,
    "client_secret": far.CLIENT_SECRET,
}
SECRETS = ("nobody-may-see",)


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    """Who signs the certificates of the fakes."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority) -> ssl.SSLContext:
    """What the fakes show."""
    files = authority.issue("azure")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


@dataclass
class Azure:
    """Both sides of a cloud: who issues tokens and who takes rows."""

    issuer: far.Issuer
    login: CloudServer
    ingestion: far.Ingestion
    server: CloudServer
    ca_file: Path

    @contextlib.contextmanager
    def destination(self, **members: object) -> Iterator[AzureMonitor]:
        """Give a destination; settings that are None are left out, others replace `SETTINGS`."""
        changed = members.pop("settings", {})
        authority = self.login.url.removeprefix("https://")
        chosen = SETTINGS | {"authority": authority} | changed
        chosen = {name: value for name, value in chosen.items() if value is not None}
        tls = TlsOptions(ca_file=self.ca_file)
        with contextlib.closing(create(options(self.server.url, chosen, tls=tls, **members))) as made:
            yield made


@pytest.fixture
def azure(tls, authority) -> Iterator[Azure]:
    """A rule that takes our rows."""
    issuer = far.Issuer()
    ingestion = far.Ingestion(issuer)
    with serving(issuer, tls) as login, serving(ingestion, tls) as server:
        yield Azure(issuer, login, ingestion, server, authority.certificate)


def refused(status: int, code: str, message: str = "", **headers: str) -> Fault:
    """Return a refusal."""
    return Fault(reply=far.refusal(status, code, message, **headers))


class TestRows:
    """What a table gets."""

    def test_every_column_is_declared_and_none_is_reserved(self) -> None:
        """A column that the rule does not know is dropped without a word, one that Azure keeps is refused."""
        written = set(json.loads(row(entry(), PlainFormat())))
        assert written <= set(COLUMNS)
        assert not RESERVED & set(COLUMNS)
        assert all(len(name) <= 45 and name.isidentifier() for name in COLUMNS)

    def test_an_entry(self) -> None:
        """The columns that are searched, and the record as the format wrote it."""
        one = entry(7, timestamp="2026-06-15T14:30:45.123456789Z")
        found = json.loads(row(one, PlainFormat()))
        assert found["EventTime"] == "2026-06-15T14:30:45.123456Z"
        assert (found["EventId"], found["LogIndex"], found["ActorId"]) == (one.entry_id, 7, "key_1")
        assert (found["ClientIp"], found["RecordFormat"]) == ("198.51.100.7", "native")
        assert found["Record"].encode() == PlainFormat().encode(one)
        assert "ResourceName" not in found

    def test_what_was_erased_is_nowhere(self) -> None:
        """A person's name, id and address are not in a row of an entry they were erased from."""
        content = row(entry(redacted=("actor",)), PlainFormat())
        for personal in (b"key_1", b"198.51.100.7", b"Production"):
            assert personal not in content

    @pytest.mark.parametrize("character", ["a", "é", "漢", "🔑"])
    def test_a_long_record_goes_on_in_further_columns(self, character) -> None:
        """Azure cuts a value off at 64 KB; put together the parts are the record."""
        text = "x" + character * VALUE_BYTES
        parts = divided(text)
        assert "".join(parts) == text
        assert max(len(part.encode()) for part in parts) <= VALUE_BYTES
        assert (len(parts) <= len(RECORD_COLUMNS)) or not azure_monitor_rows.fits(text.encode())

    def test_a_text_format(self) -> None:
        """CEF and LEEF are lines, which a column holds as they are."""
        text = PlainFormat("cef", "text")
        found = json.loads(row(entry(), text))
        assert (found["Record"].startswith("CEF:0|Klyra|"), found["RecordFormat"]) == (True, "cef")


class Long:
    """A format whose records are long."""

    name = "native"
    content = "json"

    def __init__(self, length: int):
        self.length = length

    def encode(self, _: SealedEntry) -> bytes:
        """Return a record of this length."""
        return b"x" * self.length


class TestSending:
    """What arrives."""

    def test_rows_arrive(self, azure) -> None:
        """Rows are in the table in their order, gzipped on the way."""
        entries = [entry(number, name="漢字 🔑") for number in range(5)]
        with azure.destination() as made:
            outcome = send(made, entries)
        assert (outcome.action, outcome.status) == (Action.DELIVERED, "204")
        assert azure.ingestion.ids() == [item.entry_id for item in entries]
        assert azure.ingestion.rows[0]["Record"].encode() == PlainFormat().encode(entries[0])
        assert azure.server.requests[0].headers["content-encoding"] == "gzip"

    def test_the_request_is_that_of_microsofts_client(self, azure) -> None:
        """Path, query, type, encoding and rows are what azure-monitor-ingestion sends for the same rows."""
        pytest.importorskip("azure.monitor.ingestion", reason="for want of azure-monitor-ingestion")
        from azure.core.credentials import AccessToken
        from azure.core.pipeline.transport import RequestsTransport
        from azure.monitor.ingestion import LogsIngestionClient

        one = entry()
        with azure.destination() as made:
            send(made, [one])
        [token] = azure.issuer.issued

        class Given:
            def get_token(self, *_: object, **__: object) -> AccessToken:
                return AccessToken(token, 2**31)

        transport = RequestsTransport(connection_verify=str(azure.ca_file))
        client = LogsIngestionClient(azure.server.url, Given(), transport=transport)
        with client:
            client.upload(rule_id=far.RULE, stream_name=far.STREAM, logs=[json.loads(row(one, PlainFormat()))])
        ours, theirs = azure.server.requests
        assert (ours.method, ours.path) == (theirs.method, theirs.path)
        for name in ("content-type", "content-encoding", "accept", "authorization"):
            assert ours.headers[name] == theirs.headers[name]
        assert json.loads(ours.content) == json.loads(theirs.content)
        assert azure.ingestion.rows[0] == azure.ingestion.rows[1]

    @pytest.mark.parametrize("compression", ["gzip", "none"])
    def test_the_same_bytes_again(self, azure, compression) -> None:
        """A retry sends what the first attempt sent."""
        entries = [entry(number) for number in range(3)]
        with azure.destination(compression=compression) as made:
            assert made.encode(entries) == made.encode(entries)

    def test_measured_on_the_final_array(self, azure) -> None:
        """Brackets and commas count: what fits our limit is below Azure's, where Microsoft's client is not."""
        with azure.destination(compression="none") as made:
            one = entry()
            count = LIMITS.encoded_bytes // made.measure(one)
            payload = made.encode([one] * count)
            assert len(payload.content) == count * made.measure(one) + 1
            assert len(payload.content) <= far.MAX_BODY_BYTES
            assert made.send(payload).action is Action.DELIVERED

    def test_more_than_a_megabyte_is_halved(self, azure) -> None:
        """Azure counts what it unpacks: well compressed is no way around the limit."""
        with azure.destination() as made:
            one = entry()
            payload = made.encode([one] * (far.MAX_BODY_BYTES // made.measure(one) + 1))
            outcome = made.send(payload)
        assert len(payload.content) < far.MAX_BODY_BYTES < len(gzip.decompress(payload.content))
        assert (outcome.action, outcome.status) == (Action.BISECT, "413")
        assert "ContentLengthLimitExceeded" in outcome.reason

    def test_a_record_that_no_column_holds(self, azure) -> None:
        """It is measured as too large, so that it becomes a dead letter and is never cut off."""
        with azure.destination(record=Long(len(RECORD_COLUMNS) * VALUE_BYTES)) as made:
            assert made.measure(entry()) > LIMITS.encoded_bytes
        with azure.destination(record=Long(3 * VALUE_BYTES)) as made:
            assert made.measure(entry()) < LIMITS.entry_bytes
            send(made, [entry()])
        assert azure.ingestion.cut == 0
        assert "".join(azure.ingestion.rows[0].get(name, "") for name in RECORD_COLUMNS) == "x" * 3 * VALUE_BYTES

    def test_what_is_older_than_two_days_is_rewritten_there(self, azure) -> None:
        """Azure takes it and files it under the time of arrival: `EventTime` still says when it was."""
        with azure.destination() as made:
            send(made, [entry(0, ago_ns=3 * DAY_NS), entry(1, ago_ns=HOUR_NS)])
        assert azure.ingestion.rewritten == 1
        old = azure.ingestion.rows[0]
        assert old["EventTime"] < old["TimeGenerated"]
        assert (LIMITS.oldest_seconds, LIMITS.newest_seconds) == (2 * 86400, 86400)

    def test_a_probe_delivers_nothing(self, azure) -> None:
        """An array without rows passes every check but those of rows."""
        with azure.destination() as made:
            assert made.probe().action is Action.DELIVERED
            azure.server.plan(refused(400, "NullOrEmptyPayload"))
            assert made.probe().action is Action.DELIVERED
            azure.ingestion.has_role = False
            assert made.probe().action is Action.PAUSE
        assert azure.ingestion.rows == []


class TestFailures:
    """What goes wrong."""

    @pytest.mark.parametrize(
        ("fault", "action", "status"),
        [
            (refused(429, "RequestLimitExceeded", **{"Retry-After": "30"}), Action.RETRY, "429"),
            (refused(400, "InvalidRecord", "bad"), Action.BISECT, "400"),
            (refused(400, "RecordsTimeRangeIsMoreThan30Minutes"), Action.BISECT, "400"),
            (refused(400, "InvalidStream", "not in the rule"), Action.PAUSE, "400"),
            (refused(403, "OperationFailed", "no access"), Action.PAUSE, "403"),
            (refused(404, "NotFound"), Action.PAUSE, "404"),
            (refused(413, "ContentLengthLimitExceeded"), Action.BISECT, "413"),
            (Fault(reply=Reply(500, b"oops")), Action.RETRY, "500"),
            (Fault(reply=Reply(503)), Action.RETRY, "503"),
            (Fault(reply=Reply(408)), Action.RETRY, "408"),
            (Fault(reply=Reply(307, b"", {"Location": "http://127.0.0.1:1/"})), Action.PAUSE, "307"),
            (Fault(reply=Reply(200, b"<h1>Sign in</h1>", {"Content-Type": "text/html"})), Action.PAUSE, "200"),
            (Fault(reply=Reply(202)), Action.PAUSE, "202"),
            (Fault(reset=True), Action.RETRY, "no_answer"),
            (Fault(reply_lost=True), Action.RETRY, "no_answer"),
            (Fault(reply=far.refusal(400, "X"), truncated=True), Action.RETRY, "no_answer"),
        ],
    )
    def test_outcome(self, azure, fault, action, status) -> None:
        """Only 204 confirms; nothing that the network or Azure does is an exception."""
        azure.server.plan(fault)
        with azure.destination() as made:
            outcome = send(made, [entry()])
            assert (outcome.action, outcome.status) == (action, status)
            assert outcome.retry_after == (30.0 if status == "429" else None)
            assert send(made, [entry()]).action is Action.DELIVERED

    def test_an_answer_that_is_lost_leaves_a_duplicate(self, azure) -> None:
        """The rows are in the table twice: `summarize arg_max(TimeGenerated, *) by EventId` shows one."""
        azure.server.plan(Fault(reply_lost=True))
        one = [entry()]
        with azure.destination() as made:
            assert [send(made, one).action for _ in range(2)] == [Action.RETRY, Action.DELIVERED]
        assert azure.ingestion.ids() == [one[0].entry_id] * 2

    def test_a_refused_row_refuses_all(self, azure) -> None:
        """Azure does not say which, so that the batch is halved; nothing of it was taken."""
        entries = [entry(number) for number in range(4)]
        azure.ingestion.poison.add(entries[2].entry_id)
        with azure.destination() as made:
            assert [send(made, half).action for half in (entries, entries[:2], entries[2:])] == [
                Action.BISECT,
                Action.DELIVERED,
                Action.BISECT,
            ]
        assert azure.ingestion.ids() == [item.entry_id for item in entries[:2]]

    def test_a_slow_answer(self, azure) -> None:
        """Behind the timeout nobody knows what was taken."""
        with azure.destination(timeout_seconds=0.2) as made:
            send(made, [entry()])
            azure.server.plan(Fault(delay_seconds=0.6))
            assert send(made, [entry()]).status == "no_answer"


class TestTokens:
    """azure-identity against an issuer."""

    def test_one_token_for_many_requests(self, azure) -> None:
        """A token is asked for once, for Azure Monitor."""
        with azure.destination() as made:
            for number in range(3):
                assert send(made, [entry(number)]).action is Action.DELIVERED
        assert len(azure.issuer.issued) == 1

    def test_a_token_about_to_expire_is_replaced(self, azure) -> None:
        """Before it expires, so that no request is refused for it."""
        azure.issuer.lifetime_seconds = 200
        with azure.destination() as made:
            for number in range(2):
                assert send(made, [entry(number)]).action is Action.DELIVERED
        assert len(azure.issuer.issued) == 2

    def test_a_revoked_token_is_replaced_at_once(self, azure) -> None:
        """A 401 costs one more request with the same bytes, not a pause."""
        with azure.destination() as made:
            send(made, [entry()])
            azure.issuer.revoke()
            assert send(made, [entry()]).action is Action.DELIVERED
        assert azure.server.requests[1].body == azure.server.requests[2].body

    def test_no_token_lets_in(self, azure) -> None:
        """The second 401 is the answer; the token that was refused is in no reason."""
        with azure.destination() as made:
            send(made, [entry()])
            azure.server.plan(*[Fault(reply=Reply(401, f'"{"".join(azure.issuer.issued)}"'.encode()))] * 2)
            outcome = send(made, [entry()])
        assert (outcome.action, outcome.status, outcome.reason) == (Action.PAUSE, "401", '"[hidden]"')

    def test_a_wrong_secret(self, azure, caplog) -> None:
        """An operator's matter, in which the secret does not appear although the issuer repeats it."""
        caplog.set_level(logging.DEBUG)
        with azure.destination(settings={"client_secret": "wrong-that-nobody-may-see"}) as made:
            outcome = send(made, [entry()])
            told = repr(made) + repr(outcome) + caplog.text
        assert (outcome.action, outcome.status) == (Action.PAUSE, "credentials")
        assert "AADSTS7000215" in outcome.reason
        assert not [secret for secret in SECRETS if secret in told]
        assert azure.server.requests == []

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_an_issuer_that_cannot(self, azure, status) -> None:
        """That passes: the batch is tried again."""
        azure.issuer.failure = Reply(status, b'{"error": "temporarily_unavailable"}', far.JSON)
        with azure.destination() as made:
            assert (send(made, [entry()]).action, azure.server.requests) == (Action.RETRY, [])
            azure.issuer.failure = None
            assert send(made, [entry()]).action is Action.DELIVERED

    def test_an_issuer_out_of_reach(self, azure) -> None:
        """As is one that nobody reaches."""
        with azure.destination(settings={"authority": "127.0.0.1:1"}) as made:
            assert send(made, [entry()]).action is Action.RETRY

    def test_a_managed_identity(self, azure, monkeypatch) -> None:
        """Without an application in the configuration the machine's own identity is used."""
        with serving(azure.issuer) as machine:
            monkeypatch.setenv("IDENTITY_ENDPOINT", f"{machine.url}/msi/token")
            monkeypatch.setenv("IDENTITY_HEADER", far.IDENTITY_HEADER)
            nobody = dict.fromkeys(("tenant_id", "client_id", "client_secret", "authority"))
            with azure.destination(settings=nobody) as made:
                assert send(made, [entry()]).action is Action.DELIVERED


class TestSettings:
    """What the configuration may say."""

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"data_collection_rule": None}, "data_collection_rule"),
            ({"data_collection_rule": "../x"}, "data_collection_rule"),
            ({"stream": "KlyraAudit_CL"}, "stream"),
            ({"client_id": None}, "tenant_id, client_id and client_secret"),
            ({"client_secret": 5}, "client_secret"),
            ({"audience": "monitor"}, "audience"),
            ({"tenant": "x"}, "tenant"),
        ],
    )
    def test_what_is_wrong_is_named_and_not_repeated(self, settings, named) -> None:
        """The option is named; no secret is."""
        chosen = {name: value for name, value in (SETTINGS | settings).items() if value is not None}
        with pytest.raises(BadDestination) as caught:
            create(options(azure_monitor.EXAMPLE, chosen))
        told = str(caught.value) + caught.value.remedy
        assert (caught.value.code, named in told, far.CLIENT_SECRET in told) == ("bad_destination", True, False)

    @pytest.mark.parametrize(
        ("host", "audience", "authority"),
        [
            ("a.westeurope-1.ingest.monitor.azure.com", "https://monitor.azure.com", "login.microsoftonline.com"),
            ("a.usgovvirginia-1.ingest.monitor.azure.us", "https://monitor.azure.us", "login.microsoftonline.us"),
            ("a.chinaeast2-1.ingest.monitor.azure.cn", "https://monitor.azure.cn", "login.chinacloudapi.cn"),
        ],
    )
    def test_sovereign_clouds(self, host, audience, authority) -> None:
        """Whom a token is for and who issues it follow from the endpoint."""
        with contextlib.closing(create(options(f"https://{host}/", SETTINGS))) as made:
            identity = made._tokens._fetcher._identity
        assert (identity.audience, identity.authority) == (audience, authority)
        assert far.CLIENT_SECRET not in repr(identity)
