"""Quarantined input is taken in again: sealed once, told of each time, never past what refused it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgpack
import pytest

from klyra_audit import ids
from klyra_audit.catalog import Catalog
from klyra_audit.errors import Rejected
from klyra_audit.event import Actor
from klyra_audit.format import sections
from klyra_audit.format.frame import read_blob_frames
from klyra_audit.format.leaf import Kind
from klyra_audit.format.quarantined import KeptInput, quarantine_reference
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_audit.forward.message import decode_message
from klyra_audit.mapping.table import Additions
from klyra_audit.validation import Validator
from klyra_collector.data_directory import DataDirectory
from klyra_collector.receive.forward.record import records_of
from klyra_collector.receive.forward.tags import TagTypes
from klyra_collector.receive.outbox import OutboxDrain
from klyra_collector.receive.replay import wire_record
from klyra_collector.receive.senders import Sender
from klyra_collector.receive.wire import decode_protobuf
from klyra_collector.receive.wire_json import decode_json
from klyra_collector.registry import Registry
from klyra_collector.registry.errors import RegistryUnavailable
from klyra_collector.seal.sealer import Sealer
from klyra_collector.verify import Options, verify_target
from support import otlp
from support.otlp import CATALOG, MAPPED
from support.replaying import pipeline, replays
from support.sealing import SetClock, open_ledger, read_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from klyra_collector.seal.reader import SealedRecord

ACME, OTHER = "org_acme", "org_other"
BY = Actor.api_key("key_admin")
REFUND = {
    "event_name": "order.refunded",
    "time": 1_781_000_000_000_000_000,
    "attributes": {"klyra.actor.id": "usr_1", "klyra.resource.id": "ord_1", "klyra.metadata.amount": "9.50"},
}
TYPES = {
    "schema": "klyra.audit/1",
    "event_types": [
        {
            "name": "order.refunded",
            "title": "Order refunded",
            "description": "The price of an order was paid back.",
            "group": "administrative",
            "action": "update",
            "resource_type": "order",
        }
    ],
}


class Silent:
    """Observes nothing."""

    def committed(self, outcomes, seconds) -> None:
        """See `SealObserver`."""

    def not_signed(self, error) -> None:
        """See `SealObserver`."""

    def signed(self, size) -> None:
        """See `SealObserver`."""


@dataclass
class World:
    """A data directory with a registry; each step opens the ledger, as a restart does."""

    root: Path
    registry: Registry
    clock: SetClock
    catalog: Catalog = field(default_factory=lambda: CATALOG)
    additions: Additions | None = None

    @property
    def sender(self) -> Sender:
        """Acme's key."""
        return Sender("key_sender", ACME, ())

    def with_types(self) -> World:
        """Restart with a catalog file that has the type."""
        path = self.root / "types.json"
        path.write_text(json.dumps(TYPES))
        self.catalog = Catalog.load(path)
        return self

    def send(self, decoded: list[Any], sender: Sender | None = None) -> None:
        """Have records accepted."""

        async def work(sealer: Sealer, _: Any) -> None:
            through = pipeline(self.registry, sealer, self.clock, self.catalog, self.additions)
            await through.accept(decoded, b"request", sender or self.sender, strict=False)

        self._run(work)

    def replay(self, *records: SealedRecord, organization_id: str = ACME) -> list[dict[str, Any]]:
        """Have inputs replayed; return the documents that tell of it."""
        places = [(item.origin, item.index, quarantine_reference(item.leaf_bytes)) for item in records]
        commands = self.registry.record_replays(organization_id, places, BY, {"client_ip": "192.0.2.1"})
        self.drain()
        told = {event["id"]: event for event in self.events()}
        return [told[_entry_id(command)] for command in commands]

    def drain(self, registry: Any = None) -> None:
        """Drain the outbox."""

        async def work(sealer: Sealer, ledger: Any) -> None:
            through = pipeline(self.registry, sealer, self.clock, self.catalog, self.additions)
            drain = OutboxDrain(
                registry=registry or self.registry,
                sealer=sealer,
                ledger=ledger,
                catalog=self.catalog,
                validator=Validator(self.catalog),
                wall_us=self.clock.wall_us,
                replays=replays(self.root, self.registry, ledger, sealer, self.clock, through),
            )
            with contextlib.suppress(RegistryUnavailable):
                await drain.step()

        self._run(work)

    def _run(self, work: Callable[[Sealer, Any], Awaitable[None]]) -> None:
        async def main() -> None:
            sealer = Sealer(ledger, Silent())
            running = asyncio.create_task(sealer.run())
            try:
                await work(sealer, ledger)
            finally:
                sealer.close()
                await running

        with contextlib.closing(open_ledger(self.root, self.clock)) as ledger:
            asyncio.run(main())

    def events(self, event_type: str | None = None) -> list[dict[str, Any]]:
        """Return the sealed documents."""
        found = [sections.join(item.body.sections) for item in read_all(self.root) if item.leaf.kind == Kind.EVENT]
        return [event for event in found if event_type in (None, event["event_type"])]

    def quarantined(self) -> list[SealedRecord]:
        """Return the quarantine records."""
        return [item for item in read_all(self.root) if item.leaf.kind == Kind.QUARANTINE]


