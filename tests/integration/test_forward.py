"""The collector over Fluent Forward: what is acknowledged, what is in the ledger then, and who may send."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import socket
import subprocess
import sys
import time
import zlib
from uuid import uuid4

import httpx
import msgpack
import pytest

from klyra_audit.format import sections as format_sections
from klyra_audit.format.frame import read_blob_frames
from klyra_audit.format.quarantined import KeptInput
from klyra_audit.forward.message import decode_message
from klyra_collector.data_directory import DataDirectory
from support import collector, forward, otlp
from support.collector import ACME, OTHER
from support.forward import MODES, PASSWORD, SHARED_KEY, TAG, TIME, USER, Wire, entry


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A collector that takes Forward without a handshake."""
    root = tmp_path_factory.mktemp("data")
    types = {"app.login.*": "user.invited", "app.**": "user.removed"}
    started = forward.start(root, collector.make_keys(root), EVENT_TYPES=types, MESSAGE_SECONDS=1)
    yield started
    assert started.terminate() == 0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A collector that asks for the shared key and a user."""
    root = tmp_path_factory.mktemp("guarded")
    keys = collector.make_keys(root)
    clients = [
        {
            "user": USER,
            "password": forward.secret(root, "password", PASSWORD),
            "key": forward.secret(root, "other", keys[OTHER]),
        }
    ]
    shared_key = forward.secret(root, "shared", SHARED_KEY)
    started = forward.start(
        root, keys, SHARED_KEY=shared_key, CLIENTS=clients, HOSTNAME="collector", HANDSHAKE_SECONDS=1
    )
    yield started
    assert started.terminate() == 0


@pytest.fixture
def begun(running) -> int:
    """The ledger's size when the test began."""
    return len(running.sealed())


@pytest.fixture
def wire(running):
    """A connection."""
    with Wire(forward.address(running)) as connected:
        yield connected


def fresh(count: int = 3, **members) -> list:
    """Return entries that no other test sends."""
    return [entry(number, run=uuid4().hex, **members) for number in range(count)]


def metric(running, name: str, **labels: str) -> float:
    """Return a metric's value, 0 while it has none."""
    listed = ",".join(f'{key}="{value}"' for key, value in labels.items())
    shown = f"{name}{{{listed}}}" if labels else name
    lines = httpx.get(f"{running.url}/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{shown} ")), 0.0)


