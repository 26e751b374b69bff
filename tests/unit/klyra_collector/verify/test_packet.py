"""An export packet is verified from the file and the pinned policy alone, whatever somebody has done to it."""

from __future__ import annotations

import base64
import random
import zipfile
from pathlib import Path

import orjson
import pytest

from klyra_audit.format import packet, stored_zip
from klyra_audit.format.keys import SigningKey
from klyra_audit.format.leaf import LEAF_SIZE
from klyra_audit.format.policy import LogLine, Policy
from klyra_collector.verify import Options, Report, Verdict
from klyra_collector.verify.packet import verify_packet
from support.packets import Sealed, archive, change, choose, example, lines, members, restate
from support.records import BUSINESS, STARTUP

LEAVES, HEADS, CONTROL = packet.leaves_member(0), packet.heads_member(0), packet.control_member(0)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> Sealed:
    """A small ledger of two organizations."""
    return example(tmp_path_factory.mktemp("sealed") / "data")


@pytest.fixture(scope="module")
def made(sealed, tmp_path_factory) -> Path:
    """A complete packet of it; not to be changed."""
    return sealed.export(tmp_path_factory.mktemp("made") / "packet.zip")


@pytest.fixture
def copy(made, tmp_path) -> Path:
    """A copy of the packet, to be changed."""
    path = tmp_path / "packet.zip"
    path.write_bytes(made.read_bytes())
    return path


def verdicts(report: Report) -> set[Verdict]:
    """Return every verdict that says something is wrong or could not be checked."""
    return {finding.verdict for shard in report.shards for finding in shard.findings}


class TestIntact:
    """Packets as they are exported."""

    @pytest.mark.parametrize("rendering", ["csv", "json"])
    @pytest.mark.parametrize(
        "organization_id", [STARTUP.organization_id, BUSINESS.organization_id, "operator", "org_x"]
    )
    def test_it_is_intact(self, sealed, tmp_path, organization_id, rendering) -> None:
        """Of an organization, of the operator, and of one that has no entry at all."""
        path = sealed.export(tmp_path / "packet.zip", organization_id, rendering=rendering)
        report = sealed.verify(path, require_pinned=True)
        assert (report.exit_status, report.verdict, verdicts(report)) == (0, Verdict.OK, set())

    def test_it_counts_every_record(self, sealed, made) -> None:
        """Each leaf of the run, the HEADS record, and the record of the export."""
        report = sealed.verify(made)
        own, run = report.shards
        assert own.counts == {Verdict.OK: 1}
        count = len(members(made)[LEAVES]) // LEAF_SIZE
        assert run.counts == {Verdict.OK: count + 1}
        assert run.origin == sealed.ledger.origin

    def test_without_a_policy_it_is_only_consistent(self, made) -> None:
        """The packet's own policy shows nothing about who made it."""
        consistent = verify_packet(made, Options())
        assert (consistent.exit_status, consistent.pinned) == (0, False)
        assert verify_packet(made, Options(require_pinned=True)).exit_status == 2

    def test_a_window_begins_and_ends_anywhere(self, sealed, tmp_path) -> None:
        """A packet of a part of the time is complete for that part."""
        first = sealed.clock.wall_us() - 12_000_000
        path = sealed.export(tmp_path / "packet.zip", start_us=first, end_us=first + 6_000_000)
        report = sealed.verify(path)
        assert report.exit_status == 0
        manifest = packet.Manifest.parse(members(path)[packet.MANIFEST])
        assert manifest.complete
        assert 0 < manifest.counts.entries < 13

    def test_filters_make_it_incomplete_and_intact(self, sealed, tmp_path) -> None:
        """What filters left out is not missing; the report says that it is not everything."""
        chosen = choose(sealed, list(range(20)))
        path = sealed.export(tmp_path / "packet.zip", chosen=chosen, filters={"actor_ids": ["key_1"]})
        report = sealed.verify(path)
        assert report.exit_status == 0
        assert any("filters" in note for note in report.shards[0].notes)


