"""The ledger is followed into a real Elasticsearch, with nothing but the keys that set-up makes."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from klyra_audit.errors import Paused
from klyra_audit.format import canonical
from klyra_audit.format.leaf import Kind
from klyra_collector.store.elasticsearch import following as following_module
from klyra_collector.store.elasticsearch.bulk import WriterRefused
from klyra_collector.store.elasticsearch.connection import request
from klyra_collector.store.elasticsearch.cursor import FILE, load
from klyra_collector.store.elasticsearch.documents import entry_of, quarantined_bytes, record_of
from klyra_collector.store.elasticsearch.following import CopyDiffers
from klyra_collector.store.elasticsearch.searchable import Searchable
from klyra_collector.store.rows import row_of
from support.elasticsearch_following import following, prepared
from support.entries import ACME, TODAY, TODAY_US, MemoryLedger, document, organization_reference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.elasticsearch import Node
    from support.elasticsearch_following import Keys

DAY_US = 86_400 * 1_000_000
REFERENCE = organization_reference(ACME).hex()


@pytest.fixture(scope="module")
def keys(cluster: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """Clients of each key."""
    with prepared(cluster, tmp_path_factory.mktemp("keys")) as made:
        yield made


@pytest.fixture
def log(request: pytest.FixtureRequest) -> str:
    """The shard of one test."""
    return f"writing/{request.node.name}/2026"


@pytest.fixture
def ledger(log: str, keys: Keys) -> Iterator[MemoryLedger]:
    """A ledger of one shard of its own; what it left in the cluster is deleted afterwards."""
    yield MemoryLedger(log)
    left = [{"delete": {"_index": hit["_index"], "_id": hit["_id"]}} for hit in keys.documents(log) + keys.copy(log)]
    if left:
        body = b"".join(orjson.dumps(line) + b"\n" for line in left)
        keys.administrator.bulk(operations=body, refresh=True)  # type: ignore[arg-type] # bytes are sent as they are


def seal(ledger: MemoryLedger, log: str, number: int, **members: Any) -> Any:
    """Seal an entry whose id belongs to one test alone."""
    options = {name: members.pop(name) for name in ("ingest_us", "retention_days") if name in members}
    event = document(number, **members)
    event["id"] = f"log_{hashlib.sha256(log.encode()).hexdigest()[:20]}{number:06}"
    return ledger.seal(event, origin=log, **options)


def control(ledger: MemoryLedger, log: str, kind: Kind, content: dict[str, Any]) -> Any:
    """Seal a control document."""
    return ledger.control(kind, {"type": kind.name.lower(), **content}, origin=log)


def streams(hits: list[dict[str, Any]]) -> list[str]:
    """Return the streams in whose indexes documents stand."""
    return [hit["_index"].removeprefix(".ds-").rpartition("-2")[0] for hit in hits]


class TestFollowing:
    """From records to documents."""

    def test_everything_of_a_record_is_there(self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path) -> None:
        """Entries stand in the streams of their policies and come back as they were sealed."""
        records = [seal(ledger, log, number, retention_days=days) for number, days in enumerate((30, 90, 365, 730))]
        with following(keys, ledger, tmp_path) as store:
            store.follow()
        hits = keys.documents(log)
        assert streams(hits) == [
            "klyra-audit-startup",
            "klyra-audit-business",
            "klyra-audit-enterprise",
            "klyra-audit-enterprise-730d",
        ]
        for hit, record in zip(hits, records, strict=True):
            assert record_of(hit["_source"]).leaf_bytes == record.leaf_bytes
            assert entry_of(hit["_source"]) == row_of(record).entry
            assert "_ignored" not in hit
        assert load(tmp_path).applied == {log: 4}

    @pytest.mark.parametrize(
        "metadata",
        [
            {"a.b": 1, "a": {"b": 2}, "..": "x", ".": "y", "a.": 1, ".a": 1},
            {"client_ip": {"x": 1}, "categories": [["nested"]], "duration_ms": "fast", "scores": {"spam": "0.9"}},
            {"client_ip": None, "categories": [], "user_agent": None, "reason": {"deep": {"er": [{"a": [1, None]}]}}},
            {"long": "x" * 30_000, "reason": "y" * 30_000},
            {"_id": "x", "_source": "y", "@timestamp": "never", "$a'\"\\": "z", "*": 1, "-": True},
            {"duration_ms": 2**53 - 1, "attempts": -(2**53 - 1)},
            {"a": {"b": {"c": {"d": {"e": {"f": "g"}}}}}},
        ],
    )
    def test_no_metadata_is_poison(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, metadata: dict[str, Any]
    ) -> None:
        """Whatever a sender puts there, the document is taken and the entry comes back byte for byte."""
        record = seal(ledger, log, 0, metadata=metadata)
        with following(keys, ledger, tmp_path) as store:
            store.follow()
        (hit,) = keys.documents(log)
        assert entry_of(hit["_source"]) == row_of(record).entry

    def test_quarantined_input_is_kept_with_its_bytes(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path
    ) -> None:
        """It has streams of its own."""
        record = ledger.quarantine(raw=b"\xff\0", origin=log)
        with following(keys, ledger, tmp_path) as store:
            store.follow()
        (hit,) = keys.documents(log)
        assert streams([hit]) == ["klyra-audit-quarantine-startup"]
        assert quarantined_bytes(hit["_source"]) == b"\xff\0"
        assert record_of(hit["_source"]).leaf_bytes == record.leaf_bytes

    def test_the_ledger_is_copied(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, monkeypatch
    ) -> None:
        """Each full bundle once, the rest now and then, with the control documents; batches may end anywhere."""
        monkeypatch.setattr("klyra_collector.store.elasticsearch.ledger_index.FLUSH_SECONDS", 0.0)
        for number in range(600):
            if number % 100 == 50:
                control(ledger, log, Kind.HEADS, {"size": number, "count": 1, "root": "00"})
            else:
                seal(ledger, log, number)
        with following(keys, ledger, tmp_path, batch=70) as store:
            store.follow()
        with following(keys, ledger, tmp_path, batch=70) as store:  # once more from what is searchable
            store.follow()
        found = [hit["_source"] for hit in keys.copy(log)]
        bundles = [one for one in found if one["kind"] == "bundle"]
        assert [(one["first"], one["size"]) for one in bundles] == [(0, 256), (256, 512)]
        partial = max((one for one in found if one["kind"] == "partial"), key=lambda one: one["size"])
        assert (partial["first"], partial["size"]) == (512, 600)
        leaves = b"".join(record.leaf_bytes for record in ledger.read(log, 0, 600))
        assert b"".join(base64.b64decode(one["leaves"]) for one in (*bundles, partial)) == leaves
        controls = [(one["index"], one["document"]) for bundle in (*bundles, partial) for one in bundle["controls"]]
        assert controls == [
            (record.index, canonical.encode(record.control).decode())
            for record in ledger.read(log, 0, 600)
            if record.control
        ]

    def test_a_clean_stop_leaves_a_whole_copy(self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path) -> None:
        """What is copied now and then is copied at once when nothing comes after it."""
        for number in range(3):
            seal(ledger, log, number)
        with following(keys, ledger, tmp_path) as store:
            store.follow()
            assert keys.copy(log) == []
            store.store.finish()
            store.store.finish()
        (hit,) = keys.copy(log)
        assert hit["_source"]["size"] == 3

    def test_a_killed_store_copies_what_it_left_out(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path
    ) -> None:
        """Also when nothing comes after it: else entries are there that nothing kept of the ledger covers."""
        for number in range(3):
            seal(ledger, log, number)
        with following(keys, ledger, tmp_path) as store:
            while load(store.cursors).searchable.get(log) != 3:
                store.follow()
                keys.refresh()
                store.store.shrink()
        assert keys.copy(log) == []
        with following(keys, ledger, tmp_path) as store:
            store.follow()
            store.store.finish()
        (hit,) = keys.copy(log)
        assert hit["_source"]["size"] == 3

    def test_a_copy_of_another_ledger_halts(self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path) -> None:
        """Two ledgers of one name, or a changed copy, are not written over."""
        for number in range(256):
            seal(ledger, log, number)
        source = {"kind": "bundle", "log": log, "first": 0, "size": 256, "leaves": "", "controls": []}
        request(keys.administrator, "PUT", f"/klyra-audit-ledger/_create/{log.replace('/', '%2F')}:0", source)
        with following(keys, ledger, tmp_path) as store, pytest.raises(CopyDiffers) as caught:
            store.follow()
        assert caught.value.code == "ledger_copy_differs"
        assert "klyra-audit verify" in caught.value.remedy

    def test_a_second_sealing_of_an_id_has_a_document_of_its_own(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path
    ) -> None:
        """Both are there, in one stream."""
        for _ in range(2):
            seal(ledger, log, 0)
        with following(keys, ledger, tmp_path) as store:
            store.follow()
        first, second = keys.documents(log)
        assert second["_id"] == f"{first['_id']}:{log}:1"


class TestCrashes:
    """Nothing is lost and nothing is there twice."""

    def test_between_answer_and_cursor(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was stored is recognised, before and after a search finds it, and after a rollover too."""
        for number in range(10):
            seal(ledger, log, number)

        def dies(*_: object) -> None:
            raise KeyboardInterrupt

        for rolls_over in (False, True):
            with monkeypatch.context() as patched, following(keys, ledger, tmp_path, batch=4) as store:
                patched.setattr(following_module, "save", dies)
                with pytest.raises(KeyboardInterrupt):
                    store.follow()
            assert load(tmp_path).applied == {}
            keys.refresh()
            if rolls_over:
                request(keys.administrator, "POST", "/klyra-audit-startup/_rollover")
        with following(keys, ledger, tmp_path, batch=4) as store:
            store.follow()
        assert [hit["_source"]["klyra"]["index"] for hit in keys.documents(log)] == list(range(10))

    def test_a_lost_cursor(self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path) -> None:
        """A full replay writes what is missing and nothing else, across rollovers."""
        for number in range(10):
            seal(ledger, log, number)
        with following(keys, ledger, tmp_path) as store:
            store.follow()
        (gone,) = (hit for hit in keys.documents(log) if hit["_source"]["klyra"]["index"] == 3)
        request(keys.administrator, "DELETE", f"/{gone['_index']}/_doc/{gone['_id']}?refresh=true")
        request(keys.administrator, "POST", "/klyra-audit-startup/_rollover")
        (tmp_path / FILE).unlink()
        with following(keys, ledger, tmp_path) as store:
            store.follow()
        assert [hit["_source"]["klyra"]["index"] for hit in keys.documents(log)] == list(range(10))


