"""The entries in Elasticsearch against their ledger, and against what the cluster keeps of it."""

from __future__ import annotations

import base64
import copy as copying
import shutil

import orjson
import pytest
from typer.testing import CliRunner

from klyra_audit.format import policy, sections
from klyra_collector.cli import verify as command
from klyra_collector.store.elasticsearch.documents import Placing, entry_document
from klyra_collector.verify import Options, Verdict, elasticsearch_copy
from klyra_collector.verify.copies_elasticsearch import verify_alone, verify_with_ledger
from klyra_collector.verify.elasticsearch_address import ElasticsearchAddress
from klyra_collector.verify.elasticsearch_client import ElasticsearchClient, Hit
from klyra_collector.verify.elasticsearch_copy import ElasticsearchCopy
from klyra_collector.verify.elasticsearch_documents import document_of, fields_of
from support.baseline import baseline
from support.elasticsearch_copies import FIELDS, stored_of
from support.elasticsearch_reading import ReadingElasticsearch, Stored, reading
from support.entries import MemoryLedger, document
from support.forge import SECOND_US

V = Verdict
GOOD = {V.OK, V.EXPIRED_OK, V.REDACTED_OK}
PLACING = Placing(policy="startup", expire_day=20_600)


@pytest.fixture(scope="module")
def forge():
    """The baseline in memory; not to be changed."""
    return baseline()


@pytest.fixture(scope="module")
def data(forge, tmp_path_factory):
    """The baseline on disk; not to be changed."""
    return forge.write(tmp_path_factory.mktemp("pristine") / "data")


@pytest.fixture(scope="module")
def stored(forge, data):
    """What the cluster holds of it; not to be changed."""
    return stored_of(forge, data)


@pytest.fixture
def server(stored):
    """A cluster with it, to be changed."""
    with reading(ReadingElasticsearch(copying.deepcopy(stored))) as server:
        yield server


@pytest.fixture
def verify(forge, data, server):
    """Verify with the ledger, or alone, pinned, at the baseline's own time."""

    def run(ledger=data, *, alone=False, **options):
        own = {
            "policy": forge.policy(),
            "patience": 0.0,
            "now_us": forge.newest.now_us + SECOND_US,
            "org_salt": (data / "keys" / "org-salt").read_bytes(),
        }
        address = ElasticsearchAddress.parse(server.url)
        with ElasticsearchCopy(ElasticsearchClient(address, sleep=lambda _seconds: None)) as found:
            if alone:
                return verify_alone(found, Options(**(own | options)))
            return verify_with_ledger(found, ledger, Options(**(own | options)))

    return run


def bad(report) -> dict[Verdict, int]:
    """Return what is wrong in all shards."""
    counts: dict[Verdict, int] = {}
    for shard in report.shards:
        for verdict, count in shard.counts.items():
            if count and verdict not in GOOD:
                counts[verdict] = counts.get(verdict, 0) + count
    return counts


def entries_of(server, log):
    """Return the entry documents of a shard that stand in a stream for entries, by index."""
    found = [
        each for each in server.documents if each.source.get("klyra", {}).get("log") == log and "id" in each.source
    ]
    return sorted(found, key=lambda each: each.source["klyra"]["index"])


def test_all_is_well(verify, forge) -> None:
    """The ledger's shards first, then those of the cluster."""
    report = verify()
    assert not bad(report), [f for s in report.shards for f in s.findings]
    names = [shard.directory for shard in report.shards]
    assert names == ["ledger/2025", "ledger/2026", "elasticsearch 2025", "elasticsearch 2026"]
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

    def test_a_copy_for_a_legal_hold(self, server, victim, verify) -> None:
        """It doubles nothing, and is judged like any other."""
        spare = copying.deepcopy(victim)
        spare.index = ".ds-klyra-audit-held-2026.01.01-000001"
        server.documents.append(spare)
        assert not bad(verify())
        spare.source["status"] = "other"
        assert bad(verify()) == {V.ALTERED: 1}
        server.documents.remove(victim)
        server.documents.insert(0, victim)
        assert bad(verify()) == {V.ALTERED: 1}

    def test_a_hold_s_copy_alone(self, server, victim, verify) -> None:
        """It is the entry, when its own stream has let go of it."""
        victim.index = ".ds-klyra-audit-held-2026.01.01-000001"
        assert not bad(verify())

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
    hit = Hit("i", f"{event['organization_id']}:{event['id']}", written, [klyra["index"]])
    assert document_of(hit, klyra["log"], klyra["index"]).fields == fields_of(event)


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
        assert report.shards[3].notes == [f"it has not applied the last {forge.newest.size - keep} records yet"]

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
        assert "1 of its documents are newer than the ledger as it was looked at" in report.shards[3].notes


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
