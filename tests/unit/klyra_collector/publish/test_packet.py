"""A packet is the same bytes for the same ledger, has everything it must have, and waits for what proves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from klyra_audit.errors import Rejected
from klyra_audit.format import packet as layout
from klyra_audit.format.control import Erasure
from klyra_audit.format.errors import PacketError
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_audit.format.packet import MANIFEST, Manifest
from klyra_audit.timestamps import day_of
from klyra_collector.errors import LedgerDamaged
from klyra_collector.publish import packet
from klyra_collector.publish.packet_jobs import PacketFolder, PacketJob
from klyra_collector.publish.packet_run import NothingProvable
from klyra_collector.stages import ControlRecord
from klyra_collector.verify import Verdict
from support import records
from support.packets import Sealed, choose, example, lines, members
from support.records import BUSINESS, STARTUP

if TYPE_CHECKING:
    from pathlib import Path

ACME = STARTUP.organization_id


@pytest.fixture
def sealed(tmp_path) -> Sealed:
    """A small ledger of two organizations, under HEADS and a checkpoint."""
    made = example(tmp_path / "data")
    made.settle()
    return made


def manifest_of(path: Path) -> Manifest:
    """Return a packet's manifest."""
    return Manifest.parse(members(path)[MANIFEST])


class TestBuild:
    """What stands in a packet before its export is recorded."""

    def test_the_bytes_depend_on_the_ledger_alone(self, sealed, tmp_path) -> None:
        """Built twice, it is the same file."""
        first = sealed.build(tmp_path / "first.zip")
        second = sealed.build(tmp_path / "second.zip")
        assert first == second
        assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()

    def test_the_organization_alone_is_in_it(self, sealed, tmp_path) -> None:
        """Neither an entry nor a leaf of another one; every leaf of its own up to HEADS."""
        sealed.build(tmp_path / "packet.zip")
        content = members(tmp_path / "packet.zip")
        assert BUSINESS.organization_id.encode() not in b"".join(content.values())
        raw = content[layout.leaves_member(0)]
        leaves = [Leaf.unpack(raw[at : at + LEAF_SIZE]) for at in range(0, len(raw), LEAF_SIZE)]
        assert [leaf.org_seq for leaf in leaves] == list(range(len(leaves)))
        assert len({leaf.org_ref for leaf in leaves}) == 1
        assert len(lines(content[layout.ENTRIES])) == sum(leaf.kind == Kind.EVENT for leaf in leaves) == 13

    def test_the_rendering_is_that_of_other_exports(self, sealed, tmp_path) -> None:
        """A header and a row for each entry, or an array of them."""
        sealed.build(tmp_path / "csv.zip")
        sealed.build(tmp_path / "json.zip", rendering="json")
        assert members(tmp_path / "csv.zip")[layout.CSV].startswith(b"id,timestamp,event_type,")
        assert len(orjson.loads(members(tmp_path / "json.zip")[layout.JSON])) == 13

    def test_the_window_is_cut_to_what_is_proved(self, sealed, tmp_path) -> None:
        """It ends at the newest HEADS record, and entries outside it are left out."""
        built = sealed.build(tmp_path / "packet.zip")
        assert built.manifest.window.end_us < sealed.clock.wall_us() + 1
        start = built.manifest.window.end_us - 5_000_000
        part = sealed.build(tmp_path / "part.zip", start_us=start, end_us=start + 3_000_000)
        assert part.manifest.window == layout.Window(start, start + 3_000_000)
        assert 0 < part.manifest.counts.entries < 13
        assert part.manifest.runs[0].first_seq > 0

    def test_filters_leave_out_entries_and_no_leaf(self, sealed, tmp_path) -> None:
        """The run is whole whatever is shown of it."""
        whole = sealed.build(tmp_path / "whole.zip")
        part = sealed.build(tmp_path / "part.zip", chosen=choose(sealed, [9]), filters={"actions": ["create"]})
        assert (part.manifest.complete, whole.manifest.complete) == (False, True)
        assert part.manifest.counts.entries <= 1
        assert part.manifest.runs == whole.manifest.runs

    def test_what_has_expired_is_not_shown(self, sealed, tmp_path) -> None:
        """Whether or not its body has been deleted yet; the first entries were kept for 30 days, the last for 90."""
        today = day_of(sealed.clock.wall_us()) + 31
        built = sealed.build(tmp_path / "packet.zip", today=today)
        assert built.manifest.counts.entries == 1

    def test_nothing_without_heads(self, tmp_path) -> None:
        """Before the first HEADS record nothing can be shown to be everything."""
        fresh = Sealed(tmp_path / "data")
        fresh.ledger.sign()
        with pytest.raises(NothingProvable) as refused:
            fresh.build(tmp_path / "packet.zip")
        assert refused.value.code == "no_heads_yet"
        assert refused.value.remedy

    @pytest.mark.parametrize("name", ["held", "99999"])
    def test_bodies_that_moved_are_found(self, sealed, tmp_path, name) -> None:
        """Held by a legal hold, or in the file of the day to which an extension moved them."""
        before = sealed.build(tmp_path / "before.zip")
        bodies = sealed.root / "ledger/2026/bodies"
        frames = sorted(bodies.glob("*/frames"))
        moved = b"".join(path.read_bytes() for path in frames)
        for path in frames:
            path.unlink()
        (bodies / name).mkdir()
        (bodies / name / "frames").write_bytes(moved)
        assert sealed.build(tmp_path / "after.zip") == before

    def test_a_missing_body_is_no_packet(self, sealed, tmp_path) -> None:
        """The ledger is damaged, and the packet would say so of us."""
        for frames in (sealed.root / "ledger/2026/bodies").glob("*/frames"):
            frames.unlink()
        with pytest.raises(LedgerDamaged) as refused:
            sealed.build(tmp_path / "packet.zip")
        assert (refused.value.code, "klyra-audit verify" in refused.value.remedy) == ("ledger_damaged", True)

    def test_a_changed_body_is_no_packet(self, sealed, tmp_path) -> None:
        """Nor is one that is not what was sealed."""
        for frames in (sealed.root / "ledger/2026/bodies").glob("*/frames"):
            frames.write_bytes(frames.read_bytes().replace(b"success", b"failure"))
        with pytest.raises(LedgerDamaged):
            sealed.build(tmp_path / "packet.zip")

    def test_a_manifest_too_long(self, sealed, tmp_path) -> None:
        """So many filters that no manifest can state them are refused."""
        filters = {"actor_ids": ["x" * 250] * 200}
        with pytest.raises(Rejected) as refused:
            sealed.build(tmp_path / "packet.zip", filters=filters)
        assert (refused.value.code, bool(refused.value.remedy)) == ("manifest_too_long", True)