class TestCut:
    """Experiments 57 to 59 of the research: what was cut off or exchanged."""

    def test_the_last_entries(self, sealed, copy) -> None:
        """With the counts and digests of the manifest made to agree."""
        change(copy, packet.ENTRIES, lambda raw: b"".join(lines(raw)[:-2]))
        report = sealed.verify(restate(copy, entries=len(lines(members(copy)[packet.ENTRIES]))))
        assert (report.exit_status, report.verdict) == (1, Verdict.TRUNCATED)

    def test_the_first_entries(self, sealed, copy) -> None:
        """The same at the other end."""
        change(copy, packet.ENTRIES, lambda raw: b"".join(lines(raw)[3:]))
        report = sealed.verify(restate(copy, entries=len(lines(members(copy)[packet.ENTRIES]))))
        assert (report.exit_status, report.verdict) == (1, Verdict.TRUNCATED)

    def test_an_entry_in_the_middle(self, sealed, copy) -> None:
        """It was sealed in the window, and is named."""
        change(copy, packet.ENTRIES, lambda raw: b"".join(lines(raw)[:3] + lines(raw)[4:]))
        report = sealed.verify(restate(copy))
        assert Verdict.MISSING in verdicts(report)

    def test_the_last_leaves(self, sealed, copy) -> None:
        """The run ends before the organization's newest record."""
        change(copy, LEAVES, lambda raw: raw[: -2 * LEAF_SIZE])
        assert sealed.verify(copy).verdict in (Verdict.TRUNCATED, Verdict.ROOT_MISMATCH)
        assert Verdict.TRUNCATED in verdicts(sealed.verify(copy))

    def test_the_first_leaves(self, sealed, copy) -> None:
        """The run does not begin where the manifest says."""
        change(copy, LEAVES, lambda raw: raw[2 * LEAF_SIZE :])
        assert {Verdict.TRUNCATED, Verdict.ORG_CHAIN} <= verdicts(sealed.verify(copy))

    def test_leaves_of_another_organization(self, sealed, copy, tmp_path) -> None:
        """The chain is not this organization's."""
        other = sealed.export(tmp_path / "other.zip", BUSINESS.organization_id)
        change(copy, LEAVES, lambda _: members(other)[LEAVES])
        report = sealed.verify(restate(copy))
        assert report.exit_status == 1
        assert Verdict.ORG_CHAIN in verdicts(report)

    def test_a_whole_run(self, sealed, copy) -> None:
        """A packet without the run of a ledger that the policy names is cut off."""
        content = members(copy)
        manifest = orjson.loads(content[packet.MANIFEST]) | {"logs": []}
        encoded = orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)
        kept = {name: raw for name, raw in content.items() if "/" not in name or name == packet.LINEAGE}
        report = sealed.verify(archive(copy, kept | {packet.MANIFEST: encoded}))
        assert Verdict.TRUNCATED in verdicts(report)

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_the_end_of_the_file(self, sealed, copy, share) -> None:
        """A download that broke off is recognised as one."""
        raw = copy.read_bytes()
        copy.write_bytes(raw[: int(len(raw) * share)])
        report = sealed.verify(copy)
        assert (report.exit_status, report.verdict) == (1, Verdict.TRUNCATED)


class TestRendering:
    """Experiment 60, and what else can happen to the file that people read."""

    @pytest.mark.parametrize(
        "by",
        [
            lambda raw: raw.replace(b"key_1", b"'key_1", 1),
            lambda raw: raw.replace(b"\r\n", b"\n"),
            lambda raw: raw.replace(b"success", b"failure", 1),
            lambda raw: b"".join(lines(raw)[:-1]),
            lambda raw: raw + lines(raw)[-1],
        ],
        ids=["escaped", "newlines", "changed", "cut", "added"],
    )
    def test_it_is_compared_byte_for_byte(self, sealed, copy, by) -> None:
        """Whatever differs from the entries is ALTERED, even when the manifest agrees with it."""
        change(copy, packet.CSV, by)
        report = sealed.verify(restate(copy))
        assert report.exit_status == 1
        assert any(
            finding.verdict is Verdict.ALTERED and finding.file == packet.CSV for finding in report.shards[0].findings
        )

    def test_line_ends_inside_a_cell(self, sealed, tmp_path) -> None:
        """LF made CRLF inside a quoted cell is another text."""
        path = sealed.export(tmp_path / "packet.zip", BUSINESS.organization_id)
        change(path, packet.CSV, lambda raw: raw.replace(b'""text""', b'""text ""', 1))
        assert Verdict.ALTERED in verdicts(sealed.verify(restate(path)))


