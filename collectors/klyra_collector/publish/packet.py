"""Write an export packet: entries with everything that proves them, and that nothing is missing (DESIGN section 9).

`build` writes all of it but the record of the export itself, whose leaf commits to the manifest; `finish` adds that
record once it is sealed and under a checkpoint. Both use little memory however long the ledger is.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, Literal

from klyra_audit.errors import Rejected
from klyra_audit.format import packet, rendering, sections
from klyra_audit.format.errors import FormatError, ProfileError, SectionError
from klyra_audit.format.leaf import Kind, Leaf
from klyra_audit.format.packet import Counts, Manifest, Run, Window
from klyra_audit.format.packet_lines import encode_ordinary, entry_line
from klyra_audit.format.sections import SALT_SIZE
from klyra_collector.errors import LedgerDamaged
from klyra_collector.publish.packet_archive import PacketArchive
from klyra_collector.publish.packet_run import PlannedRun, RunControls, effective_expire_day, lineage, plan_run
from klyra_collector.publish.packet_shard import PacketShard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from klyra_audit.format.frame import BodyFrame
    from klyra_audit.format.ordinary import OrdinaryBody
    from klyra_collector.publish.published import PublishedLedger

RenderingName = Literal["csv", "json"]

_REMEDY: Final = "See what is wrong with: klyra-audit verify; then restore the file from a copy."
_BATCH: Final = 500
_LEAVES_AT_ONCE: Final = 8192
_RENDER: Final[Mapping[str, Callable[[Iterable[list[dict[str, Any]]]], Iterator[bytes]]]] = {
    "csv": rendering.comma_separated_entries,
    "json": rendering.json_array_of_entries,
}


class Chosen:
    """The leaves that a filtered export shows: one bit each."""

    def __init__(self) -> None:
        self._bits: dict[str, bytearray] = {}

    def add(self, origin: str, index: int) -> None:
        """Choose the entry of a leaf."""
        bits = self._bits.setdefault(origin, bytearray())
        place, bit = divmod(index, 8)
        if place >= len(bits):
            bits.extend(bytes(place + 1 - len(bits)))
        bits[place] |= 1 << bit

    def has(self, origin: str, index: int) -> bool:
        """Say whether an entry was chosen."""
        bits = self._bits.get(origin, b"")
        place, bit = divmod(index, 8)
        return place < len(bits) and bool(bits[place] >> bit & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketRequest:
    """What a packet is to hold.

    Attributes:
        organization_id: whose entries.
        org_salt: the ledger's, 32 bytes.
        start_us, end_us: window of ingest time, the end excluded; it ends earlier where no HEADS record proves so much.
        today: present UTC day since 1970: what expires by it is not shown.
        rendering: of the member for people.
        filters: canonical filters besides the window, as the manifest states them.
        chosen: what those filters match; None for everything.
        policy: the published policy file.
        software: name and version of what writes it.
    """

    organization_id: str
    org_salt: bytes
    start_us: int
    end_us: int
    today: int
    rendering: RenderingName = "csv"
    filters: Mapping[str, Any] = field(default_factory=dict)
    chosen: Chosen | None = None
    policy: bytes
    software: str


@dataclass(frozen=True, slots=True)
class BuiltPacket:
    """A packet without the record of its export.

    Attributes:
        manifest: what it holds.
        sha256: of the manifest's bytes: what the EXPORT record says.
    """

    manifest: Manifest
    sha256: bytes


def build(ledger: PublishedLedger, request: PacketRequest, path: Path) -> BuiltPacket:
    """Write everything but `export.*` to `path`.

    Raises:
        NothingProvable: no HEADS record is under a checkpoint yet.
        LedgerDamaged: something that must be in the packet cannot be read.
        Rejected: `manifest_too_long`: so many filters and shards that no manifest can state them.
    """
    with ExitStack() as opened:
        shards = [opened.enter_context(PacketShard(shard)) for shard in ledger.shards()]
        return _Builder(request, shards, ledger.collector_id()).write(path)


def finish(ledger: PublishedLedger, path: Path, origin: str, index: int) -> bool:
    """Add the EXPORT record at (origin, index) and its proof; False while no proving checkpoint covers it.

    A crash in between leaves an archive that cannot be read: finish a copy.
    """
    with PacketShard(ledger.of_origin(origin)) as shard:
        if index >= shard.size:
            return False
        with PacketArchive.append_to(path) as archive:
            archive.write(packet.EXPORT_LEAF, shard.leaf(index))
            archive.write(packet.EXPORT_PROOF, shard.proof(index))
    return True


def proved_size(ledger: PublishedLedger, origin: str) -> int:
    """Return how many records of a shard a packet could be proved for now."""
    with PacketShard(ledger.of_origin(origin)) as shard:
        return shard.size


class _Builder:
    """Writes one packet."""

    def __init__(self, request: PacketRequest, shards: list[PacketShard], collector_id: str) -> None:
        self._request = request
        self._shards = shards
        self._org_ref = sections.organization_reference(request.org_salt, request.organization_id)
        planned = [
            plan_run(shard, self._org_ref, request.start_us)
            for shard in _overlapping(shards, request.start_us)
            # A shard that ended before its first HEADS proves nothing; only the present one can still be waited for.
            if shard is shards[-1] or shard.newest_heads() is not None
        ]
        self._runs = [(run, RunControls(run, collector_id)) for run in planned]
        end_us = min(request.end_us, planned[-1].until_us) if planned else request.start_us
        self._window = Window(request.start_us, max(request.start_us, end_us))
        self._entries = self._records = self._controls = 0

    def write(self, path: Path) -> BuiltPacket:
        """Write the archive."""
        request = self._request
        with PacketArchive.create(path) as archive, tempfile.TemporaryFile(dir=path.parent) as rendered:
            archive.write(packet.POLICY, request.policy)
            archive.write(packet.ORG_SALT, request.org_salt)
            with archive.member(packet.ENTRIES) as write:
                for chunk in _RENDER[request.rendering](self._batches(write)):
                    rendered.write(chunk)
            archive.copy(packet.RENDERINGS[request.rendering], rendered)
            for number, (run, _) in enumerate(self._runs):
                self._write_run(archive, number, run)
            for number, (_, controls) in enumerate(self._runs):
                self._write_lines(archive, packet.control_member(number), controls.lines())
            follow = chain.from_iterable(map(lineage, self._shards))
            self._write_lines(archive, packet.LINEAGE, follow)
            return self._write_manifest(archive)

    def _write_run(self, archive: PacketArchive, number: int, run: PlannedRun) -> None:
        with archive.member(packet.leaves_member(number)) as write:
            indexes = run.indexes()
            while batch := list(islice(indexes, _LEAVES_AT_ONCE)):
                write(b"".join(map(run.shard.leaf, batch)))
                self._records += len(batch)
        if run.span is not None:
            archive.write(packet.proof_member(number), run.shard.proof(run.span.last))
        archive.write(packet.heads_member(number), run.heads_file().encode())

    def _write_lines(self, archive: PacketArchive, name: str, lines: Iterable[Any]) -> None:
        with archive.member(name) as write:
            for line in lines:
                write(line.encode() + b"\n")
                self._controls += 1

    def _write_manifest(self, archive: PacketArchive) -> BuiltPacket:
        request = self._request
        manifest = Manifest(
            organization_id=request.organization_id,
            rendering=packet.RENDERINGS[request.rendering],
            window=self._window,
            filters=request.filters,
            complete=request.chosen is None,
            counts=Counts(self._entries, self._records, self._controls),
            runs=tuple(Run(run.shard.origin, run.first_seq, run.count) for run, _ in self._runs),
            software=request.software,
            members=archive.digests,
        )
        try:
            encoded = manifest.encode()
        except ProfileError as error:
            raise Rejected(
                f"The packet's manifest would not be readable: {error}.",
                remedy="Export a shorter time, or with fewer values in the filters.",
                code="manifest_too_long",
            ) from error
        archive.write(packet.MANIFEST, encoded)
        return BuiltPacket(manifest, hashlib.sha256(encoded).digest())

    def _batches(self, write: Callable[[bytes], object]) -> Iterator[list[dict[str, Any]]]:
        """Write the line of each entry, and yield the entries for the rendering."""
        entries = self._shown()
        while batch := list(islice(entries, _BATCH)):
            write(b"".join(line for line, _ in batch))
            self._entries += len(batch)
            yield [entry for _, entry in batch]

    def _shown(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        for run, controls in self._runs:
            expires = partial(effective_expire_day, extensions=controls.extensions)
            for index, leaf in self._events(run):
                if leaf.expire_day > self._request.today or expires(leaf) > self._request.today:
                    yield _entry(run, index, leaf)

    def _events(self, run: PlannedRun) -> Iterator[tuple[int, Leaf]]:
        """Yield the events of a run that lie in the window and were chosen."""
        chosen, window, shard, event = self._request.chosen, self._window, run.shard, Kind.EVENT.value
        for index in run.indexes():
            leaf = shard.unpack(index)
            if leaf.kind != event or leaf.ingest_us not in window:
                continue
            if chosen is None or chosen.has(shard.origin, index):
                yield index, leaf


def _overlapping(shards: list[PacketShard], start_us: int) -> list[PacketShard]:
    """Return the shards from the one in which the window begins to the newest.

    Later ones than the window's last count too: an expiry or erasure of an older shard's records is sealed there.
    """
    older = 0
    for shard in shards[:-1]:
        if shard.size and shard.ingest_us(shard.size - 1) >= start_us:
            break
        older += 1
    return shards[older:]


def _entry(run: PlannedRun, index: int, leaf: Leaf) -> tuple[bytes, dict[str, Any]]:
    """Return the line of an entry with its newline, and its eight members."""
    shard = run.shard
    try:
        ordinary = shard.bodies.find_ordinary(index, leaf)
        if ordinary is not None:
            return encode_ordinary(shard.origin, leaf.org_seq, ordinary) + b"\n", _joined(ordinary)
        return _uncommon_entry(shard, index, leaf)
    except (FormatError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"The body of record {index} of {shard.origin} is not what was sealed: {error}."
        raise LedgerDamaged(reason, remedy=_REMEDY) from error


def _joined(body: OrdinaryBody) -> dict[str, Any]:
    actor = None if body.actor is None else body.actor[SALT_SIZE:]
    target = None if body.target is None else body.target[SALT_SIZE:]
    return rendering.joined(body.core[SALT_SIZE:], actor, target)


def _uncommon_entry(shard: PacketShard, index: int, leaf: Leaf) -> tuple[bytes, dict[str, Any]]:
    """Return the same of a body that was moved or erased, or was signed by its emitter."""
    body = shard.bodies.find(index, leaf)
    if body is None:
        raise LedgerDamaged(f"The body of record {index} of {shard.origin} is missing.", remedy=_REMEDY)
    erased = _check(body)
    parts = body.sections
    line = entry_line(shard.origin, leaf.org_seq, parts, body.salts, body.commitments, erased, body.attachment)
    kept = line.sections()
    return line.encode() + b"\n", rendering.joined(kept.core, kept.actor, kept.target)


def _check(body: BodyFrame) -> frozenset[str]:
    """Return the sections that were erased; `SectionError` for one that is not what was committed to."""
    proofs = sections.commitments(body.sections, body.salts)
    if proofs == body.commitments:
        return frozenset()
    erased = {
        name
        for name in ("core", "actor", "target")
        if (encoded := getattr(body.sections, name)) is not None and not encoded.strip(b"\0")
    }
    differing = {
        name for name in ("core", "actor", "target") if getattr(proofs, name) != getattr(body.commitments, name)
    }
    if differing - erased:
        raise SectionError(f"section {', '.join(sorted(differing))} is not what was committed to")
    return frozenset(erased)


__all__ = ["BuiltPacket", "Chosen", "PacketRequest", "RenderingName", "build", "finish", "proved_size"]