class TestSearchable:
    """What a search may see."""

    def test_the_cursor_says_what_a_search_finds(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path
    ) -> None:
        """Stored and searchable are two things until the next refresh."""
        for number in range(5):
            seal(ledger, log, number, retention_days=(30, 90)[number % 2])
        with following(keys, ledger, tmp_path) as store:
            store.follow()
            assert load(tmp_path).applied == {log: 5}
            keys.refresh()
            store.store._parts.searchable._next = 0.0
            store.store.shrink()
            assert load(tmp_path).searchable == {log: 5}

    def test_not_before_every_document_is_found(self, keys: Keys, log: str) -> None:
        """One that is missing keeps it back, until it is certain that it has been deleted."""
        now = [0.0]
        searchable = Searchable(keys.reader, monotonic=lambda: now[0])
        searchable.applied(log, 0, 3, 3)
        for now[0] in (2.0, 3.5, 5.0):
            assert searchable.look() == {}
        now[0] = 200.0
        assert searchable.look() == {log: 3}

    def test_records_without_documents_are_searchable_at_once(self, keys: Keys, log: str) -> None:
        """Control records are in no stream; a refresh says it of all."""
        searchable = Searchable(keys.reader)
        searchable.applied(log, 0, 3, 0)
        assert searchable.look() == {log: 3}
        searchable.applied(log, 3, 4, 1)
        searchable.applied(log, 4, 6, 1)
        assert searchable.all_found() == {log: 6}