class TestAcknowledged:
    """What is sealed when the acknowledgement comes."""

    @pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
    def test_every_mode_is_sealed_before_it_is_acknowledged(self, running, begun, wire, mode) -> None:
        """All entries are in the ledger, in order, when their chunk's name comes back."""
        entries = fresh()
        content = mode(entries, chunk="chunk")
        wire.send(content)
        messages = len(entries) if mode is forward.message else 1
        assert [wire.answer() for _ in range(messages)] == [{"ack": "chunk"}] * messages
        found = forward.events(running, begun)
        assert [item["metadata"]["attributes"]["run"] for item in found] == [record["run"] for _, record in entries]
        assert [item["resource"]["id"] for item in found] == ["usr_0", "usr_1", "usr_2"]
        assert {item["timestamp"] for item in found} == {"2026-06-09T10:13:20.123456789Z"}
        assert {item["organization_id"] for item in found} == {ACME}

    @pytest.mark.parametrize(
        "chunk",
        [b"\xb8p8n9gmxTQVC8/nh2wlKKeQ==", b"\xb9p8n9gmxTQVC8/nh2wlKKeQ==\n", b"\xc4\x03\x00\xff\n", b"\xa2\xff\xfe"],
        ids=["str", "newline", "bin", "no utf8"],
    )
    def test_the_chunk_comes_back_byte_for_byte(self, wire, chunk) -> None:
        """The acknowledgement repeats the chunk's name exactly as it was sent."""
        entries = msgpack.packb(fresh(1))
        wire.send(b"\x93" + msgpack.packb(TAG) + entries + b"\x81\xa5chunk" + chunk)
        assert wire.receive() == b"\x81\xa3ack" + chunk

    def test_a_chunk_sent_again_is_recognised(self, running, begun) -> None:
        """A sender that got no acknowledgement sends the same again, and it is sealed once."""
        content = forward.packed_forward(fresh(), chunk="again")
        for _ in range(2):
            with Wire(forward.address(running)) as wire:
                wire.send(content)
                assert wire.answer() == {"ack": "again"}
        assert len(forward.events(running, begun)) == 3

    def test_a_chunk_compressed_otherwise_is_the_same_chunk(self, running, begun, wire) -> None:
        """What tells a chunk from another is its entries, not how they were compressed."""
        entries = fresh()
        for mode in (forward.packed_forward, forward.gzipped, forward.zstandard_compressed):
            wire.send(mode(entries, chunk="same"))
            assert wire.answer() == {"ack": "same"}
        assert len(forward.events(running, begun)) == 3

    def test_equal_entries_of_one_chunk_are_two_events(self, running, begun, wire) -> None:
        """Two entries alike in one chunk happened twice."""
        wire.send(forward.forward(fresh(1) * 2, chunk="twice"))
        assert wire.answer() == {"ack": "twice"}
        assert len(forward.events(running, begun)) == 2

    def test_equal_messages_without_a_chunk_are_two_events(self, running, begun, wire) -> None:
        """What is never sent again as the same is never taken for a repeat, and gets no answer."""
        wire.send(forward.message(fresh(1) * 2) + forward.forward(fresh(1), chunk="end"))
        assert wire.answer() == {"ack": "end"}
        found = forward.events(running, begun)
        assert len(found) == 3
        assert [item["metadata"].get("delivery") for item in found] == ["best_effort", "best_effort", None]
        assert {item["metadata"]["tag"] for item in found} == {TAG}
        assert metric(running, "klyra_forward_best_effort_records_total", source="default") >= 2

    def test_a_large_chunk_is_sealed_in_parts_and_recognised(self, running, begun, wire) -> None:
        """A chunk of more entries than are sealed at once is acknowledged once, and sealed once."""
        content = forward.gzipped([entry(number) for number in range(2500)], chunk="large")
        for _ in range(2):
            wire.send(content)
            assert wire.answer() == {"ack": "large"}
        assert [item["resource"]["id"] for item in forward.events(running, begun)] == [
            f"usr_{number}" for number in range(2500)
        ]

    def test_many_chunks_at_once_are_acknowledged_in_order(self, running, begun, wire) -> None:
        """A sender need not wait for one acknowledgement before it sends the next chunk."""
        wire.send(b"".join(forward.forward(fresh(1), chunk=str(number)) for number in range(300)))
        assert [wire.answer()["ack"] for _ in range(300)] == [str(number) for number in range(300)]
        assert len(forward.events(running, begun)) == 300

    def test_heartbeats_get_no_answer(self, wire) -> None:
        """Nil keeps a connection alive and is nothing else."""
        wire.send(b"\xc0\xc0" + forward.forward(fresh(1), chunk="after") + b"\xc0")
        assert wire.answer() == {"ack": "after"}

    def test_udp_heartbeats_come_back(self, running) -> None:
        """One byte of zero on the same port comes back; anything else does not."""
        host, _, port = forward.address(running).rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heart:
            heart.settimeout(10)
            heart.connect((host, int(port)))
            heart.send(b"longer")
            heart.send(b"\x00")
            assert heart.recv(10) == b"\x00"

    @pytest.mark.parametrize(
        "written", [bytes, lambda salts: base64.b64encode(salts).decode()], ids=["bytes", "base64"]
    )
    def test_our_own_form_is_opened(self, running, begun, wire, written) -> None:
        """An event of our own emitter keeps its document, its salts and its place in the sequence."""
        event = otlp.prepared()
        record = {
            "event_name": event.document["event_type"],
            "body": event.encoded.decode(),
            "klyra.salts": written(event.salts),
            "klyra.emitter.seq": 7,
            "resource": {"klyra.emitter.id": "api-1", "klyra.emitter.boot": str(uuid_of_boot())},
        }
        wire.send(forward.forward([[TIME, record]], chunk="own"))
        assert wire.answer() == {"ack": "own"}
        sealed = running.sealed(begun)[-1]
        assert format_sections.join(sealed.body.sections) == event.document
        assert (sealed.leaf.commit, sealed.leaf.emitter_seq) == (event.commit, 7)


