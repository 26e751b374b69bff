"""Who this ledger is: names fixed at first start, and the secrets under `keys/` (DESIGN sections 5 and 10)."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from klyra_audit.errors import Rejected
from klyra_audit.format.note import SigningKey
from klyra_collector.errors import IdentityChanged, LedgerDamaged

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.data_directory import DataDirectory
    from klyra_collector.seal.durable import Disk

DEFAULT_LEDGER_NAME = "klyra-audit.local"

_SECRET_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._-]{0,99})*")
_OTHERS_MAY = 0o077


@dataclass(frozen=True, slots=True)
class Identity:
    """The fixed names and secrets of one collector.

    Attributes:
        ledger_name: shared by all collectors of a deployment.
        collector_id: this collector's.
        org_salt: 32 bytes behind every org_ref.
        tag_key: 32 bytes under which the content of recent ids is remembered; local, never given out.
        signing_seed: 32 bytes of the checkpoint key.
    """

    ledger_name: str
    collector_id: str
    org_salt: bytes
    tag_key: bytes
    signing_seed: bytes

    def origin(self, shard: str) -> str:
        """Return the name of a shard as a log."""
        return f"{self.ledger_name}/{self.collector_id}/{shard}"

    def signing_key(self, shard: str) -> SigningKey:
        """Return the checkpoint key of a shard, named by its origin."""
        return SigningKey.from_seed(self.origin(shard), self.signing_seed)


def load_identity(
    data: DataDirectory, disk: Disk, *, ledger_name: str | None = None, collector_id: str | None = None
) -> Identity:
    """Return the identity in the data directory, made on the first call.

    Raises:
        IdentityChanged: the configuration asks for another name than the directory has.
        Rejected: a configured name cannot stand in an origin.
        LedgerDamaged: a secret is missing, of a wrong length, or readable by others.
    """
    path = data.ledger / "identity.json"
    if not path.exists():
        _create(data, disk, path, ledger_name, collector_id)
    names = orjson.loads(path.read_bytes())
    _refuse_change("ledger.name", ledger_name, names["ledger_name"], data.root)
    _refuse_change("collector.id", collector_id, names["collector_id"], data.root)
    return Identity(
        ledger_name=names["ledger_name"],
        collector_id=names["collector_id"],
        org_salt=_read_secret(data.keys / "org-salt"),
        tag_key=_read_secret(data.keys / "tag.key"),
        signing_seed=_read_secret(data.keys / "collector.key"),
    )


def _create(data: DataDirectory, disk: Disk, path: Path, ledger_name: str | None, collector_id: str | None) -> None:
    """Draw names and secrets. identity.json comes last: a crash before it leaves secrets that are kept and used."""
    names = {
        "ledger_name": ledger_name or DEFAULT_LEDGER_NAME,
        "collector_id": collector_id or f"collector-{secrets.token_hex(4)}",
    }
    for setting, name in names.items():
        if _NAME.fullmatch(name) is None:
            raise Rejected(
                f"{setting} {name!r} cannot name a log.",
                remedy="Use letters, digits, dots, hyphens and underscores, parts separated by a slash.",
                code="bad_name",
            )
    data.root.mkdir(parents=True, exist_ok=True)
    data.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("org-salt", "tag.key", "collector.key"):
        if not (data.keys / name).exists():
            disk.replace(data.keys / name, os.urandom(_SECRET_BYTES), mode=0o600)
    disk.replace(path, orjson.dumps(names, option=orjson.OPT_INDENT_2) + b"\n")
    disk.sync_directory(data.root)


def _read_secret(path: Path) -> bytes:
    try:
        if path.stat().st_mode & _OTHERS_MAY:
            raise LedgerDamaged(
                f"{path} can be read by others.", remedy=f"Run: chmod 600 {path}", code="secret_exposed"
            )
        secret = path.read_bytes()
    except FileNotFoundError as error:
        raise LedgerDamaged(
            f"{path} is missing.",
            remedy="Restore it from your backup; without it this ledger cannot be continued.",
            code="secret_missing",
        ) from error
    if len(secret) != _SECRET_BYTES:
        raise LedgerDamaged(
            f"{path} has {len(secret)} bytes, not {_SECRET_BYTES}.",
            remedy="Restore it from your backup.",
            code="secret_damaged",
        )
    return secret


def _refuse_change(setting: str, configured: str | None, actual: str, root: Path) -> None:
    if configured is not None and configured != actual:
        raise IdentityChanged(
            f"{setting} is {configured!r} in the configuration but {actual!r} in {root}.",
            remedy="Set it back, or give the new ledger a data directory of its own.",
        )
