"""The query API on a real socket, over a real registry and a store that follows a ledger in memory."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

from klyra_audit.catalog import Catalog
from klyra_audit.event import Actor
from klyra_collector.query.app import create_app
from klyra_collector.query.metrics import Followers
from klyra_collector.query.quarantine import Quarantine
from klyra_collector.registry import Registry
from klyra_collector.registry.errors import RegistryUnavailable
from klyra_collector.registry.policies import Policies
from klyra_collector.store.follower import Follower
from klyra_collector.store.lag import LagMeter
from klyra_collector.store.schema import StoreBusy
from klyra_collector.store.sqlite import SqliteStore
from support.entries import ACME, TODAY_US, MemoryLedger, document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest
    from starlette.types import ASGIApp

    from klyra_collector.query.destinations import DestinationRules
    from klyra_collector.query.services import PublicLog

OTHER = "org_other"
OPERATOR = Actor.system("tests")
ADA = {"type": "user", "id": "usr_1,ada", "name": "Ada"}
EVENTS = [
    document(0),
    document(1, event_type="moderation.completed", action="update"),
    document(2, event_type="user.added", actor=ADA, resource={"type": "user", "id": "usr_2", "name": "Grace"}),
    document(3, event_type="moderation.flagged", action="update", status="failure"),
    document(4, metadata={"client_ip": "203.0.113.9", "user_agent": "=cmd|' /C calc'!A0", "note": 'say "hi",\r\nbye'}),
    document(5, actor={"type": "system", "id": "scanner", "name": "@scan"}, metadata={"client_ip": "2001:db8::7"}),
]


@dataclass
class Clock:
    """A clock that stands where it was put, in microseconds since 1970."""

    now_us: int = TODAY_US

    def __call__(self) -> int:
        """Return the time."""
        return self.now_us


@dataclass
class Api:
    """A running API and everything behind it."""

    url: str
    registry: Registry
    store: SqliteStore
    ledger: MemoryLedger
    catalog: Catalog
    policies: Policies
    clock: Clock
    _follower: Follower
    keys: dict[tuple[str | None, tuple[str, ...]], str] = field(default_factory=dict)

    def seal(self, *events: dict[str, Any], **how: Any) -> None:
        """Seal events and have the store follow."""
        for event in events:
            self.ledger.seal(event, **how)
        while self._follower.step():
            pass

    def key(self, *scopes: str, organization_id: str | None = ACME) -> str:
        """Return the text of a key of an organization, None for the operator's; made once."""
        known = self.keys.get((organization_id, scopes))
        if known is None:
            issued = self.registry.create_key(organization_id=organization_id, scopes=scopes, by=OPERATOR)
            known = self.keys[organization_id, scopes] = issued.secret_text
        return known

    def client(self, *scopes: str, organization_id: str | None = ACME) -> httpx.Client:
        """Return a client that sends a key with some scopes."""
        key = self.key(*(scopes or ("read", "export")), organization_id=organization_id)
        headers = {"Authorization": f"Bearer {key}", "User-Agent": "tests/1"}
        return httpx.Client(base_url=self.url, headers=headers)

    def recorded(self, event_type: str, organization_id: str = ACME) -> list[dict[str, Any]]:
        """Return the documents of a type that the product has told the log about itself."""
        return [
            command.payload["document"]
            for command in self.registry.pending_commands(10_000)
            if command.kind == "event"
            and command.organization_id == organization_id
            and command.payload["document"]["event_type"] == event_type
        ]


@contextmanager
def running_api(
    folder: Path,
    dashboard: Any = None,
    policies: Policies | None = None,
    *,
    ledger: Any = None,
    public_log: PublicLog | None = None,
    destinations: DestinationRules | None = None,
) -> Iterator[Api]:
    """Run the API until the block ends, with the organizations Acme (startup) and Other (enterprise).

    It follows a ledger in memory, or the one given; `public_log` is what it publishes and proves.
    """
    clock = Clock()
    catalog, policies, ledger = Catalog.load(), policies or Policies.load(), ledger or MemoryLedger()
    registry = Registry.open(f"sqlite:///{folder / 'registry.sqlite'}", catalog, clock=clock)
    store = SqliteStore.open(folder / "store.sqlite")
    registry.create_organization(ACME, "startup", by=OPERATOR)
    registry.create_organization(OTHER, "enterprise", by=OPERATOR)
    app = create_app(
        registry=registry,
        store=store,
        catalog=catalog,
        policies=policies,
        dashboard=dashboard,
        clock=clock,
        cursor_key=bytes(32),
        followers=Followers(LagMeter(ledger, store, clock).measure),
        public_log=public_log,
        quarantine=Quarantine(store, lambda origin, index, _: ledger.kept.get((origin, index)), patience_seconds=0.3),
        destinations=destinations,
    )
    try:
        with serving(app) as url:
            follower = Follower(ledger, store)
            yield Api(url, registry, store, ledger, catalog, policies, clock, follower)
    finally:
        store.close()
        registry.close()


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve an application on a free port of 127.0.0.1 and return its address."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http="httptools", log_config=None, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def ids(answer: httpx.Response) -> list[str]:
    """Return the ids of a list answer."""
    assert answer.status_code == 200, answer.text
    return [entry["id"] for entry in answer.json()["data"]]


def numbers(answer: httpx.Response) -> list[int]:
    """Return which of EVENTS a list answer holds, ascending."""
    known = {event["id"]: number for number, event in enumerate(EVENTS)}
    return sorted(known[entry_id] for entry_id in ids(answer))


def assert_problem(answer: httpx.Response, status: int, code: str, **members: Any) -> dict[str, Any]:
    """Check that an answer is a whole problem document."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    assert found["type"] == "tag:klyra.io,2026:problem/" + code.replace("_", "-")
    assert found["title"].endswith(".")
    assert found["remedy"]
    assert found["detail"].endswith(found["remedy"])
    assert members.items() <= found.items()
    return found


def unavailable(*_: object, **__: object) -> None:
    """Fail as a registry does that cannot be written."""
    raise RegistryUnavailable("The registry cannot be written now.")


def break_exports(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every export fail after its first entries."""
    api.seal(*(document(number) for number in range(1200)))
    whole: Callable[..., Any] = api.store.export

    @contextmanager
    def broken(search: Any) -> Iterator[Any]:
        def cut(found: Iterator[Any]) -> Iterator[Any]:
            for number, entry in enumerate(found):
                if number == 900:
                    raise StoreBusy("The disk is failing.")
                yield entry

        with whole(search) as found:
            yield cut(found)

    monkeypatch.setattr(api.store, "export", broken)
