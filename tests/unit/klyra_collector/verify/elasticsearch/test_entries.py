"""The entries in Elasticsearch against their ledger, and against what the cluster keeps of it."""

from __future__ import annotations

import base64
import copy as copying

import orjson
import pytest
from typer.testing import CliRunner

from klyra_audit.format import policy, sections
from klyra_collector.cli import verify as command
from klyra_collector.store.elasticsearch.documents import Placing, entry_document
from klyra_collector.verify import elasticsearch_copy
from klyra_collector.verify.elasticsearch_client import Hit
from klyra_collector.verify.elasticsearch_documents import document_of, fields_of, stream_of
from support.elasticsearch_copies import FIELDS
from support.elasticsearch_reading import Stored
from support.elasticsearch_verifying import V, bad, entries_of
from support.entries import MemoryLedger, document
from support.forge import SECOND_US

HELD_INDEX = ".ds-klyra-audit-held-2026.01.01-000001"
PLACING = Placing(policy="startup", expire_day=20_600)


def test_all_is_well(verify, forge) -> None:
    """The ledger's shards first, then those of the cluster."""
    report = verify()
    assert not bad(report), [f for s in report.shards for f in s.findings]
    names = [shard.directory for shard in report.shards]
    copies = ["elasticsearch 2025", "elasticsearch 2026", "klyra-audit-ledger 2025", "klyra-audit-ledger 2026"]
    assert names == ["ledger/2025", "ledger/2026", *copies]
    assert report.exit_status == 0
    assert report.shards[3].counts[V.REDACTED_OK] == report.shards[1].counts[V.REDACTED_OK] > 0


def test_all_is_well_without_the_ledger(verify) -> None:
    """What the cluster keeps of the ledger is verified in its place."""
    report = verify(alone=True)
    assert not bad(report), [f for s in report.shards for f in s.findings]
    assert report.exit_status == 0
    assert report.is_witnessed