class TestErasure:
    """Sections that were overwritten."""

    def test_an_erased_section_is_its_commitment(self, sealed, tmp_path) -> None:
        """The packet has it without bytes and salt, and is intact with the ERASURE that says so."""
        shard = sealed.root / "ledger/2026"
        first = next(
            Leaf.unpack(raw)
            for raw in leaves_of(shard / "leaves")
            if raw[1] == Kind.EVENT and raw[8:24] == reference(sealed)
        )
        record = ControlRecord(
            Kind.ERASURE,
            Erasure(first.org_ref, ((first.org_seq, first.org_seq),), (), "art17", 20_600).document(),
            ACME,
        )
        sealed.ledger.commit_controls([record])
        erase_first_actor(shard / "bodies" / str(first.expire_day) / "frames")
        path = sealed.export(tmp_path / "packet.zip")
        line = orjson.loads(lines(members(path)[layout.ENTRIES])[0])
        assert line["sections"]["actor"].keys() == {"c"}
        report = sealed.verify(path)
        assert report.exit_status == 0
        assert report.shards[1].counts[Verdict.REDACTED_OK] == 1


def leaves_of(path: Path) -> list[bytes]:
    """Return the leaves of a file."""
    raw = path.read_bytes()
    return [raw[at : at + LEAF_SIZE] for at in range(0, len(raw), LEAF_SIZE)]


def reference(sealed: Sealed) -> bytes:
    """Return the organization's org_ref."""
    from klyra_audit.format.sections import organization_reference

    return organization_reference((sealed.root / "keys/org-salt").read_bytes(), ACME)


