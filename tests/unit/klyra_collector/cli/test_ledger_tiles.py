from __future__ import annotations

import typer

from klyra_audit.format import policy as policies
from klyra_audit.format.keys import ALGORITHM_COSIGNATURE, SigningKey
from klyra_audit.format.policy import LogLine, Policy, Witness, render
from klyra_audit.format.tile import tiles_of
from klyra_collector.cli import ledger_tiles
from support.ledgers import ORIGIN, LedgerBuilder, large_ledger, signing_key
from support.published import policy_text, write_published

app = typer.Typer()
ledger_tiles.add_to(app)


def test_the_newest_shard_is_exported(run, data, tmp_path) -> None:
    """The answer is the directory; how it went is told beside it. A second run writes nothing."""
    shard = write_published(large_ledger(600), data).current()
    status, answer, told = run(app, "export-tiles", str(tmp_path / "out"))
    assert (status, answer) == (0, f"{tmp_path / 'out'}\n")
    assert f"files written for {ORIGIN}" in told
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {tile.path for tile in tiles_of(shard.head().size)} | {"checkpoint"}
    assert "0 files written" in run(app, "export-tiles", str(tmp_path / "out"))[2]


def test_an_older_shard_is_named(run, data, tmp_path) -> None:
    """By default the newest one is written."""
    write_published(large_ledger(300), data)
    write_published(LedgerBuilder(origin=f"{ORIGIN}-2").begin(), data)
    for options, origin in (((), f"{ORIGIN}-2"), (("--shard", "2026"), ORIGIN)):
        assert run(app, "export-tiles", str(tmp_path / origin), *options)[0] == 0
        assert (tmp_path / origin / "checkpoint").read_text().startswith(f"{origin}\n")


def test_what_cannot_be_exported_is_said(run, data, tmp_path) -> None:
    """No ledger, no such shard, another log's directory: exit 1; a damaged ledger: exit 2."""
    status, answer, told = run(app, "export-tiles", str(tmp_path / "out"))
    assert (status, answer) == (1, "")
    assert "Nothing is published yet" in told
    shard = write_published(large_ledger(300), data).current()
    assert "no such shard" in run(app, "export-tiles", str(tmp_path / "out"), "--shard", "1999")[2]
    other = write_published(LedgerBuilder(origin=f"{ORIGIN}-2").begin(), tmp_path / "other").current()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/checkpoint").write_bytes(other.checkpoint())
    assert "empty directory" in run(app, "export-tiles", str(tmp_path / "taken"))[2]
    shard.directory.leaves.unlink()
    assert run(app, "export-tiles", str(tmp_path / "out"))[0] == 2


def test_a_directory_that_cannot_be_written_is_said(run, data, tmp_path) -> None:
    """Exit 2: nothing is wrong with the ledger."""
    write_published(large_ledger(300), data)
    (tmp_path / "file").write_text("")
    assert run(app, "export-tiles", str(tmp_path / "file"))[0] == 2


def test_the_policy_is_printed(run, data) -> None:
    """Exactly the file to pin."""
    write_published(LedgerBuilder().begin(), data)
    assert run(app, "policy") == (0, policy_text().decode(), "")


def test_the_configured_witnesses_stand_in_it(run, data, tmp_path, monkeypatch) -> None:
    """The keys are the ledger's, the witnesses those of `witness.policy`."""
    write_published(LedgerBuilder().begin(), data)
    key = SigningKey.from_seed("witness.test/w1", b"\x0b" * 32, ALGORITHM_COSIGNATURE).verifying_key
    witnesses = {"w1": Witness(key, "https://witness.test/w1")}
    chosen = Policy((LogLine(signing_key(b"\x0c" * 32, "elsewhere.test/log").verifying_key),), witnesses, {}, "w1")
    (tmp_path / "witnesses").write_text(render(chosen))
    monkeypatch.setenv("KLYRA_WITNESS__POLICY", str(tmp_path / "witnesses"))
    status, answer, _ = run(app, "policy")
    assert status == 0
    printed = policies.parse(answer.encode())
    assert (printed.witnesses, printed.quorum) == (witnesses, "w1")
    assert printed.log_keys(ORIGIN) == (signing_key().verifying_key,)


def test_without_a_ledger_there_is_no_policy(run, data) -> None:
    """A file without a key would be worse than none."""
    status, answer, told = run(app, "policy")
    assert (status, answer) == (1, "")
    assert "No key is published yet" in told
