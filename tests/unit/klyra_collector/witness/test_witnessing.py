"""A real ledger is cosigned by real witnesses, and by ones that misbehave; intake never notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from math import inf

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from klyra_audit.errors import Halted
from klyra_audit.format import note, policy
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.leaf import Kind
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.errors import IntakeHalted
from klyra_collector.seal.durable import Disk
from klyra_collector.stages import ControlRecord
from klyra_collector.witness import client as client_module
from klyra_collector.witness.assembly import show_cosigned
from klyra_collector.witness.client import WitnessClient
from klyra_collector.witness.errors import AnswerInvalid, WitnessUnavailable
from klyra_collector.witness.heads import published_head
from klyra_collector.witness.judging import MAX_ANSWER_BYTES
from klyra_collector.witness.metrics import WitnessMetrics
from klyra_collector.witness.request import SIZE_MEDIA_TYPE
from klyra_collector.witness.server import create_app
from klyra_collector.witness.witnessing import Witnessing
from klyra_collector.witnessed import Witnessed, witnessed
from support.sealing import MICROSECONDS, SetClock, open_ledger
from support.witnesses import Log, cosigning_key, kept, make_cosigner, metric, policy_text

DAY = 86_400
NEW_YEAR_US = 1_798_761_600 * MICROSECONDS  # 2027-01-01


@dataclass
class Bench:
    """A ledger, its witnesses by name, and what has them cosign."""

    root: object
    clock: SetClock
    ledger: object
    apps: dict
    quorum: str = "any"
    disk: Disk = field(default_factory=Disk)
    failing_publish: Exception | None = None

    def __post_init__(self):
        self.prometheus = CollectorRegistry()
        self.shard = ShardDirectory(self.root / "ledger" / "2026")
        named = [(name, key_of(name).vkey, f"http://{name}") for name in self.apps]
        self.policy = policy.parse(policy_text(self.ledger.vkey, *named, quorum=self.quorum).encode())
        self.witnessing = None

    def now(self):
        """Return seconds since 1970."""
        return self.clock.wall_us() / MICROSECONDS

    def grow(self, count=3):
        """Seal something and sign."""
        for number in range(count):
            document = {"type": "schema", "id": f"test#{self.ledger.size}.{number}", "sha256": "00" * 32}
            self.ledger.commit_controls([ControlRecord(Kind.SCHEMA, document, "operator")])
        self.ledger.sign()
        return self.ledger.size

    async def _publish(self, shard, encoded):
        if self.failing_publish:
            raise self.failing_publish
        show_cosigned(self.ledger, self.disk, shard, encoded)

    def _build(self, clients):
        return Witnessing(
            ledger=self.ledger,
            folder=self.root / "ledger",
            policy=self.policy,
            clients=clients,
            disk=self.disk,
            publish=self._publish,
            own_key=self.ledger.identity.signers.cosigning_key,
            metrics=WitnessMetrics(self.prometheus, self.now),
            now=self.now,
        )

    def rounds(self, *between):
        """Run a round, then for each step that step and another round; return what was logged."""

        async def run():
            async with contextlib.AsyncExitStack() as stack:
                clients = {}
                for name, app in self.apps.items():
                    http = httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False))
                    await stack.enter_async_context(http)
                    clients[name] = WitnessClient(
                        http, key_of(name).verifying_key, f"http://{name}/", self.now, first_delay_seconds=0.001
                    )
                self.prometheus = CollectorRegistry()
                task = self._build(clients)
                await task.round()
                for step in between:
                    step()
                    await task.round()

        with structlog.testing.capture_logs() as logs:
            asyncio.run(run())
        return logs

    def metric(self, name, **labels):
        """Return one sample."""
        return metric(generate_latest(self.prometheus).decode(), name, **labels)

    def seen(self):
        """Return what a quorum has cosigned."""
        return witnessed(self.shard, self.policy)

    def public(self):
        """Return the names of the witnesses on the public checkpoint, and its size."""
        encoded = self.shard.checkpoint.read_bytes()
        names = [line.split(" ")[1] for line in note.signature_lines(encoded)]
        return {name for name in names if name in self.apps}, int(encoded.split(b"\n")[1])


def key_of(name):
    """Return the key of a witness of these tests."""
    return cosigning_key(name, name.encode().ljust(32, b"."))


def scripted(*answers):
    """Return a witness that gives these answers in turn, the last one for ever: (status, body, media type)."""
    waiting = list(answers)

    async def add_checkpoint(request):
        status, body, media_type = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        app.state.requests.append(await request.body())
        return PlainTextResponse(body, status, headers={"Content-Type": media_type})

    app = Starlette(routes=[Route("/add-checkpoint", add_checkpoint, methods=["POST"])])
    app.state.requests = []
    return app


@pytest.fixture
def bench(tmp_path):
    """Return a function that makes a bench with witnesses of ours and scripted ones."""
    with contextlib.ExitStack() as stack:

        def make(*names, quorum="any", clock=None, **others):
            moved = clock or SetClock()
            ledger = stack.enter_context(contextlib.closing(open_ledger(tmp_path / "data", moved)))
            made = Bench(tmp_path / "data", moved, ledger, dict.fromkeys([*names, *others]), quorum)
            for name in names:
                cosigner = make_cosigner(
                    tmp_path / name, ledger.vkey, keys=[key_of(name)], now=lambda: moved.wall_us() / MICROSECONDS
                )
                made.apps[name] = create_app(cosigner)
            made.apps |= others
            return made

        yield make


def test_checkpoints_are_cosigned_as_the_ledger_grows(bench):
    """Each round the newest checkpoint is cosigned, kept, and shown, with the log's second signature on it."""
    made = bench("w1")
    sizes = []
    logs = made.rounds(*[lambda: sizes.append(made.grow())] * 3)
    assert made.seen() == Witnessed(sizes[-1], int(made.now()))
    assert made.public() == ({"w1"}, sizes[-1])
    assert len(note.signature_lines(made.shard.checkpoint.read_bytes())) == 3
    assert [line["event"] for line in logs] == ["witnessed"]
    assert kept(made.shard.witnesses)["w1"] == {
        "size": sizes[-1],
        "time": int(made.now()),
        "trouble": None,
        "reason": "",
    }


