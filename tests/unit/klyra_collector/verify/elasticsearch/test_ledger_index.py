"""What else the cluster has: quarantined input, mappings, and its copy of the ledger."""

from __future__ import annotations

import base64
import copy as copying
import shutil

import orjson
import pytest

from klyra_audit.format import sections
from klyra_collector.verify import copies_ledger_index
from klyra_collector.verify.elasticsearch_mappings import ENTRY, QUARANTINED, judge_mapping
from klyra_collector.verify.errors import CannotVerify
from support.elasticsearch_reading import Stored, shipped_mapping
from support.elasticsearch_verifying import V, bad, put_back


class TestQuarantinedInput:
    """What somebody did to the document of an input that was no valid event."""

    @pytest.fixture
    def victim(self, server):
        """One of them."""
        return next(each for each in server.documents if each.index == "klyra-audit-quarantine-business")

    def test_deleted(self, server, victim, verify) -> None:
        """MISSING."""
        server.documents.remove(victim)
        assert bad(verify()) == bad(verify(alone=True)) == {V.MISSING: 1}

    def test_twice(self, server, victim, verify) -> None:
        """DUPLICATE."""
        server.documents.append(copying.deepcopy(victim))
        assert bad(verify()) == {V.DUPLICATE: 1}

    def test_among_entries(self, victim, verify) -> None:
        """EXTRA there, where its place is no entry's, and MISSING where it should be."""
        victim.index = "klyra-audit-business"
        assert bad(verify()) == {V.EXTRA: 1, V.MISSING: 1}

    @pytest.mark.parametrize(
        "change",
        [
            lambda s: s["quarantine"].update(reason="nothing"),
            lambda s: s["quarantine"].update(reference="qtn_other"),
            lambda s: s["quarantine"].update(encoding="document"),
            lambda s: s["quarantine"].update(key_id="key_other"),
            lambda s: s["quarantine"].update(size=s["quarantine"]["size"] + 1),
            lambda s: s["quarantine"].update(raw="AAAA"),
            lambda s: s["quarantine"].update(raw=7),
            lambda s: s["quarantine"].pop("raw"),
            lambda s: s.update(quarantine="nothing"),
            lambda s: s.update(comment="nothing"),
            lambda s: s.update({"@timestamp": "2026-01-01T00:00:00Z"}),
            lambda s: s["klyra"].update(leaf="AAAA"),
            lambda s: s["klyra"]["salts"].update(core="!"),
            lambda s: s["klyra"].update(expire_day=s["klyra"]["expire_day"] + 365),
            lambda s: s["klyra"].update(policy="startup"),
            lambda s: s["klyra"].update(timestamp_ns=1),
        ],
    )
    def test_edited(self, victim, verify, change) -> None:
        """ALTERED."""
        change(victim.source)
        assert bad(verify()) == bad(verify(alone=True)) == {V.ALTERED: 1}

    def test_its_core_erased(self, victim, verify) -> None:
        """REDACTED_UNAUTHORISED: nothing of it can be erased."""
        klyra = victim.source["klyra"]
        sealed = sections.section_commitment(
            "core", base64.b64decode(klyra["salts"].pop("core")), klyra["sections"].pop("core").encode()
        )
        klyra["c"] = {"core": sealed.hex()}
        assert bad(verify()) == {V.REDACTED_UNAUTHORISED: 1}