class TestChanges:
    """EXTEND, HOLD, ERASURE, EXPIRY and the sweep."""

    def extend(self, ledger: MemoryLedger, log: str, first: int, last: int, days: int) -> None:
        """Seal an EXTEND."""
        content = {"org_ref": REFERENCE, "first_seq": first, "last_seq": last, "retention_days": days}
        control(ledger, log, Kind.EXTEND, content)

    def hold(self, ledger: MemoryLedger, log: str, from_us: int, to_us: int | None) -> None:
        """Seal a HOLD."""
        content = {
            "hold_id": "hold_1",
            "org_ref": REFERENCE,
            "from_us": from_us,
            "to_us": to_us,
            "selection_c": None,
        }
        control(ledger, log, Kind.HOLD, content)

    def test_an_extension_moves_entries(self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path) -> None:
        """Those it names stand in the longer stream with their new day, and nowhere else."""
        for number in range(4):
            seal(ledger, log, number)
        with following(keys, ledger, tmp_path) as store:
            store.follow()
            self.extend(ledger, log, 1, 2, 365)
            self.extend(ledger, log, 2, 3, 10)
            store.follow()
        hits = keys.documents(log)
        assert streams(hits) == ["klyra-audit-startup", *["klyra-audit-enterprise"] * 2, "klyra-audit-startup"]
        assert [hit["_source"]["klyra"]["expire_day"] - TODAY for hit in hits] == [31, 366, 366, 31]
        assert [hit["_source"]["klyra"]["policy"] for hit in hits][1] == "enterprise"

    def test_a_replay_finds_the_extension_before_it(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path
    ) -> None:
        """An entry that is written after it was extended goes where it belongs at once."""
        seal(ledger, log, 0)
        self.extend(ledger, log, 0, 0, 90)
        with following(keys, ledger, tmp_path) as store:
            store.follow()
        (hit,) = keys.documents(log)
        assert streams([hit]) == ["klyra-audit-business"]

    def test_a_hold_moves_entries_and_quarantined_input(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path
    ) -> None:
        """What was sealed in its window, before or after it, stands where nothing deletes; it is extended there."""
        for number in range(3):
            seal(ledger, log, number, ingest_us=TODAY_US + number * 1000)
        ledger.quarantine(origin=log, ingest_us=TODAY_US + 1500)
        with following(keys, ledger, tmp_path) as store:
            store.follow()
            self.hold(ledger, log, TODAY_US + 1000, None)
            store.follow()
            seal(ledger, log, 4, ingest_us=TODAY_US + 5000)
            self.extend(ledger, log, 2, 2, 90)
            store.follow()
        hits = keys.documents(log)
        assert streams(hits) == [
            "klyra-audit-startup",
            *["klyra-audit-held"] * 2,
            "klyra-audit-quarantine-held",
            "klyra-audit-held",
        ]
        assert [hit["_source"]["klyra"]["held"] for hit in hits] == [False, True, True, True, True]
        assert [hit["_source"]["klyra"]["expire_day"] - TODAY for hit in hits] == [31, 31, 91, 31, 31]

    def test_an_erasure_leaves_nothing(self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path) -> None:
        """Neither sections nor their indexed copies; what is left proves the leaf."""
        secret = {"type": "user", "id": "usr_secret", "name": "Secret"}
        for number in range(3):
            seal(ledger, log, number, actor=secret)
        erasure = {
            "org_ref": REFERENCE,
            "actor": [[0, 1]],
            "target": [],
            "basis": "request",
            "requested_day": TODAY,
        }
        with following(keys, ledger, tmp_path) as store:
            store.follow()
            control(ledger, log, Kind.ERASURE, erasure)
            store.follow()
        first, second, third = keys.documents(log)
        for hit, record in zip((first, second), ledger.read(log, 0, 2), strict=True):
            assert b"ecret" not in orjson.dumps(hit)
            body = record_of(hit["_source"]).body
            assert body is not None
            assert body.commitments.event_commit() == record.leaf.commit
        assert third["_source"]["actor"] == secret

    def test_erasures_at_the_same_place_of_two_shards(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path
    ) -> None:
        """Each takes out what it names, though both have the same index."""
        secret = {"type": "user", "id": "usr_secret", "name": "Secret"}
        later = f"{log}-2"
        ledger = MemoryLedger(log, later)
        seal(ledger, log, 0, actor=secret, resource=secret)
        named: dict[str, Any] = {"org_ref": REFERENCE, "basis": "request", "requested_day": TODAY}
        with following(keys, ledger, tmp_path) as store:
            store.follow()
            control(ledger, log, Kind.ERASURE, named | {"actor": [[0, 0]], "target": []})
            control(ledger, later, Kind.HEADS, {"size": 1, "count": 1, "root": "00"})
            store.follow()
            control(ledger, later, Kind.ERASURE, named | {"actor": [[0, 0]], "target": [[0, 0]], "log": log})
            store.follow()
        (hit,) = keys.documents(log)
        assert b"ecret" not in orjson.dumps(hit)

    def test_a_crash_in_an_erasure(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between the new document and the deletion of the old one, and between that and the cursor."""
        seal(ledger, log, 0, actor={"type": "user", "id": "usr_secret", "name": "Secret"})
        erasure = {"org_ref": REFERENCE, "actor": [[0, 0]], "target": [], "basis": "request", "requested_day": TODAY}
        with following(keys, ledger, tmp_path) as store:
            store.follow()
            control(ledger, log, Kind.ERASURE, erasure)

            def dies(*_: object) -> None:
                raise KeyboardInterrupt

            for target in (
                "klyra_collector.store.elasticsearch.operations.Operations.delete",
                "klyra_collector.store.elasticsearch.following.save",
            ):
                with monkeypatch.context() as patched:
                    patched.setattr(target, dies)
                    with pytest.raises(KeyboardInterrupt):
                        store.follow()
        with following(keys, ledger, tmp_path) as store:
            store.follow()
        (hit,) = keys.documents(log)
        assert b"ecret" not in orjson.dumps(hit)

    def expiry(self, ledger: MemoryLedger, log: str, cutoff: int, held: list[list[int]]) -> None:
        """Seal an EXPIRY."""
        content = {"org_ref": REFERENCE, "cutoff_day": cutoff, "count": 0, "seq_digest": "00" * 32, "held": held}
        control(ledger, log, Kind.EXPIRY, content)

    def test_an_expiry_deletes_what_it_names(self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path) -> None:
        """What is due and not held goes, entries and quarantined input."""
        for number in range(3):
            seal(ledger, log, number, retention_days=(30, 30, 90)[number])
        ledger.quarantine(origin=log)
        with following(keys, ledger, tmp_path) as store:
            store.follow()
            self.expiry(ledger, log, TODAY + 31, [[1, 1]])
            store.follow()
            assert load(tmp_path).searchable == {log: 4}
        assert [hit["_source"]["klyra"]["index"] for hit in keys.documents(log)] == [1, 2]

    def test_the_sweep_deletes_what_was_left_behind_and_nothing_else(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What an EXPIRY named and is there again goes; a document that only says that it is over stays."""
        monkeypatch.setattr("klyra_collector.store.elasticsearch.ledger_index.FLUSH_SECONDS", 0.0)
        for number in range(3):
            seal(ledger, log, number, retention_days=(30, 90, 90)[number])
        with following(keys, ledger, tmp_path, batch=1) as store:
            store.follow()
            before = keys.documents(log)
            self.expiry(ledger, log, TODAY + 31, [])
            store.follow()
            source = before[0]["_source"]
            request(keys.administrator, "POST", f"/klyra-audit-startup/_create/{before[0]['_id']}?refresh=true", source)
            forged = before[1]["_source"]
            forged["klyra"]["expire_day"] = 1
            request(keys.administrator, "POST", "/klyra-audit-startup/_create/forged?refresh=true", forged)
            assert len(keys.documents(log)) == 4
            store.store.shrink()
        assert [hit["_source"]["klyra"]["index"] for hit in keys.documents(log)] == [1, 1, 2]
        assert [hit["_source"]["size"] for hit in keys.copy(log) if hit["_source"]["kind"] == "partial"][-1] == 4
        assert len([hit for hit in keys.copy(log) if hit["_source"]["kind"] == "partial"]) <= 2


class TestRights:
    """Who may do what."""

    def test_the_writers_key_cannot_change_anything(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path
    ) -> None:
        """Without the sweeper's key an EXPIRY waits for an operator, with the remedy, and the cursor stands."""
        seal(ledger, log, 0)
        weak = type(keys)(keys.administrator, keys.writer, keys.reader, keys.reader)
        with following(weak, ledger, tmp_path) as store:
            store.follow()
            content = {"org_ref": REFERENCE, "cutoff_day": TODAY + 31, "count": 0, "seq_digest": "00" * 32, "held": []}
            control(ledger, log, Kind.EXPIRY, content)
            with pytest.raises(Paused):
                store.follow()
            assert store.store.cursor(log) == 1

    def test_a_stream_that_set_up_has_not_made(
        self, keys: Keys, ledger: MemoryLedger, log: str, tmp_path: Path
    ) -> None:
        """It is not made by writing; the follower waits and says what to do."""
        seal(ledger, log, 0, retention_days=500)
        with following(keys, ledger, tmp_path) as store, pytest.raises(WriterRefused) as caught:
            store.follow()
        assert "setup elasticsearch" in caught.value.remedy
        assert "klyra-audit-enterprise-500d" in str(caught.value)