class TestDocuments:
    """What somebody did to one document, and what verification says of it."""

    @pytest.fixture
    def victim(self, server, forge):
        """An ordinary entry of the newest shard, with an actor."""
        return next(
            each
            for each in entries_of(server, forge.newest.origin)
            if {"core", "actor"} <= each.source["klyra"]["sections"].keys() and each.index == "klyra-audit-business"
        )

    @pytest.fixture
    def held(self, server, forge):
        """An entry that a legal hold covers."""
        return next(
            each
            for origin in (shard.origin for shard in forge.shards)
            for each in entries_of(server, origin)
            if each.index == "klyra-audit-held"
        )

    def test_deleted(self, server, victim, verify) -> None:
        """MISSING, also by what the cluster itself keeps of the ledger."""
        server.documents.remove(victim)
        assert bad(verify()) == {V.MISSING: 1}
        assert bad(verify(alone=True)) == {V.MISSING: 1}

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            (lambda s: s.update(status="failure" if s["status"] == "success" else "success"), "status"),
            (lambda s: s.update(timestamp="2026-01-01T00:00:00Z"), "timestamp"),
            (lambda s: s.update({"@timestamp": "2026-01-01T00:00:00Z"}), "@timestamp"),
            (lambda s: s["actor"].update(name="Mallory"), "actor"),
            (lambda s: s["resource"].update(id="mod_other"), "resource"),
            (lambda s: s["metadata"].update(client_ip="203.0.113.99"), "metadata"),
            (lambda s: s.update(metadata_other={"more": 1}), "metadata"),
            (lambda s: s.update(comment="nothing"), "comment"),
            (lambda s: s.pop("event_type"), "event_type"),
            (lambda s: s["klyra"].update(timestamp_ns=1), "klyra.timestamp_ns"),
            (lambda s: s["klyra"].update(org_seq=s["klyra"]["org_seq"] + 1), "klyra.org_seq"),
            (lambda s: s["klyra"].update(org_ref="00" * 16), "klyra.org_ref"),
            (lambda s: s["klyra"].update(ingested_at=float(s["klyra"]["ingested_at"])), "klyra.ingested_at"),
            (lambda s: s["klyra"].pop("flags"), "klyra.flags"),
        ],
    )
    def test_edited(self, victim, verify, change, named) -> None:
        """ALTERED, with the name of what differs."""
        change(victim.source)
        report = verify()
        assert bad(report) == {V.ALTERED: 1}
        (finding,) = (finding for shard in report.shards for finding in shard.findings)
        assert named in finding.reason
        assert (finding.first, finding.file) == (victim.source["klyra"]["index"], "elasticsearch")

    @pytest.mark.parametrize(
        "change",
        [
            lambda k: k.update(leaf="AAAA"),
            lambda k: k.update(leaf=None),
            lambda k: k.update(sections=[]),
            lambda k: k["sections"].update(core=k["sections"]["core"].replace("mod_", "mox_")),
            lambda k: k["sections"].update(core={"deep": [1]}),
            lambda k: k.pop("salts"),
            lambda k: k["salts"].update(core="!"),
            lambda k: k.update(expire_day=k["expire_day"] + 365),
            lambda k: k.update(expire_day="never"),
            lambda k: k.update(c={"actor": "zz"}, sections={"core": k["sections"]["core"]}),
        ],
    )
    def test_another_sealing(self, victim, verify, change) -> None:
        """ALTERED, whatever stands where evidence should."""
        change(victim.source["klyra"])
        assert bad(verify()) == {V.ALTERED: 1}

    def test_deep_and_strange_members(self, victim, verify) -> None:
        """Nothing that JSON can say does more than make a document another one."""
        deep: object = 1
        for _ in range(600):
            deep = [deep]
        for name in ("metadata", "actor", "id", "timestamp", "@timestamp", "organization_id", "schema"):
            victim.source[name] = {"x": deep}
        victim.source["klyra"] |= {"org_seq": deep, "flags": deep, "timestamp_ns": deep}
        assert set(bad(verify())) <= {V.ALTERED, V.EXTRA}

    def test_without_evidence_at_all(self, victim, verify) -> None:
        """It is of no shard any more, and the entry is not there."""
        victim.source["klyra"] = "nothing"
        assert bad(verify()) == {V.EXTRA: 1, V.MISSING: 1}

    def test_erased_by_nobody(self, victim, verify) -> None:
        """A section that was taken out needs an ERASURE record."""
        klyra = victim.source["klyra"]
        sealed = sections.section_commitment(
            "actor", base64.b64decode(klyra["salts"].pop("actor")), klyra["sections"].pop("actor").encode()
        )
        klyra["c"] = {**klyra.get("c", {}), "actor": sealed.hex()}
        entry = sections.join(
            sections.Sections(
                klyra["sections"]["core"].encode(),
                None,
                klyra["sections"]["target"].encode() if "target" in klyra["sections"] else None,
            )
        )
        for name in ("actor", "resource", "metadata"):
            victim.source[name] = entry[name]
        victim.source.pop("metadata_other", None)
        assert bad(verify()) == {V.REDACTED_UNAUTHORISED: 1}

    def test_the_same_entry_twice(self, server, victim, verify) -> None:
        """DUPLICATE: a stream takes an id again after a rollover."""
        server.documents.append(copying.deepcopy(victim))
        assert bad(verify()) == {V.DUPLICATE: 1}

    def test_a_copy_among_what_is_held(self, server, victim, verify) -> None:
        """What no hold covers stands there besides or alone for one reason only: to be kept longer than it may be."""
        spare = copying.deepcopy(victim)
        spare.index = HELD_INDEX
        spare.source["klyra"]["held"] = True
        server.documents.append(spare)
        assert bad(verify()) == bad(verify(alone=True)) == {V.DUPLICATE: 1}
        server.documents.remove(victim)
        assert bad(verify()) == bad(verify(alone=True)) == {V.ALTERED: 1}

    def test_what_is_held_stands_in_its_own_stream_twice(self, server, held, verify) -> None:
        """DUPLICATE: a hold moves what it covers."""
        twin = copying.deepcopy(held)
        twin.index, twin.source["klyra"]["held"] = "klyra-audit-business", False
        server.documents.append(twin)
        assert V.DUPLICATE in bad(verify())
        server.documents.remove(held)
        assert bad(verify()) == bad(verify(alone=True)) == {V.ALTERED: 1}

    @pytest.mark.parametrize(
        ("index", "change"),
        [
            (".ds-klyra-audit-startup-2026.01.01-000001", {}),
            ("klyra-audit-business-at-org_other", {}),
            ("klyra-audit-business", {"policy": "enterprise"}),
            ("klyra-audit-business", {"held": True}),
            ("klyra-audit-business", {"held": "no"}),
            ("klyra-audit-held", {}),
        ],
    )
    def test_in_a_stream_that_is_not_its_own(self, victim, verify, index, change) -> None:
        """ALTERED: somebody else would see it there, or it would be kept for another time."""
        victim.index = index
        victim.source["klyra"] |= change
        assert bad(verify()) == bad(verify(alone=True)) == {V.ALTERED: 1}

    @pytest.mark.parametrize(
        "index",
        [
            ".ds-klyra-audit-business-2026.01.01-000001",
            "klyra-audit-business-at-{organization}",
        ],
    )
    def test_in_a_stream_of_its_own(self, victim, verify, index) -> None:
        """That of its policy, or of its organization, whatever lifecycles call the index behind it."""
        victim.index = index.format(organization=victim.source["organization_id"].lower())
        assert not bad(verify())

    @pytest.mark.parametrize("name", ["organization_id", "actor.id", "klyra.log", "actor.name", "metadata.client_ip"])
    def test_found_by_no_search(self, victim, verify, name) -> None:
        """ALTERED: it is there and whole, and no search by that member finds it."""
        victim.source["metadata"]["client_ip"] = victim.source["metadata"].get("client_ip", "203.0.113.7")
        victim.ignored = [name]
        assert V.ALTERED in bad(verify(alone=True))

    def test_an_address_that_no_search_finds(self, server, forge, verify) -> None:
        """ALTERED: metadata may be split in any way but for the one member that everybody searches by."""
        victim = next(
            each for each in entries_of(server, forge.newest.origin) if each.source["metadata"].get("client_ip")
        )
        address = victim.source["metadata"].pop("client_ip")
        victim.source["metadata_other"] = victim.source.get("metadata_other", {}) | {"client_ip": address}
        assert bad(verify()) == bad(verify(alone=True)) == {V.ALTERED: 1}

    def test_somebody_else_s_document(self, server, verify) -> None:
        """EXTRA: it names no shard of this ledger."""
        server.documents.append(Stored("klyra-audit-startup", "x", {"message": "hello"}))
        server.documents.append(Stored("klyra-audit-other", "y", {"klyra": {"log": "other/log/2026", "index": 0}}))
        server.documents.append(Stored("klyra-audit-ledger", "z", {"kind": "note"}))
        assert bad(verify()) == {V.EXTRA: 3}

    def test_an_entry_that_was_never_sealed(self, server, victim, verify, forge) -> None:
        """EXTRA behind the end, EXTRA in the place of a control record."""
        for index in (forge.newest.size + 7, 0):
            made_up = copying.deepcopy(victim)
            made_up.source["klyra"]["index"] = index
            server.documents.append(made_up)
        assert bad(verify()) == {V.EXTRA: 2}
        assert bad(verify(alone=True)) == {V.EXTRA: 2}

    def test_an_id_that_is_not_the_entry_s(self, victim, verify) -> None:
        """Whoever looks it up by id finds another one."""
        victim.id = "org_x:log_y"
        assert bad(verify()) == {V.ALTERED: 1}

    def test_a_later_sealing_of_an_id(self, victim, verify) -> None:
        """It has log and index in its id."""
        victim.id = f"{victim.id}:{victim.source['klyra']['log']}:{victim.source['klyra']['index']}"
        assert not bad(verify())

    @pytest.mark.parametrize("mark", ["~2026:40", "~2026-2:40", "~20900d", "~20900s"])
    def test_a_document_that_was_written_again(self, victim, verify, mark) -> None:
        """Its id says for what: an erasure, or more days under a hold."""
        victim.id += mark
        assert not bad(verify())

    @pytest.mark.parametrize("mark", ["~", "~x", "~40", "~2026:40~1d", "~20900d\n", "~٤d"])
    def test_an_id_with_more_than_that(self, victim, verify, mark) -> None:
        """ALTERED."""
        victim.id += mark
        assert bad(verify()) == {V.ALTERED: 1}

    def test_hidden_by_nobody(self, victim, verify) -> None:
        """ALTERED: no other entry has its id, so nothing may keep it from being shown."""
        victim.source["klyra"]["shown_from"] = 60_000
        assert bad(verify()) == bad(verify(alone=True)) == {V.ALTERED: 1}
        victim.source["klyra"]["shown_from"] = "soon"
        assert bad(verify()) == {V.ALTERED: 1}

    def test_shown_by_now(self, victim, verify) -> None:
        """What hid it may be gone."""
        victim.source["klyra"]["shown_from"] = 20_000
        assert not bad(verify())

    @pytest.mark.parametrize(
        ("change", "verdicts"),
        [
            ({}, {V.EXTRA: 1}),
            ({"expire_day": 59_999}, {V.EXTRA: 1, V.ALTERED: 1}),
            ({"index": 10_000}, {V.EXTRA: 1, V.ALTERED: 1}),
            ({"log": "klyra-audit.test/collector-1/x"}, {V.EXTRA: 1, V.ALTERED: 1}),
            ({"expire_day": "60000"}, {V.EXTRA: 1, V.ALTERED: 1}),
        ],
    )
    def test_hidden_by_another(self, server, victim, verify, change, verdicts) -> None:
        """An earlier document with its id hides it, for as long as that is kept."""
        victim.source["klyra"]["shown_from"] = 60_000
        twin = copying.deepcopy(victim)
        twin.source["klyra"] |= {"index": 0, "expire_day": 60_000} | change
        del twin.source["klyra"]["shown_from"]
        server.documents.append(twin)
        assert bad(verify()) == verdicts

    def test_kept_too_long(self, server, verify, forge) -> None:
        """OVER_RETAINED, once its day has passed."""
        later = forge.newest.now_us + 3000 * 86_400 * SECOND_US
        assert V.OVER_RETAINED in bad(verify(now_us=later, max_witness_age=1e12))


