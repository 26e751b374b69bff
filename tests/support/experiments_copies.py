"""Experiments 1 to 26: copies of the entries, in the embedded store and as documents with their sections."""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

from klyra_audit.format.leaf import Kind, Leaf
from klyra_audit.format.packet_lines import Erased, Opened
from klyra_collector.verify import Verdict
from support.baseline import BUSINESS, ENTERPRISE, STARTUP
from support.copies import change_entry, change_store
from support.experiment import Table
from support.workshop import Documents, Store

V = Verdict
COPIES = Table()
row = COPIES.row


def position(store: Store, organization_id: str = ENTERPRISE, offset: int = 0) -> int:
    """Return the row of an organization's newest entry but `offset`."""
    query = (
        "SELECT position FROM entries JOIN organizations ON number = organization "
        "WHERE organization_id = ? ORDER BY position DESC LIMIT 1 OFFSET ?"
    )
    with closing(sqlite3.connect(store.store)) as connection:
        return int(connection.execute(query, (organization_id, offset)).fetchone()[0])


def change_column(store: Store, at: int, name: str, value: object) -> None:
    """Change a column of an entry."""
    change_store(store.store, f"UPDATE entries SET {name} = ? WHERE position = ?", value, at)  # noqa: S608 - our names


def word(store: Store, text: str) -> int:
    """Return the number of a word, which the store gets if it has not."""
    with closing(sqlite3.connect(store.store)) as connection, connection:
        connection.execute("INSERT OR IGNORE INTO words (word) VALUES (?)", (text,))
        return int(connection.execute("SELECT number FROM words WHERE word = ?", (text,)).fetchone()[0])


def place(documents: Documents, organization_id: str = ENTERPRISE, section: str = "core") -> int:
    """Return the newest document of an organization that has a section."""
    listed = documents.copy.listed
    return next(
        number
        for number in reversed(range(len(listed)))
        if listed[number].organization_id == organization_id
        and isinstance(getattr(listed[number].sections, section), Opened)
    )


def erased(documents: Documents) -> int:
    """Return a document whose actor section is erased."""
    return next(n for n, d in enumerate(documents.copy.listed) if isinstance(d.sections.actor, Erased))


@row(1, "a core value, in the text and its column", Store, V.ALTERED)
def _(store: Store) -> None:
    at = position(store)
    change_entry(store.store, at, lambda entry: entry.update(status="failure"))
    change_column(store, at, "status", word(store, "failure"))


@row(1, "a core value, in the section and its field", Documents, V.ALTERED)
def _(documents: Documents) -> None:
    documents.copy.retell(place(documents), "core", lambda core: core.update(status="failure"))


@row(2, "the searchable field alone", Store, V.ALTERED)
def _(store: Store) -> None:
    change_column(store, position(store), "status", word(store, "failure"))


@row(2, "the searchable field alone, of a document", Documents, V.ALTERED)
def _(documents: Documents) -> None:
    document = documents.copy.listed[place(documents)]
    documents.copy.change(place(documents), fields=document.fields | {"status": "failure"})


@row(2, "hidden from every search", Store, V.ALTERED)
def _(store: Store) -> None:
    change_column(store, position(store), "shown", 0)


@row(2, "hidden by an early end of its retention", Store, V.ALTERED)
def _(store: Store) -> None:
    change_column(store, position(store), "expire_day", 1)


@row(3, "who did it, in the text and its column", Store, V.ALTERED)
def _(store: Store) -> None:
    at = position(store)
    change_entry(store.store, at, lambda entry: entry["actor"].update(id="usr_other"))
    change_column(store, at, "actor_id", "usr_other")


@row(3, "who did it, in the section and its field", Documents, V.ALTERED)
def _(documents: Documents) -> None:
    documents.copy.retell(
        place(documents, section="actor"), "actor", lambda actor: actor.update({"/actor/id": "usr_other"})
    )


METADATA: list[tuple[int, str, Callable[[dict[str, Any]], object]]] = [
    (4, "an unknown field", lambda metadata: metadata.update(colour="red")),
    (5, "an optional field removed", lambda metadata: metadata.pop("city")),
    (6, "3 becomes 3.0", lambda metadata: metadata.update(attempts=3.0)),
    (7, '"3" becomes 3', lambda metadata: metadata.update(code=3)),
    (8, "null becomes absent", lambda metadata: metadata.pop("note")),
    (9, "NFC becomes NFD", lambda metadata: metadata.update(city=unicodedata.normalize("NFD", metadata["city"]))),
]

