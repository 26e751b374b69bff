"""A registry in a folder of its own, with a clock that moves when told."""

from __future__ import annotations

import pytest

from klyra_audit.catalog import Catalog
from klyra_audit.event import Actor
from klyra_collector.registry import Registry

MIDSUMMER_US = 1_782_043_200_000_000  # 2026-06-21T12:00:00Z
SECOND = 1_000_000


class Clock:
    """Microseconds since 1970, as far as the test says."""

    def __init__(self) -> None:
        self.now = MIDSUMMER_US

    def __call__(self) -> int:
        """Return the time."""
        return self.now

    def advance(self, *, seconds: float = 0, minutes: float = 0, days: float = 0) -> None:
        """Let time pass."""
        self.now += round((seconds + 60 * minutes + 86_400 * days) * SECOND)


class Told:
    """What a registry has told the log so far, for reading as a test."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._seen = set()

    def new(self) -> list:
        """Return the commands since the last call."""
        commands = [c for c in self._registry.pending_commands(10_000) if c.command_id not in self._seen]
        self._seen |= {command.command_id for command in commands}
        return commands

    def new_documents(self) -> list[dict]:
        """Return the event documents since the last call."""
        return [command.payload["document"] for command in self.new() if command.kind == "event"]


@pytest.fixture(scope="session")
def catalog():
    """The product's own catalog."""
    return Catalog.load()


@pytest.fixture
def clock():
    """A clock that stands still until advanced."""
    return Clock()


@pytest.fixture
def url(tmp_path):
    """Where the registry is."""
    return f"sqlite:///{tmp_path / 'registry.sqlite'}"


@pytest.fixture
def registry(url, catalog, clock):
    """A registry with the organization org_a."""
    with Registry.open(url, catalog, clock=clock) as registry:
        registry.create_organization("org_a", "business", by=Actor.user("usr_admin"))
        yield registry


@pytest.fixture
def second(url, catalog, clock, registry):
    """The same registry as another process has it open."""
    with Registry.open(url, catalog, clock=clock) as second:
        yield second


@pytest.fixture
def told(registry):
    """What the registry tells the log from now on."""
    told = Told(registry)
    told.new()
    return told


@pytest.fixture
def admin():
    """Who makes the changes."""
    return Actor.user("usr_admin", "Ada")


@pytest.fixture
def key(registry, admin):
    """A key of org_a that may read, with its secret."""
    return registry.create_key(organization_id="org_a", scopes=["read"], label="Dashboard", by=admin)
