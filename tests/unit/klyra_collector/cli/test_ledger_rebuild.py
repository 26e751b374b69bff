"""`klyra-audit ledger rebuild`: a lost ledger comes back out of Elasticsearch."""

from __future__ import annotations

import base64
import re
import shutil
from contextlib import closing

import pytest

from klyra_audit.format import policy as policies
from klyra_audit.format.control import ShardOpen, Start
from klyra_audit.format.keys import SigningKey
from klyra_audit.format.leaf import LEAF_SIZE
from klyra_collector.cli.ledger import app
from klyra_collector.rebuild import install
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.seal.shards import year_of, year_start_us
from klyra_collector.verify import Options, Verdict, elasticsearch_copy, verify_target
from support import records
from support.elasticsearch_copies import stored_of_ledger
from support.elasticsearch_reading import ReadingElasticsearch, Stored, reading
from support.records import BUSINESS, bad, submission
from support.sealing import Killed, SetClock, open_ledger, read_shard

YEAR = str(year_of(SystemClock().wall_us()))  # commands ask the real clock
NEXT = f"{YEAR}-2"


@pytest.fixture
def ledger(data):
    """A stopped ledger of this year with events of two organizations, and something quarantined."""
    clock = SetClock(SystemClock().wall_us() - 600_000_000)
    opened = open_ledger(data, clock)
    user = {"type": "user", "id": "usr_1", "name": None}
    for _ in range(100):
        opened.commit([submission(records.record(), records.record(BUSINESS, resource=user), bad())])
        clock.pass_seconds(1)
    opened.sign()
    opened.close()
    return opened


@pytest.fixture
def policy(tmp_path, ledger):
    """The policy that the operator has published."""
    path = tmp_path / "klyra.policy"
    path.write_text(f"log {ledger.vkey}\nquorum none\n")
    policies.parse(path.read_bytes())
    return path


@pytest.fixture
def server(data, ledger, monkeypatch):
    """A cluster that has everything."""
    monkeypatch.setattr(elasticsearch_copy, "REFRESH_SECONDS", 0.0)
    with reading(ReadingElasticsearch(stored_of_ledger(data))) as server:
        yield server


@pytest.fixture
def checkpoint(data, ledger, tmp_path):
    """The newest checkpoint, as somebody else has kept it."""
    return shutil.copy(data / "ledger" / YEAR / "checkpoint", tmp_path / "kept")


@pytest.fixture
def kept(data, server, checkpoint, tmp_path):
    """The lost data directory as it was, and the new one with nothing but its keys."""
    shutil.copytree(data, tmp_path / "kept-data")
    for path in data.iterdir():
        if path.name != "keys":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return tmp_path / "kept-data"


@pytest.fixture
def rebuild(run, server, kept, policy):
    """Run the command."""

    def go(*more: str, yes: bool = True) -> tuple[int, str, str]:
        arguments = ["--from", server.url, "--policy", str(policy), "--reason", "the disk was lost", *more]
        return run(app, "rebuild", *arguments, *(["--yes"] if yes else []))

    return go


def test_everything_comes_back(rebuild, data, kept, ledger) -> None:
    """Every record with its content is what it was, and the next shard says what it goes on from, and why."""
    status, out, err = rebuild()
    assert status == 0, err
    assert read_shard(data, YEAR) == read_shard(kept, YEAR)
    opened, started, *_ = (record.control for record in read_shard(data, NEXT))
    shard, start = ShardOpen.of_document(opened), Start.of_document(started)
    assert (shard.previous_origin, shard.previous_size, shard.reason) == (ledger.origin, ledger.size, "disaster")
    assert (start.recovered.size, start.recovered.cut, start.recovered.reason) == (ledger.size, 0, "the disk was lost")
    assert out.split("+")[0] == f"{ledger.origin.rpartition('/')[0]}/{NEXT}"
    assert f"{ledger.size} records, 201 bodies" in err  # the same bad input is kept once
    assert not (data / install.FOLDER).exists()
    assert not list(data.glob("ledger.*"))