for _number, _name, _change in METADATA:

    @row(_number, _name, Store, V.ALTERED)
    def _(store: Store, change: Callable[[dict[str, Any]], object] = _change) -> None:
        change_entry(store.store, position(store), lambda entry: change(entry["metadata"]))

    @row(_number, f"{_name}, in a document", Documents, V.ALTERED)
    def _(documents: Documents, change: Callable[[dict[str, Any]], object] = _change) -> None:
        documents.copy.retell(place(documents), "core", lambda core: change(core["metadata"]), show=False)


@row(10, "another salt", Documents, V.ALTERED)
def _(documents: Documents) -> None:
    at = place(documents)
    section = documents.copy.listed[at].sections.core
    documents.copy.change_section(at, "core", Opened(bytes(16), section.encoded))


@row(11, "values of two pointers exchanged", Documents, V.ALTERED)
def _(documents: Documents) -> None:
    def exchange(actor: dict[str, Any]) -> None:
        actor["/actor/id"], actor["/actor/name"] = actor["/actor/name"], actor["/actor/id"]

    documents.copy.retell(place(documents, section="actor"), "actor", exchange)


@row(12, "two salts exchanged", Documents, V.ALTERED)
def _(documents: Documents) -> None:
    at = place(documents, section="actor")
    sections = documents.copy.listed[at].sections
    documents.copy.change_section(at, "core", Opened(sections.actor.salt, sections.core.encoded))
    documents.copy.change_section(at, "actor", Opened(sections.core.salt, sections.actor.encoded))


@row(13, "erased without an ERASURE", Store, V.REDACTED_UNAUTHORISED)
def _(store: Store) -> None:
    at = position(store, BUSINESS)
    change_entry(store.store, at, _forget_actor)
    change_column(store, at, "actor_id", None)
    change_column(store, at, "client_ip", None)


@row(13, "erased without an ERASURE, to its commitment", Documents, V.REDACTED_UNAUTHORISED)
def _(documents: Documents) -> None:
    at = place(documents, BUSINESS, "actor")
    document = documents.copy.listed[at]
    shard = next(shard for shard in documents.workshop.forge.shards if shard.origin == document.log)
    documents.copy.change_section(at, "actor", Erased(shard.frame_of(document.index).commitments.actor))
    documents.copy.show_again(at)


@row(14, "an erased section without its commitment", Documents, V.ALTERED)
def _(documents: Documents) -> None:
    documents.copy.change_section(erased(documents), "actor", None)


@row(15, "an erased value restored from a backup", Documents, V.NOT_ERASED)
def _(documents: Documents) -> None:
    at = erased(documents)
    document = documents.copy.listed[at]
    shard = next(shard for shard in documents.workshop.before_erasure.shards if shard.origin == document.log)
    body = shard.frame_of(document.index)
    documents.copy.change_section(at, "actor", Opened(body.salts.actor, body.sections.actor))
    if isinstance(document.sections.target, Erased):
        documents.copy.change_section(at, "target", Opened(body.salts.target, body.sections.target))
    documents.copy.show_again(at)


@row(15, "an erased value restored in the store", Store, V.NOT_ERASED)
def _(store: Store) -> None:
    with closing(sqlite3.connect(store.store)) as connection:
        query = "SELECT position FROM entries WHERE actor_id IS NULL LIMIT 1"
        (at,) = connection.execute(query).fetchone()
    change_entry(store.store, at, lambda entry: entry["actor"].update(id="usr_0", name="Grace"))
    change_column(store, at, "actor_id", "usr_0")


@row(16, "a document deleted", Store, V.MISSING)
def _(store: Store) -> None:
    change_store(store.store, "DELETE FROM entries WHERE position = ?", position(store, offset=5))


