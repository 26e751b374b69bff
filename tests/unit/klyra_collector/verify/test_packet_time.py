"""Packets over the turn of a year, a change of keys, expiry, and what witnesses must have seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from klyra_audit.format import note, packet
from klyra_audit.format.keys import ALGORITHM_COSIGNATURE, SigningKey
from klyra_audit.format.packet import Manifest
from klyra_audit.format.policy import Policy, Witness
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.stages import Tenancy
from klyra_collector.verify import Options, Report, Verdict
from klyra_collector.verify.packet import verify_packet
from support import records
from support.packets import Sealed, archive, change, lines, members, restate
from support.records import STARTUP

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400
BIG = Tenancy("org_big", "enterprise", "enterprise", 365)


def verdicts(report: Report) -> set[Verdict]:
    """Return every verdict that says something is wrong or could not be checked."""
    return {finding.verdict for shard in report.shards for finding in shard.findings}


def runs_of(path: Path) -> list[str]:
    """Return the shards that a packet has runs of."""
    return [run.origin.rpartition("/")[2] for run in Manifest.parse(members(path)[packet.MANIFEST]).runs]


@pytest.fixture
def years(tmp_path) -> tuple[Sealed, Policy]:
    """A ledger of two shards, 2026 and 2027, and the policy that pins the key of the first."""
    sealed = Sealed(tmp_path / "data")
    policy = sealed.policy()
    for _ in range(3):
        sealed.seal(records.record(BIG), records.record(STARTUP))
    sealed.clock.pass_seconds(200 * DAY)
    for _ in range(3):
        sealed.seal(records.record(BIG))
    return sealed, policy


class TestShards:
    """A run for each shard from the window's first to the newest."""

    @pytest.mark.parametrize("organization_id", [BIG.organization_id, STARTUP.organization_id, "org_none", "operator"])
    def test_a_packet_of_two_years(self, years, tmp_path, organization_id) -> None:
        """The pinned key of the first shard leads to the second by the record that closed the first."""
        sealed, policy = years
        path = sealed.export(tmp_path / "packet.zip", organization_id)
        assert runs_of(path) == ["2026", "2027"]
        report = verify_packet(path, Options(policy=policy))
        assert (report.exit_status, verdicts(report)) == (0, set())

    def test_a_window_in_the_second_year(self, years, tmp_path) -> None:
        """The first shard is left out when the window begins behind it, and its key is followed all the same."""
        sealed, policy = years
        sealed.settle()
        opened_us = sealed.clock.wall_us()
        sealed.seal(records.record(BIG))
        path = sealed.export(tmp_path / "packet.zip", BIG.organization_id, start_us=opened_us)
        assert runs_of(path) == ["2027"]
        assert verify_packet(path, Options(policy=policy)).exit_status == 0

    def test_a_window_in_the_first_year(self, years, tmp_path) -> None:
        """The second shard is there, because it may say what has become of the first one's records."""
        sealed, policy = years
        path = sealed.export(
            tmp_path / "packet.zip", BIG.organization_id, end_us=sealed.clock.wall_us() - 100 * DAY * 10**6
        )
        assert runs_of(path) == ["2026", "2027"]
        assert len(lines(members(path)[packet.ENTRIES])) == 3
        assert verify_packet(path, Options(policy=policy)).exit_status == 0

    @pytest.mark.parametrize("kept", [0, 1])
    def test_a_run_left_out(self, years, tmp_path, kept) -> None:
        """Whichever of the two is gone, the packet is cut off."""
        sealed, policy = years
        path = sealed.export(tmp_path / "packet.zip", BIG.organization_id)
        content = members(path)
        manifest = orjson.loads(content[packet.MANIFEST])
        manifest["logs"] = [manifest["logs"][kept]]
        for name in [name for name in content if name.startswith(("logs/", "control/")) and name != packet.LINEAGE]:
            raw = content.pop(name)
            if f"/{kept}" in name:
                content[name.replace(f"/{kept}", "/0", 1)] = raw
        manifest["members"] = dict.fromkeys(content.keys() - packet.OUTSIDE_MANIFEST, "00" * 32)
        archive(path, content | {packet.MANIFEST: orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)})
        report = verify_packet(restate(path), Options(policy=policy))
        assert report.exit_status == 1
        assert Verdict.TRUNCATED in verdicts(report)

    def test_the_lineage_left_out(self, years, tmp_path) -> None:
        """Without the record that closed the first shard, the key of the second is nobody's."""
        sealed, policy = years
        path = sealed.export(tmp_path / "packet.zip", BIG.organization_id)
        change(path, packet.LINEAGE, lambda _: b"")
        report = verify_packet(restate(path), Options(policy=policy))
        assert Verdict.BAD_SIGNATURE in verdicts(report)