@pytest.mark.parametrize(
    "timestamp",
    [
        *("1000-01-01T00:00:00Z", "1677-09-21T00:12:43Z", "1677-09-21T00:12:43.145224191Z"),
        *("1677-09-21T00:12:43.145224192Z", "1677-09-21T00:12:44Z", "1969-12-31T23:59:59.999999999Z"),
        *("1970-01-01T00:00:00.000000001Z", "2026-03-10T11:00:00.5Z", "2262-04-11T23:47:16Z"),
        *("2262-04-11T23:47:16.5Z", "2262-04-11T23:47:16.854775807Z", "2262-04-11T23:47:17Z", "9999-12-31T23:59:59Z"),
    ],
)
def test_times_that_no_index_can_hold(timestamp) -> None:
    """They are clamped as the writer clamps them: what it has written is what was sealed."""
    event = document(timestamp=timestamp)
    written = orjson.loads(orjson.dumps(entry_document(MemoryLedger().seal(event), PLACING, FIELDS)))
    klyra = written["klyra"]
    hit = Hit("klyra-audit-startup", f"{event['organization_id']}:{event['id']}", written, [klyra["index"]])
    assert document_of(hit, klyra["log"], klyra["index"]).fields == fields_of(event)


@pytest.mark.parametrize("renamed", ["", "shrink-ab12-", "partial-", "restored-"])
def test_the_stream_of_an_index(renamed) -> None:
    """Lifecycles put something before the name; what is no backing index is a stream by itself."""
    assert stream_of(f"{renamed}.ds-klyra-audit-business-at-org_2026-2026.01.01-000001") == (
        "klyra-audit-business-at-org_2026"
    )
    assert stream_of("klyra-audit-ledger") == "klyra-audit-ledger"


