from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from klyra_audit.format import policy as policies
from klyra_audit.format.keys import ALGORITHM_COSIGNATURE, SigningKey
from klyra_audit.format.leaf import Kind
from klyra_audit.format.policy import Group, LogLine, Policy, Witness
from klyra_collector.errors import LedgerDamaged
from klyra_collector.publish.errors import NoSuchLog
from klyra_collector.publish.policy import PolicyPublisher
from klyra_collector.publish.published import PublishedLedger
from support.ledgers import ACME, ORIGIN, LedgerBuilder, signing_key
from support.published import write_published

if TYPE_CHECKING:
    from pathlib import Path

NEXT = f"{ORIGIN}-2"


def key_record(builder: LedgerBuilder, vkey: str, *, revoked: int | None = None, boot: str | None = None) -> None:
    """Seal a KEY record."""
    content = {"type": "key", "ordinal": len(builder.leaves), "emitter_id": "collector-1", "boot": boot, "vkey": vkey}
    builder.control(Kind.KEY, content | {"org_ref": None, "revoked_after_seq": revoked})


def rotated() -> tuple[LedgerBuilder, SigningKey]:
    """Return a ledger that has announced a second key, and that key."""
    builder, new = LedgerBuilder().begin(ACME), signing_key(b"\x07" * 32)
    key_record(builder, new.vkey)
    return builder, new


def test_the_policy_names_the_ledgers_key(tmp_path: Path) -> None:
    """It reads back as a policy that opens the ledger's own checkpoint, and needs no witness."""
    published = write_published(LedgerBuilder().begin(ACME), tmp_path)
    text = PolicyPublisher(published).render()
    assert text == f"log {signing_key().vkey}\nquorum none\n"
    trusted = policies.parse(text.encode())
    assert policies.open_checkpoint(published.current().checkpoint(), trusted).checkpoint.origin == ORIGIN


def test_a_rotated_key_is_added_and_a_revoked_one_taken_out(tmp_path: Path) -> None:
    """Both keys stand in the policy until the old one is revoked."""
    builder, new = rotated()
    publisher = PolicyPublisher(write_published(builder, tmp_path))
    assert [log.key for log in publisher.policy().logs] == [signing_key().verifying_key, new.verifying_key]
    key_record(builder, signing_key().vkey, revoked=7)
    builder.write(tmp_path)
    assert [log.key for log in publisher.policy().logs] == [new.verifying_key]


def test_a_key_behind_the_checkpoint_is_not_published(tmp_path: Path) -> None:
    """What no checkpoint covers is not in force for anyone outside; later it is."""
    builder, new = rotated()
    publisher = PolicyPublisher(write_published(builder, tmp_path, signed=len(builder.leaves) - 1))
    assert [log.key for log in publisher.policy().logs] == [signing_key().verifying_key]
    builder.write(tmp_path)
    assert new.verifying_key in [log.key for log in publisher.policy().logs]


def test_keys_of_emitters_and_of_other_logs_are_no_log_lines(tmp_path: Path) -> None:
    """Only a key that is named for the shard signs its checkpoints."""
    builder = LedgerBuilder().begin(ACME)
    key_record(builder, SigningKey.from_seed("api-1", b"\x08" * 32).vkey, boot="0192d1f0-0000-7000-8000-000000000001")
    key_record(builder, SigningKey.from_seed("elsewhere.test/log/2026", b"\x09" * 32).vkey)
    key_record(builder, "a key of the future")
    assert len(PolicyPublisher(write_published(builder, tmp_path)).policy().logs) == 1


def test_each_public_key_stands_once_under_its_oldest_shard(tmp_path: Path) -> None:
    """A second shard with a key of its own adds a line; one that shares the key does not."""
    write_published(LedgerBuilder().begin(ACME), tmp_path)
    shared = LedgerBuilder(origin=NEXT).begin(ACME)
    write_published(shared, tmp_path)
    published = PublishedLedger(tmp_path / "ledger")
    assert [log.key.name for log in PolicyPublisher(published).policy().logs] == [ORIGIN]
    key_record(shared, signing_key(b"\x0a" * 32, NEXT).vkey)
    write_published(shared, tmp_path)
    assert [log.key.name for log in PolicyPublisher(published).policy().logs] == [ORIGIN, NEXT]


def test_configured_witnesses_and_their_quorum_are_published(tmp_path: Path) -> None:
    """The ledger's keys are its own; whom it is cosigned by is the operator's choice."""
    witness = Witness(SigningKey.from_seed("witness.test/w1", b"\x0b" * 32, ALGORITHM_COSIGNATURE).verifying_key)
    other = LogLine(signing_key(b"\x0c" * 32, "elsewhere.test/log").verifying_key)
    chosen = Policy((other,), {"w1": witness}, {"all": Group(1, ("w1",))}, "all")
    policy = PolicyPublisher(write_published(LedgerBuilder().begin(ACME), tmp_path), chosen).policy()
    assert policies.parse(policies.render(policy).encode()) == policy
    assert [log.key.name for log in policy.logs] == [ORIGIN]
    assert policy.needs_witnesses


def test_without_a_checkpoint_there_is_no_policy(tmp_path: Path) -> None:
    """Nothing is published yet."""
    with pytest.raises(NoSuchLog) as caught:
        PolicyPublisher(PublishedLedger(tmp_path)).policy()
    assert caught.value.code == "no_such_log"
    assert caught.value.remedy


def test_a_damaged_control_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    """A policy without a key that was announced would lock readers out in silence."""
    published = write_published(LedgerBuilder().begin(ACME), tmp_path)
    control = published.current().directory.control
    control.write_bytes(b"\0" * 8 + control.read_bytes()[8:])
    with pytest.raises(LedgerDamaged) as caught:
        PolicyPublisher(published).policy()
    assert caught.value.code == "ledger_damaged"
    assert "klyra-audit verify" in caught.value.remedy
