"""The EXPORT record of a packet, sealed once however often it is asked for (DESIGN sections 5 and 9)."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

from klyra_audit.format import canonical
from klyra_audit.format.control import Export
from klyra_audit.format.leaf import LEAF_SIZE, Kind
from klyra_audit.format.sections import control_commit
from klyra_collector.stages import ControlRecord, Sealed

if TYPE_CHECKING:
    from pathlib import Path

_COMMIT_AT: Final = 80


def export_record(organization_id: str, sha256: bytes) -> ControlRecord:
    """Return the record that a packet with this manifest was made for an organization."""
    return ControlRecord(Kind.EXPORT, Export(sha256).document(), organization_id)


def find_sealed(leaves: Path, origin: str, size: int, record: ControlRecord) -> Sealed | None:
    """Return where a record already stands among the first `size` leaves, the last time; None if it does not.

    It looks at every byte of the file at worst: for what is asked after a crash, not for every record.
    """
    if size == 0:
        return None
    commit = control_commit(canonical.encode(record.document))
    with leaves.open("rb") as file, mmap.mmap(file.fileno(), size * LEAF_SIZE, access=mmap.ACCESS_READ) as mapped:
        offset = mapped.rfind(commit)
        while offset >= 0:
            index, place = divmod(offset, LEAF_SIZE)
            if place == _COMMIT_AT:
                return Sealed(origin, index, mapped[index * LEAF_SIZE : (index + 1) * LEAF_SIZE])
            offset = mapped.rfind(commit, 0, offset + len(commit) - 1)
    return None
