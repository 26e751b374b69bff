"""Signing keys of emitters: which batches' signatures are believed, and up to where (DESIGN section 5)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select, true

from klyra_audit.errors import Rejected
from klyra_audit.format.errors import NoteError
from klyra_audit.format.note import ALGORITHM_ED25519, VerifyingKey
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_collector.registry import organizations, self_audit
from klyra_collector.registry.tables import EMITTER_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, RowMapping

    from klyra_audit.event import Actor
    from klyra_collector.registry.database import Database
    from klyra_collector.registry.outbox import Outbox

LAST_SEQUENCE: Final = 2**32 - 1

_EMITTER_ID = re.compile(r"[\x21-\x2a\x2c-\x7e]{1,256}")  # a note's key name has no plus sign


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitterKey:
    """A public key of an emitter. Times are microseconds since 1970.

    Attributes:
        vkey: the verifier key line; its name is the emitter's id. No two emitters have the same.
        emitter_id: as the emitter calls itself.
        organization_id: whose events it signs; None for one shared by organizations.
        created_at: when it was registered.
        revoked_at: when it was revoked; None is not.
        revoked_after_seq: the last sequence number, of each of its boots, that is still believed; None while in force.
    """

    vkey: str
    emitter_id: str
    organization_id: str | None
    created_at: int
    revoked_at: int | None
    revoked_after_seq: int | None


class EmitterKeys:
    """Registers and revokes keys of emitters; every change goes through the outbox as well."""

    def __init__(self, database: Database, outbox: Outbox, clock: Callable[[], int]) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock

    def add(self, emitter_id: str, vkey: str, organization_id: str | None, *, by: Actor) -> tuple[EmitterKey, str]:
        """Register a key; return it with the id of the command that has it sealed.

        Raises:
            Rejected: `bad_emitter_id`, `bad_vkey`, `emitter_key_exists`, `unknown_organization`.
        """
        _check(emitter_id, vkey)
        key = EmitterKey(
            vkey=vkey,
            emitter_id=emitter_id,
            organization_id=organization_id,
            created_at=self._clock(),
            revoked_at=None,
            revoked_after_seq=None,
        )
        with self._database.writing() as connection:
            if organization_id is not None:
                organizations.require(connection, organization_id)
            if _find(connection, vkey) is not None:
                raise Rejected(
                    f"{vkey} is registered already.",
                    remedy="List the keys with `klyra-audit emitter list`; a revoked one cannot come back.",
                    code="emitter_key_exists",
                )
            connection.execute(EMITTER_KEYS.insert().values(_columns(key)))
            command_id = self._outbox.add_emitter_key(connection, key)
            self._outbox.add_event(connection, organization_id, self_audit.emitter_key_added(by, key))
        return key, command_id

    def all(self, organization_id: str | None = None) -> list[EmitterKey]:
        """Return the keys of one organization's emitters, the shared ones under the operator's name, or all."""
        owner = None if organization_id == OPERATOR_ORGANIZATION_ID else organization_id
        owned = true() if organization_id is None else EMITTER_KEYS.c.organization_id.is_not_distinct_from(owner)
        query = select(EMITTER_KEYS).where(owned).order_by(EMITTER_KEYS.c.created_at, EMITTER_KEYS.c.vkey)
        with self._database.reading() as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def of(self, emitter_id: str) -> list[EmitterKey]:
        """Return the keys of the emitters of that id, revoked ones too, oldest first."""
        same = EMITTER_KEYS.c.emitter_id == emitter_id
        query = select(EMITTER_KEYS).where(same).order_by(EMITTER_KEYS.c.created_at, EMITTER_KEYS.c.vkey)
        with self._database.reading() as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def revoke(self, vkey: str, untrusted_from: int | None, *, by: Actor) -> tuple[EmitterKey, str | None]:
        """Believe a key no longer; return it with the command's id, None if it was revoked before.

        Args:
            vkey: which.
            untrusted_from: sequence number, of each of its boots, from which on not even what is sealed is believed;
                None believes everything that was sealed before the revocation.
            by: who revokes it.

        Raises:
            Rejected: `unknown_emitter_key`, or `bad_sequence`.
        """
        last = _last_believed(untrusted_from)
        with self._database.writing() as connection:
            present = _find(connection, vkey)
            if present is None:
                raise Rejected(
                    f"{vkey} is not registered.",
                    remedy="List the keys with `klyra-audit emitter list`.",
                    code="unknown_emitter_key",
                )
            if present.revoked_at is not None:
                return present, None
            values = {"revoked_at": self._clock(), "revoked_after_seq": last}
            connection.execute(EMITTER_KEYS.update().where(EMITTER_KEYS.c.vkey == vkey).values(values))
            revoked = EmitterKey(**{**_columns(present), **values})
            command_id = self._outbox.add_emitter_key(connection, revoked)
            self._outbox.add_event(connection, revoked.organization_id, self_audit.emitter_key_revoked(by, revoked))
        return revoked, command_id


def _check(emitter_id: str, vkey: str) -> None:
    """Refuse a key under which anyone could sign, or that is not named for the emitter."""
    if _EMITTER_ID.fullmatch(emitter_id) is None:
        raise Rejected(
            f"{emitter_id!r} cannot name an emitter that signs.",
            remedy="Use 1 to 256 printable ASCII characters without spaces and plus signs.",
            code="bad_emitter_id",
        )
    try:
        key = VerifyingKey.parse(vkey)
    except NoteError as error:
        raise _bad_vkey(f"The verifier key is refused: {error}.") from error
    if key.algorithm != ALGORITHM_ED25519:
        raise _bad_vkey("The verifier key is not an Ed25519 key of a signed note.")
    if key.name != emitter_id:
        raise _bad_vkey(f"The verifier key is named {key.name}, not {emitter_id}.")


def _bad_vkey(reason: str) -> Rejected:
    return Rejected(
        reason, remedy="Give the line that the emitter prints: <emitter id>+<key id>+<key>.", code="bad_vkey"
    )


def _last_believed(untrusted_from: int | None) -> int:
    """Return the last sequence number to believe. A KEY record cannot say that not even number 0 is."""
    if untrusted_from is None:
        return LAST_SEQUENCE
    if not 1 <= untrusted_from <= LAST_SEQUENCE:
        raise Rejected(
            f"{untrusted_from} is no sequence number from which a key can be untrusted.",
            remedy=f"Choose 1 to {LAST_SEQUENCE}: number 0 of a boot is always believed.",
            code="bad_sequence",
        )
    return untrusted_from - 1


def _find(connection: Connection, vkey: str) -> EmitterKey | None:
    row = connection.execute(select(EMITTER_KEYS).where(EMITTER_KEYS.c.vkey == vkey)).mappings().one_or_none()
    return None if row is None else _key(row)


def _key(row: RowMapping) -> EmitterKey:
    return EmitterKey(**row)


def _columns(key: EmitterKey) -> dict[str, Any]:
    return {column.name: getattr(key, column.name) for column in EMITTER_KEYS.columns}