def test_the_rebuilt_ledger_verifies_and_goes_on(rebuild, data, policy, ledger) -> None:
    """An auditor who pins the new key as well finds nothing wrong, and the collector seals on."""
    _, vkey, _ = rebuild()
    policy.write_text(f"log {ledger.vkey}\nlog {vkey}\nquorum none\n".replace("\n\n", "\n"))
    opened = open_ledger(data, SetClock(SystemClock().wall_us() + 1_000_000))
    opened.commit([submission(records.record())])
    opened.sign()
    opened.close()
    report = verify_target(data, Options(policy=policies.parse(policy.read_bytes()), patience=0.0))
    assert report.exit_status == 0, report.shards
    assert [shard.directory for shard in report.shards] == [f"ledger/{YEAR}", f"ledger/{NEXT}"]
    with closing(LedgerReader(data / "ledger")) as reader:
        assert reader.committed(ledger.origin) == ledger.size


def test_quarantined_bytes_come_back(rebuild, data, kept) -> None:
    """They lie beside the ledger again."""
    rebuild()
    (before,) = kept.glob("quarantine/*/*.frames")
    (after,) = data.glob("quarantine/*/*.frames")
    assert after.read_bytes() == before.read_bytes()


def test_against_a_checkpoint_that_somebody_kept(rebuild, checkpoint) -> None:
    """It fits."""
    assert rebuild("--checkpoint", str(checkpoint))[0] == 0


def test_what_nobody_signed_is_left_out(rebuild, data, kept, server, ledger) -> None:
    """Records behind the newest head could be anybody's."""
    (partial,) = server.kind("partial")
    leaves = base64.b64decode(partial.source["leaves"])
    partial.source["leaves"] = base64.b64encode(leaves + leaves[-LEAF_SIZE:]).decode()
    status, _, err = rebuild()
    assert status == 0
    assert "1 records behind the newest checkpoint are signed by nobody" in err
    assert read_shard(data, YEAR) == read_shard(kept, YEAR)


class TestLoss:
    """Something is not there any more."""

    @pytest.fixture
    def lost(self, server):
        """An entry document is gone."""
        victim = next(each for each in server.documents if each.source.get("klyra", {}).get("index") == 150)
        server.documents.remove(victim)
        return victim

    def test_it_needs_consent(self, rebuild, data, lost) -> None:
        """Nothing is put in place before the operator says so."""
        status, out, err = rebuild()
        assert (status, out) == (1, "")
        assert "MISSING record 150" in err
        assert "--accept-loss" in err
        assert not list(data.glob("ledger/*/leaves"))

    def test_it_is_on_record(self, rebuild, data, kept, lost, ledger) -> None:
        """START says how many records cannot be read any more, counted from the first that cannot."""
        assert rebuild("--accept-loss")[0] == 0
        start = Start.of_document(read_shard(data, NEXT)[1].control)
        assert (start.recovered.size, start.recovered.cut) == (ledger.size, ledger.size - 150)
        assert read_shard(data, YEAR) == read_shard(kept, YEAR)[:150]

    def test_an_edited_document_is_no_body(self, rebuild, server) -> None:
        """It is left out, and missing."""
        server.at(150).source["klyra"]["sections"]["core"] = "{}"
        status, _, err = rebuild()
        assert status == 1
        assert "1 documents are of no record, or not as they were sealed" in err
        assert "MISSING record 150" in err

    def test_a_checkpoint_over_more_than_there_is(self, rebuild, data, server, checkpoint, ledger) -> None:
        """What was signed and is gone is told, and the new shard goes on from the kept head."""
        (partial,) = server.kind("partial")
        at = partial.source["first"]
        leaves = base64.b64decode(partial.source["leaves"])[: 10 * LEAF_SIZE]
        partial.source["leaves"] = base64.b64encode(leaves).decode()
        for each in server.kind("checkpoint"):
            server.documents.remove(each)
        status, _, err = rebuild("--checkpoint", str(checkpoint))
        assert (status, at) == (2, 0)  # no head in the index covers what is there
        assert "not what was signed" in err