class TestMapped:
    """Where the members of a record go."""

    @pytest.mark.parametrize(
        ("tag", "members", "event_type"),
        [
            ("app.login.web", {}, "user.invited"),
            ("app.other", {}, "user.removed"),
            ("app.login.web", {"klyra.event_type": "user.removed"}, "user.removed"),
            ("app.login.web", {"event.name": "user.removed"}, "user.removed"),
            ("unknown", {"event_name": "user.invited"}, "user.invited"),
        ],
    )
    def test_the_tag_stands_for_an_event_type_unless_the_record_says_one(
        self, running, begun, wire, tag, members, event_type
    ) -> None:
        """The first pattern that matches the tag is used for records that name no type themselves."""
        record = {"klyra.actor.id": "usr_1", "klyra.resource.id": "usr_2"} | members
        wire.send(forward.forward([[TIME, record]], tag=tag, chunk=uuid4().hex))
        wire.answer()
        found = forward.events(running, begun) or forward.quarantined(running, begun)
        assert [item.get("event_type", item) for item in found] == [event_type]

    def test_a_nested_map_is_the_same_as_dotted_names(self, running, begun, wire) -> None:
        """Senders that cannot write a dot in a key nest a map `klyra`."""
        record = {
            "klyra": {
                "event_type": "user.removed",
                "actor": {"id": "usr_1", "name": "Ann"},
                "resource": {"id": "usr_2"},
                "metadata": {"ticket": "T-1", "deep": {"a": 1}},
            },
            "log": "removed",
        }
        wire.send(forward.forward([[[TIME, {"level": "info"}], record]], chunk=uuid4().hex))
        wire.answer()
        [event] = forward.events(running, begun)
        assert event["actor"] == {"type": "user", "id": "usr_1", "name": "Ann"}
        metadata = event["metadata"]
        assert (metadata["ticket"], metadata["deep"], metadata["message"]) == ("T-1", {"a": 1}, "removed")
        assert metadata["attributes"]["fluent.metadata"] == {"level": "info"}

    def test_no_time_is_the_receivers(self, running, begun, wire) -> None:
        """A record without a time gets the time it came, and says so."""
        wire.send(forward.forward([[0, entry()[1]]], chunk=uuid4().hex))
        wire.answer()
        [event] = forward.events(running, begun)
        assert event["metadata"]["timestamp_source"] == "collector"


