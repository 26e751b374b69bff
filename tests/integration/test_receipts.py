"""`GET /v1/receipts`: what became of an emitter's events, for emitters that no receipt comes back to."""

from __future__ import annotations

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from klyra_audit import ids
from klyra_audit.format.leaf import Kind, Leaf
from klyra_collector.errors import Overloaded
from klyra_collector.receive.receipts import MAX_COUNT, BadQuestion, ForeignEmitter, Question, Receipts
from klyra_collector.receive.senders import Sender
from support import collector, otlp
from support.collector import ACME, OTHER


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One collector for all tests of this file."""
    root = tmp_path_factory.mktemp("data")
    started = collector.start(root, collector.make_keys(root))
    yield started
    assert started.terminate() == 0


@pytest.fixture
def boot() -> str:
    """A boot of this test's own."""
    return str(ids.new_uuid7())


def ask(running, boot: str, *, key: str | None = None, **parameters: object) -> httpx.Response:
    """Ask for receipts; the key is ACME's, the first ten places, and the emitter api-1, unless others are given."""
    asked = {"emitter": "api-1", "boot": boot, "first_seq": 0, "count": 10} | parameters
    headers = {"Authorization": f"Bearer {running.keys[ACME] if key is None else key}"}
    return httpx.get(f"{running.url}/v1/receipts", params=asked, headers=headers, timeout=30)


def listed(running, boot: str, **parameters: object) -> list[dict]:
    """Ask for receipts and return them."""
    response = ask(running, boot, **parameters)
    assert response.status_code == 200, response.text
    return response.json()["receipts"]


def send(running, boot: str, *events, first: int = 0, path: str = "/v1/logs", key: str | None = None) -> httpx.Response:
    """Send events as the emitter does."""
    response = running.post(path, otlp.own_form(*events, first=first, boot=boot), key=key)
    assert response.status_code == 200, response.text
    return response


def test_receipts_are_those_of_the_strict_endpoint(running, boot) -> None:
    """In the order of the sequence, with the same members; what is not there yet is missing."""
    answered = send(running, boot, otlp.prepared(), otlp.prepared(), path="/v1/audit").json()["receipts"]
    asked = listed(running, boot, count=3)
    assert [receipt.pop("emitter_seq") for receipt in asked] == [0, 1, 2]
    assert asked.pop() == {"status": "missing"}
    assert [receipt.pop("status") for receipt in answered] == ["delivered_all_sinks"] * 2
    assert [receipt.pop("status") for receipt in asked] == ["sealed"] * 2
    assert asked == answered


def test_it_does_not_matter_which_way_they_came(running, boot) -> None:
    """The leaf commits to the event that was sent."""
    event = otlp.prepared()
    send(running, boot, event)
    receipt = listed(running, boot)[0]
    leaf = Leaf.unpack(base64.b64decode(receipt["leaf"]))
    assert (leaf.commit, leaf.emitter_seq) == (event.commit, 0)
    assert (receipt["record_id"], receipt["integrity_hash"]) == (
        event.record_id,
        hashlib.sha256(event.encoded).hexdigest(),
    )
    assert running.sealed(receipt["index"])[0].leaf_bytes == leaf.pack()


def test_what_was_quarantined_is_told_apart(running, boot) -> None:
    """With pointer and reason."""
    send(running, boot, otlp.prepared(), otlp.invalid(action="fly"), otlp.prepared())
    statuses = [(receipt["status"], receipt.get("pointer")) for receipt in listed(running, boot, count=4)]
    assert statuses == [("sealed", None), ("quarantined", "/action"), ("sealed", None), ("missing", None)]
    receipt = listed(running, boot, first_seq=1, count=1)[0]
    assert Leaf.unpack(base64.b64decode(receipt["leaf"])).kind == Kind.QUARANTINE
    assert (receipt["record_id"], bool(receipt["reason"])) == (None, True)


def test_an_event_emitted_anew_gets_the_first_receipt(running, boot) -> None:
    """As on the strict endpoint, where a duplicate gets the first sealing's."""
    event, later = otlp.prepared(), str(ids.new_uuid7())
    send(running, boot, event)
    send(running, later, event)
    first, again = listed(running, boot)[0], listed(running, later)[0]
    assert (first.pop("duplicate"), again.pop("duplicate")) == (False, True)
    assert first == again