class TestMappings:
    """An index that does not find what it has."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda m: m.update(dynamic="false"),
            lambda m: m.update(enabled=False),
            lambda m: m.update(runtime={"organization_id": {"type": "keyword"}}),
            lambda m: m["properties"]["organization_id"].update(index=False),
            lambda m: m["properties"]["organization_id"].update(ignore_above=1),
            lambda m: m["properties"]["actor"]["properties"].update(id={"type": "text"}),
            lambda m: m["properties"]["actor"].update(enabled=False),
            lambda m: m["properties"]["klyra"].update(dynamic="false"),
            lambda m: m["properties"].update(actor="nothing"),
        ],
    )
    def test_changed(self, server, verify, change) -> None:
        """ALTERED: the entries are there, and are found by less than they say."""
        mapping = shipped_mapping("klyra-audit-business")
        change(mapping)
        server.mappings["klyra-audit-business"] = mapping
        assert V.ALTERED in bad(verify())
        assert V.ALTERED in bad(verify(alone=True))

    def test_of_an_older_version(self, server, verify) -> None:
        """A member that an index does not know, and refuses, is none that its documents can have."""
        mapping = shipped_mapping("klyra-audit-business")
        del mapping["properties"]["klyra"]["properties"]["shown_from"]
        server.mappings["klyra-audit-business"] = mapping
        assert not bad(verify())

    def test_more_fields_of_a_catalog(self, server, verify) -> None:
        """An operator's own types have members of their own."""
        mapping = shipped_mapping("klyra-audit-business")
        mapping["properties"]["metadata"]["properties"]["ticket"] = {"type": "keyword"}
        server.mappings["klyra-audit-business"] = mapping
        assert not bad(verify())

    def test_a_key_that_may_not_read_them(self, server, verify) -> None:
        """Nobody can say whether searches find everything: that is never counted as intact."""
        server.bend = lambda path, status, body: (403, {}) if "/_mapping" in path else (status, body)
        report = verify()
        assert set(bad(report)) == {V.UNVERIFIABLE}
        assert report.exit_status == 2

    @pytest.mark.parametrize("answer", [(200, {"i": {}}), (200, {"i": {"mappings": []}})])
    def test_a_strange_answer(self, server, verify, answer) -> None:
        """It is refused."""
        server.bend = lambda path, status, body: answer if "/_mapping" in path else (status, body)
        with pytest.raises(CannotVerify) as refused:
            verify()
        assert refused.value.code == "bad_answer"

    def test_what_is_searched_by_is_what_is_shipped(self) -> None:
        """What must be found by is what set-up makes, and every field that a search of ours may name is among it."""
        for searched, name in ((ENTRY, "klyra-audit-business"), (QUARANTINED, "klyra-audit-quarantine-business")):
            assert not list(judge_mapping(shipped_mapping(name), searched))
            for path in searched:
                without = shipped_mapping(name)
                inner = without["properties"]
                *above, last = path.split(".")
                for part in above:
                    inner = inner[part]["properties"]
                inner[last] = {"type": "text"}
                assert list(judge_mapping(without, searched)) == [f"it does not search {path} as it should"]