class TestEntries:
    """Each entry is what its leaf commits to."""

    def verify(self, sealed: Sealed, path: Path, number: int, by) -> set[Verdict]:
        """Return what is found after one line was changed, the manifest and the rendering left to their own."""

        def apply(raw: bytes) -> bytes:
            listed = lines(raw)
            listed[number] = orjson.dumps(by(orjson.loads(listed[number]))) + b"\n"
            return b"".join(listed)

        change(path, packet.ENTRIES, apply)
        return verdicts(sealed.verify(restate(path)))

    def test_a_value_changed(self, sealed, copy) -> None:
        """In the core section."""

        def by(line):
            line["sections"]["core"]["canonical"] = line["sections"]["core"]["canonical"].replace("success", "failure")
            return line

        assert Verdict.ALTERED in self.verify(sealed, copy, 2, by)

    def test_a_salt_changed(self, sealed, copy) -> None:
        """Sections without their own salt prove nothing."""

        def by(line):
            line["sections"]["core"]["salt"] = base64.b64encode(bytes(16)).decode()
            return line

        assert Verdict.ALTERED in self.verify(sealed, copy, 2, by)

    def test_a_section_redacted(self, sealed, copy) -> None:
        """The commitment alone, without an ERASURE."""
        from klyra_audit.format.sections import section_commitment

        def by(line):
            section = line["sections"]["actor"]
            salt, encoded = base64.b64decode(section["salt"]), section["canonical"].encode()
            commitment = section_commitment("actor", salt, encoded)
            line["sections"]["actor"] = {"c": base64.b64encode(commitment).decode()}
            return line

        assert Verdict.REDACTED_UNAUTHORISED in self.verify(sealed, copy, 2, by)

    def test_numbers_changed(self, sealed, copy) -> None:
        """An entry beyond the run, of another log, and of a control record."""
        assert Verdict.EXTRA in self.verify(sealed, copy, 2, lambda line: line | {"org_seq": 9999})
        assert Verdict.EXTRA in self.verify(sealed, copy, 3, lambda line: line | {"log": "another/log/2026"})
        assert Verdict.EXTRA in self.verify(sealed, copy, 4, lambda line: line | {"org_seq": 0})

    def test_an_entry_twice(self, sealed, copy) -> None:
        """The second one is named."""
        change(copy, packet.ENTRIES, lambda raw: b"".join([*lines(raw)[:3], lines(raw)[2], *lines(raw)[3:]]))
        assert Verdict.DUPLICATE in verdicts(sealed.verify(restate(copy)))

    def test_entries_out_of_order(self, sealed, copy) -> None:
        """The order is that of sealing."""

        def exchange(raw: bytes) -> bytes:
            listed = lines(raw)
            listed[2], listed[5] = listed[5], listed[2]
            return b"".join(listed)

        change(copy, packet.ENTRIES, exchange)
        assert Verdict.REORDERED in verdicts(sealed.verify(restate(copy)))

    @pytest.mark.parametrize("line", [b"\n", b"{}\n", b"[]\n", b"\xff\n", b'{"log": 1}\n', b"x" * 2_000_000])
    def test_what_is_no_entry(self, sealed, copy, line) -> None:
        """Lines that are none, and one without an end, are findings and nothing else."""
        change(copy, packet.ENTRIES, lambda raw: raw + line)
        report = sealed.verify(restate(copy))
        assert report.exit_status == 1