class TestQuarantined:
    """What is no valid event is kept, acknowledged, and harms nothing beside it."""

    @pytest.mark.parametrize(
        "bad",
        [
            b"\x92\x01\x81\xa1a\xa2\xff\xfe",
            b"\x92\x01\x82\xa1a\x01\xa1a\x02",
            b"\x92\x01\x81\xa1a\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
            b"\x92\x01\x81\x90\x01",
            b"\x92\x01\x81\x07\x01",
            b"\x92\x01\x81\xa1a" + b"\x91" * 3000 + b"\xc0",
            b"\xc0",
            b"\x92\xa3now\x80",
            b"\x92\x01\x82\xa5klyra\x81\xa5actor\x81\xa2id\xa1a\xaeklyra.actor.id\xa1b",
            b"\x92\x01\x82\xabklyra.salts\x01\xa4body\xa1x",
            b"\x92\x01\x80",
        ],
        ids=["utf8", "twice", "nan", "unhashable", "number", "deep", "nil", "time", "nested twice", "salts", "empty"],
    )
    def test_a_bad_entry_harms_no_other(self, running, begun, wire, bad) -> None:
        """The entries beside it are sealed, its bytes are kept with its tag, and the chunk is acknowledged."""
        good = [msgpack.packb(item) for item in fresh(2)]
        wire.send(msgpack.packb([TAG, good[0] + bad + good[1], {"chunk": "c"}]))
        assert wire.answer() == {"ack": "c"}
        assert len(forward.events(running, begun)) == 2
        [said] = forward.quarantined(running, begun)
        assert said["reason"]
        kept = quarantined_bytes(running, said["sha256"])
        again = decode_message(KeptInput.unpack(kept).content)
        assert (again.tag, [item.raw for item in again.entries]) == (TAG, [bad])

    def test_packed_entries_that_break_off_are_kept(self, running, begun, wire) -> None:
        """The entries before the break are sealed, the rest is quarantined."""
        content = forward.packed(fresh(2))
        wire.send(msgpack.packb([TAG, content[:-3], {"chunk": "c", "size": 2}]))
        assert wire.answer() == {"ack": "c"}
        assert (len(forward.events(running, begun)), len(forward.quarantined(running, begun))) == (1, 1)

    def test_a_tag_that_is_no_utf8_quarantines_its_entries(self, running, begun, wire) -> None:
        """Nobody can say what such a tag stands for."""
        wire.send(b"\x93\xa2\xff\xfe" + msgpack.packb(fresh(1)) + msgpack.packb({"chunk": "c"}))
        assert wire.answer() == {"ack": "c"}
        assert len(forward.quarantined(running, begun)) == 1

    def test_entries_that_cannot_be_inflated_are_kept(self, running, begun, wire) -> None:
        """A chunk that would never inflate must not come again for ever."""
        wire.send(msgpack.packb([TAG, b"not gzip", {"chunk": "c", "compressed": "gzip"}]))
        assert wire.answer() == {"ack": "c"}
        [said] = forward.quarantined(running, begun)
        assert "compressed" in said["reason"]

    def test_another_number_of_entries_than_announced_is_counted(self, running, wire) -> None:
        """Somebody should know of a sender that loses count."""
        before = metric(running, "klyra_forward_miscounted_total")
        wire.send(forward.forward(fresh(1), chunk="c", size=9))
        wire.answer()
        assert metric(running, "klyra_forward_miscounted_total") == before + 1


class TestClosed:
    """What ends a connection."""

    @pytest.mark.parametrize(
        "content", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", b"\xc1", b"\x93\x01\x02\x80", b"\x80"]
    )
    def test_what_is_no_forward_closes_after_what_was(self, running, wire, content) -> None:
        """Messages before the first that is none are sealed and acknowledged; then the connection closes."""
        before = metric(running, "klyra_forward_refused_total", code="not_forward")
        wire.send(forward.forward(fresh(1), chunk="good") + content)
        assert msgpack.unpackb(wire.rest()) == {"ack": "good"}
        assert metric(running, "klyra_forward_refused_total", code="not_forward") == before + 1
        assert '"code": "not_forward"' in forward.log(running)

    @pytest.mark.parametrize("drops", [0, 100], ids=["silent", "drop by drop"])
    def test_a_message_that_breaks_off_closes(self, running, begun, wire, drops) -> None:
        """A peer that stops in the middle, or goes on for ever, does not hold memory; nothing of it is sealed."""
        before = metric(running, "klyra_forward_refused_total", code="peer_silent")
        wire.send(b"\x92\xa1t\xc6\x00\x00\xff\xff")
        with contextlib.suppress(OSError):
            for _ in range(drops):
                wire.send(b"x")
                time.sleep(0.05)
        assert wire.rest() == b""
        assert forward.events(running, begun) == []
        assert metric(running, "klyra_forward_refused_total", code="peer_silent") == before + 1

    def test_a_message_that_announces_too_much_closes(self, running, wire) -> None:
        """More than a request may have is refused by its header."""
        before = metric(running, "klyra_forward_refused_total", code="message_too_large")
        wire.send(b"\x92\xa1t\xc6\xff\xff\xff\xff")
        assert wire.rest() == b""
        assert metric(running, "klyra_forward_refused_total", code="message_too_large") == before + 1

    def test_connections_are_counted_while_they_are_open(self, running, wire) -> None:
        """The gauge shows who is connected now."""
        wire.send(forward.forward(fresh(1), chunk="c"))
        wire.answer()
        assert metric(running, "klyra_forward_connections") >= 1


