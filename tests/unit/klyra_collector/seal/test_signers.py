"""Keys held elsewhere: what a signer may do without stopping intake, and what never reaches the disk."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from klyra_audit.errors import Rejected
from klyra_audit.format import note
from klyra_audit.format.leaf import Kind
from klyra_audit.format.note import VerifyingKey
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.errors import LedgerDamaged, SignerFailed, SignerUnusable
from klyra_collector.seal import signers
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.identity import KeyOptions
from klyra_collector.seal.ledger import Ledger
from klyra_collector.seal.sealer import Sealer
from klyra_collector.seal.signers import BoundedSigner, load_external_key
from klyra_collector.stages import Status
from support import kms, records
from support.records import submission
from support.sealing import OPTIONS, SetClock, read_all

SEED, OTHER_SEED = b"\x01" * 32, b"\x02" * 32
EXTERNAL = KeyOptions(signer="support.kms:from_environment")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A bound on signing that a test can wait for."""
    monkeypatch.setattr(signers, "SIGNER_SECONDS", 0.3)
    monkeypatch.setattr(signers, "HANGING_SECONDS", 0.0)


@pytest.fixture
def service(tmp_path_factory, monkeypatch):
    """A service in a process of its own, which `EXTERNAL` asks."""
    with kms.running(tmp_path_factory.mktemp("kms"), SEED) as service:
        monkeypatch.setenv("TEST_KMS_SOCKET", str(service.socket))
        yield service


def opened(root, keys=EXTERNAL, clock=None) -> Ledger:
    """Open a ledger with its keys."""
    return Ledger.open(DataDirectory(root), Disk(), clock or SetClock(), replace(OPTIONS, keys=keys))


def shard_of(root) -> ShardDirectory:
    """Return the only shard."""
    return ShardDirectory(DataDirectory(root).ledger / "2026")


def signed_size(root) -> int:
    """Return the size that the public checkpoint says."""
    return int(shard_of(root).checkpoint.read_text().split("\n")[1])


def test_checkpoints_are_signed_by_the_service(tmp_path, service) -> None:
    """The ledger announces the service's key and draws none of its own; the signature verifies under it."""
    ledger = opened(tmp_path)
    ledger.close()
    key = VerifyingKey.parse(ledger.vkey)
    assert key.public == kms.SocketKey(str(service.socket)).public_key
    note.open_note(shard_of(tmp_path).checkpoint.read_bytes(), [key])
    assert not (tmp_path / "keys" / "collector.key").exists()


class TestNeverStopsIntake:
    """Whatever the service does, records are sealed and acknowledged; their checkpoint comes when it can."""

    @pytest.mark.parametrize(
        ("how", "code"), [("refuses", "bad_signature"), ("lies", "bad_signature"), ("hangs", "signer_hangs")]
    )
    def test_a_service_in_trouble(self, tmp_path, service, how, code) -> None:
        """Nothing is written without a valid signature, `last-signed` neither, and it is made up for later."""
        ledger = opened(tmp_path)
        before = signed_size(tmp_path)
        service.behave(how)
        assert ledger.commit([submission(records.record())])[0][0].status is Status.SEALED
        with pytest.raises(SignerFailed) as caught:
            ledger.sign()
        assert (caught.value.code, bool(caught.value.remedy), ledger.halted) == (code, True, None)
        assert signed_size(tmp_path) == before
        assert shard_of(tmp_path).last_signed.read_bytes() == shard_of(tmp_path).checkpoint.read_bytes()
        service.behave("well")
        ledger.sign()
        assert signed_size(tmp_path) == ledger.size
        ledger.close()

    def test_a_service_that_is_gone(self, tmp_path, service) -> None:
        """Its connection is refused: retried, nothing else."""
        ledger = opened(tmp_path)
        service.stop()
        ledger.commit([submission(records.record())])
        with pytest.raises(SignerFailed) as caught:
            ledger.sign()
        assert caught.value.code == "signer_failed"
        ledger.close()

    def test_start_and_stop_without_a_signature(self, tmp_path, service) -> None:
        """A ledger opens, seals and closes; the next start signs what this one could not."""
        service.behave("refuses")
        ledger = opened(tmp_path)
        ledger.commit([submission(records.record())])
        ledger.close()
        assert not shard_of(tmp_path).checkpoint.exists()
        service.behave("well")
        opened(tmp_path).close()
        assert signed_size(tmp_path) == len(read_all(tmp_path))

    def test_commits_go_on_while_a_signature_is_waited_for(self, tmp_path, service) -> None:
        """The sealer's loop seals dozens of records within the time of one signature that hangs."""
        ledger = opened(tmp_path)
        service.behave("hangs")

        class Noted:
            unsigned = threading.Event()

            def committed(self, outcomes, seconds) -> None:
                """See `SealObserver`."""

            def signed(self, size) -> None:
                """See `SealObserver`."""

            def not_signed(self, error) -> None:
                """See `SealObserver`."""
                assert error.code == "signer_hangs"
                self.unsigned.set()

        async def main() -> int:
            sealer = Sealer(ledger, Noted())
            running = asyncio.create_task(sealer.run())
            sealed = 0
            while not Noted.unsigned.is_set():
                outcomes = await sealer.seal(submission(records.record()))
                sealed += outcomes[0].status is Status.SEALED
            sealer.close()
            await running
            return sealed

        assert asyncio.run(main()) >= 10
        ledger.close()

    def test_the_year_is_not_turned_without_a_signature(self, tmp_path, service) -> None:
        """Nothing may follow a shard's end until that is signed, so the old shard stays open meanwhile."""
        clock = SetClock()
        ledger = opened(tmp_path, clock=clock)
        service.behave("refuses")
        ledger.commit([submission(records.record())])
        with pytest.raises(SignerFailed):
            ledger.sign()
        clock.pass_seconds(220 * 86_400)
        ledger.commit([submission(records.record())])
        assert ledger.origin.endswith("/2026")
        service.behave("well")
        ledger.sign()
        ledger.commit([submission(records.record())])
        assert ledger.origin.endswith("/2027")
        ledger.sign()
        ledger.close()
        # The service's key is the same, under the new shard's name.
        assert VerifyingKey.parse(ledger.vkey).public == kms.SocketKey(str(service.socket)).public_key


