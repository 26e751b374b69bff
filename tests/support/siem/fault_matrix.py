"""What the engine does about each failure of each vendor, found out by having it happen; and the table of it."""

from __future__ import annotations

import contextlib
import email.utils
import itertools
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from klyra_audit import timestamps
from klyra_collector.destination_status import State
from klyra_collector.fanout.delivery import IDLE_SECONDS
from klyra_collector.fanout.fitting import WhenTooOld
from support.delivering import Bench
from support.ports import free_port
from support.records import STARTUP, record, submission
from support.sealing import MICROSECONDS, MIDSUMMER_US, SetClock, open_ledger
from support.siem.cloud_server import Fault, Reply
from support.siem.vendors_answers import OWN_REFUSALS, OWN_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from klyra_siem.destination import Destination, SealedEntry
    from support.siem.vendors import Vendor

SECONDS = 700  # asked for with Retry-After
TIMEOUT = 0.8  # seconds, of an answer that comes too late
SHORT = {"timeout_seconds": TIMEOUT}
USUAL = {"timeout_seconds": 10.0}
PATIENCE = 100
OF_HTTP = frozenset(  # what gRPC has no word for
    {
        "200 with an HTML page",
        "307 to another place",
        "408 too slow",
        "422 cannot be processed",
        "429, `Retry-After` as a date",
    }
)
PAGE = Reply(200, b"<!DOCTYPE html><h1>Sign in</h1>", {"Content-Type": "text/html"})
DAY_US = 24 * 3600 * MICROSECONDS
LARGE = 32_000  # bytes of metadata: with what else there must be, nearly the longest entry that a ledger takes
SMALL = 4_000  # bytes: a limit that such an entry does not keep


class Case(NamedTuple):
    """A failure.

    Attributes:
        faults: of the next requests until the engine has drawn its conclusion.
        changes: of what the destination is made of.
        age_days: of the first of the two entries.
        size: of its metadata, bytes.
        entry_bytes: a lower limit than the vendor's.
        policy: for what is too old.
        is_poisoned: whether the vendor cannot read the first entry.
        is_for_good: whether it stays as it is.
    """

    faults: tuple[Fault, ...] = ()
    changes: Mapping[str, object] = {}
    age_days: int = 0
    size: int = 0
    entry_bytes: int | None = None
    policy: WhenTooOld = WhenTooOld.RESTAMP
    is_poisoned: bool = False
    is_for_good: bool = False


@dataclass(frozen=True)
class Bad:
    """Addresses at which nobody answers as we want."""

    closed: str
    unknown: str
    untrusted: str


def addresses(untrusted: str) -> Bad:
    """Return them; `untrusted` is of a server whose certificate nobody vouches for."""
    return Bad(f"http://127.0.0.1:{free_port()}", "https://destination.invalid", untrusted)