class TestHostile:
    """Whatever comes, the collector goes on for everybody else."""

    def test_damaged_messages_of_every_mode_harm_nobody_else(self, running) -> None:
        """Messages with any byte changed are sealed, quarantined or end their own connection, and no more."""
        chance = random.Random(11)  # noqa: S311 - the same damage on every run
        with Wire(forward.address(running)) as neighbour:
            for number in range(60):
                content = bytearray(chance.choice(MODES)(fresh(2), chunk="c"))
                for _ in range(chance.randint(1, 3)):
                    content[chance.randrange(len(content))] = chance.randrange(256)
                with Wire(forward.address(running)) as wire:
                    wire.send(bytes(content))
                    wire.socket.shutdown(socket.SHUT_WR)
                    wire.rest()
                if number % 20 == 0:
                    neighbour.send(forward.forward(fresh(1), chunk="still here"))
                    assert neighbour.answer() == {"ack": "still here"}
        assert "forward_failed" not in forward.log(running)
        assert "Traceback" not in forward.log(running)

    def test_what_inflates_beyond_the_limit_is_kept_as_it_came(self, running, begun, wire) -> None:
        """A small message that would fill the memory is quarantined, not inflated."""
        bomb = zlib.compressobj(wbits=31)
        content = b"".join(bomb.compress(b"\xc0" * (1 << 20)) for _ in range(65)) + bomb.flush()
        wire.send(msgpack.packb([TAG, content, {"chunk": "bomb", "compressed": "gzip"}]))
        assert wire.answer() == {"ack": "bomb"}
        [said] = forward.quarantined(running, begun)
        assert "inflate to more than" in said["reason"]

    def test_a_chunk_of_a_million_nothings_is_refused(self, running, wire) -> None:
        """More entries than anything real has end the connection, not the memory."""
        wire.send(msgpack.packb([TAG, b"\xc0" * 1_000_001, {"chunk": "c"}]))
        assert wire.rest() == b""


