"""Keys of a running collector: rotated and revoked from the command line, held by a service, guarded by a cell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from klyra_audit import ids
from klyra_audit.format import note
from klyra_audit.format.leaf import Kind
from klyra_audit.format.note import SigningKey, VerifyingKey
from support import collector, kms, otlp
from support.collector import ACME

SUPPORT = Path(__file__).parents[1]
SEED = b"\x01" * 32


def klyra(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Run a command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KLYRA_")}
    return subprocess.run(
        [sys.executable, "-m", "klyra_collector", *arguments],
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def emit(running) -> None:
    """Have one event acknowledged."""
    sent = running.post("/v1/logs", otlp.own_form(otlp.prepared(ACME), boot=str(ids.new_uuid7())))
    assert sent.status_code == 200, sent.text


def checkpoint(root) -> Path:
    """Return the public checkpoint's path."""
    (path,) = root.glob("ledger/*/checkpoint")
    return path


def size(root) -> int:
    """Return the size that the public checkpoint says."""
    return int(checkpoint(root).read_text().split("\n")[1])


def signers(root, *vkeys: str) -> list[str]:
    """Return which keys signed the public checkpoint."""
    keys = [VerifyingKey.parse(vkey) for vkey in vkeys]
    return [str(key) for key in note.open_note(checkpoint(root).read_bytes(), keys).signed_by]


def vkey(root) -> str:
    """Return the key that people pin."""
    return (root / "keys" / "collector.vkey").read_text().strip()


def await_that(condition, seconds: float = 30) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def metric(running, name: str) -> float:
    """Return a metric's value, 0 before it is there."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{running.url}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_rotation_while_it_runs(tmp_path) -> None:
    """The command is done by the running collector; an auditor who pinned the old key goes on with it."""
    running = collector.start(tmp_path, collector.make_keys(tmp_path))
    old = vkey(tmp_path)
    emit(running)
    rotated = klyra("ledger", "rotate-key", "--data", str(tmp_path))
    new = rotated.stdout.strip()
    assert (rotated.returncode, new) == (0, vkey(tmp_path)), rotated.stderr
    assert new != old
    emit(running)
    await_that(lambda: signers(tmp_path, old, new) == [old, new])
    revoked = klyra("ledger", "revoke-key", old, "--data", str(tmp_path))
    assert (revoked.returncode, revoked.stdout.strip()) == (0, old), revoked.stderr
    await_that(lambda: not (tmp_path / "keys" / "collector.key").exists())
    assert signers(tmp_path, old, new) == [new]
    last = klyra("ledger", "revoke-key", new, "--data", str(tmp_path))
    assert (last.returncode, last.stdout) == (1, "")
    emit(running)
    assert running.terminate() == 0
    for pinned in (old, new):
        (tmp_path / "policy").write_text(f"log {pinned}\nquorum none\n")
        verified = klyra("verify", str(tmp_path), "--policy", str(tmp_path / "policy"))
        assert verified.returncode == 0, verified.stdout + verified.stderr


def test_an_emitters_key_while_it_runs(tmp_path) -> None:
    """Added and revoked through the outbox of a running collector."""
    key = SigningKey.from_seed("billing", SEED).vkey
    running = collector.start(tmp_path, collector.make_keys(tmp_path))
    assert klyra("emitter", "add", "billing", "--org", ACME, "--key", key, "--data", str(tmp_path)).stdout == f"{key}\n"
    assert klyra("emitter", "revoke", "billing", "--untrusted-from", "4", "--data", str(tmp_path)).returncode == 0

    def documents() -> list[dict]:
        controls = [record.control for record in running.sealed() if record.leaf.kind == Kind.KEY]
        return [document for document in controls if document["vkey"] == key]

    await_that(lambda: len(documents()) == 2)
    assert [document["revoked_after_seq"] for document in documents()] == [None, 3]
    assert running.terminate() == 0


def test_a_service_that_signs(tmp_path, tmp_path_factory, monkeypatch) -> None:
    """Another process holds the key. It hangs: events are acknowledged all the same, and the metrics say it."""
    with kms.running(tmp_path_factory.mktemp("kms"), SEED) as service:
        monkeypatch.setenv("TEST_KMS_SOCKET", str(service.socket))
        monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
        running = collector.start(
            tmp_path, collector.make_keys(tmp_path), LEDGER__SIGNER="support.kms:from_environment"
        )
        await_that(lambda: size(tmp_path) > 0)
        assert VerifyingKey.parse(vkey(tmp_path)).public == kms.SocketKey(str(service.socket)).public_key
        service.behave("hangs")
        before = size(tmp_path)
        emit(running)
        failed = 'klyra_checkpoints_not_signed_total{code="signer_hangs"}'
        while metric(running, failed) == 0:
            emit(running)
        assert metric(running, "klyra_checkpoint_age_seconds") >= 4
        assert size(tmp_path) == before
        service.stop()  # the call that hangs ends with it
    with kms.running(tmp_path_factory.mktemp("kms"), SEED) as service:
        Path(os.environ["TEST_KMS_SOCKET"]).unlink()
        service.socket.rename(os.environ["TEST_KMS_SOCKET"])
        await_that(lambda: size(tmp_path) > before)
        assert metric(running, "klyra_checkpoint_age_seconds") < 4
        assert running.terminate() == 0


@pytest.fixture
def guarded(tmp_path):
    """A function that starts a collector on a folder with one cell, on a mount of its own."""
    (tmp_path / "mount").mkdir()
    (tmp_path / "data").mkdir()
    keys = collector.make_keys(tmp_path / "data")
    started = []

    def start(folder="data", **settings: str):
        running = collector.start(tmp_path / folder, keys, LEDGER__CELL=f"file:{tmp_path}/mount/cell", **settings)
        started.append(running)
        return running

    yield start
    for running in started:
        running.kill()


def test_a_restored_disk_image(tmp_path, guarded) -> None:
    """The collector refuses to run on it and says how to go on; after the operator's consent it does."""
    data = tmp_path / "data"
    running = guarded()
    emit(running)
    assert running.terminate() == 0
    shutil.copytree(data, tmp_path / "image")
    running = guarded()
    for _ in range(3):
        emit(running)
    running.kill()
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "image", data)

    with pytest.raises(AssertionError) as caught:
        guarded()
    assert "restored disk image" in str(caught.value)
    assert "klyra-audit ledger continue" in str(caught.value)

    cell = {"KLYRA_LEDGER__CELL": f"file:{tmp_path}/mount/cell"}
    explained = klyra("ledger", "explain", "--data", str(data), **cell)
    assert explained.returncode in (0, 1), explained.stderr
    went_on = klyra(
        "ledger", "continue", "--after-disaster", "--yes", "--reason", "the disk is lost", "--data", str(data), **cell
    )
    assert went_on.returncode == 0, went_on.stderr
    running = guarded()
    emit(running)
    await_that(lambda: "-2\n" in (tmp_path / "mount" / "cell").read_text())
    assert running.terminate() == 0