def cases(vendor: Vendor, bad: Bad) -> dict[str, Case]:
    """Return every failure of the first table, by its words there."""

    def at(base: str) -> Case:
        return Case(changes={"endpoint": base.replace("http", vendor.scheme, 1) + vendor.path}, is_for_good=True)

    def answer(status: int, **headers: str) -> Case:
        own = OWN_WORDS.get(vendor.kind, {}).get(status, Reply(status))
        # Two, for a token that is refused once is replaced, and the request sent again, within one attempt.
        return Case((Fault(reply=replace(own, headers={**own.headers, **headers})),) * 2)

    date = email.utils.formatdate(time.time() + SECONDS, usegmt=True)
    found = {
        "no connection": at(bad.closed),
        "no such host (DNS)": at(bad.unknown),
        "certificate not trusted (TLS)": at(bad.untrusted),
        "connection reset in mid-request": Case((Fault(reset=True),)),
        "batch taken, reply lost": Case((Fault(reply_lost=True),)),
        "batch taken, reply cut off": Case((Fault(truncated=True),)),
        "no reply within the timeout, batch taken later": Case(
            (Fault(delay_seconds=2 * TIMEOUT),), {"timeout_seconds": TIMEOUT}
        ),
        "200 with an HTML page": Case((Fault(reply=PAGE),)),
        "307 to another place": answer(307, Location="http://127.0.0.1:1/"),
        "400 cannot be read": answer(400),
        "401 credentials are not right": answer(401),
        "403 not allowed": answer(403),
        "404 no such place": answer(404),
        "408 too slow": answer(408),
        "413 too large": answer(413),
        "422 cannot be processed": answer(422),
        "429 too often": answer(429),
        "429, `Retry-After` in seconds": answer(429, **{"Retry-After": str(SECONDS)}),
        "429, `Retry-After` as a date": answer(429, **{"Retry-After": date}),
        "500 internal": answer(500),
        "502 of a gateway": answer(502),
        "503 unavailable": answer(503),
        "503, `Retry-After` in seconds": answer(503, **{"Retry-After": str(SECONDS)}),
        "one of two entries cannot be read": Case(is_poisoned=True),
        "entry of 32 kB, the longest there is": Case(size=LARGE),
        "entry longer than the destination takes": Case(size=LARGE, entry_bytes=SMALL),
        "entry of 40 days ago, `restamp`": Case(age_days=40),
        "entry of 40 days ago, `preserve`": Case(age_days=40, policy=WhenTooOld.PRESERVE),
        "entry of 40 days ago, `dead_letter`": Case(age_days=40, policy=WhenTooOld.DEAD_LETTER),
    }
    return {words: case for words, case in found.items() if vendor.scheme == "http" or words not in OF_HTTP}


def own_cases(kind: str) -> dict[str, Case]:
    """Return what a vendor says in its own words."""
    return {words: Case((Fault(reply=reply),) * 2) for words, reply in OWN_REFUSALS[kind].items()}


@dataclass
class Cell:
    """One failure of one vendor.

    Attributes:
        root: of a new data directory.
        vendor: whose service is as it was before, afterwards.
        case: what goes wrong.
        before: requests that go well first, of the same attempt.
    """

    root: Path
    vendor: Vendor
    case: Case
    before: int = 0

    def told(self) -> str:
        """Have it happen; return what the engine did about it."""
        ids = self._sealed()
        if self.case.is_poisoned:
            self.vendor.spoil(ids[0])
        self.vendor.set_clock(MIDSUMMER_US)
        self.vendor.server.plan(*[Fault()] * self.before, *self.case.faults)
        with contextlib.closing(self.vendor.make(**(USUAL | dict(self.case.changes)))) as destination:
            try:
                return self._delivered(destination, ids)
            finally:
                self.vendor.server.settle()
                self.vendor.forget()

    def _sealed(self) -> list[str]:
        then = timestamps.from_microseconds(MIDSUMMER_US - self.case.age_days * DAY_US)
        metadata = {"content_type": "x" * self.case.size} if self.case.size else {"content_type": "text"}
        now = timestamps.from_microseconds(MIDSUMMER_US)
        items = [record(STARTUP, timestamp=then, metadata=metadata), record(STARTUP, timestamp=now)]
        ledger = open_ledger(self.root, SetClock(MIDSUMMER_US))
        ledger.commit([submission(*items)])
        ledger.close()
        return [item.record_id for item in items]

    def _delivered(self, destination: Destination, ids: Sequence[str]) -> str:
        seen: list[SealedEntry] = []
        with self._engine(destination, seen) as bench:
            first = self._first(bench)
            self.vendor.server.faults.clear()
            self.vendor.server.settle()  # what was taken too late is there before it goes again
            if not self.case.is_for_good and self.case.changes is not SHORT:
                self._go_on(bench)
            dead = {letter.entry_id: letter.status for letter in bench.dead_letters.read()}
        if self.case.changes is SHORT:
            self._go_on_patiently(seen)
        restamped = any(entry.filed_ns != timestamps.to_nanoseconds(entry.document["timestamp"]) for entry in seen)
        return ", ".join([first or ("restamp" if restamped else ""), *self._rest(ids, dead)]).strip(", ") or "delivered"

    def _go_on_patiently(self, seen: list[SealedEntry]) -> None:
        """Go on with a timeout that a busy machine does not reach."""
        with contextlib.closing(self.vendor.make(**USUAL)) as destination, self._engine(destination, seen) as bench:
            self._go_on(bench)

    @contextlib.contextmanager
    def _engine(self, destination: Destination, seen: list[SealedEntry]) -> Iterator[Bench]:
        """Give an engine made of what is on disk, and write down what it sends."""
        own = destination.limits
        limits = replace(own, entries=8, entry_bytes=self.case.entry_bytes or own.entry_bytes)
        with contextlib.closing(Bench(self.root, destination, limits=limits, when_too_old=self.case.policy)) as bench:
            bench.watch_encoded(seen.extend)
            yield bench
            bench.delivery._lanes.close()

    def _first(self, bench: Bench) -> str:
        """Return what the first attempt leads to; "" if nothing but that it was taken, or a dead letter."""
        wait = bench.delivery.step()
        state = bench.status().state
        cursor = bench.cursor_file.load()
        if state is State.PAUSED:
            return "pause"
        if state is State.RETRYING:
            return "retry as asked" if SECONDS * 0.9 < wait <= SECONDS else "retry"
        return "bisect" if cursor is not None and len(cursor.pending) > 1 else ""

    def _go_on(self, bench: Bench) -> None:
        for _ in range(PATIENCE):
            wait = bench.delivery.step()
            if wait == IDLE_SECONDS:
                return
            if wait:
                time.sleep(self.vendor.breath_seconds)
        raise AssertionError("it never comes to an end")

    def _rest(self, ids: Sequence[str], dead: Mapping[str, str]) -> Iterator[str]:
        if self.case.is_for_good:
            return
        received = self.vendor.received()
        copies = max(received.count(name) for name in ids)
        if copies > 1:
            yield f"{copies} copies"
        for status in dict.fromkeys(dead.values()):
            yield f"dead letter `{status}`"
        if set(ids) - set(received) - set(dead):
            yield "taken and not kept"


