"""Packets of real small ledgers, and archives that somebody has changed."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from klyra_audit.format import policy as policies
from klyra_audit.format import stored_zip
from klyra_audit.format.control import Export
from klyra_audit.format.keys import VerifyingKey
from klyra_audit.format.leaf import Kind
from klyra_audit.format.packet import MANIFEST, Manifest
from klyra_audit.format.policy import LogLine, Policy
from klyra_audit.format.stored_zip import StoredMember
from klyra_audit.timestamps import day_of
from klyra_collector.publish import packet
from klyra_collector.publish.packet import BuiltPacket, Chosen, PacketRequest
from klyra_collector.publish.published import PublishedLedger
from klyra_collector.stages import ControlRecord
from klyra_collector.verify import Options
from klyra_collector.verify.packet import verify_packet
from support import records
from support.records import BUSINESS, STARTUP, submission
from support.sealing import SetClock, open_ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from klyra_collector.seal.ledger import Ledger
    from klyra_collector.verify import Report

FOREVER_US = 2**60


@dataclass
class Sealed:
    """A ledger with what a packet of it is made with.

    Attributes:
        root: its data directory.
        clock, ledger: which stay open.
    """

    root: Path
    clock: SetClock = field(default_factory=SetClock)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = open_ledger(self.root, self.clock)

    def seal(self, *sealed: records.Record) -> None:
        """Seal records in one commit, a second after the one before."""
        self.ledger.commit([submission(*sealed)])
        self.clock.pass_seconds(1)

    def settle(self) -> None:
        """Seal HEADS, and sign what there is."""
        self.ledger.seal_heads()
        self.ledger.sign()

    @property
    def published(self) -> PublishedLedger:
        """The ledger as outsiders read it."""
        return PublishedLedger(self.root / "ledger")

    def policy(self) -> Policy:
        """Return the policy that pins the ledger's key."""
        return Policy((LogLine(VerifyingKey.parse(self.ledger.vkey)),))

    def request(self, organization_id: str = STARTUP.organization_id, **members: Any) -> PacketRequest:
        """Return the request for everything of an organization; `members` replace its own."""
        given = {
            "organization_id": organization_id,
            "org_salt": (self.root / "keys" / "org-salt").read_bytes(),
            "start_us": 0,
            "end_us": FOREVER_US,
            "today": day_of(self.clock.wall_us()),
            "policy": policies.render(self.policy()).encode(),
            "software": "klyra-audit test",
        }
        return PacketRequest(**given | members)

    def build(self, path: Path, organization_id: str = STARTUP.organization_id, **members: Any) -> BuiltPacket:
        """Write a packet without the record of its export."""
        return packet.build(self.published, self.request(organization_id, **members), path)

    def export(self, path: Path, organization_id: str = STARTUP.organization_id, **members: Any) -> Path:
        """Write a whole packet: HEADS first, its EXPORT record last."""
        self.settle()
        self.clock.pass_seconds(1)
        built = self.build(path, organization_id, **members)
        record = ControlRecord(Kind.EXPORT, Export(built.sha256).document(), organization_id)
        (outcome,) = self.ledger.commit_controls([record])
        self.ledger.sign()
        assert packet.finish(self.published, path, outcome.sealed.log, outcome.sealed.index)
        return path

    def verify(self, path: Path, **options: Any) -> Report:
        """Verify a packet with the ledger's key pinned."""
        return verify_packet(path, Options(**{"policy": self.policy()} | options))


def example(root: Path) -> Sealed:
    """Return a ledger of two organizations with events of all sections, a quarantined input and two policies."""
    sealed = Sealed(root)
    for number in range(6):
        user = {"type": "user", "id": f"usr_{number}", "name": "Zo\u00eb"}
        note = {"note": "=1+1", "text": 'a "quoted"\nline', "client_ip": "192.0.2.1"}
        sealed.seal(records.record(STARTUP), records.record(BUSINESS, metadata=note))
        sealed.seal(records.record(STARTUP, event_type="user.added", resource=user, metadata=note))
        sealed.seal(records.record(BUSINESS, event_type="user.added", resource=user))
    sealed.seal(records.bad(STARTUP))
    sealed.ledger.commit_policy(records.Tenancy(STARTUP.organization_id, "business", "business", 90))
    sealed.seal(records.record(STARTUP))
    return sealed


def choose(sealed: Sealed, places: list[int]) -> Chosen:
    """Choose records of the only shard by their index."""
    chosen = Chosen()
    for index in places:
        chosen.add(sealed.ledger.origin, index)
    return chosen


def members(path: Path) -> dict[str, bytes]:
    """Return the members of a packet."""
    raw = path.read_bytes()
    found, offset = {}, 0
    for member in stored_zip.read_directory(raw[-stored_zip.MAX_TAIL_BYTES :], len(raw)):
        begin = offset + stored_zip.header_size(member.name)
        found[member.name] = raw[begin : begin + member.size]
        offset += member.length
    return found


def archive(path: Path, content: dict[str, bytes]) -> Path:
    """Write members as a packet's archive has them."""
    listed = [StoredMember(name, len(member), zlib.crc32(member)) for name, member in content.items()]
    parts = [stored_zip.local_header(item) + content[item.name] for item in listed]
    path.write_bytes(b"".join(parts) + stored_zip.directory(listed))
    return path


def change(path: Path, name: str, by: Callable[[bytes], bytes]) -> Path:
    """Change one member of a packet."""
    content = members(path)
    return archive(path, content | {name: by(content[name])})


def restate(path: Path, **counts: int) -> Path:
    """Make the manifest agree with the members again, as somebody who cuts a packet would."""
    content = members(path)
    manifest = Manifest.parse(content[MANIFEST])
    digests = {name: hashlib.sha256(content[name]).hexdigest() for name in manifest.members}
    restated = replace(manifest, members=digests, counts=replace(manifest.counts, **counts))
    return archive(path, content | {MANIFEST: restated.encode()})


def lines(content: bytes) -> list[bytes]:
    """Return the lines of a member."""
    return content.splitlines(keepends=True)