def test_an_unchanged_ledger_is_dated_anew(bench):
    """Without new records the same size is cosigned again, with the present time."""
    made = bench("w1")
    made.rounds(lambda: made.clock.pass_seconds(60))
    assert made.seen().time == int(made.now())
    assert made.metric("klyra_quorum_age_seconds") == 0


def test_a_lost_hint_is_corrected(bench):
    """With nothing remembered, the witness says its size and gets a proof from there."""
    made = bench("w1")
    made.rounds()
    for content in (b"{}", b"nonsense", b'{"w1": {"size": 2, "time": 0, "trouble": null, "reason": ""}}', b'{"w1": 1}'):
        made.shard.witnesses.write_bytes(content)
        size = made.grow()
        made.rounds()
        assert made.seen().size == size


def test_a_quorum_of_all_waits_for_all(bench):
    """Nothing counts as witnessed until every member has cosigned; what one cosigned is shown meanwhile."""
    made = bench("w1", quorum="all", w2=scripted((503, "", "text/plain")))
    logs = made.rounds(made.grow)
    assert made.seen() is None
    assert made.public() == ({"w1"}, made.ledger.size)
    assert made.metric("klyra_quorum_age_seconds") == inf
    assert made.metric("klyra_witness_failures_total", witness="w2", code="witness_unavailable") == 2
    assert [(line["event"], line["witness"]) for line in logs] == [("witnessed", "w1"), ("not_witnessed", "w2")]


def test_a_silent_witness_is_said_once_and_its_age_rises(bench):
    """Failing rounds are counted and logged once; when it answers again that is said too, and it has caught up."""
    made = bench("w1")
    working = made.apps["w1"]
    broken = scripted((500, "", "text/plain"))
    current = [working]

    async def switch(scope, receive, send):
        await current[0](scope, receive, send)

    made.apps["w1"] = switch
    ages = []

    def passes(app):
        def step():
            ages.append(made.metric("klyra_witness_age_seconds", witness="w1"))
            current[0] = app
            made.clock.pass_seconds(60)
            made.grow()

        return step

    logs = made.rounds(passes(broken), passes(broken), passes(broken), passes(working))
    assert ages == [0, 60, 120, 180]
    assert [line["event"] for line in logs] == ["witnessed", "not_witnessed", "witnessed"]
    assert made.seen().size == made.ledger.size
    assert made.metric("klyra_witness_age_seconds", witness="w1") == 0