class TestHandshake:
    """Who may send."""

    def test_a_user_sends_for_the_organization_of_its_key(self, guarded) -> None:
        """The shared key and a password are proven; entries get the organization that the user's key belongs to."""
        begun = len(guarded.sealed())
        with Wire(forward.address(guarded)) as wire:
            pong = wire.greet(SHARED_KEY, user=USER, password=PASSWORD)
            assert (pong.accepted, pong.hostname) == (True, b"collector")
            wire.send(forward.forward(fresh(1), chunk="c"))
            assert wire.answer() == {"ack": "c"}
        assert [item["organization_id"] for item in forward.events(guarded, begun)] == [OTHER]

    def test_without_a_user_the_default_key_is_used(self, guarded) -> None:
        """A peer that proves the shared key alone sends with `forward.key`."""
        begun = len(guarded.sealed())
        with Wire(forward.address(guarded)) as wire:
            assert wire.greet(SHARED_KEY).accepted
            wire.send(forward.forward(fresh(1), chunk="c"))
            assert wire.answer() == {"ack": "c"}
        assert [item["organization_id"] for item in forward.events(guarded, begun)] == [ACME]

    @pytest.mark.parametrize(
        "proofs",
        [
            {"shared_key": "another key"},
            {"shared_key": SHARED_KEY, "hostname": "collector"},
            {"shared_key": SHARED_KEY, "user": USER, "password": "wrong"},
            {"shared_key": SHARED_KEY, "user": "nobody", "password": PASSWORD},
            {"shared_key": "another key", "user": USER, "password": PASSWORD},
        ],
        ids=["key", "hostname", "password", "user", "key of a user"],
    )
    def test_a_stranger_is_told_and_cut_off(self, guarded, proofs) -> None:
        """Whoever proves the wrong thing gets a PONG with the reason and nothing else; what it sends is not read."""
        begun = len(guarded.sealed())
        before = metric(guarded, "klyra_forward_refused_total", code="handshake_failed")
        with Wire(forward.address(guarded)) as wire:
            pong = wire.greet(**proofs)
            assert not pong.accepted
            assert pong.reason
            with contextlib.suppress(OSError):
                wire.send(forward.forward(fresh(1), chunk="c"))
            assert wire.rest() == b""
        assert forward.events(guarded, begun) == []
        assert metric(guarded, "klyra_forward_refused_total", code="handshake_failed") == before + 1

    def test_messages_before_the_handshake_are_refused(self, guarded) -> None:
        """Whoever sends entries instead of a PING is cut off without an acknowledgement."""
        begun = len(guarded.sealed())
        with Wire(forward.address(guarded)) as wire:
            wire.answer()
            wire.send(forward.forward(fresh(1), chunk="c"))
            assert b"chunk" not in wire.rest()
        assert forward.events(guarded, begun) == []

    def test_a_large_message_before_the_handshake_is_not_waited_for(self, guarded) -> None:
        """A stranger's message may be as large as a PING, no more."""
        with Wire(forward.address(guarded)) as wire:
            wire.answer()
            wire.send(b"\xc6\x00\x10\x00\x00")
            assert wire.answer()[:2] == ["PONG", False]
            assert wire.rest() == b""

    def test_silence_instead_of_a_handshake_ends_the_connection(self, guarded) -> None:
        """A peer that never answers does not stay."""
        before = metric(guarded, "klyra_forward_refused_total", code="peer_silent")
        with Wire(forward.address(guarded)) as wire:
            wire.answer()
            assert wire.rest() == b""
        assert metric(guarded, "klyra_forward_refused_total", code="peer_silent") == before + 1

    def test_each_connection_gets_a_nonce_of_its_own(self, guarded) -> None:
        """What one client proved cannot be played back to another connection."""
        offers = []
        for _ in range(2):
            with Wire(forward.address(guarded)) as wire:
                offers.append(wire.answer()[1])
        assert offers[0]["nonce"] != offers[1]["nonce"]
        assert offers[0]["auth"] != offers[1]["auth"]