@row(16, "a document deleted, with sections", Documents, V.MISSING)
def _(documents: Documents) -> None:
    del documents.copy.listed[place(documents) // 2]


@row(17, "the newest document deleted", Store, V.MISSING)
def _(store: Store) -> None:
    change_store(store.store, "DELETE FROM entries WHERE position = (SELECT max(position) FROM entries)")


@row(18, "a whole day deleted", Store, V.MISSING)  # an index of a search engine is a range of days in a data stream
def _(store: Store) -> None:
    with closing(sqlite3.connect(store.store)) as connection, connection:
        query = "DELETE FROM entries WHERE sealing_day = (SELECT sealing_day FROM entries WHERE position = ?)"
        assert connection.execute(query, (position(store, offset=20),)).rowcount > 3


@row(19, "a document doubled", Documents, V.DUPLICATE)
def _(documents: Documents) -> None:
    documents.copy.listed.insert(place(documents), documents.copy.listed[place(documents)])


@row(19, "a row doubled in the place of one that expired", Store, V.ALTERED)  # its own place can be taken only once
def _(store: Store) -> None:
    copy_row(store, position(store), expired(store))


@row(20, "the same id with other content", Documents, V.DUPLICATE)  # at intake: 409, and quarantined (test_ledger)
def _(documents: Documents) -> None:
    at = place(documents)
    documents.copy.listed.insert(at, documents.copy.listed[at])
    documents.copy.retell(at + 1, "core", lambda core: core.update(status="failure"))


@row(21, "a row beyond the end", Store, V.EXTRA)
def _(store: Store) -> None:
    size = store.workshop.forge.newest.size
    copy_row(store, position(store), (position(store) >> 40 << 40) + size + 3)


@row(21, "a row of no shard at all", Store, V.EXTRA)
def _(store: Store) -> None:
    copy_row(store, position(store), 5)


@row(21, "a document beyond the end", Documents, V.EXTRA)
def _(documents: Documents) -> None:
    newest = documents.copy.listed[-1]
    documents.copy.listed.append(replace(newest, index=documents.workshop.forge.newest.size))


@row(22, "a row in the place of a control record", Store, V.EXTRA)
def _(store: Store) -> None:
    copy_row(store, position(store), position(store) >> 40 << 40)


@row(22, "a document in the place of a control record", Documents, V.EXTRA)
def _(documents: Documents) -> None:
    documents.copy.listed.insert(0, replace(documents.copy.listed[0], index=0))


@row(23, "a document invented for an expired record", Documents, V.ALTERED)
def _(documents: Documents) -> None:
    first = documents.workshop.forge.shards[0]
    gone = store_expired(first)
    documents.copy.listed.insert(0, replace(documents.copy.listed[0], index=gone, leaf=first.leaves[gone]))
    documents.copy.listed.sort(key=lambda document: (document.log, document.index))


@row(24, "the places of two rows exchanged", Store, V.ALTERED)
def _(store: Store) -> None:
    one, other, free = position(store, offset=1), position(store, offset=2), (1 << 62) + 1
    for old, new in ((one, free), (other, one), (free, other)):
        change_store(store.store, "UPDATE entries SET position = ? WHERE position = ?", new, old)


@row(25, "documents in another order", Documents, V.REORDERED)  # rows of a packet: experiments_packets
def _(documents: Documents) -> None:
    listed = documents.copy.listed
    listed[3], listed[4] = listed[4], listed[3]


@row(26, "a row moved to another organization", Store, V.EXTRA)
def _(store: Store) -> None:
    with closing(sqlite3.connect(store.store)) as connection:
        query = "SELECT number FROM organizations WHERE organization_id = ?"
        (other,) = connection.execute(query, (STARTUP,)).fetchone()
    change_column(store, position(store), "organization", other)


@row(26, "a document moved to another organization", Documents, V.EXTRA)
def _(documents: Documents) -> None:
    documents.copy.change(place(documents), organization_id=STARTUP)


@row(26, "a document moved and told anew", Documents, V.ALTERED)
def _(documents: Documents) -> None:
    at = place(documents)
    documents.copy.retell(at, "core", lambda core: core.update(organization_id=STARTUP))
    documents.copy.change(at, organization_id=STARTUP)


def _forget_actor(entry: dict[str, Any]) -> None:
    entry["actor"].update(id=None, name=None)
    del entry["metadata"]["client_ip"], entry["metadata"]["user_agent"]


def copy_row(store: Store, at: int, to: int) -> None:
    """Copy a row to another place, under an id of its own."""
    with closing(sqlite3.connect(store.store)) as connection, connection:
        connection.execute("CREATE TEMP TABLE copied AS SELECT * FROM entries WHERE position = ?", (at,))
        connection.execute("UPDATE copied SET position = ?, id = id || 'x'", (to,))
        assert connection.execute("INSERT INTO entries SELECT * FROM copied").rowcount == 1


def store_expired(shard: Any) -> int:
    """Return the index of an event of a forged shard whose body is gone."""
    there = {body.index for frames in (*shard.bodies.values(), shard.held) for body in frames}
    return next(
        index
        for index, encoded in enumerate(shard.leaves)
        if Leaf.unpack(encoded).kind == Kind.EVENT and index not in there
    )


def expired(store: Store) -> int:
    """Return the place of an expired record in the first shard's range of positions."""
    first = store.workshop.forge.shards[0]
    with closing(sqlite3.connect(store.store)) as connection:
        query = "SELECT number FROM origins WHERE origin = ?"
        (number,) = connection.execute(query, (first.origin,)).fetchone()
    return int(number) << 40 | store_expired(first)