def test_a_passing_trouble_is_gone_within_the_round(bench):
    """A witness that answers 503 twice is asked again in the same round."""
    made = bench("w1")
    working, calls = made.apps["w1"], []

    async def flaky(scope, receive, send):
        calls.append(1)
        app = working if len(calls) > 2 else scripted((503, "", "text/plain"))
        await app(scope, receive, send)

    made.apps["w1"] = flaky
    made.rounds()
    assert (len(calls), made.seen().size) == (3, made.ledger.size)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((409, "99999\n", SIZE_MEDIA_TYPE), "rollback"),
        ((422, "bad proof\n", "text/plain"), "fork"),
        ((404, "", "text/plain"), "log_unknown"),
        ((403, "", "text/plain"), "log_key_unknown"),
        ((200, "nonsense\n", "text/plain"), "witness_answer_invalid"),
    ],
)
def test_what_a_witness_answers_is_kept_for_status(bench, answer, code):
    """Each trouble has its code in the metrics, in the log and in `state/witnesses.json`; the other witness counts."""
    made = bench("w1", w2=scripted(answer))
    logs = made.rounds()
    assert kept(made.shard.witnesses)["w2"]["trouble"] == code
    assert made.metric("klyra_witness_failures_total", witness="w2", code=code) == 1
    level = "error" if code in ("rollback", "fork") else "warning"
    assert [(line["code"], line["log_level"]) for line in logs if "code" in line] == [(code, level)]
    assert made.seen().size == made.ledger.size
    assert len(made.apps["w2"].state.requests) == 1


def test_a_witness_that_moves_each_time_is_given_up_for_now(bench):
    """Two conflicts in one call are retryable, under a code of their own."""
    moves = [(409, f"{size}\n", SIZE_MEDIA_TYPE) for size in (1, 2)]
    made = bench(w1=scripted(*moves * client_module.ATTEMPTS))
    made.rounds()
    assert kept(made.shard.witnesses)["w1"]["trouble"] == "witness_size_moves"


def test_a_quorum_once_shown_is_not_replaced_by_less(bench):
    """While one of two is down, the public checkpoint of an unchanged size keeps both cosignatures."""
    made = bench("w1", "w2", quorum="all")
    working = made.apps["w2"]

    current = [working]

    def breaks():
        current[0] = scripted((500, "", "text/plain"))

    async def switch(scope, receive, send):
        await current[0](scope, receive, send)

    made.apps["w2"] = switch
    made.rounds(breaks)
    assert made.public() == ({"w1", "w2"}, made.ledger.size)


def test_a_checkpoint_that_has_been_overtaken_is_kept_but_not_shown(bench):
    """If the ledger signs a newer one while the witness thinks, the newer stays public."""
    made = bench("w1")
    working = made.apps["w1"]

    async def slow(scope, receive, send):
        before.append(made.ledger.signed_size)
        made.grow()
        await working(scope, receive, send)

    before = []
    made.apps["w1"] = slow
    made.rounds()
    assert made.seen().size == before[0]
    assert made.public() == (set(), made.ledger.size)


def test_a_failing_disk_or_seal_does_not_end_witnessing(bench):
    """What cannot be shown now is shown in a later round."""
    made = bench("w1")
    made.failing_publish = IntakeHalted("full")

    def recovers():
        made.failing_publish = None

    logs = made.rounds(recovers)
    assert [(line["event"], line.get("code")) for line in logs] == [
        ("witnessed", None),
        ("not_witnessed", "intake_halted"),
        ("witnessed", None),
    ]
    assert made.public() == ({"w1"}, made.ledger.size)


def test_an_unforeseen_fault_does_not_end_witnessing(bench):
    """A fault of our own is logged, and the next round runs."""
    made = bench("w1")
    made.failing_publish = ValueError("a fault")

    def recovers():
        made.failing_publish = None

    logs = made.rounds(recovers)
    assert "witnessing_failed" in [line["event"] for line in logs]
    assert made.public() == ({"w1"}, made.ledger.size)


def test_ages_go_on_after_a_restart(bench):
    """A new collector process shows how old the last cosignatures are, not that there were none."""
    made = bench("w1")
    made.rounds()
    made.clock.pass_seconds(300)
    made.apps["w1"] = scripted((500, "", "text/plain"))
    made.rounds()
    assert made.metric("klyra_witness_age_seconds", witness="w1") == 300
    assert made.metric("klyra_quorum_age_seconds") == 300


def test_the_last_checkpoint_of_a_closed_shard_is_cosigned_too(bench, tmp_path):
    """A shard that was closed before its last checkpoint was cosigned is sent until it is, and shown."""
    made = bench("w1")
    old = Log("klyra-audit.local/x/2025", b"o" * 32).grow(4)
    shard = ShardDirectory(made.root / "ledger" / "2025")
    Disk().replace(shard.checkpoint, old.signed())
    make_cosigner(tmp_path / "w1", old.key.vkey)
    made.rounds(made.grow)
    assert witnessed(shard, made.policy) == Witnessed(4, int(made.now()))
    assert b"w1" in shard.checkpoint.read_bytes()
    assert made.seen().size == made.ledger.size