class TestKeys:
    """Every connection sends with a key of the registry."""

    def test_a_revoked_key_ends_its_connections(self, tmp_path) -> None:
        """A peer that only listens is cut off, too, and cannot come back."""
        keys = collector.make_keys(tmp_path)
        running = forward.start(tmp_path, keys)
        try:
            with Wire(forward.address(running)) as idle, Wire(forward.address(running)) as busy:
                busy.send(forward.forward(fresh(1), chunk="c"))
                assert busy.answer() == {"ack": "c"}
                revoke(tmp_path, keys[ACME])
                assert idle.rest() == b""
                assert busy.rest() == b""
            with Wire(forward.address(running)) as wire:
                assert wire.rest() == b""
        finally:
            assert running.terminate() == 0

    @pytest.mark.parametrize("name", ["reader", "unknown"])
    def test_a_key_that_may_not_emit_admits_nobody(self, tmp_path, name) -> None:
        """The receiver runs, and refuses whoever comes, while its key is not one with the scope emit."""
        keys = collector.make_keys(tmp_path)
        text = (keys | {"unknown": "klyra_sk_unknown"})[name]
        running = forward.start(tmp_path, keys, KEY=forward.secret(tmp_path, "bad", text))
        try:
            with Wire(forward.address(running)) as wire:
                assert wire.rest() == b""
        finally:
            assert running.terminate() == 0

    def test_without_a_key_it_does_not_start_and_says_so(self, tmp_path) -> None:
        """Nothing listens for Forward until something says with which key it sends."""
        running = forward.start(tmp_path, collector.make_keys(tmp_path), KEY="")
        try:
            assert "forward_not_started" in forward.log(running)
            assert "forward.key" in forward.log(running)
        finally:
            assert running.terminate() == 0

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"KEY": "", "SHARED_KEY": "env:SHARED"}, "which emit key"),
            ({"KEY": "env:NOT_SET"}, "NOT_SET"),
            ({"LISTEN": "0.0.0.0:0"}, "Anyone who reaches"),
            ({"EVENT_TYPES": {"**": "no.such"}}, "no.such"),
            ({"CLIENTS": [{"user": "u", "password": "env:P", "key": "env:K"}]}, "forward.shared_key"),
        ],
        ids=["no key", "no secret", "open", "type", "users"],
    )
    def test_a_configuration_that_cannot_be_meant_stops_the_start(self, tmp_path, settings, said) -> None:
        """The message names what is missing."""
        with pytest.raises(AssertionError, match=said):
            forward.start(tmp_path, collector.make_keys(tmp_path), **settings)

    def test_a_unix_socket_needs_no_handshake(self, tmp_path) -> None:
        """Who may open its file may send; the file is gone after the stop."""
        path = tmp_path / "forward.sock"
        running = forward.start(tmp_path, collector.make_keys(tmp_path), LISTEN=f"unix:{path}")
        try:
            assert forward.address(running) == f"unix:{path}"
            with socket.socket(socket.AF_UNIX) as wire:
                wire.connect(str(path))
                wire.sendall(forward.forward(fresh(1), chunk="c"))
                assert wire.recv(100) == b"\x81\xa3ack\xa1c"
            assert path.stat().st_mode & 0o777 == 0o600
        finally:
            assert running.terminate() == 0
        assert not path.exists()

    def test_an_open_port_has_to_be_asked_for(self, tmp_path) -> None:
        """Behind a network of its own an operator may let anyone send."""
        running = forward.start(tmp_path, collector.make_keys(tmp_path), LISTEN="0.0.0.0:0", OPEN="true")
        assert running.terminate() == 0


class TestLimits:
    """What one peer may take."""

    def test_more_connections_than_allowed_are_closed(self, tmp_path) -> None:
        """The first stays; the second is closed at once and counted."""
        running = forward.start(tmp_path, collector.make_keys(tmp_path), MAX_CONNECTIONS=1, IDLE_SECONDS=1)
        try:
            with Wire(forward.address(running)) as first:
                first.send(forward.forward(fresh(1), chunk="c"))
                assert first.answer() == {"ack": "c"}
                with Wire(forward.address(running)) as second:
                    assert second.rest() == b""
                assert metric(running, "klyra_forward_refused_total", code="too_many_connections") == 1
                assert first.rest() == b""  # silent for longer than allowed
            assert metric(running, "klyra_forward_refused_total", code="peer_silent") == 0
            assert "forward_idle" in forward.log(running)
        finally:
            assert running.terminate() == 0

    def test_a_stop_acknowledges_what_is_sealed_and_closes(self, tmp_path) -> None:
        """An open connection does not keep the collector from stopping."""
        running = forward.start(tmp_path, collector.make_keys(tmp_path))
        with Wire(forward.address(running)) as wire:
            wire.send(forward.forward(fresh(1), chunk="c"))
            assert wire.answer() == {"ack": "c"}
            assert running.terminate() == 0
            assert wire.rest() == b""
        assert "Traceback" not in forward.log(running)


def uuid_of_boot():
    """Return a boot that no other test uses."""
    from klyra_audit import ids

    return ids.new_uuid7()


def revoke(root, key_text: str) -> None:
    """Revoke a key while its collector runs, as an operator does."""
    key_id = "key_" + key_text.split("_")[2]
    command = [sys.executable, "-m", "klyra_collector", "key", "revoke", key_id, "--data", str(root)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def quarantined_bytes(running, digest: str) -> bytes:
    """Return the bytes kept under a digest."""
    files = list(DataDirectory(running.root).quarantine.rglob("*.frames"))
    payloads = [frame.payload for file in files for _, _, frame in read_blob_frames(file.read_bytes())]
    return next(payload for payload in payloads if hashlib.sha256(payload).hexdigest() == digest)
