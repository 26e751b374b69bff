"""Experiments 25, 57 to 61 and 66: an export packet of the baseline, and what programs make of its lines."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from klyra_audit.format import canonical, control, packet_lines
from klyra_audit.format import policy as policies
from klyra_audit.format.packet import CSV, ENTRIES
from klyra_audit.format.packet_lines import Opened
from klyra_collector.publish import packet
from klyra_collector.publish.packet import PacketRequest
from klyra_collector.publish.published import PublishedLedger
from klyra_collector.verify import Report, Verdict
from klyra_collector.verify.packet import verify_packet
from support.baseline import BUSINESS, ENTERPRISE, LAST_DAY
from support.experiment import Table
from support.experiments_copies import place
from support.packets import change, lines, members, restate
from support.workshop import Documents, Subject, Workshop

if TYPE_CHECKING:
    from support.forge import Forge

V = Verdict
PACKETS = Table()
row = PACKETS.row
FOREVER_US = 2**60

# Whoever hands a packet on can make its manifest agree again, but not the EXPORT record of it, which is in the ledger.
CHANGED = (V.ALTERED,)

# What fits no leaf of a run is EXTRA, what its leaves ask for is MISSING, and nothing leads to the proved leaf.
FOREIGN = (V.ORG_CHAIN, V.TRUNCATED, V.MISSING, V.ROOT_MISMATCH, V.EXTRA, V.CONTROL_ALTERED)


class PacketShop:
    """Packets of the baseline, made once by the real writer; the ledger gets their EXPORT records."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        self._folder = folder
        self.forge: Forge = workshop.forge.copy()
        self._root = self.forge.write(folder / "data")

    @cached_property
    def enterprise(self) -> Path:
        """All that an organization still has, with erased sections in it."""
        return self._export(ENTERPRISE)

    @cached_property
    def business(self) -> Path:
        """Of another organization."""
        return self._export(BUSINESS)

    def _export(self, organization_id: str) -> Path:
        forge, published = self.forge, PublishedLedger(self._root / "ledger")
        path = self._folder / f"{organization_id}.zip"
        forge.newest.heads()
        forge.newest.publish()
        forge.write(self._root)
        request = PacketRequest(
            organization_id=organization_id,
            org_salt=forge.newest.org_salt,
            start_us=0,
            end_us=FOREVER_US,
            today=LAST_DAY,
            policy=policies.render(forge.policy()).encode(),
            software="forge",
        )
        built = packet.build(published, request, path)
        index = forge.newest.seal(control.Export(built.sha256), organization_id)
        forge.newest.publish()
        forge.write(self._root)
        assert packet.finish(published, path, forge.newest.origin, index)
        return path


class Packet(Subject):
    """A packet, changed by whoever handed it on."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        super().__init__(workshop, folder)
        self.path = Path(shutil.copy(workshop.packets.enterprise, folder / "packet.zip"))

    def verify(self) -> Report:
        """See `Subject`."""
        return verify_packet(self.path, self.workshop.options(**self.options))


def change_lines(subject: Packet, by: object) -> None:
    """Change the list of a packet's entries, and nothing that vouches for them."""
    change(subject.path, ENTRIES, lambda content: b"".join(by(lines(content))))


def with_line(subject: Packet, number: int, by: object) -> None:
    """Change one entry line."""
    change_lines(subject, lambda listed: [by(line) if at == number else line for at, line in enumerate(listed)])


@row(25, "lines of a packet in another order", Packet, *CHANGED, V.REORDERED)
def _(subject: Packet) -> None:
    change_lines(subject, lambda listed: [listed[1], listed[0], *listed[2:]])
    restate(subject.path)


@row(57, "the last lines cut off, and the manifest told so", Packet, *CHANGED, V.TRUNCATED)
def _(subject: Packet) -> None:
    count = len(lines(members(subject.path)[ENTRIES]))
    change_lines(subject, lambda listed: listed[:-3])
    restate(subject.path, entries=count - 3)


@row(58, "the first lines cut off, and the manifest told so", Packet, *CHANGED, V.TRUNCATED)
def _(subject: Packet) -> None:
    count = len(lines(members(subject.path)[ENTRIES]))
    change_lines(subject, lambda listed: listed[3:])
    restate(subject.path, entries=count - 3)


@row(59, "the leaves of two organizations exchanged", Packet, *CHANGED, *FOREIGN)
def _(subject: Packet) -> None:
    other = members(subject.workshop.packets.business)
    name = next(name for name in other if name.endswith("leaves.bin"))
    change(subject.path, name, lambda _: other[name])
    restate(subject.path)


@row(60, "formulas escaped in the canonical text", Packet, V.ALTERED)
def _(subject: Packet) -> None:
    def escape(encoded: bytes) -> bytes:
        line = packet_lines.EntryLine.parse(encoded.removesuffix(b"\n"))
        document = canonical.parse_canonical(line.core.encoded)
        document["metadata"]["city"] = "'" + document["metadata"].get("city", "")
        return line._replace(core=Opened(line.core.salt, canonical.encode(document))).encode() + b"\n"

    with_line(subject, 30, escape)
    restate(subject.path)


@row(60, "line ends of the CSV rewritten by an editor", Packet, V.ALTERED)
def _(subject: Packet) -> None:
    change(subject.path, CSV, lambda content: content.replace(b"\r\n", b"\n"))
    restate(subject.path)


@row(
    61, "a line cut short", Packet, *CHANGED, V.MISSING, V.UNVERIFIABLE
)  # as a transport that cuts lines would; copies in a SIEM come later
def _(subject: Packet) -> None:
    with_line(subject, 4, lambda line: line[: len(line) // 2] + b"\n")
    restate(subject.path)


@row(61, "two lines merged", Packet, *CHANGED, V.MISSING, V.UNVERIFIABLE, V.TRUNCATED)
def _(subject: Packet) -> None:
    with_line(subject, 4, lambda line: line.removesuffix(b"\n"))
    restate(subject.path)


# 66: a search engine that makes documents up from their fields again (synthetic source).


@row(66, "sections not kept, but the ledger has them", Documents)
def _(documents: Documents) -> None:
    documents.copy.listed = [replace(document, sections=None) for document in documents.copy.listed]


@row(66, "a time printed again with other digits", Documents, V.ALTERED)
def _(documents: Documents) -> None:
    documents.copy.retell(place(documents), "core", lambda core: core.update(timestamp=core["timestamp"][:-1] + "000Z"))


@row(66, "members of a section in another order", Documents, V.ALTERED)
def _(documents: Documents) -> None:
    at = place(documents)
    section = documents.copy.listed[at].sections.core
    core = dict(reversed(orjson.loads(section.encoded).items()))
    documents.copy.change_section(at, "core", Opened(section.salt, orjson.dumps(core)))