class TestRunning:
    """A collector writes while somebody verifies without its ledger."""

    def test_entries_that_the_ledgers_copy_does_not_cover_yet(self, server, verify, forge) -> None:
        """The collector copies its newest records now and then: it is waited for, and nothing is called EXTRA."""
        (partial,) = server.kind("partial", forge.newest.origin)
        server.documents.remove(partial)
        views = []

        def late(path: str, status: int, body):
            views.extend([path] if "klyra-audit-ledger/_pit" in path else [])
            if len(views) == 4 and partial not in server.documents:  # at first, with the entries, and two looks later
                server.documents.append(partial)
            return status, body

        server.bend = late
        assert not bad(verify(alone=True))
        assert len(views) >= 4

    def test_entries_that_nothing_covers(self, server, verify, forge) -> None:
        """A killed collector leaves that, and so does whoever adds entries: one finding, neither intact nor broken."""
        (partial,) = server.kind("partial", forge.newest.origin)
        server.documents.remove(partial)
        report = verify(alone=True)
        assert set(bad(report)) >= {V.UNVERIFIABLE}
        assert not {V.EXTRA, V.ALTERED} & set(bad(report))
        assert report.exit_status != 0

    def test_a_size_that_somebody_made_up(self, server, verify, forge) -> None:
        """No ROLLBACK: whoever writes there can overstate it; with the ledger it is EXTRA."""
        (partial,) = server.kind("partial", forge.newest.origin)
        fake = copying.deepcopy(partial)
        fake.id = f"{forge.newest.origin}:{10**6 // 256 * 256}:{10**6}"
        fake.source |= {"first": 10**6 // 256 * 256, "size": 10**6}
        server.documents.append(fake)
        assert bad(verify()) == {V.EXTRA: 1}
        assert not bad(verify(alone=True))


class TestTheLedgersCopyByTheLedger:
    """`klyra-audit-ledger` must be what a lost ledger can be made of again."""

    def test_emptied(self, server, verify, forge, data, tmp_path) -> None:
        """MISSING, by what the collector has noted of how far it is."""
        server.documents = [each for each in server.documents if each.index != "klyra-audit-ledger"]
        noted = shutil.copytree(data, tmp_path / "data")
        (noted / "cursors").mkdir()
        sizes = {shard.origin: shard.size for shard in forge.shards}
        (noted / "cursors" / "store.json").write_bytes(orjson.dumps({"searchable": sizes}))
        assert bad(verify(noted)).keys() == {V.MISSING}

    def test_nothing_there_yet(self, server, verify, forge, monkeypatch) -> None:
        """What was sealed minutes ago need not be there, and that is no reason to call anything unverifiable."""
        monkeypatch.setattr(copies_ledger_index, "SETTLING_US", 1 << 62)
        (partial,) = server.kind("partial", forge.newest.origin)
        server.documents.remove(partial)
        assert not bad(verify())
        server.documents = [each for each in server.documents if each.index != "klyra-audit-ledger"]
        report = verify()
        assert not bad(report)
        assert report.exit_status == 0

    def test_a_bundle_deleted(self, server, verify, forge) -> None:
        """MISSING: a later one is there."""
        server.documents.remove(server.kind("bundle", forge.newest.origin)[0])
        assert bad(verify()) == {V.MISSING: 256}

    @pytest.mark.parametrize(
        "change",
        [
            lambda s: s.update(leaves=base64.b64encode(bytes(256 * 112)).decode()),
            lambda s: s.update(controls=[]),
            lambda s: s["controls"][0].update(document="{}"),
            lambda s: s["controls"].append({"index": s["controls"][-1]["index"] + 1, "document": "{}"}),
        ],
    )
    def test_a_bundle_altered(self, server, verify, forge, change) -> None:
        """ALTERED, and what it stood for is missing."""
        (bundle,) = server.kind("bundle", forge.newest.origin)
        change(bundle.source)
        assert bad(verify())[V.ALTERED] == 256

    def test_a_bundle_of_somebody_else(self, server, verify, forge) -> None:
        """EXTRA, under whatever id."""
        (bundle,) = server.kind("bundle", forge.newest.origin)
        fake = copying.deepcopy(bundle)
        fake.id, fake.source["leaves"] = "zzz", base64.b64encode(bytes(256 * 112)).decode()
        server.documents.append(fake)
        assert bad(verify()) == {V.EXTRA: 256}

    def test_a_control_document_emptied(self, server, verify, forge) -> None:
        """Without the ledger it is gone: MISSING or altered, and never intact."""
        (bundle,) = server.kind("bundle", forge.newest.origin)
        taken = bundle.source["controls"].pop()
        assert bad(verify(alone=True)), taken

    def test_a_signed_head_of_more_records(self, server, verify, forge, data, tmp_path) -> None:
        """ROLLBACK: the ledger was put back to where it was, and the cluster remembers."""
        earlier = shutil.copytree(data, tmp_path / "data")
        put_back(earlier / "ledger" / forge.newest.origin.rpartition("/")[2])
        assert V.ROLLBACK in bad(verify(earlier))


class TestTheLedgersCopy:
    """`klyra-audit-ledger` itself was changed."""

    def test_a_bundle_of_somebody_else(self, server, verify, forge) -> None:
        """One under another id does not count where the collector's own is."""
        (bundle,) = server.kind("bundle", forge.newest.origin)
        fake = copying.deepcopy(bundle)
        fake.id, fake.source["leaves"] = "zzz", base64.b64encode(bytes(256 * 112)).decode()
        server.documents.insert(0, fake)
        assert not bad(verify(alone=True))

    def test_a_larger_partial_one(self, server, verify, forge) -> None:
        """The largest that the collector wrote counts."""
        (partial,) = server.kind("partial", forge.newest.origin)
        smaller = copying.deepcopy(partial)
        leaves = base64.b64decode(partial.source["leaves"])[: 5 * 112]
        smaller.id, smaller.source["leaves"] = f"{forge.newest.origin}:256:261", base64.b64encode(leaves).decode()
        smaller.source["size"] = 261
        server.documents.append(smaller)
        assert not bad(verify(alone=True))

    def test_a_missing_bundle(self, server, verify, forge) -> None:
        """What was signed is not there."""
        server.documents.remove(server.kind("bundle", forge.newest.origin)[0])
        assert {V.ROLLBACK, V.TRUNCATED, V.MISSING, V.UNVERIFIABLE} & bad(verify(alone=True)).keys()

    @pytest.mark.parametrize(
        "change",
        [
            lambda s: s.update(first=1),
            lambda s: s.update(first="0"),
            lambda s: s.update(leaves="!"),
            lambda s: s.update(leaves=7),
            lambda s: s.update(leaves=""),
            lambda s: s.update(leaves="AAAA"),
            lambda s: s.update(controls={"index": 0}),
            lambda s: s.update(controls=[1, {"index": "0", "document": "{}"}, {"index": 10**6, "document": "{}"}]),
            lambda s: s.update(controls=[{"index": 3, "document": "\u0000"}]),
        ],
    )
    def test_strange_bundles(self, server, verify, forge, change) -> None:
        """Nothing of it is believed, and nothing raises but errors of verification."""
        (bundle,) = server.kind("bundle", forge.newest.origin)
        change(bundle.source)
        assert verify(alone=True).exit_status == 1

    def test_strange_heads(self, server, verify, forge) -> None:
        """Notes that no key has signed are no heads; without any, nothing is intact."""
        log = forge.newest.origin
        server.documents.append(
            Stored("klyra-audit-ledger", "h", {"kind": "checkpoint", "log": log, "size": 9999, "root": "", "note": "x"})
        )
        strange = {"kind": "checkpoint", "log": log, "size": "7", "note": ["y"]}
        server.documents.append(Stored("klyra-audit-ledger", "i", strange | {"size": 8}))
        assert not bad(verify(alone=True))
        server.documents = [each for each in server.documents if each.source.get("kind") != "checkpoint"]
        report = verify(alone=True)
        assert report.exit_status != 0
        assert V.UNVERIFIABLE in bad(report)

    def test_an_end_cut_off_with_what_speaks_of_it(self, server, verify, forge, data, tmp_path) -> None:
        """The data directory's own note of how far the follower is, or a checkpoint kept elsewhere, gives it away."""
        log = forge.newest.origin
        (partial,) = server.kind("partial", log)
        first = partial.source["first"]
        server.documents = [
            each
            for each in server.documents
            if each is not partial
            and not (each.source.get("klyra", {}).get("log") == log and each.source["klyra"]["index"] >= first)
        ]
        assert not bad(verify())
        noted = shutil.copytree(data, tmp_path / "data")
        (noted / "cursors").mkdir()
        sizes = {shard.origin: shard.size for shard in forge.shards}
        (noted / "cursors" / "store.json").write_bytes(orjson.dumps({"searchable": sizes}))
        assert bad(verify(noted))[V.MISSING] > 0
        (noted / "cursors" / "store.json").write_text("[]")
        assert not bad(verify(noted))
