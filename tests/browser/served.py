"""The query API as it is served, with a real registry, ledger and store, and what a test may do behind its back."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from klyra_audit import timestamps
from klyra_audit.event import Actor
from klyra_collector.registry.registry import wall_us
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.ledger import Ledger
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.stages import Tenancy
from klyra_collector.store.follower import Follower
from klyra_collector.store.searching import Filters, Search
from klyra_collector.store.sqlite import SqliteStore
from klyra_collector.supervise.offline import drain_if_stopped
from klyra_collector.supervise.roles import ledger_options
from support import records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klyra_audit.catalog import Catalog
    from klyra_collector.config import Settings
    from klyra_collector.registry import Registry
    from klyra_collector.store.searching import Found

ACME = Tenancy("org_acme", "business", "business", 90)
OPERATOR = Actor.system("tests")
EVERYTHING = 100_000
LONGEST_WAIT_SECONDS = 10.0
HISTORY = 630  # more than an export reads at once; the failures among them are less than a page

MODERATION = (
    "moderation.created",
    "moderation.completed",
    "moderation.flagged",
    "moderation.appealed",
    "moderation.overridden",
)
PEOPLE = (
    {"type": "user", "id": "usr_8f3k2m", "name": "Ana Kovač"},
    {"type": "api_key", "id": "key_9z8y7x6w5v4u", "name": "Production API Key"},
    {"type": "system", "id": "moderation-engine", "name": None},
)
HOSTILE = {"type": "user", "id": "usr_hostile", "name": "<img src=x onerror=window.broken=1> \u202egnp.exe"}
FORGOTTEN = {"type": "user", "id": "usr_old", "name": None}


class FaultyStore(SqliteStore):
    """A real store whose export can be made to fail or to wait at an entry."""

    before_entry: Callable[[int], None] = staticmethod(lambda _position: None)

    @contextlib.contextmanager
    def export(self, search: Search) -> Iterator[Iterator[Found]]:
        """See `SqliteStore`."""
        with super().export(search) as found:
            yield self._through(found)

    def _through(self, found: Iterator[Found]) -> Iterator[Found]:
        for position, entry in enumerate(found):
            self.before_entry(position)
            yield entry


class Site:
    """One organization's log, served at `url`."""

    organization_id = ACME.organization_id
    hostile_id = HOSTILE["id"]

    def __init__(self, url: str, settings: Settings, catalog: Catalog, registry: Registry, store: FaultyStore) -> None:
        self.url = url
        self._settings = settings
        self._catalog = catalog
        self._registry = registry
        self._store = store
        self._system = set(catalog.names("system"))

    def new_key(self, scopes: tuple[str, ...]) -> str:
        """Return a fresh API key."""
        return self._registry.create_key(
            organization_id=self.organization_id, scopes=scopes, label="Dashboard", by=OPERATOR
        ).secret_text

    def new_operator_key(self) -> str:
        """Return a fresh API key that belongs to no organization."""
        return self._registry.create_key(
            organization_id=None, scopes=("read",), label="Operator", by=OPERATOR
        ).secret_text

    def new_sign_in(self) -> str:
        """Return a token of a one-time link."""
        return self._registry.create_sign_in(self.organization_id, ("read", "export"), OPERATOR, timedelta(minutes=5))

    def entries(self, *, system: bool = True) -> list[dict[str, Any]]:
        """Return every entry, newest first, with the System group or without."""
        search = Search(organization_id=self.organization_id, filters=Filters(), today=timestamps.day_of(wall_us()))
        found = [orjson.loads(one.entry) for one in self._store.search(search, EVERYTHING)]
        return [entry for entry in found if system or entry["event_type"] not in self._system]

    def seal(self, documents: list[dict[str, Any]]) -> None:
        """Seal events of the organization and let the store follow."""
        sealed = [records.record(ACME, **document) for document in documents]
        with contextlib.closing(Disk()) as disk, contextlib.closing(self._open_ledger(disk)) as ledger:
            ledger.commit([records.submission(*sealed)])
        self._follow()

    def seal_outbox(self) -> None:
        """Seal what the product has written about itself, and let the store follow."""
        with ThreadPoolExecutor(1) as elsewhere:  # the browser's driver has an event loop in this thread
            assert elsewhere.submit(drain_if_stopped, self._settings.data).result()
        self._follow()

    def add(self, **members: Any) -> dict[str, Any]:
        """Seal one more event, of this moment, and return its entry."""
        document = example(0, datetime.now(UTC), self._catalog) | members
        self.seal([document])
        return next(entry for entry in self.entries() if entry["timestamp"] == document["timestamp"])

    @contextlib.contextmanager
    def export_fails_after(self, count: int) -> Iterator[None]:
        """Let every export break once it has read so many entries."""

        def fail(position: int) -> None:
            if position >= count:
                raise RuntimeError("the store is gone")

        with self._before_entry(fail):
            yield

    @contextlib.contextmanager
    def export_waits_after(self, count: int) -> Iterator[None]:
        """Let every export stand still once it has read so many entries, until the block ends."""
        over = threading.Event()

        def wait(position: int) -> None:
            if position >= count:
                over.wait(LONGEST_WAIT_SECONDS)

        with self._before_entry(wait):
            try:
                yield
            finally:
                over.set()

    @contextlib.contextmanager
    def _before_entry(self, fault: Callable[[int], None]) -> Iterator[None]:
        self._store.before_entry = fault
        try:
            yield
        finally:
            del self._store.before_entry

    def _open_ledger(self, disk: Disk) -> Ledger:
        options = ledger_options(self._settings, self._catalog)
        return Ledger.open(self._settings.data_directory, disk, SystemClock(), options)

    def _follow(self) -> None:
        with contextlib.closing(LedgerReader(self._settings.data_directory.ledger)) as reader:
            follower = Follower(reader, self._store)
            while follower.step():
                pass


def example(number: int, moment: datetime, catalog: Catalog) -> dict[str, Any]:
    """Return the members of an event, one of five types in turn, every seventh a failure."""
    event_type = MODERATION[number % len(MODERATION)]
    return {
        "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "event_type": event_type,
        "actor": dict(PEOPLE[number % len(PEOPLE)]),
        "resource": {"type": "moderation", "id": f"mod_{number:06d}", "name": None},
        "action": catalog.event_types[event_type].action,
        "status": "failure" if number % 7 == 3 else "success",
        "metadata": {
            "client_ip": f"198.51.100.{number % 250}",
            "user_agent": "klyra-sdk/1.0.0 node/16.15.0",
            "content_type": "text",
            "categories": ["toxic", "harassment"],
            "scores": {"toxic": "0.93", "harassment": "0.41"},
        },
    }


def history(now: datetime, catalog: Catalog) -> list[dict[str, Any]]:
    """Return events of the last six days, one with hostile values, and one of a month and a half ago."""
    events = [example(number, now - timedelta(minutes=1 + 12 * number), catalog) for number in range(HISTORY)]
    events[15]["actor"] = dict(HOSTILE)
    events.append(example(HISTORY, now - timedelta(days=45), catalog) | {"actor": dict(FORGOTTEN)})
    return events