class TestControl:
    """Control documents against their leaves and proofs."""

    def test_a_document_changed(self, sealed, copy) -> None:
        """What its leaf does not commit to is not believed."""
        change(copy, CONTROL, lambda raw: raw.replace(rb"\"retention_days\":30", rb"\"retention_days\":31"))
        assert Verdict.CONTROL_ALTERED in verdicts(sealed.verify(restate(copy)))

    def test_a_document_left_out(self, sealed, copy) -> None:
        """Every control record of the run has its document."""
        change(copy, CONTROL, lambda raw: b"".join(line for line in lines(raw) if b'\\"policy\\"' not in line))
        found = verdicts(sealed.verify(restate(copy)))
        assert {Verdict.MISSING, Verdict.PLAN_MISMATCH} <= found

    def test_a_proof_taken_away(self, sealed, copy) -> None:
        """A record outside the run needs one."""

        def by(raw: bytes) -> bytes:
            return b"".join(orjson.dumps(orjson.loads(line) | {"tlog_proof": None}) + b"\n" for line in lines(raw))

        change(copy, CONTROL, by)
        assert Verdict.CONTROL_ALTERED in verdicts(sealed.verify(restate(copy)))

    def test_another_salt(self, sealed, copy) -> None:
        """org_salt is what START commits to, and makes the organization's reference."""
        change(copy, packet.ORG_SALT, lambda raw: bytes(len(raw)))
        assert Verdict.ORG_CHAIN in verdicts(sealed.verify(restate(copy)))


class TestTrust:
    """Keys, the record of the export, and what proves the end of the run."""

    def test_another_key_is_pinned(self, made) -> None:
        """Nothing in a packet is signed by a key that the reader did not pin."""
        policy = Policy((LogLine(SigningKey.from_seed("another/log/2026", bytes(32)).verifying_key),))
        report = verify_packet(made, Options(policy=policy))
        assert report.exit_status == 1
        assert Verdict.BAD_SIGNATURE in verdicts(report)

    def test_a_manifest_changed(self, sealed, copy) -> None:
        """It is not the one that the EXPORT record commits to."""
        change(copy, packet.MANIFEST, lambda raw: raw.replace(b'"complete":true', b'"complete":false'))
        report = sealed.verify(copy)
        assert (report.exit_status, report.verdict) == (1, Verdict.ALTERED)

    def test_the_record_of_another_export(self, sealed, copy, tmp_path) -> None:
        """Its leaf and proof are good, and not this packet's."""
        sealed.clock.pass_seconds(1)
        other = members(sealed.export(tmp_path / "other.zip"))
        content = members(copy)
        for name in (packet.EXPORT_LEAF, packet.EXPORT_PROOF):
            content[name] = other[name]
        assert sealed.verify(archive(copy, content)).verdict is Verdict.ALTERED

    def test_an_older_end(self, sealed, copy, tmp_path) -> None:
        """Leaves, proof and HEADS of an earlier packet do not cover a later window."""
        later = sealed.export(tmp_path / "later.zip")
        content, earlier = members(later), members(copy)
        for name in (LEAVES, packet.proof_member(0), HEADS, CONTROL):
            content[name] = earlier[name]
        archive(later, content)
        assert Verdict.TRUNCATED in verdicts(sealed.verify(restate(later)))

    def test_heads_of_another_organization(self, sealed, copy, tmp_path) -> None:
        """Its newest record says nothing about this one's."""
        other = sealed.export(tmp_path / "other.zip", BUSINESS.organization_id)
        change(copy, HEADS, lambda _: members(other)[HEADS])
        assert Verdict.ORG_CHAIN in verdicts(sealed.verify(restate(copy)))


