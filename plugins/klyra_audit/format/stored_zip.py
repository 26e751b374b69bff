"""A zip archive with one spelling: members stored one behind the other, with one date and one set of attributes.

Writer and verifier make the same bytes out of names, sizes and checksums, so that an archive is exactly what it says
or is refused: nothing compressed, hidden, doubled, overlapping or linked can be in it. Source: PKWARE APPNOTE 6.3.10.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.format.errors import PacketError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_DIRECTORY_BYTES: Final = 256 * 1024
MAX_TAIL_BYTES: Final = MAX_DIRECTORY_BYTES + 98

_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL: Final = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LENGTHS: Final = struct.Struct("<HHQQ")  # the extra field of a local header
_LENGTHS_AND_OFFSET: Final = struct.Struct("<HHQQQ")  # that of a directory entry
_END64: Final = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR: Final = struct.Struct("<4sIQI")
_END: Final = struct.Struct("<4sHHHHIIH")

_VERSION: Final = 45  # 64-bit lengths
_MADE_BY: Final = 3 << 8 | _VERSION  # Unix
_DATE: Final = 1 << 5 | 1  # 1980-01-01
_ATTRIBUTES: Final = 0o100644 << 16
_ZIP64: Final = 1
_WIDE: Final = 0xFFFFFFFF
_MANY: Final = 0xFFFF

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)
_MAX_NAME = 255
_LOCAL_SIGNATURE: Final = b"PK\x03\x04"
_CENTRAL_SIGNATURE: Final = b"PK\x01\x02"


class StoredMember(NamedTuple):
    """A member: its name, its length in bytes, and its CRC-32."""

    name: str
    size: int
    crc: int

    @property
    def length(self) -> int:
        """How many bytes it takes in the archive, its header included."""
        return header_size(self.name) + self.size


def header_size(name: str) -> int:
    """Return the length of a member's local header."""
    return _LOCAL.size + len(name) + _LENGTHS.size


def local_header(member: StoredMember) -> bytes:
    """Return what stands in front of a member's bytes."""
    name = _encoded(member.name)
    fixed = _LOCAL.pack(
        *(_LOCAL_SIGNATURE, _VERSION, 0, 0, 0, _DATE, member.crc, _WIDE, _WIDE, len(name), _LENGTHS.size)
    )
    return fixed + name + _LENGTHS.pack(_ZIP64, _LENGTHS.size - 4, member.size, member.size)


def directory(members: Sequence[StoredMember]) -> bytes:
    """Return what stands behind the last member; `PacketError` for a name twice, or one that cannot be."""
    if len({member.name for member in members}) != len(members):
        raise PacketError("two members of the archive have one name")
    entries: list[bytes] = []
    offset = 0
    for member in members:
        name = _encoded(member.name)
        extra = _LENGTHS_AND_OFFSET.pack(_ZIP64, _LENGTHS_AND_OFFSET.size - 4, member.size, member.size, offset)
        fixed = _CENTRAL.pack(
            *(_CENTRAL_SIGNATURE, _MADE_BY, _VERSION, 0, 0, 0, _DATE, member.crc, _WIDE, _WIDE),
            *(len(name), len(extra), 0, 0, 0, _ATTRIBUTES, _WIDE),
        )
        entries.append(fixed + name + extra)
        offset += member.length
    listed = b"".join(entries)
    return listed + _ends(len(members), len(listed), offset)


def read_directory(tail: bytes, length: int) -> list[StoredMember]:
    """Return the members of an archive of `length` bytes, of which `tail` is the end.

    Args:
        tail: the last `MAX_TAIL_BYTES` of the archive, or all of a shorter one.
        length: of the archive.

    Raises:
        PacketError: it is no archive of this form.
    """
    ends = _END64.size + _LOCATOR.size + _END.size
    if len(tail) < ends or tail[-ends : -ends + 4] != b"PK\x06\x06":
        raise PacketError("it does not end as an archive does")
    fields = _END64.unpack_from(tail, len(tail) - ends)
    count, size = fields[7], fields[8]
    if size > MAX_DIRECTORY_BYTES or size + ends > len(tail):
        raise PacketError("the archive's directory is longer than a packet's can be")
    found = tail[len(tail) - ends - size :]
    members = _members(found[:size])
    if len(members) != count or directory(members) != found:
        raise PacketError("the archive's directory is not spelled as a packet's is")
    if sum(member.length for member in members) + len(found) != length:
        raise PacketError("the archive's members do not fill it")
    return members


def _members(listed: bytes) -> list[StoredMember]:
    members: list[StoredMember] = []
    offset = 0
    try:
        while offset < len(listed):
            fields = _CENTRAL.unpack_from(listed, offset)
            offset += _CENTRAL.size
            name = listed[offset : offset + fields[10]].decode("ascii")
            offset += fields[10]
            extra = _LENGTHS_AND_OFFSET.unpack_from(listed, offset)
            offset += fields[11]
            members.append(StoredMember(name, extra[2], fields[7]))
            _encoded(name)
    except (struct.error, UnicodeDecodeError) as error:
        raise PacketError("the archive's directory cannot be read") from error
    return members


def _ends(count: int, size: int, offset: int) -> bytes:
    """Return the two ends of a directory: the one with 64-bit numbers, and the old one that refers to it."""
    end64 = _END64.pack(
        *(b"PK\x06\x06", _END64.size - 12, _MADE_BY, _VERSION, 0, 0),
        *(count, count, size, offset),
    )
    locator = _LOCATOR.pack(b"PK\x06\x07", 0, offset + size, 1)
    end = _END.pack(b"PK\x05\x06", 0, 0, _MANY, _MANY, _WIDE, _WIDE, 0)
    return end64 + locator + end


def _encoded(name: str) -> bytes:
    if len(name) > _MAX_NAME or _NAME.fullmatch(name) is None:
        raise PacketError("a member has a name that no packet gives")
    return name.encode("ascii")