def test_only_the_keys_own_organization_is_known(running, boot) -> None:
    """Somebody else's boot cannot be told from one that never was."""
    send(running, boot, otlp.prepared())
    strange = listed(running, boot, key=running.keys[OTHER])
    never = listed(running, str(ids.new_uuid7()), key=running.keys[OTHER])
    assert strange == never
    assert {receipt["status"] for receipt in strange} == {"missing"}
    assert listed(running, boot, key=running.keys["many"])[0]["status"] == "missing"


def test_a_key_for_many_organizations_knows_its_own_boots(running, boot) -> None:
    """They belong to no single organization."""
    send(running, boot, otlp.prepared(), key=running.keys["many"])
    assert listed(running, boot, key=running.keys["many"])[0]["status"] == "sealed"
    assert listed(running, boot)[0]["status"] == "missing"


def test_a_key_bound_to_emitters_asks_for_no_other(running, boot) -> None:
    """It is told so."""
    assert ask(running, boot, key=running.keys["bound"]).status_code == 200
    refused = ask(running, boot, key=running.keys["bound"], emitter="api-2")
    assert (refused.status_code, refused.json()["code"]) == (403, "foreign_emitter")


def test_only_emitters_ask(running, boot) -> None:
    """With a key that may emit."""
    assert ask(running, boot, key="nonsense").status_code == 401
    assert ask(running, boot, key=running.keys["reader"]).json()["code"] == "scope_missing"
    assert running.post("/v1/receipts", b"").status_code == 405


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"count": 0}, "count"),
        ({"count": MAX_COUNT + 1}, "count"),
        ({"count": "٣"}, "count"),
        ({"first_seq": -1}, "first_seq"),
        ({"first_seq": 2**32 - 1}, "first_seq"),
        ({"emitter": ""}, "emitter"),
        ({"color": "red"}, "color"),
        ({"count": ["1", "2"]}, "count"),
    ],
)
def test_a_wrong_parameter_is_named(running, boot, parameters, named) -> None:
    """With what to ask instead."""
    response = ask(running, boot, **parameters)
    assert (response.status_code, response.json()["code"]) == (400, "bad_parameter")
    assert named in response.json()["reason"]
    assert "count=…" in response.json()["reason"]


def test_a_parameter_that_is_missing_is_named() -> None:
    """Each of the four is needed."""
    with pytest.raises(BadQuestion) as caught:
        Question.parse([("emitter", "api-1"), ("first_seq", "0"), ("count", "1")])
    assert (caught.value.code, "boot" in str(caught.value), bool(caught.value.remedy)) == ("bad_parameter", True, True)


def test_they_are_found_after_a_crash(tmp_path) -> None:
    """Nothing of the answer lives in memory alone."""
    keys, boot, event = collector.make_keys(tmp_path), str(ids.new_uuid7()), otlp.prepared()
    first = collector.start(tmp_path, keys)
    send(first, boot, event)
    before = listed(first, boot)
    first.kill()
    second = collector.start(tmp_path, keys)
    assert listed(second, boot) == before
    send(second, boot, event, otlp.prepared())
    assert [receipt["status"] for receipt in listed(second, boot, count=3)] == ["sealed", "sealed", "missing"]
    assert second.terminate() == 0


def test_many_ask_while_others_send(running) -> None:
    """Each gets its own, all of it."""
    boots = [str(ids.new_uuid7()) for _ in range(8)]

    def emit(boot: str) -> bool:
        for number in range(5):
            send(running, boot, *(otlp.prepared() for _ in range(20)), first=20 * number)
            found = listed(running, boot, count=20 * (number + 1))
            if {receipt["status"] for receipt in found} != {"sealed"}:
                return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(emit, boots))


class TestLimits:
    """Who is not answered."""

    @pytest.fixture
    def receipts(self, tmp_path):
        """Answers from an empty ledger."""
        from klyra_collector.data_directory import DataDirectory

        made = Receipts(DataDirectory(tmp_path), bytes(32))
        yield made
        made.close()

    @pytest.mark.parametrize(
        ("waiting", "emitters", "error", "code"),
        [(64, (), Overloaded, "overloaded"), (0, ("api-2",), ForeignEmitter, "foreign_emitter")],
    )
    def test_who_is_not_answered_is_told_what_to_do(self, receipts, waiting, emitters, error, code) -> None:
        """Too many at once, or another's emitter."""
        import asyncio

        receipts._waiting = waiting
        with pytest.raises(error) as caught:
            asyncio.run(receipts.answer(Question("api-1", "b", 0, 1), Sender("key_1", ACME, emitters)))
        assert (caught.value.code, bool(caught.value.remedy)) == (code, True)