class TestRefused:
    """Nothing is put in place."""

    @pytest.fixture(autouse=True)
    def _nothing(self, data):
        yield
        assert not list(data.glob(f"ledger/{NEXT}"))

    def test_a_ledger_is_there(self, run, ledger, server, policy) -> None:
        """It is never written over."""
        status, _, err = run(app, "rebuild", "--from", server.url, "--policy", str(policy), "--reason", "x", "--yes")
        assert status == 1
        assert "There is a ledger in" in err

    def test_no_org_salt(self, rebuild, data, kept) -> None:
        """It cannot be drawn again."""
        (data / "keys" / "org-salt").unlink()
        status, _, err = rebuild()
        assert status == 2
        assert "org-salt is not there" in err

    def test_another_org_salt(self, rebuild, data, kept) -> None:
        """Every START commits to it."""
        (data / "keys" / "org-salt").write_bytes(bytes(32))
        status, _, err = rebuild()
        assert status == 2
        assert "org_salt is not the one" in err

    def test_another_leaf(self, rebuild, server) -> None:
        """One bit of one leaf, and no head is over these records."""
        (partial,) = server.kind("partial")
        leaves = bytearray(base64.b64decode(partial.source["leaves"]))
        leaves[-1] ^= 1
        partial.source["leaves"] = base64.b64encode(leaves).decode()
        status, _, err = rebuild()
        assert status == 2
        assert "not what was signed: ROOT_MISMATCH" in err

    def test_another_control_document(self, rebuild, server) -> None:
        """Its leaf commits to it."""
        (partial,) = server.kind("partial")
        partial.source["controls"][0]["document"] = '{"type":"start"}'
        status, _, err = rebuild()
        assert status == 2
        assert "CONTROL_ALTERED" in err

    def test_nobody_s_signature(self, rebuild, server, policy) -> None:
        """Heads that the policy's keys did not sign are none."""
        vkey = policy.read_text().split()[1]
        name, _, _ = vkey.partition("+")
        stranger = records_key(name)
        policy.write_text(f"log {stranger}\nquorum none\n")
        status, _, err = rebuild()
        assert status == 2
        assert "UNVERIFIABLE" in err

    def test_a_checkpoint_of_another_log(self, rebuild, tmp_path) -> None:
        """It says nothing of this ledger."""
        path = tmp_path / "other"
        path.write_text("other/log/2026\n1\nAAAA\n\n— other AAAA\n")
        status, _, err = rebuild("--checkpoint", str(path))
        assert status == 1
        assert "is no checkpoint of this ledger" in err

    def test_nobody_agrees(self, rebuild) -> None:
        """Without --yes and without a terminal."""
        status, _, err = rebuild(yes=False)
        assert status == 1
        assert "Nobody is there to ask" in err

    def test_an_empty_cluster(self, rebuild, server) -> None:
        """There is nothing to make a ledger of."""
        server.documents.clear()
        status, _, err = rebuild()
        assert status == 2
        assert "keeps no ledger" in err

    def test_two_ledgers(self, rebuild, server) -> None:
        """One has to be named."""
        bundle = server.kind("partial")[0]
        server.documents.append(Stored(bundle.index, "x", bundle.source | {"log": "other/collector-9/2026"}))
        status, _, err = rebuild()
        assert status == 2
        assert "Name one of them with --collector" in err

    def test_another_collector_s_directory(self, rebuild, data, kept) -> None:
        """The names in the configuration are the ledger's own."""
        (data / "ledger").mkdir()
        (data / "ledger" / "identity.json").write_text('{"ledger_name": "a", "collector_id": "b"}')
        status, _, err = rebuild()
        assert status == 2
        assert "collector" in err