def test_the_last_checkpoint_of_a_day_stays_kept(bench):
    """A cosignature that comes after midnight does not take the place of the day's last checkpoint."""
    made = bench("w1")
    midnight = int(made.now()) // DAY * DAY + DAY
    os.utime(made.shard.checkpoint, (midnight - 5, midnight - 5))
    before = made.shard.checkpoint.read_bytes()
    made.clock.pass_seconds(midnight + 5 - made.now())
    made.rounds()
    (name,) = (path.name for path in made.shard.checkpoints.iterdir())
    assert (made.shard.checkpoints / name).read_bytes() == before
    assert made.public() == ({"w1"}, made.ledger.size)


def test_rounds_repeat_until_they_are_stopped(bench):
    """The task runs a round each interval and ends at once when told to, even while a witness is silent."""
    made = bench("w1")
    working, calls = made.apps["w1"], []
    enough = asyncio.Event()

    async def counted(scope, receive, send):
        calls.append(1)
        if len(calls) == 3:
            enough.set()
            await asyncio.sleep(30)
        await working(scope, receive, send)

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(counted)) as http:
            client = WitnessClient(http, key_of("w1").verifying_key, "http://w1", made.now, first_delay_seconds=0.001)
            stop = asyncio.Event()
            running = asyncio.create_task(made._build({"w1": client}).run(stop, 0.01))
            await enough.wait()
            stop.set()
            async with asyncio.timeout(5):
                await running

    asyncio.run(run())
    assert len(calls) == 3


def ask(made, transport, url="http://w1"):
    """Ask a witness behind a transport to cosign the ledger's head."""

    async def run():
        async with httpx.AsyncClient(transport=transport) as http:
            client = WitnessClient(http, key_of("w1").verifying_key, url, made.now, first_delay_seconds=0.001)
            return await client.cosign(published_head(made.shard), 0)

    return asyncio.run(run())


def test_a_witness_that_is_not_there_is_unavailable(bench):
    """A refused connection is retryable and names the address."""
    with pytest.raises(WitnessUnavailable, match=r"127\.0\.0\.1:9") as caught:
        ask(bench("w1"), None, "http://127.0.0.1:9")
    assert (caught.value.code, caught.value.remedy) == ("witness_unavailable", "It is asked again by itself.")


def test_a_witness_that_never_finishes_is_unavailable(bench, monkeypatch):
    """An answer that drips is given up."""
    monkeypatch.setattr(client_module, "CALL_SECONDS", 0.05)

    async def silent(scope, receive, send):
        await asyncio.sleep(30)

    with pytest.raises(WitnessUnavailable):
        ask(bench("w1"), httpx.ASGITransport(silent))


def test_an_endless_answer_is_not_read(bench):
    """Beyond the limit an answer is refused, whatever it says."""
    with pytest.raises(AnswerInvalid) as caught:
        ask(bench("w1"), httpx.ASGITransport(scripted((200, "x" * (MAX_ANSWER_BYTES + 1), "text/plain"))))
    assert (caught.value.code, "what listens" in caught.value.remedy) == ("witness_answer_invalid", True)


@pytest.mark.parametrize("url", ["nonsense", "http://[", "ftp://x"])
def test_an_address_that_is_none_is_named(bench, url):
    """A URL that cannot be used is a fault of the policy, or at least never an unforeseen one."""
    with pytest.raises((AnswerInvalid, WitnessUnavailable)) as caught:
        ask(bench("w1"), None, url)
    assert not isinstance(caught.value, Halted)


def test_the_checkpoint_of_another_ledger_is_not_shown(bench):
    """Only the newest signed checkpoint takes signatures."""
    made = bench("w1")
    before = made.shard.checkpoint.read_bytes()
    text = Checkpoint(made.ledger.origin, 1, b"\1" * 32).text()
    show_cosigned(made.ledger, made.disk, made.shard, f"{text}\n".encode())
    assert made.shard.checkpoint.read_bytes() == before


def test_at_the_turn_of_the_year_both_shards_are_cosigned(bench, tmp_path):
    """The closed shard's last checkpoint still is; the new one is a new log, which the witness must be told of."""
    clock = SetClock(NEW_YEAR_US - 60 * MICROSECONDS)
    made = bench("w1", clock=clock)
    old = made.shard
    made.rounds(made.grow)

    def turn():
        clock.pass_seconds(120)
        made.grow()

    made.rounds(turn)
    new = ShardDirectory(made.root / "ledger" / "2027")
    assert made.ledger.origin.endswith("/2027")
    final = int(old.checkpoint.read_bytes().split(b"\n")[1])
    assert witnessed(old, made.policy).size == final
    assert b"w1" in old.checkpoint.read_bytes()
    assert kept(new.witnesses)["w1"]["trouble"] == "log_unknown"
    assert made.ledger.vkey in kept(new.witnesses)["w1"]["reason"]

    make_cosigner(tmp_path / "w1", made.ledger.vkey)
    made.rounds()
    assert witnessed(new, made.policy).size == made.ledger.size