def _entry_id(command_id: str) -> str:
    return ids.log_id(UUID(command_id))


@pytest.fixture
def world(tmp_path):
    """Two organizations whose registration is sealed."""
    clock = SetClock()
    url = DataDirectory(tmp_path).registry_url
    with contextlib.closing(Registry.open(url, CATALOG, clock=clock.wall_us)) as registry:
        registry.create_organization(ACME, "startup", by=BY)
        registry.create_organization(OTHER, "startup", by=BY)
        made = World(tmp_path, registry, clock)
        made.drain()
        yield made


def forward(options: dict[str, Any]) -> list[Any]:
    """Return the same event as Forward sends it."""
    entry = [1_781_000_000, {"event_name": "order.refunded"} | REFUND["attributes"]]
    message = decode_message(msgpack.packb(["app.shop", [entry], options]))
    assert message is not None
    return records_of(message, TagTypes({}))


class TestReplayed:
    """After what it failed at is mended."""

    @pytest.mark.parametrize(
        ("decoded", "delivery"),
        [
            (lambda: decode_protobuf(otlp.foreign(REFUND, resource={"service.name": "shop"})), None),
            (lambda: decode_json(otlp.foreign_json(REFUND, resource={"service.name": "shop"})), None),
            (lambda: forward({"chunk": "c"}), None),
            (lambda: forward({}), "best_effort"),
        ],
        ids=["protobuf", "json", "forward", "forward-unacknowledged"],
    )
    def test_it_becomes_an_entry_as_it_would_have_been(self, world, decoded, delivery) -> None:
        """Everything that stood in the request is there, and where it was quarantined."""
        world.send(decoded())
        [record] = world.quarantined()
        assert world.events("order.refunded") == []
        [told] = world.with_types().replay(record)
        [event] = world.events("order.refunded")
        assert (event["actor"]["id"], event["resource"]["id"], event["organization_id"]) == ("usr_1", "ord_1", ACME)
        assert event["metadata"]["replayed_from"] == f"{record.origin}#{record.index}"
        assert event["metadata"]["amount"] == "9.50"
        assert event["metadata"].get("delivery") == delivery
        assert (told["status"], told["metadata"]["entry_id"]) == ("success", event["id"])

    def test_the_entry_about_it_says_who_asked_and_what_came_of_it(self, world) -> None:
        """Actor, address, which input, which entry; the input stays where it is."""
        world.send(decode_protobuf(otlp.foreign(REFUND)))
        [record] = world.quarantined()
        [told] = world.with_types().replay(record)
        assert told["actor"] == {"type": "api_key", "id": "key_admin", "name": None}
        assert told["resource"]["id"] == quarantine_reference(record.leaf_bytes)
        assert told["metadata"] == {
            "selection": {"log": record.origin, "index": record.index},
            "accepted": 1,
            "refused": 0,
            "entry_id": world.events("order.refunded")[0]["id"],
            "client_ip": "192.0.2.1",
        }
        assert len(world.quarantined()) == 1

    def test_again_is_a_repeat(self, world) -> None:
        """A second replay names the same entry and seals no other."""
        world.send(decode_protobuf(otlp.foreign(REFUND)))
        [record] = world.quarantined()
        first, second = world.with_types().replay(record, record)
        [third] = world.replay(record)
        assert len(world.events("order.refunded")) == 1
        assert len({item["metadata"]["entry_id"] for item in (first, second, third)}) == 1
        assert len({item["id"] for item in (first, second, third)}) == 3

    def test_its_time_is_that_of_its_receipt(self, world) -> None:
        """A record without a time keeps the time at which it came."""
        world.send(decode_protobuf(otlp.foreign(REFUND | {"time": 0})))
        [record] = world.quarantined()
        world.clock.pass_seconds(3600)
        world.with_types().replay(record)
        [event] = world.events("order.refunded")
        assert event["metadata"]["timestamp_source"] == "collector"
        assert event["timestamp"].startswith("2026-06-21T00:00:00")

    def test_a_mapping_mends_it_as_well(self, world) -> None:
        """What other attributes mean can be said later."""
        attributes = {"shop.user": "usr_7", "klyra.resource.id": "usr_2"}
        world.send(decode_protobuf(otlp.foreign(MAPPED | {"attributes": attributes})))
        [record] = world.quarantined()
        world.additions = Additions(attributes={"actor.id": ["shop.user"]})
        [told] = world.replay(record)
        assert told["status"] == "success"
        assert world.events("user.removed")[0]["actor"]["id"] == "usr_7"

    def test_a_document_in_our_own_form_is_kept_to_the_byte(self, world) -> None:
        """Its emitter's salts and commitments too; its place in the sequence stays the quarantine record's."""
        wrong = otlp.invalid(
            event_type="order.refunded", action="update", resource={"type": "order", "id": "o", "name": None}
        )
        world.send(decode_protobuf(otlp.own_form(wrong, first=0)))
        [record] = world.quarantined()
        world.with_types().replay(record)
        sealed = next(item for item in read_all(world.root) if item.leaf.commit == wrong.commit)
        assert sections.join(sealed.body.sections) == wrong.document
        assert (sealed.leaf.emitter, sealed.leaf.emitter_seq) == (0, 0)
        assert (record.leaf.emitter, record.leaf.emitter_seq) != (0, None)
        assert record.leaf.emitter > 0

    def test_a_sender_cannot_forge_the_mark(self, world) -> None:
        """The mapping keeps a member of that name elsewhere."""
        attributes = REFUND["attributes"] | {"klyra.metadata.replayed_from": "elsewhere#1"}
        world.send(decode_protobuf(otlp.foreign(REFUND | {"attributes": attributes})))
        [record] = world.quarantined()
        world.with_types().replay(record)
        [event] = world.events("order.refunded")
        assert event["metadata"]["attributes"]["klyra.metadata.replayed_from"] == "elsewhere#1"
        assert event["metadata"]["replayed_from"] == f"{record.origin}#{record.index}"

    def test_the_ledger_is_intact(self, world) -> None:
        """Neither a gap nor a duplicate of the emitter's arises."""
        wrong = otlp.invalid(
            event_type="order.refunded", action="update", resource={"type": "order", "id": "o", "name": None}
        )
        world.send(decode_protobuf(otlp.own_form(otlp.prepared(), wrong, otlp.prepared())))
        world.with_types().replay(*world.quarantined())
        report = verify_target(world.root, Options(policy=None, patience=0.0))
        assert report.exit_status == 0
        assert len(world.events("order.refunded")) == 1