def test_a_run_that_was_interrupted_begins_again(rebuild, data, kept) -> None:
    """What it left in its folder is thrown away."""
    (data / install.FOLDER / "ledger" / YEAR).mkdir(parents=True)
    (data / install.FOLDER / "ledger" / YEAR / "leaves").write_bytes(b"torn")
    (data / "ledger.before-rebuild").mkdir()
    assert rebuild()[0] == 0
    assert read_shard(data, YEAR) == read_shard(kept, YEAR)


def test_one_collector_of_several(rebuild, server, ledger, data, kept) -> None:
    """The one that is named."""
    bundle = server.kind("partial")[0]
    server.documents.append(Stored(bundle.index, "x", bundle.source | {"log": "other/collector-9/2026"}))
    assert rebuild("--collector", ledger.origin.rpartition("/")[0])[0] == 0
    assert read_shard(data, YEAR) == read_shard(kept, YEAR)


def records_key(name: str) -> str:
    """Return the verifier key of somebody else for a log's name."""
    return str(SigningKey.from_seed(name, bytes(range(32))).verifying_key)


class TestTwoYears:
    """A ledger of two shards, one of which the year closed."""

    @pytest.fixture
    def ledger(self, data):
        """A stopped ledger that was written over the turn of the year."""
        clock = SetClock(year_start_us(int(YEAR)) - 30_000_000)
        opened = open_ledger(data, clock)
        for _ in range(6):
            opened.commit([submission(records.record(), records.record(BUSINESS))])
            clock.pass_seconds(10)
            opened.sign()
        opened.close()
        return opened

    def test_both_come_back(self, rebuild, data, kept, policy) -> None:
        """The one that was closed by the year still leads to the next, and that to the one that goes on."""
        last = str(int(YEAR) - 1)
        first_key = next((kept / "ledger" / last).glob("control/frames")).read_bytes()
        vkey = re.search(rb'"vkey":"([^"]+)"', first_key)[1].decode()
        policy.write_text(f"log {vkey}\nquorum none\n")
        status, out, err = rebuild("--accept-loss")
        assert status == 0, err
        for shard in (last, YEAR):
            assert read_shard(data, shard) == read_shard(kept, shard)
        policy.write_text(f"log {vkey}\nlog {out.strip()}\nquorum none\n")
        report = verify_target(data, Options(policy=policies.parse(policy.read_bytes()), patience=0.0))
        found = {finding.verdict for shard in report.shards for finding in shard.findings}
        assert found <= {Verdict.OVER_RETAINED}  # expiry has not run since January
        assert len(report.shards) == 3


@pytest.mark.parametrize("step", ["leave_behind", "_move_quarantined", "sync", "rename", "rmtree"])
def test_killed_while_it_is_put_in_place(rebuild, data, kept, monkeypatch, step) -> None:
    """Until the one rename there is no ledger, and the next run makes it; behind it there is all of it."""

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        if step == "sync":
            patched.setattr(install.os, "sync", killed)
        elif step == "rename":
            patched.setattr(type(data), "rename", killed)
        elif step == "rmtree":
            steps = iter([shutil.rmtree, shutil.rmtree, killed])  # those before the rename go through
            patched.setattr(install.shutil, "rmtree", lambda *each, **options: next(steps)(*each, **options))  # noqa: PLW0108 - another at each call
        else:
            patched.setattr(install, step, killed)
        with pytest.raises(Killed):
            rebuild()
    if step == "rmtree":
        assert rebuild()[0] == 1  # there is a ledger
        opened = open_ledger(data, SetClock(SystemClock().wall_us() + 1_000_000))
        opened.close()
    else:
        assert not list(data.glob("ledger/*/leaves"))
        assert rebuild()[0] == 0
    assert read_shard(data, YEAR) == read_shard(kept, YEAR)
    assert read_shard(data, NEXT)[0].control["reason"] == "disaster"
