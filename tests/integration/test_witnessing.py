"""Real collectors cosigned by real witnesses: torchwood's litewitness, and two departments' own for each other."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from klyra_audit import ids
from klyra_audit.format import note, policy
from klyra_audit.format.keys import ALGORITHM_ML_DSA_44, SigningKey
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.witness.cosigner import digest_of
from klyra_collector.witnessed import load_policy, witnessed
from support import collector, litewitness, otlp
from support import witnesses as support
from support.witnesses import Log, kept, metric, policy_text, running_witness, start_witness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.collector import Running

INTERVAL = "0.2"
WAIT_SECONDS = 30


class Department:
    """A collector of its own, cosigned by witnesses that others run."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.keys = collector.make_keys(root)
        self.settings = {"COLLECTOR__ID": name, "WITNESS__INTERVAL_SECONDS": INTERVAL}
        self.running: Running | None = None
        with self.up():  # a first start draws the ledger's key, which a policy needs
            self.vkey = (root / "keys" / "collector.vkey").read_text().strip()
        self.origin = self.vkey.partition("+")[0]
        self.shard = ShardDirectory(root / "ledger" / self.origin.rpartition("/")[2])

    def trusts(self, *named: tuple[str, str, str], quorum: str = "all") -> policy.Policy:
        """Write the policy that names its witnesses; return it."""
        path = self.root / "policy"
        path.write_text(policy_text(self.vkey, *named, quorum=quorum))
        self.settings["WITNESS__POLICY"] = str(path)
        return load_policy(path)

    @contextlib.contextmanager
    def up(self) -> Iterator[Running]:
        """Run the collector for a while."""
        self.running = collector.start(self.root, self.keys, **self.settings)
        try:
            yield self.running
        finally:
            self.running.kill()

    def seal(self, count: int = 5) -> int:
        """Have events acknowledged; return the ledger's size then."""
        for _ in range(count):
            body = otlp.own_form(otlp.prepared(), boot=str(ids.new_uuid7()))
            assert self.running.post("/v1/audit", body).status_code == 200
        return len(self.running.sealed())

    def metric(self, name: str, **labels: str) -> float:
        """Return one of the collector's metrics."""
        return metric(httpx.get(f"{self.running.url}/metrics", timeout=10).text, name, **labels)

    def trouble(self, witness: str) -> str | None:
        """Return what is wrong with a witness, as status would show it."""
        return kept(self.shard.witnesses).get(witness, {}).get("trouble")

    def events(self, name: str) -> int:
        """Count the lines of the collector's log that say something."""
        return (self.root / "collector.log").read_text().count(f'"event": "{name}"')