class TestKeys:
    """A key that was changed within a shard."""

    def test_the_new_key_is_followed(self, tmp_path) -> None:
        """From the one that is pinned, by the checkpoint it signed over the record of the new one."""
        sealed = Sealed(tmp_path / "data")
        policy = sealed.policy()
        sealed.seal(records.record(STARTUP))
        sealed.ledger.rotate_key(sealed.ledger.vkey)
        sealed.ledger.sign()
        sealed.seal(records.record(STARTUP))
        path = sealed.export(tmp_path / "packet.zip")
        assert verify_packet(path, Options(policy=policy)).exit_status == 0


class TestExpiry:
    """What is not there because its time has come."""

    def test_what_expired_is_counted(self, years, tmp_path) -> None:
        """Events of the window that had expired on the day of the export are EXPIRED_OK."""
        sealed, policy = years
        report = verify_packet(sealed.export(tmp_path / "packet.zip"), Options(policy=policy))
        assert report.exit_status == 0
        assert report.shards[1].counts[Verdict.EXPIRED_OK] == 3

    def test_what_is_shown_too_long(self, years, tmp_path) -> None:
        """An entry that had expired on the day of its export should not be in it."""
        sealed, policy = years
        path = sealed.export(tmp_path / "packet.zip", today=0)
        assert Verdict.OVER_RETAINED in verdicts(verify_packet(path, Options(policy=policy)))


class TestWitnesses:
    """A policy that asks for cosignatures."""

    def test_a_packet_with_them(self, tmp_path) -> None:
        """Where checkpoints are cosigned, it is proved by the newest that is."""
        sealed = Sealed(tmp_path / "data")
        sealed.seal(records.record(STARTUP))
        key = SigningKey.from_seed("witness", bytes(32), ALGORITHM_COSIGNATURE)
        policy = Policy(sealed.policy().logs, {"w": Witness(key.verifying_key)}, {}, "w")
        sign, shard = sealed.ledger.sign, ShardDirectory(tmp_path / "data/ledger/2026")

        def sign_and_cosign() -> None:
            sign()
            encoded = shard.checkpoint.read_bytes()
            text = note.open_note(encoded, policy.log_keys(sealed.ledger.origin)).text
            line = key.signature_line(text, sealed.clock.wall_us() // 10**6)
            shard.witnessed.write_bytes(note.append_lines(encoded, [line]))

        sealed.ledger.sign = sign_and_cosign
        report = verify_packet(sealed.export(tmp_path / "packet.zip"), Options(policy=policy))
        assert (report.exit_status, report.is_witnessed) == (0, True)

    def test_a_packet_without_them(self, tmp_path) -> None:
        """It is not what the policy asks for."""
        sealed = Sealed(tmp_path / "data")
        sealed.seal(records.record(STARTUP))
        key = SigningKey.from_seed("witness", bytes(32), ALGORITHM_COSIGNATURE).verifying_key
        policy = Policy(sealed.policy().logs, {"w": Witness(key)}, {}, "w")
        report = verify_packet(sealed.export(tmp_path / "packet.zip"), Options(policy=policy))
        assert report.exit_status == 1
        assert Verdict.STALE_WITNESS in verdicts(report)