def erase_first_actor(frames: Path) -> None:
    """Overwrite salt and bytes of the first frame's actor section with zeros, as an erasure does."""
    from klyra_audit.format import frame

    raw = bytearray(frames.read_bytes())
    header = frame.read_body_header(bytes(raw), 0)
    core, actor = header.lengths[:2]
    begin = header.content + 16 + core
    raw[begin : begin + 16 + actor] = bytes(16 + actor)
    frames.write_bytes(raw)


class TestFinish:
    """The record of the export."""

    def test_it_waits_for_the_checkpoint(self, sealed, tmp_path) -> None:
        """Before that nothing is added."""
        sealed.build(tmp_path / "packet.zip")
        before = (tmp_path / "packet.zip").read_bytes()
        sealed.seal(records.record(STARTUP))
        index = sealed.ledger.size - 1
        assert not packet.finish(sealed.published, tmp_path / "packet.zip", sealed.ledger.origin, index)
        assert (tmp_path / "packet.zip").read_bytes() == before

    def test_it_is_added_once(self, sealed, tmp_path) -> None:
        """A packet that has its record is refused."""
        path = sealed.export(tmp_path / "packet.zip")
        with pytest.raises(PacketError):
            packet.finish(sealed.published, path, sealed.ledger.origin, 0)


class TestFolder:
    """Packets on their way."""

    def job(self, folder: PacketFolder, sealed: Sealed) -> PacketJob:
        """Return a packet whose record is on its way."""
        export_id = folder.begin()
        packet.build(sealed.published, sealed.request(), folder.part(export_id))
        job = PacketJob(export_id, ACME, "command", "audit-logs.zip", {"Klyra-Filters": "{}"})
        folder.note(job)
        return job

    def test_it_is_finished_by_whoever_asks(self, sealed, tmp_path) -> None:
        """Another folder object, as in another process, goes on with it."""
        job = self.job(PacketFolder(tmp_path / "exports", sealed.published), sealed)
        other = PacketFolder(tmp_path / "exports", sealed.published)
        assert other.job(job.export_id) == job
        assert other.finish(job, None) is None
        path = other.finish(job, (sealed.ledger.origin, 0))
        assert path is not None
        assert other.finish(job, None) == path
        assert layout.EXPORT_PROOF in members(path)

    def test_what_a_crash_broke_is_said_to_be_lost(self, sealed, tmp_path) -> None:
        """A part that cannot be read, or is gone."""
        folder = PacketFolder(tmp_path / "exports", sealed.published)
        for breaking in (lambda part: part.write_bytes(b"PK"), lambda part: part.unlink()):
            job = self.job(folder, sealed)
            breaking(folder.part(job.export_id))
            with pytest.raises(Rejected) as refused:
                folder.finish(job, (sealed.ledger.origin, 0))
            assert (refused.value.code, refused.value.remedy) == ("export_lost", "Export again.")

    def test_a_day_later_it_is_cleared_away(self, sealed, tmp_path) -> None:
        """By the next one that begins."""
        import os

        folder = PacketFolder(tmp_path / "exports", sealed.published)
        job = self.job(folder, sealed)
        for path in (tmp_path / "exports").iterdir():
            os.utime(path, (0, 0))
        folder.begin()
        assert folder.job(job.export_id) is None
        assert not list((tmp_path / "exports").iterdir())

    @pytest.mark.parametrize("export_id", ["", "../x", "exp_", "exp_" + "0" * 32])
    def test_other_ids_name_nothing(self, sealed, tmp_path, export_id) -> None:
        """No id becomes part of a path that begin has not given."""
        assert PacketFolder(tmp_path / "exports", sealed.published).job(export_id) is None

    def test_a_packet_given_up_leaves_nothing(self, sealed, tmp_path) -> None:
        """Its part goes."""
        folder = PacketFolder(tmp_path / "exports", sealed.published)
        export_id = folder.begin()
        folder.part(export_id).write_bytes(b"x")
        folder.discard(export_id)
        assert not folder.part(export_id).exists()