def test_nobody_else_tells_of_a_replay(world) -> None:
    """A sender that says so is not believed: what waits would look replayed."""
    resource = {"type": "quarantine", "id": "qtn_1", "name": None}
    own = otlp.prepared(event_type="quarantine.replayed", action="update", resource=resource, metadata={})
    attributes = {"klyra.actor.id": "usr_1", "klyra.resource.id": "qtn_1"}
    foreign = otlp.foreign({"event_name": "quarantine.replayed", "attributes": attributes})
    world.send([*decode_protobuf(otlp.own_form(own)), *decode_protobuf(foreign)])
    cores = [json.loads(item.body.sections.core) for item in world.quarantined()]
    assert [core["pointer"] for core in cores] == ["/event_type", "/event_type"]
    assert world.events("quarantine.replayed") == []


def test_a_conflict_says_whose_key_brought_it(world) -> None:
    """What is kept of it is the event's document."""
    world.send(decode_protobuf(otlp.foreign(MAPPED)))
    world.send(decode_protobuf(otlp.foreign(MAPPED | {"body": "other"})))
    [path] = DataDirectory(world.root).quarantine.rglob("*.frames")
    [(_, _, kept)] = read_blob_frames(path.read_bytes())
    found = KeptInput.unpack(kept.payload)
    assert (found.encoding, found.key_id) == ("document", "key_sender")
    assert json.loads(found.content)["event_type"] == "user.removed"