def until(is_so: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def covered(department: Department, wanted: policy.Policy, size: int) -> Callable[[], bool]:
    """Return what asks whether a quorum has cosigned so much."""

    def ask() -> bool:
        seen = witnessed(department.shard, wanted)
        return seen is not None and seen.size >= size

    return ask


@pytest.fixture
def lite(require_peer) -> Iterator[litewitness.Litewitness]:
    """A litewitness that is not started yet."""
    require_peer("litewitness", litewitness.program())
    with litewitness.running() as witness:
        yield witness


def test_litewitness_cosigns_a_growing_ledger(lite, data_directory):
    """Growth is proven to it each time, a lost hint is corrected, an outage never stops intake and is caught up."""
    department = Department(data_directory, "one")
    wanted = department.trusts(("lite", lite.vkey, lite.url))
    lite.add_log(department.vkey)
    lite.start()
    with department.up():
        for _ in range(3):
            until(covered(department, wanted, department.seal()), "growth is cosigned")
        assert department.metric("klyra_quorum_age_seconds") < 10

        department.shard.witnesses.unlink()  # the witness's own answer says where to begin
        until(covered(department, wanted, department.seal()), "a lost hint is corrected")
        assert department.events("not_witnessed") == 0

        lite.stop()
        until(lambda: department.trouble("lite") == "witness_unavailable", "the outage is noticed")
        began = department.metric("klyra_witness_age_seconds", witness="lite")
        size = department.seal(20)
        until(lambda: department.metric("klyra_witness_age_seconds", witness="lite") > began + 1, "its age rises")
        assert httpx.get(f"{department.running.url}/readyz", timeout=10).status_code == 200
        assert department.events("not_witnessed") == 1

        lite.start()
        until(covered(department, wanted, size), "it catches up")
        until(lambda: department.trouble("lite") is None, "the trouble is over")
    check_signatures(department, wanted)
    assert lite.size_of(department.origin) >= size


def check_signatures(department: Department, wanted: policy.Policy) -> None:
    """Check what was cosigned with the policy alone, and the log's second signature on it."""
    encoded = department.shard.witnessed.read_bytes()
    opened = policy.open_checkpoint(encoded, wanted)
    assert opened.quorum_met
    assert abs(opened.quorum_time - time.time()) < 60
    seed = (department.root / "keys" / "collector.mldsa").read_bytes()
    second = SigningKey.from_seed(department.origin, seed, ALGORITHM_ML_DSA_44).verifying_key
    assert note.open_note(encoded, [second]).signed_by == (second,)


def diverged(department: Department, backup: Path) -> None:
    """Put an older copy of the collector's data in place of the present one, as a restored backup does."""
    shutil.rmtree(department.root)
    shutil.copytree(backup, department.root)


def test_litewitness_refuses_another_history(lite, data_directory, tmp_path):
    """After an older copy was restored: an alarm while it is smaller, another once it has outgrown what was seen."""
    department = Department(data_directory, "one")
    wanted = department.trusts(("lite", lite.vkey, lite.url))
    lite.add_log(department.vkey)
    lite.start()
    shutil.copytree(department.root, tmp_path / "backup")
    with department.up():
        size = department.seal(20)
        until(covered(department, wanted, size), "the first history is cosigned")
    remembered = lite.size_of(department.origin)
    diverged(department, tmp_path / "backup")
    with department.up():
        until(lambda: department.trouble("lite") == "rollback", "the restored copy is behind")
        department.seal(40)
        until(lambda: department.trouble("lite") == "fork", "and then it is another")
        assert department.metric("klyra_witness_failures_total", witness="lite", code="fork") >= 1
        assert department.events("not_witnessed") == 2
        assert witnessed(department.shard, wanted) is None
    assert lite.size_of(department.origin) == remembered


def test_litewitness_names_what_it_does_not_know(lite, data_directory):
    """404 until its operator has added the log, 403 for another key of its name; then it is cosigned."""
    department = Department(data_directory, "one")
    wanted = department.trusts(("lite", lite.vkey, lite.url))
    lite.start()
    with department.up():
        until(lambda: department.trouble("lite") == "log_unknown", "the log is not known yet")
        assert department.vkey in kept(department.shard.witnesses)["lite"]["reason"]
        lite.add_log(department.vkey)
        until(covered(department, wanted, 1), "it is cosigned once it is added")


def test_two_departments_are_each_others_witness(tmp_path):
    """Each runs a collector and a witness for the other; both ledgers are cosigned as they grow."""
    one, two = Department(tmp_path / "one", "one"), Department(tmp_path / "two", "two")
    with (
        running_witness(tmp_path / "w1", name="one.example/w") as first,
        running_witness(tmp_path / "w2", name="two.example/w") as second,
    ):
        for department, witness in ((one, second), (two, first)):
            support.book.add_log(support.Disk(), witness.folder / "witness.toml", department.vkey)
            department.policy = department.trusts(("other", witness.vkey, witness.url))
        with one.up(), two.up():
            for department in (one, two, one):
                size = department.seal()
                until(covered(department, department.policy, size), "the other's witness cosigns")
            check_signatures(one, one.policy)
            check_signatures(two, two.policy)
            shown = httpx.get(f"{second.url}/{digest_of(one.origin)}/checkpoint", timeout=10)
            assert policy.open_checkpoint(shown.content, one.policy).quorum_met
        assert first.stop() == 0


def test_a_killed_witness_comes_back_where_it_was(tmp_path):
    """A witness killed with -9 between requests refuses what does not continue what it cosigned."""
    log = Log().grow(9)
    witness = start_witness(tmp_path / "w")
    support.book.add_log(support.Disk(), witness.folder / "witness.toml", log.key.vkey)
    try:
        assert witness.post(log.request(0)).status_code == 200
    finally:
        witness.kill()
    with running_witness(tmp_path / "w") as again:
        assert again.vkey == witness.vkey
        assert again.post(log.rewritten().request(9)).status_code == 422
        assert again.post(log.grow(12).request(9)).status_code == 200


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_witness_killed_while_it_answers_signs_one_root_of_a_size(tmp_path, monkeypatch, moment):
    """Killed just before or after it has kept a checkpoint, unanswered: afterwards one history goes on, never two."""
    log = Log().grow(9)
    with running_witness(tmp_path / "w") as witness:
        support.book.add_log(support.Disk(), witness.folder / "witness.toml", log.key.vkey)
        assert witness.post(log.request(0)).status_code == 200
    grown = Log(entries=list(log.entries)).grow(12)
    monkeypatch.setenv("DYING_MOMENT", moment)
    dying = start_witness(tmp_path / "w", module=str(Path(support.__file__).with_name("dying_witness.py")))
    with contextlib.suppress(httpx.HTTPError):
        pytest.fail(f"it answered {dying.post(grown.request(9)).status_code}")
    assert dying.process.wait(20) == -9
    with running_witness(tmp_path / "w") as again:
        forked = grown.rewritten(10)
        answers = [again.post(body).status_code for body in (forked.request(9), forked.request(12))]
        kept_before = moment == "before"  # nothing was kept nor signed: the other history may be the one
        assert answers == ([200, 200] if kept_before else [409, 422])
        answers = [again.post(body).status_code for body in (grown.request(9), grown.request(12))]
        assert answers == ([409, 422] if kept_before else [409, 200])


def test_a_second_process_on_one_witness_is_refused(tmp_path):
    """Two processes would each remember on their own; the lock keeps the second one out."""
    with running_witness(tmp_path / "w"), pytest.raises(AssertionError, match="Another process runs the witness"):
        start_witness(tmp_path / "w")
