"""Copies of a ledger's entries to tamper with: the store on disk, and documents as a search engine keeps them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind, Leaf
from klyra_audit.format.packet_lines import Erased, Opened, Section
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.store.follower import Follower
from klyra_collector.store.sqlite import SqliteStore
from klyra_collector.verify.copies import CopyDocument, CopySections
from klyra_collector.verify.copies_sqlite import PERSONAL, columns_of
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.frame import BodyFrame
    from klyra_audit.format.sections import SectionName
    from support.forge import Forge, ForgedShard

STORE = "store.sqlite"


def follow(data: Path, now_us: int) -> Path:
    """Have the real follower build the store of a data directory; return its path."""
    store = SqliteStore.open(data / STORE)
    with closing(store), closing(LedgerReader(data / "ledger")) as reader:
        follower = Follower(reader, store)
        while follower.step():
            pass
    return data / STORE


def change_store(path: Path, statement: str, *parameters: object) -> None:
    """Change a store as whoever can write its file could; exactly one row must change."""
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, parameters).rowcount == 1, statement


def position_of(path: Path, log: str, index: int) -> int:
    """Return the row of an entry."""
    with closing(sqlite3.connect(path)) as connection:
        ((number,),) = connection.execute("SELECT number FROM origins WHERE origin = ?", (log,)).fetchall()
    return int(number) << 40 | index


def change_entry(path: Path, position: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON text of an entry."""
    with closing(sqlite3.connect(path)) as connection, connection:
        ((text,),) = connection.execute("SELECT entry FROM entries WHERE position = ?", (position,)).fetchall()
        entry = orjson.loads(text)
        change(entry)
        connection.execute("UPDATE entries SET entry = ? WHERE position = ?", (orjson.dumps(entry), position))


@dataclass
class ListedCopy:
    """Documents with their sections and salts, as a search engine would keep them; `listed` is there to be changed."""

    listed: list[CopyDocument] = field(default_factory=list)
    applied: dict[str, int] = field(default_factory=dict)
    name: str = "documents"
    personal: Mapping[SectionName, tuple[str, ...]] = field(default_factory=lambda: PERSONAL)

    @classmethod
    def of(cls, forge: Forge) -> ListedCopy:
        """Return every entry of a forged ledger that still has its body, erased where that is erased."""
        copy = cls()
        for shard in forge.shards:
            copy.applied[shard.origin] = shard.size
            bodies = sorted((*chain.from_iterable(shard.bodies.values()), *shard.held), key=lambda body: body.index)
            for body in bodies:
                leaf = Leaf.unpack(shard.leaves[body.index])
                if leaf.kind == Kind.EVENT:
                    expire_day = forge.effective_expire(shard, body.index)
                    copy.listed.append(copy._document(shard, body, expire_day))
        return copy

    def cursors(self) -> Mapping[str, int]:
        """See `CopyReader`."""
        return self.applied

    def documents(self, log: str) -> Iterator[CopyDocument]:
        """See `CopyReader`."""
        return (document for document in self.listed if document.log == log)

    def quarantined(self, _log: str) -> None:
        """See `CopyReader`: there is none."""

    def strays(self, _known: Collection[str]) -> Iterator[Problem]:
        """See `CopyReader`."""
        strays = (item for item in self.listed if item.log not in self.applied)
        return (Problem(Verdict.EXTRA, f"a document of {item.log}") for item in strays)

    def fields_of(self, entry: JsonObject) -> dict[str, object]:
        """See `CopyReader`: those that are searched, without the text of the entry."""
        return columns_of(entry)

    def at(self, index: int, log: str | None = None) -> int:
        """Return where the document of a record stands in the list."""
        return next(
            place
            for place, document in enumerate(self.listed)
            if document.index == index and log in (None, document.log)
        )

    def change(self, place: int, **members: Any) -> None:
        """Replace members of a document."""
        self.listed[place] = replace(self.listed[place], **members)

    def change_section(self, place: int, name: str, section: Section) -> None:
        """Replace one section of a document, and nothing that is shown."""
        parts = self.listed[place].sections
        assert parts is not None
        self.change(place, sections=parts._replace(**{name: section}))

    def retell(self, place: int, name: str, change: Callable[[dict[str, Any]], object], *, show: bool = True) -> None:
        """Change what a section says, and what the document shows of it: a careful forger without the ledger."""
        parts = self.listed[place].sections
        assert parts is not None
        section = getattr(parts, name)
        content = orjson.loads(section.encoded)
        change(content)
        encoded = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        self.change_section(place, name, Opened(section.salt, encoded))
        if show:
            self.show_again(place)

    def show_again(self, place: int) -> None:
        """Make what a document shows fit its sections again."""
        parts = self.listed[place].sections
        assert parts is not None
        encoded = [section.encoded if isinstance(section, Opened) else None for section in parts]
        entry = sections.join(sections.Sections(*encoded))  # type: ignore[arg-type] - core is there
        self.change(place, fields=self.fields_of(entry))

    def _document(self, shard: ForgedShard, body: BodyFrame, expire_day: int) -> CopyDocument:
        found = CopySections(*(_section(name, body) for name in ("core", "actor", "target")))
        shown = [part.encoded if isinstance(part, Opened) else None for part in found]
        entry = sections.join(sections.Sections(*shown))  # type: ignore[arg-type] - core is there
        return CopyDocument(
            log=shard.origin,
            index=body.index,
            leaf=shard.leaves[body.index],
            organization_id=entry["organization_id"],
            expire_day=expire_day,
            fields=self.fields_of(entry),
            sections=found,
        )


def _section(name: str, body: BodyFrame) -> Section:
    encoded, salt = getattr(body.sections, name), getattr(body.salts, name)
    if encoded is None:
        return None
    return Opened(salt, encoded) if any(encoded) else Erased(getattr(body.commitments, name))