class TestStillRefused:
    """What is no event by now either."""

    def refused(self, world, *, organization_id: str = ACME) -> dict[str, Any]:
        """Replay the only input, and check that nothing became of it."""
        [record] = world.quarantined()
        before = len(world.events())
        [told] = world.replay(record, organization_id=organization_id)
        assert len(world.events()) == before + 1
        assert len(world.quarantined()) == 1
        assert (told["status"], told["metadata"]["accepted"], told["metadata"]["refused"]) == ("failure", 0, 1)
        return told["metadata"]

    def test_the_reason_is_told_anew(self, world) -> None:
        """The new reason, its place and its code; no second quarantine record."""
        world.send(decode_protobuf(otlp.foreign(REFUND | {"attributes": {}})))
        told = self.refused(world)
        assert (told["pointer"], told["code"]) == ("/actor/id", "invalid_event")
        assert "entry_id" not in told

    def test_a_key_bound_to_other_emitters_stays_bound(self, world) -> None:
        """Replaying must not let a key speak for an emitter that it may not speak for."""
        issued = world.registry.create_key(
            organization_id=ACME, scopes={"emit"}, label="", emitter_ids=("other",), by=BY
        )
        world.send(decode_protobuf(otlp.own_form(otlp.prepared())), Sender(issued.key.key_id, ACME, ("other",)))
        world.drain()
        assert self.refused(world)["code"] == "foreign_emitter"

    def test_another_organizations_event_stays_anothers(self, world) -> None:
        """Nobody gets an event into an organization that the key does not belong to."""
        world.send(decode_protobuf(otlp.own_form(otlp.prepared(OTHER))))
        assert self.refused(world)["code"] == "foreign_organization"

    def test_an_id_that_is_taken(self, world) -> None:
        """It would become a second entry of the same id once that is not recognised any more."""
        world.send(decode_protobuf(otlp.foreign(MAPPED)))
        world.send(decode_protobuf(otlp.foreign(MAPPED | {"body": "other"})))
        world.clock.pass_seconds(5 * 86_400)
        told = self.refused(world)
        assert (told["pointer"], "id of its own" in told["reason"]) == ("/id", True)

    def test_an_id_that_was_taken_meanwhile(self, world) -> None:
        """The corrected event was sent under the same id."""
        attributes = REFUND["attributes"] | {"klyra.id": "log_12345678"}
        world.send(decode_protobuf(otlp.foreign(REFUND | {"attributes": attributes})))
        world.with_types().send(decode_protobuf(otlp.foreign(REFUND | {"attributes": attributes, "body": "mended"})))
        assert self.refused(world)["code"] == "id_conflict"

    def test_bytes_that_are_gone_or_others(self, world) -> None:
        """What was sealed is what is replayed, nothing else."""
        world.send(decode_protobuf(otlp.foreign(REFUND)))
        [path] = DataDirectory(world.root).quarantine.rglob("*.frames")
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"usr_1", b"usr_9"))
        assert "not there" in self.refused(world.with_types())["reason"]

    def test_what_protobuf_could_not_read_cannot_be_read_later(self, world) -> None:
        """It is told so each time."""
        world.send(decode_protobuf(otlp.foreign(REFUND | {"body": "MARK"}).replace(b"MARK", b"\xed\xa0\x80\xff")))
        assert "UTF-8" in self.refused(world.with_types())["reason"]


