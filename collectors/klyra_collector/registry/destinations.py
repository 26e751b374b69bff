"""Destinations that organizations set up for themselves: each change with its entry, in one transaction.

Secrets are sealed to a key of the follower before they come here; who reads the registry cannot open them.
"""

from __future__ import annotations

import base64
import os
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select

from klyra_audit.errors import Rejected
from klyra_collector.registry import organizations, self_audit
from klyra_collector.registry.origin import Origin
from klyra_collector.registry.tables import DESTINATION_TRIALS, DESTINATIONS, SEALING_KEYS
from klyra_collector.self_service_settings import PREFIX as SELF_SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection, RowMapping

    from klyra_audit.event import Actor
    from klyra_collector.registry.database import Database
    from klyra_collector.registry.outbox import Outbox

MOST_DESTINATIONS: Final = 10  # of one organization: each is a thread and a connection of the follower
TRIAL_LIFETIME_US: Final = 300_000_000
NOWHERE: Final = Origin(None, None)

_RANDOM_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationSpec:
    """What a destination shall be.

    Attributes:
        name: unique in its organization.
        kind: such as `splunk`.
        endpoint: as it may be shown; a secret one stands in `secrets` whole.
        format: how entries are written.
        when_too_old: what becomes of entries that the vendor would not take for their age.
        filters: `event_types`, `statuses`, `actors`: lists; empty is no condition.
        options: of the kind, none of them secret.
        secrets: name → what only the follower can open, base64.
        paused: nothing is delivered for now.
    """

    name: str
    kind: str
    endpoint: str
    format: str
    when_too_old: str
    filters: Mapping[str, list[str]]
    options: Mapping[str, str | int | bool]
    secrets: Mapping[str, str] = field(repr=False)
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDestination:
    """A destination of one organization. Times are microseconds since 1970.

    Attributes:
        destination_id: `dst-…`, also the name of its files and metrics.
        organization_id: whose.
        spec: what it is.
        version: counts changes of what is delivered and how; a pause is none.
        created_at, updated_at: when it was made and changed.
        status: what the follower said of it last; None before it has begun.
    """

    destination_id: str
    organization_id: str
    spec: DestinationSpec
    version: int
    created_at: int
    updated_at: int
    status: Mapping[str, Any] | None


class Destinations:
    """The destinations of all organizations; every change goes through the outbox as well."""

    def __init__(self, database: Database, outbox: Outbox, clock: Callable[[], int]) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock

    def create(
        self, organization_id: str, destination_id: str, spec: DestinationSpec, *, by: Actor, origin: Origin = NOWHERE
    ) -> StoredDestination:
        """Set a destination up under an id of `new_destination_id`, to which its secrets are bound.

        Raises:
            Rejected: `unknown_organization`, `destination_exists`, `too_many_destinations`.
        """
        now = self._clock()
        made = StoredDestination(
            destination_id=destination_id,
            organization_id=organization_id,
            spec=spec,
            version=1,
            created_at=now,
            updated_at=now,
            status=None,
        )
        with self._database.writing() as connection:
            organizations.require(connection, organization_id)
            _check_room(connection, organization_id)
            _check_name(connection, made)
            connection.execute(DESTINATIONS.insert().values(_columns(made)))
            self._outbox.add_event(connection, organization_id, self_audit.destination_created(by, made, origin))
        return made

    def change(
        self, organization_id: str, destination_id: str, spec: DestinationSpec, *, by: Actor, origin: Origin = NOWHERE
    ) -> StoredDestination:
        """Make a destination another one; what is as it was changes and records nothing.

        Raises:
            Rejected: `unknown_destination`, `destination_exists`.
        """
        with self._database.writing() as connection:
            before = _require(connection, organization_id, destination_id)
            if before.spec == spec:
                return before
            is_another = replace(before.spec, paused=spec.paused) != spec
            after = replace(before, spec=spec, version=before.version + is_another, updated_at=self._clock())
            _check_name(connection, after)
            same = DESTINATIONS.c.destination_id == destination_id
            connection.execute(DESTINATIONS.update().where(same).values(_columns(after)))
            changed = self_audit.destination_updated(by, after, _changes(before.spec, spec), origin)
            self._outbox.add_event(connection, organization_id, changed)
        return after

    def delete(self, organization_id: str, destination_id: str, *, by: Actor, origin: Origin = NOWHERE) -> None:
        """Deliver nothing to a destination any more, and forget its secrets.

        Raises:
            Rejected: `unknown_destination`.
        """
        with self._database.writing() as connection:
            before = _require(connection, organization_id, destination_id)
            connection.execute(DESTINATIONS.delete().where(DESTINATIONS.c.destination_id == destination_id))
            self._outbox.add_event(connection, organization_id, self_audit.destination_deleted(by, before, origin))

    def get(self, organization_id: str, destination_id: str) -> StoredDestination:
        """Return one; `Rejected` `unknown_destination` if the organization has no such."""
        with self._database.reading() as connection:
            return _require(connection, organization_id, destination_id)

    def all(self, organization_id: str | None = None) -> list[StoredDestination]:
        """Return the destinations of one organization, or of all, oldest first."""
        query = select(DESTINATIONS).order_by(DESTINATIONS.c.created_at, DESTINATIONS.c.destination_id)
        if organization_id is not None:
            query = query.where(DESTINATIONS.c.organization_id == organization_id)
        with self._database.reading() as connection:
            return [_stored(row) for row in connection.execute(query).mappings()]

    # What the follower says

    def report(self, destination_id: str, status: Mapping[str, Any]) -> None:
        """Keep how a destination is doing; one that was deleted meanwhile has nothing to keep."""
        same = DESTINATIONS.c.destination_id == destination_id
        with self._database.writing() as connection:
            connection.execute(DESTINATIONS.update().where(same).values(status=dict(status)))

    def publish_sealing_key(self, public: bytes) -> None:
        """Let secrets be sealed to a key of 32 bytes, whose private half the follower has; the last one counts."""
        with self._database.writing() as connection:
            present = connection.execute(select(SEALING_KEYS.c.public)).scalars().all()
            if present != [public]:
                connection.execute(SEALING_KEYS.delete())
                connection.execute(SEALING_KEYS.insert().values(public=public, created_at=self._clock()))

    def sealing_key(self) -> bytes | None:
        """Return the key that secrets are sealed to; None before a follower has run."""
        with self._database.reading() as connection:
            return connection.execute(select(SEALING_KEYS.c.public)).scalar_one_or_none()

    # Trials: the API asks, the follower does it

    def request_trial(self, organization_id: str, destination_id: str) -> str:
        """Have a test event sent; return the id to ask for its answer by. Forgets old ones.

        Raises:
            Rejected: `unknown_destination`.
        """
        now, trial_id = self._clock(), str(uuid.uuid4())
        with self._database.writing() as connection:
            _require(connection, organization_id, destination_id)
            old = DESTINATION_TRIALS.c.created_at < now - TRIAL_LIFETIME_US
            connection.execute(DESTINATION_TRIALS.delete().where(old))
            values = {"trial_id": trial_id, "destination_id": destination_id, "created_at": now, "answer": None}
            connection.execute(DESTINATION_TRIALS.insert().values(values))
        return trial_id

    def pending_trials(self) -> list[tuple[str, str]]:
        """Return (trial id, destination id) of those that wait for an answer, oldest first."""
        table = DESTINATION_TRIALS.c
        fresh = table.created_at >= self._clock() - TRIAL_LIFETIME_US
        query = select(table.trial_id, table.destination_id, table.answer).where(fresh).order_by(table.created_at)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [(trial_id, destination_id) for trial_id, destination_id, answer in rows if answer is None]

    def answer_trial(self, trial_id: str, answer: Mapping[str, Any]) -> None:
        """Say what became of a trial."""
        same = DESTINATION_TRIALS.c.trial_id == trial_id
        with self._database.writing() as connection:
            connection.execute(DESTINATION_TRIALS.update().where(same).values(answer=dict(answer)))

    def trial_answer(self, trial_id: str) -> Mapping[str, Any] | None:
        """Return what became of a trial, None if that is not known yet."""
        query = select(DESTINATION_TRIALS.c.answer).where(DESTINATION_TRIALS.c.trial_id == trial_id)
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one_or_none()