class Slow:
    """Does not answer before it is let."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.calls: list[bytes] = []

    def sign(self, message) -> bytes:
        """See `Signer`."""
        self.calls.append(message)
        self.release.wait()
        return b"signature of " + message


class TestBoundedSigner:
    """Calls that hang are few, and end nothing but themselves."""

    def test_a_pause_while_a_call_hangs(self, monkeypatch) -> None:
        """The next one fails at once without a call; when the first has returned, it works again."""
        monkeypatch.setattr(signers, "HANGING_SECONDS", 3600.0)
        slow = Slow()
        bounded = BoundedSigner(slow, seconds=0.05)
        for _ in range(3):
            with pytest.raises(SignerFailed) as caught:
                bounded.sign(b"a")
            assert (caught.value.code, bool(caught.value.remedy)) == ("signer_hangs", True)
        assert slow.calls == [b"a"]
        slow.release.set()
        assert bounded._hanging[0].done.wait(10)
        assert bounded.sign(b"b") == b"signature of b"

    def test_pauses_grow(self, monkeypatch) -> None:
        """Each hanging call doubles the pause, up to a quarter of an hour."""
        monkeypatch.setattr(signers.time, "monotonic", lambda: 0.0)
        monkeypatch.setattr(signers, "HANGING_SECONDS", 2.0)
        slow = Slow()
        bounded = BoundedSigner(slow, seconds=0.001)
        pauses = []
        for _ in range(12):
            with pytest.raises(SignerFailed):
                bounded.sign(b"a")
            pauses.append(bounded._not_before)
            bounded._not_before = 0.0
        slow.release.set()
        assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]

    @pytest.mark.parametrize("answer", [None, "text", 7])
    def test_an_answer_that_is_no_signature(self, answer) -> None:
        """Only bytes are."""

        class Odd:
            def sign(self, _message) -> object:
                return answer

        with pytest.raises(SignerFailed) as caught:
            BoundedSigner(Odd()).sign(b"a")
        assert (caught.value.code, type(answer).__name__ in str(caught.value)) == ("signer_failed", True)


class TestLoading:
    """What `ledger.signer` may name."""

    @pytest.mark.parametrize("path", ["", "module", "module:", ":factory"])
    def test_no_path(self, path) -> None:
        """Refused with the form it must have."""
        with pytest.raises(Rejected) as caught:
            load_external_key(path)
        assert (caught.value.code, caught.value.remedy) == ("bad_signer", "Write module:factory.")

    @pytest.mark.parametrize(
        "path", ["no_such_module:f", "support.kms:no_such", "support.kms:from_environment", "os:getcwd"]
    )
    def test_no_key(self, path, monkeypatch) -> None:
        """No module, no factory, a factory that fails, one that returns something else."""
        monkeypatch.setenv("TEST_KMS_SOCKET", "/nowhere")
        with pytest.raises(SignerUnusable) as caught:
            load_external_key(path)
        assert (caught.value.code, bool(caught.value.remedy)) == ("signer_unusable", True)

    @pytest.mark.parametrize("public", [bytes(32), bytes(31), b"\x01" + bytes(31)])
    def test_a_public_key_that_nobody_should_trust(self, tmp_path, monkeypatch, public) -> None:
        """A point of small order, or none: refused before anything is announced."""

        class Weak:
            public_key = public

            def sign(self, _message) -> bytes:
                return bytes(64)

        monkeypatch.setattr(kms, "weak", Weak, raising=False)
        with pytest.raises(SignerUnusable) as caught:
            opened(tmp_path, KeyOptions(signer="support.kms:weak"))
        assert (caught.value.code, "public_key" in caught.value.remedy) == ("signer_unusable", True)


class TestTakingOver:
    """A configured key that the ledger does not announce yet takes over at the start."""

    def test_from_a_key_file(self, tmp_path, service) -> None:
        """The file's key signs for the service's; then both sign; the old one can be revoked."""
        before = opened(tmp_path, KeyOptions())
        before.close()
        ledger = opened(tmp_path)
        old, new = (VerifyingKey.parse(line) for line in (before.vkey, ledger.vkey))
        kept = (shard_of(tmp_path).checkpoints / "key-2").read_bytes()
        assert note.open_note(kept, [old, new]).signed_by == (old,)
        assert note.open_note(shard_of(tmp_path).checkpoint.read_bytes(), [old, new]).signed_by == (old, new)
        ledger.revoke_key(before.vkey)
        ledger.sign()
        ledger.close()
        assert not (tmp_path / "keys" / "collector.key").exists()
        opened(tmp_path).close()

    def test_from_one_service_to_another(self, tmp_path, service, tmp_path_factory, monkeypatch) -> None:
        """The outgoing one signs for the other, and is not needed after that."""
        before = opened(tmp_path)
        before.close()
        monkeypatch.setenv("TEST_OUTGOING_KMS_SOCKET", str(service.socket))
        with kms.running(tmp_path_factory.mktemp("kms"), OTHER_SEED) as other:
            monkeypatch.setenv("TEST_KMS_SOCKET", str(other.socket))
            keys = replace(EXTERNAL, outgoing_signer="support.kms:outgoing_from_environment")
            opened(tmp_path, keys).close()
            ledger = opened(tmp_path)
            ledger.close()
            assert VerifyingKey.parse(ledger.vkey).public == kms.SocketKey(str(other.socket)).public_key

    def test_from_a_service_to_a_key_file(self, tmp_path, service, monkeypatch) -> None:
        """The file's key is drawn for it."""
        opened(tmp_path).close()
        monkeypatch.setenv("TEST_OUTGOING_KMS_SOCKET", str(service.socket))
        opened(tmp_path, KeyOptions(outgoing_signer="support.kms:outgoing_from_environment")).close()
        ledger = opened(tmp_path, KeyOptions())
        ledger.close()
        seed = (tmp_path / "keys" / "collector.key").read_bytes()
        assert ledger.vkey == note.SigningKey.from_seed(ledger.origin, seed).vkey

    def test_without_the_key_before_it(self, tmp_path, service) -> None:
        """Nothing that the ledger announces is at hand: it does not start, and says what to configure."""
        opened(tmp_path, KeyOptions()).close()
        (tmp_path / "keys" / "collector.key").unlink()
        with pytest.raises(LedgerDamaged) as caught:
            opened(tmp_path)
        assert "ledger.outgoing_signer" in caught.value.remedy

    def test_a_revoked_key_does_not_come_back(self, tmp_path, service) -> None:
        """Configuring it again is refused."""
        opened(tmp_path, KeyOptions()).close()
        ledger = opened(tmp_path)
        service_vkey = ledger.vkey
        ledger.revoke_key(service_vkey)
        ledger.sign()
        ledger.close()
        with pytest.raises(SignerUnusable) as caught:
            opened(tmp_path)
        assert (caught.value.code, "revoked" in str(caught.value), bool(caught.value.remedy)) == (
            "signer_unusable",
            True,
            True,
        )

    def test_a_service_s_key_is_not_rotated_here(self, tmp_path, service) -> None:
        """The command says how it is done instead."""
        ledger = opened(tmp_path)
        with pytest.raises(Rejected) as caught:
            ledger.rotate_key(ledger.vkey)
        assert (caught.value.code, "outgoing_signer" in caught.value.remedy) == ("external_signer", True)
        assert [record.leaf.kind for record in read_all(tmp_path)].count(Kind.KEY) == 1
        ledger.close()