# The document

MAIN = ""
CORNERS = ("what happens", "it says")  # of the first table, and of the others
NOTHING = "-"  # a row that a column does not have
Tables = dict[str, dict[str, dict[str, str]]]  # section → column → row → cell


def parsed(text: str) -> Tables:
    """Return what a document says."""
    found: Tables = {}
    section, columns = MAIN, None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]] if line.startswith("| ") else []
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if not line:
            columns = None
        elif cells and columns is None:
            columns = cells[1:] if cells[0] in CORNERS else []
        elif cells and columns:
            for column, cell in zip(columns, cells[1:], strict=True):
                if cell != NOTHING:
                    found.setdefault(section, {}).setdefault(column, {})[cells[0]] = cell
    return found


def rendered(introduction: str, tables: Tables) -> str:
    """Return the document of some tables."""
    parts = [introduction.strip(), _table(CORNERS[0], tables.get(MAIN, {}))]
    for section in sorted(tables):
        if section != MAIN:
            parts += [f"## {section}", _table(CORNERS[1], tables[section])]
    return "\n\n".join(parts) + "\n"


def _table(corner: str, columns: Mapping[str, Mapping[str, str]]) -> str:
    names = sorted(columns)
    rows = dict.fromkeys(itertools.chain.from_iterable(columns.values()))
    lines = [_line(corner, names), "|" + "--|" * (len(names) + 1)]
    lines += [_line(row, [columns[name].get(row, NOTHING) for name in names]) for row in rows]
    return "\n".join(lines)


def _line(first: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def update(path: Path, introduction: str, section: str, column: str, rows: Mapping[str, str]) -> None:
    """Write one column anew."""
    tables = parsed(path.read_text()) if path.exists() else {}
    tables.setdefault(section, {})[column] = dict(rows)
    path.write_text(rendered(introduction, tables))


def numbered(root: Path) -> Callable[[], Path]:
    """Return what gives a new folder each time."""
    numbers = itertools.count()
    return lambda: root / str(next(numbers))