def test_a_cell_out_of_reach(tmp_path, guarded) -> None:
    """Events are acknowledged, nothing is published, the log and a metric say why; it is made up for."""
    running = guarded()
    emit(running)
    (tmp_path / "mount").rename(tmp_path / "unmounted")
    before = size(tmp_path / "data")
    failed = 'klyra_checkpoints_not_signed_total{code="cell_unreachable"}'
    while metric(running, failed) == 0:
        emit(running)
    assert "cell_unreachable" in (tmp_path / "data" / "collector.log").read_text()
    (tmp_path / "unmounted").rename(tmp_path / "mount")
    await_that(lambda: size(tmp_path / "data") > before)
    assert running.terminate() == 0


def test_two_collectors_with_one_cell(tmp_path, guarded) -> None:
    """On copies of one ledger, the one that signs second takes nothing any more."""
    running = guarded()
    assert running.terminate() == 0
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    first = guarded()
    with pytest.raises(AssertionError) as caught:
        guarded("copy")
    assert "restored disk image, or a copy" in str(caught.value)
    # The copy is brought up to the first one's head and moves the cell on: now the first one is second.
    shutil.rmtree(tmp_path / "copy")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    second = guarded("copy")
    emit(second)

    def refused() -> bool:
        sent = first.post("/v1/logs", otlp.own_form(otlp.prepared(ACME), boot=str(ids.new_uuid7())))
        return sent.status_code == 503

    await_that(refused)
    assert "cell_conflict" in (tmp_path / "data" / "collector.log").read_text()
    emit(second)