class TestLag:
    """The cluster is behind, ahead, or written to meanwhile."""

    def test_behind(self, server, verify, forge) -> None:
        """What was not stored yet is told, and not missing."""
        log = forge.newest.origin
        (partial,) = server.kind("partial", log)
        keep = partial.source["first"]
        server.documents = [
            each
            for each in server.documents
            if each is not partial
            and not (each.source.get("klyra", {}).get("log") == log and each.source["klyra"]["index"] >= keep)
        ]
        report = verify()
        assert not bad(report)
        (note,) = report.shards[3].notes
        assert note.startswith(f"it has not applied the last {forge.newest.size - keep} records yet, the first of them")

    def test_entries_before_their_bundle(self, server, verify, forge) -> None:
        """An entry may come in before the bundle that says so; it is judged all the same."""
        log = forge.newest.origin
        (partial,) = server.kind("partial", log)
        server.documents.remove(partial)
        assert not bad(verify())
        last = entries_of(server, log)[-1]
        assert last.source["klyra"]["index"] >= partial.source["first"]
        last.source["status"] = "other"
        assert bad(verify()) == {V.ALTERED: 1}

    def test_entries_newer_than_the_ledger_was(self, server, verify, forge, data, tmp_path) -> None:
        """They are counted, and not called EXTRA while the ledger has their leaves."""
        log = forge.newest.origin
        made_up = copying.deepcopy(entries_of(server, log)[-1])
        made_up.source["klyra"]["index"] = forge.newest.size
        server.documents.append(made_up)
        (partial,) = server.kind("partial", log)
        leaves = base64.b64decode(partial.source["leaves"])
        partial.source["leaves"] = base64.b64encode(leaves + leaves[-112:]).decode()
        report = verify(alone=True)
        assert not bad(report)
        assert "1 of its documents are newer than anything that is signed" in report.shards[3].notes