class TestHostile:
    """Archives that are none of ours."""

    def test_it_is_no_archive(self, sealed, tmp_path) -> None:
        """Something else, nothing, a folder, and nothing at all: could not be checked."""
        path = tmp_path / "packet.zip"
        for content in (b"", b"not a zip", bytes(100_000)):
            path.write_bytes(content)
            assert sealed.verify(path).exit_status == 2
        assert sealed.verify(tmp_path).exit_status == 2
        assert sealed.verify(tmp_path / "absent.zip").exit_status == 2

    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_it_was_packed_by_another_program(self, sealed, made, tmp_path, compression) -> None:
        """Compressed or not: an archive has one spelling, in which no bomb fits."""
        path = tmp_path / "packet.zip"
        with zipfile.ZipFile(path, "w", compression) as target:
            for name, content in members(made).items():
                target.writestr(name, content)
        report = sealed.verify(path)
        assert (report.exit_status, report.verdict) == (2, Verdict.UNVERIFIABLE)

    def test_a_bomb(self, sealed, tmp_path) -> None:
        """Sizes beyond the file are not believed, and nothing is read for them."""
        path = tmp_path / "packet.zip"
        listed = [stored_zip.StoredMember(packet.ENTRIES, 2**62, 0)]
        path.write_bytes(stored_zip.local_header(listed[0]) + stored_zip.directory(listed))
        assert sealed.verify(path).exit_status == 2

    def test_names_that_lead_elsewhere(self, sealed, tmp_path) -> None:
        """Names with dots, slashes and backslashes, twice the same, or empty."""
        path = tmp_path / "packet.zip"
        with zipfile.ZipFile(path, "w") as target:
            for name in ("../up", "/etc/passwd", "a\\b", "c:d", "manifest.json"):
                target.writestr(name, b"x")
            with pytest.warns(UserWarning, match="Duplicate"):
                target.writestr("manifest.json", b"x")
        assert sealed.verify(path).exit_status == 2

    def test_attributes_of_a_link_or_encryption(self, sealed, copy) -> None:
        """The directory of a packet has no other attributes and flags than ours."""
        raw = copy.read_bytes()
        place = raw.rfind(b"PK\x01\x02")
        for offset, value in ((place + 8, b"\x01"), (place + 40, b"\xff\xa1"), (place + 10, b"\x08")):
            changed = bytearray(raw)
            changed[offset : offset + len(value)] = value
            copy.write_bytes(changed)
            assert sealed.verify(copy).exit_status == 2

    def test_a_directory_without_end(self, sealed, tmp_path) -> None:
        """It is not read beyond what a packet can have."""
        path = tmp_path / "packet.zip"
        listed = [stored_zip.StoredMember(f"m{number}", 0, 0) for number in range(5000)]
        path.write_bytes(b"".join(map(stored_zip.local_header, listed)) + stored_zip.directory(listed))
        assert sealed.verify(path).exit_status == 2

    def test_members_too_many_and_too_few(self, sealed, copy) -> None:
        """One that no packet has is EXTRA, one that it must have MISSING."""
        content = members(copy)
        assert Verdict.EXTRA in verdicts(sealed.verify(archive(copy, content | {"readme": b"hello"})))
        for name in sorted(content):
            report = sealed.verify(archive(copy, {other: raw for other, raw in content.items() if other != name}))
            assert report.exit_status != 0, name

    def test_empty_members(self, sealed, copy) -> None:
        """Whichever member is emptied, the packet is not intact."""
        content = members(copy)
        for name in sorted(content):
            if content[name]:
                report = sealed.verify(restate_if(archive(copy, content | {name: b""}), name))
                assert report.exit_status != 0, name


def restate_if(path: Path, name: str) -> Path:
    """Make the manifest agree, unless it is the member that was changed."""
    return path if name == packet.MANIFEST else restate(path)


class TestFlips:
    """Any changed byte anywhere."""

    @pytest.mark.parametrize("seed", range(4))
    def test_no_flipped_byte_is_ok(self, sealed, copy, seed) -> None:
        """One bit of each member, at a random place, with the archive's checksums made to agree."""
        chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        content = members(copy)
        for name, raw in content.items():
            if not raw:
                continue
            changed = bytearray(raw)
            changed[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            report = sealed.verify(archive(copy, content | {name: bytes(changed)}))
            assert report.exit_status != 0, name

    @pytest.mark.parametrize("seed", range(4))
    def test_no_restated_flip_is_ok(self, sealed, copy, seed) -> None:
        """The same with the manifest made to agree as well."""
        chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        content = members(copy)
        for name in sorted(content.keys() - packet.OUTSIDE_MANIFEST):
            if not content[name]:
                continue
            changed = bytearray(content[name])
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            report = sealed.verify(restate(archive(copy, content | {name: bytes(changed)})))
            assert report.exit_status != 0, name

    def test_no_flip_in_the_file_is_ok(self, sealed, copy) -> None:
        """Headers, directory and all: there is no byte without meaning."""
        chance = random.Random(1)  # noqa: S311 - repeatable, not secret
        raw = copy.read_bytes()
        places = [chance.randrange(len(raw)) for _ in range(40)] + list(range(len(raw) - 200, len(raw), 7))
        for place in places:
            changed = bytearray(raw)
            changed[place] ^= 1 << chance.randrange(8)
            copy.write_bytes(changed)
            assert sealed.verify(copy).exit_status != 0, place