def new_destination_id() -> str:
    """Return an id that nobody can guess."""
    return SELF_SERVICE + base64.b32encode(os.urandom(_RANDOM_BYTES)).decode().lower()[:12]


def _require(connection: Connection, organization_id: str, destination_id: str) -> StoredDestination:
    own = (DESTINATIONS.c.organization_id == organization_id, DESTINATIONS.c.destination_id == destination_id)
    row = connection.execute(select(DESTINATIONS).where(*own)).mappings().one_or_none()
    if row is None:
        raise Rejected(
            "There is no such destination in this organization.",
            remedy="List those there are.",
            code="unknown_destination",
        )
    return _stored(row)


def _check_room(connection: Connection, organization_id: str) -> None:
    own = DESTINATIONS.c.organization_id == organization_id
    count = connection.execute(select(func.count()).select_from(DESTINATIONS).where(own)).scalar_one()
    if count >= MOST_DESTINATIONS:
        raise Rejected(
            f"The organization has {count} destinations, which is as many as it may have.",
            remedy="Delete one that is not needed any more.",
            code="too_many_destinations",
        )


def _check_name(connection: Connection, wanted: StoredDestination) -> None:
    table = DESTINATIONS.c
    same = (table.organization_id == wanted.organization_id, table.name == wanted.spec.name)
    found = connection.execute(select(table.destination_id).where(*same)).scalar_one_or_none()
    if found not in (None, wanted.destination_id):
        raise Rejected(
            f"The organization has a destination {wanted.spec.name} already.",
            remedy="Choose another name, or change that one.",
            code="destination_exists",
        )


def _changes(before: DestinationSpec, after: DestinationSpec) -> list[str]:
    """Return the names of what was changed, never a value: some are secret, and some select people."""
    names = ("name", "endpoint", "format", "when_too_old", "filters", "options", "secrets", "paused")
    return [name for name in names if getattr(before, name) != getattr(after, name)]


def _columns(stored: StoredDestination) -> dict[str, Any]:
    spec = stored.spec
    return {
        "destination_id": stored.destination_id,
        "organization_id": stored.organization_id,
        "name": spec.name,
        "kind": spec.kind,
        "endpoint": spec.endpoint,
        "format": spec.format,
        "when_too_old": spec.when_too_old,
        "filters": dict(spec.filters),
        "options": dict(spec.options),
        "secrets": dict(spec.secrets),
        "paused": spec.paused,
        "version": stored.version,
        "created_at": stored.created_at,
        "updated_at": stored.updated_at,
    }


def _stored(row: RowMapping) -> StoredDestination:
    names = ("name", "kind", "endpoint", "format", "when_too_old", "filters", "options", "secrets", "paused")
    return StoredDestination(
        destination_id=row["destination_id"],
        organization_id=row["organization_id"],
        spec=DestinationSpec(**{name: row[name] for name in names}),
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        status=row["status"],
    )