class TestCommand:
    """`klyra-audit verify elasticsearch+…`."""

    @pytest.fixture
    def run(self, server, data, forge, tmp_path, monkeypatch):
        """Run the command on the cluster."""
        monkeypatch.setattr(elasticsearch_copy, "REFRESH_SECONDS", 0.0)
        (tmp_path / "klyra.policy").write_text(policy.render(forge.policy()))

        def go(target=None, *more: str):
            given = ["--policy", str(tmp_path / "klyra.policy"), "--max-witness-age", "1e12"]
            return CliRunner().invoke(command.app, [target or server.url, *given, *more])

        return go

    def test_with_the_ledger(self, run, data) -> None:
        """Both are reported."""
        result = run(None, "--ledger", str(data))
        assert result.exit_code == 0, result.output
        assert "elasticsearch 2026" in result.stdout

    def test_alone(self, run, data, server) -> None:
        """The cluster is what was verified; its credentials are not told."""
        result = run(None, "--org-salt", str(data / "keys" / "org-salt"), "--json")
        assert result.exit_code == 0, result.output
        assert orjson.loads(result.stdout)["target"] == server.url

    def test_pinned_by_default(self, server, data, monkeypatch) -> None:
        """Whoever can write the cluster can also change the key there."""
        monkeypatch.setattr(elasticsearch_copy, "REFRESH_SECONDS", 0.0)
        salt = str(data / "keys" / "org-salt")
        assert CliRunner().invoke(command.app, [server.url, "--org-salt", salt]).exit_code == 2

    @pytest.mark.parametrize(
        ("target", "more"),
        [
            ("klyra-data", ("--ledger", "klyra-data")),
            ("klyra-data", ("--collector", "a/b")),
            ("elasticsearch+https://es", ("--store", "store.sqlite")),
            ("elasticsearch+https://es/index", ()),
            ("elasticsearch+https://es?api_key=s3cret", ()),
            ("elasticsearch+https://es?api_key=env:KLYRA_NOT_SET", ()),
        ],
    )
    def test_what_cannot_be(self, run, target, more) -> None:
        """Exit 2, and no secret is repeated."""
        result = run(target, *more, "--json")
        assert result.exit_code == 2
        assert "s3cret" not in result.output
        assert orjson.loads(result.stdout)["error"]["remedy"]