class TestCommands:
    """What the outbox makes of a command."""

    def test_a_crash_before_it_is_marked_seals_nothing_twice(self, world) -> None:
        """The command is carried out again, and both records are recognised."""

        class Forgetful:
            def __getattr__(self, name: str) -> Any:
                return getattr(world.registry, name)

            def mark_sealed(self, positions: Any) -> None:
                raise RegistryUnavailable("The registry cannot be written now.")

        world.send(decode_protobuf(otlp.foreign(REFUND)))
        [record] = world.quarantined()
        world.with_types()
        place = (record.origin, record.index, quarantine_reference(record.leaf_bytes))
        world.registry.record_replays(ACME, [place], BY, {})
        world.drain(Forgetful())
        [command] = world.registry.pending_commands(9)
        world.drain()
        assert len(world.events("order.refunded")) == len(world.events("quarantine.replayed")) == 1
        assert world.registry.outbox_position(command.command_id) is not None

    @pytest.mark.parametrize("wrong", ["organization", "kind", "index", "log"])
    def test_what_is_no_input_of_the_organization_is_refused(self, world, wrong) -> None:
        """Only a fault of ours can ask for it; it stays visible, and nothing is sealed."""
        world.send(decode_protobuf(otlp.foreign(REFUND)))
        [record] = world.quarantined()
        log = "l/c/1999" if wrong == "log" else record.origin
        index = {"kind": 0, "index": 10_000}.get(wrong, record.index)
        owner = OTHER if wrong == "organization" else ACME
        world.registry.record_replays(owner, [(log, index, "qtn_x")], BY, {})
        world.with_types().drain()
        [refused] = world.registry.refused_commands()
        assert "no quarantined input" in refused.reason
        assert world.events("quarantine.replayed") == []

    def test_a_key_of_many_goes_where_its_record_says(self, world) -> None:
        """It was the operator's as long as nobody knew whose it is."""
        sender = Sender("key_many", None, ())
        resource = {"klyra.organization.id": "org_late"}
        world.send(decode_protobuf(otlp.foreign(MAPPED, resource=resource)), sender)
        [record] = world.quarantined()
        assert not any(record.leaf.org_ref)
        world.registry.create_organization("org_late", "startup", by=BY)
        world.drain()
        [told] = world.replay(record, organization_id=OPERATOR_ORGANIZATION_ID)
        [event] = world.events("user.removed")
        assert (event["organization_id"], told["organization_id"]) == ("org_late", OPERATOR_ORGANIZATION_ID)
        assert (told["status"], told["metadata"]["entry_id"]) == ("success", event["id"])


@pytest.mark.parametrize(
    ("kept", "error"),
    [
        (KeptInput("unknown", None, b"x"), "kept by a version"),
        (KeptInput("document", None, b"{}"), "id of its own"),
        (KeptInput("otlp-json", None, b'{"resourceLogs":[]}'), "not one record"),
        (KeptInput("otlp-json", None, b"{"), "not JSON"),
        (KeptInput("forward", None, msgpack.packb(["t", [[1, {}], [2, {}]]])), "not one record"),
        (KeptInput("forward", None, b"\xc1"), "no Fluent Forward"),
    ],
)
def test_what_cannot_be_read_says_why(kept, error) -> None:
    """Each is a refusal, which the entry about the replay tells."""
    with pytest.raises(Rejected, match=error):
        wire_record(kept, TagTypes({}))
