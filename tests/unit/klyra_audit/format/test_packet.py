"""Forms of the export packet: an archive of one spelling, and lines that are read as they are written."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import TYPE_CHECKING

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.format import frame, rendering, sections, stored_zip
from klyra_audit.format.batch import Evidence
from klyra_audit.format.errors import PacketError
from klyra_audit.format.frame import BodyFrame
from klyra_audit.format.heads import Head, head_proof
from klyra_audit.format.ordinary import read_ordinary
from klyra_audit.format.packet_lines import (
    ControlLine,
    EntryLine,
    Erased,
    HeadsFile,
    Opened,
    encode_ordinary,
    entry_line,
)
from klyra_audit.format.sections import Salts
from klyra_audit.format.stored_zip import StoredMember
from support.records import document

if TYPE_CHECKING:
    from typing import Any

SALT, HASH, LEAF = b"\x01" * 16, b"\x02" * 32, b"\x03" * 112
ENTRY = EntryLine("klyra/c1/2026", 7, Opened(SALT, b'{"a":1}'), Erased(HASH), None)
SIGNED = ENTRY._replace(evidence=Evidence(b"note\n\n\xe2\x80\x94 a b\n", 3, (HASH,)))
HEADS = HeadsFile(LEAF, b'{"type":"heads"}', b"proof\n", head_proof([Head(b"a" * 16, 1, HASH, 5)], b"a" * 16))
ABSENT = HeadsFile(LEAF, b'{"type":"heads"}', b"proof\n", head_proof([Head(b"a" * 16, 1, HASH, 5)], b"b" * 16))
CONTROL = ControlLine("klyra/c1/2026", 9, LEAF, b'{"type":"start"}', b"proof\n")
FORMS: list[Any] = [ENTRY, SIGNED, HEADS, ABSENT, CONTROL, ControlLine("klyra/c1/2026", 9, LEAF, b"{}", None)]

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}(/[a-z0-9][a-z.]{0,6}){0,2}", fullmatch=True)


def packed(content: dict[str, bytes]) -> bytes:
    """Return the archive of some members."""
    listed = [StoredMember(name, len(raw), zlib.crc32(raw)) for name, raw in content.items()]
    return b"".join(stored_zip.local_header(item) + content[item.name] for item in listed) + stored_zip.directory(
        listed
    )


class TestArchive:
    """`stored_zip`."""

    @given(content=st.dictionaries(names, st.binary(max_size=50), max_size=8))
    def test_other_programs_read_it(self, content: dict[str, bytes]) -> None:
        """The standard library finds the same members, and so do we."""
        raw = packed(content)
        with zipfile.ZipFile(io.BytesIO(raw)) as read:
            assert read.testzip() is None
            assert {name: read.read(name) for name in read.namelist()} == content
        members = stored_zip.read_directory(raw[-stored_zip.MAX_TAIL_BYTES :], len(raw))
        assert [(member.name, member.size) for member in members] == [(name, len(raw)) for name, raw in content.items()]

    def test_sizes_beyond_32_bits_are_written(self) -> None:
        """A member longer than 4 GiB has its length in every header."""
        member = StoredMember("entries.ndjson", 2**33, 5)
        tail = stored_zip.directory([member])
        assert stored_zip.read_directory(tail, member.length + len(tail)) == [member]

    @pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", "a//b", "a\\b", ".a", "a b", "\u00e9", "a" * 256])
    def test_names_are_plain(self, name) -> None:
        """A name that could lead elsewhere is neither written nor read."""
        with pytest.raises(PacketError):
            stored_zip.directory([StoredMember(name, 0, 0)])

    def test_a_name_stands_once(self) -> None:
        """Two members of one name are refused."""
        with pytest.raises(PacketError):
            stored_zip.directory([StoredMember("a", 0, 0), StoredMember("a", 0, 0)])

    def test_every_byte_of_the_directory_counts(self) -> None:
        """Changed anywhere, it is refused, or speaks of other members."""
        raw = packed({"a": b"12", "b": b"345"})
        begin = len(raw) - len(stored_zip.directory([StoredMember("a", 2, 0), StoredMember("b", 3, 0)]))
        known = stored_zip.read_directory(raw, len(raw))
        for place in range(begin, len(raw)):
            changed = bytearray(raw)
            changed[place] ^= 1
            try:
                assert stored_zip.read_directory(bytes(changed), len(raw)) != known
            except PacketError:
                continue

    @pytest.mark.parametrize("raw", [b"", b"PK\x05\x06" + bytes(18), bytes(200)])
    def test_what_is_no_archive(self, raw) -> None:
        """Refused, however short."""
        with pytest.raises(PacketError):
            stored_zip.read_directory(raw, len(raw))


class TestLines:
    """`packet_lines`."""

    @pytest.mark.parametrize("form", FORMS)
    def test_what_is_written_is_read(self, form) -> None:
        """Each form comes back as it was."""
        assert type(form).parse(form.encode()) == form

    @pytest.mark.parametrize("form", FORMS)
    def test_another_spelling_is_refused(self, form) -> None:
        """White space, another order, a member too many or too few, of another type."""
        read = orjson.loads(form.encode())
        changed = [form.encode() + b" ", orjson.dumps(dict(reversed(read.items()))), orjson.dumps(read | {"x": 1})]
        for name in read:
            changed.append(orjson.dumps({other: kept for other, kept in read.items() if other != name}))
            changed += [orjson.dumps(read | {name: value}) for value in (1.5, -1, [], True)]
        for encoded in changed:
            with pytest.raises(PacketError):
                type(form).parse(encoded)

    @given(raw=st.binary(max_size=60))
    def test_anything_else_is_refused(self, raw: bytes) -> None:
        """Whatever the bytes are."""
        for form in (EntryLine, ControlLine, HeadsFile):
            with pytest.raises(PacketError):
                form.parse(raw)

    def test_a_body_becomes_a_line(self) -> None:
        """Sections with their salts, an erased one by its commitment, an absent one as null."""
        event = document(resource={"type": "user", "id": "usr_1", "name": "Ada"})
        parts, salts = sections.split(event), Salts.draw()
        proofs = sections.commitments(parts, salts)
        line = entry_line("klyra/c1/2026", 7, parts, salts, proofs, frozenset({"target"}), b"")
        assert (line.core, line.target, line.erased) == (
            Opened(salts.core, parts.core),
            Erased(proofs.target),
            ("target",),
        )
        assert line.sections() == sections.Sections(parts.core, parts.actor, None)
        assert line.salts().target == bytes(16)
        whole = entry_line("klyra/c1/2026", 7, parts, salts, proofs, frozenset(), b"")
        ordinary = read_ordinary(frame.encode_body(BodyFrame(0, parts, salts, proofs)), 0)
        assert ordinary is not None
        assert whole.encode() == encode_ordinary("klyra/c1/2026", 7, ordinary)

    def test_a_line_without_a_core(self) -> None:
        """It has no sections to speak of."""
        with pytest.raises(PacketError):
            ENTRY._replace(core=Erased(HASH)).sections()


class TestRendering:
    """`rendering`."""

    def test_an_entry_out_of_its_sections(self) -> None:
        """The text is that of the entry, whichever section a member stood in; what is erased is null or absent."""
        event = document(resource={"type": "user", "id": "usr_1", "name": "Ada"})
        parts = sections.split(event)
        whole = rendering.joined(parts.core, parts.actor, parts.target)
        assert whole == {name: event[name] for name in whole}
        erased = rendering.joined(parts.core, None, None)
        assert erased["actor"] == {"type": "api_key", "id": None, "name": None}
        assert "client_ip" not in erased["metadata"]
