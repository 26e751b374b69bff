"""Who this ledger is: names fixed at first start, and the secrets under `keys/` (DESIGN sections 5 and 10)."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from klyra_audit.errors import Rejected
from klyra_collector.errors import IdentityChanged
from klyra_collector.seal.key_files import KeyFiles
from klyra_collector.seal.signers import COSIGNING_KEY, FIRST_KEY, Signers, load_external_key
from klyra_collector.secret_reference import read_secret

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_audit.format.note import SigningKey
    from klyra_collector.data_directory import DataDirectory
    from klyra_collector.seal.durable import Disk

DEFAULT_LEDGER_NAME = "klyra-audit.local"

_ORG_SALT = "org-salt"
_TAG_KEY = "tag.key"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._-]{0,99})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOptions:
    """Where the keys of checkpoints are.

    Attributes:
        signer: `module:factory` of a key held elsewhere; None for a key file.
        outgoing_signer: the same of the key that `signer` takes over from.
        passphrase: reference to what key files are encrypted under; None leaves new ones plain.
    """

    signer: str | None = None
    outgoing_signer: str | None = None
    passphrase: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """The fixed names and secrets of one collector.

    Attributes:
        ledger_name: shared by all collectors of a deployment.
        collector_id: this collector's.
        org_salt: 32 bytes behind every org_ref.
        tag_key: 32 bytes under which the content of recent ids is remembered; local, never given out.
        signers: the keys that checkpoints can be signed with.
    """

    ledger_name: str
    collector_id: str
    org_salt: bytes
    tag_key: bytes
    signers: Signers

    def origin(self, shard: str) -> str:
        """Return the name of a shard as a log."""
        return _origin(self.ledger_name, self.collector_id, shard)

    def signing_key(self, shard: str) -> SigningKey:
        """Return the key that a shard is to be signed with if it announces none yet."""
        return self.signers.preferred(shard)

    def next_shard_key(self, shard: str) -> SigningKey:
        """Return the key for a shard that is going to be opened; see `Signers`."""
        return self.signers.next_shard_key(shard)


def load_identity(
    data: DataDirectory,
    disk: Disk,
    *,
    ledger_name: str | None = None,
    collector_id: str | None = None,
    keys: KeyOptions | None = None,
) -> Identity:
    """Return the identity in the data directory, made on the first call.

    Raises:
        IdentityChanged: the configuration asks for another name than the directory has.
        Rejected: a configured name cannot stand in an origin, or a reference or path of `keys` is none.
        LedgerDamaged: a secret is missing, of a wrong length, or usable by others.
        SecretUnavailable, SignerUnusable: what `keys` names is not there.
    """
    options = keys or KeyOptions()
    files = open_key_files(data, disk, options.passphrase)
    path = data.ledger / "identity.json"
    if not path.exists():
        _create(data, disk, files, _checked_names(ledger_name, collector_id), local_key=options.signer is None)
    names = orjson.loads(path.read_bytes())
    _refuse_change("ledger.name", ledger_name, names["ledger_name"], data.root)
    _refuse_change("collector.id", collector_id, names["collector_id"], data.root)
    return Identity(
        ledger_name=names["ledger_name"],
        collector_id=names["collector_id"],
        org_salt=files.read(_ORG_SALT),
        tag_key=files.read(_TAG_KEY),
        signers=_signers(names, files, options),
    )


def open_key_files(data: DataDirectory, disk: Disk, passphrase: str | None) -> KeyFiles:
    """Return the key files of a data directory.

    Args:
        data: the data directory.
        disk: to write with.
        passphrase: reference to what signing keys are encrypted under.

    Raises:
        Rejected: `bad_reference`.
        SecretUnavailable: there is nothing behind the reference.
    """
    return KeyFiles(data.keys, disk, None if passphrase is None else read_secret(passphrase, "ledger.key_passphrase"))


def _signers(names: dict[str, str], files: KeyFiles, options: KeyOptions) -> Signers:
    if options.signer is None and options.outgoing_signer is not None:
        files.draw(FIRST_KEY)  # it takes over from a key that was never on this disk
    files.draw(COSIGNING_KEY)
    return Signers(
        files=files,
        origin=lambda shard: _origin(names["ledger_name"], names["collector_id"], shard),
        signer=None if options.signer is None else load_external_key(options.signer),
        outgoing=None if options.outgoing_signer is None else load_external_key(options.outgoing_signer),
    )


def _checked_names(ledger_name: str | None, collector_id: str | None) -> dict[str, str]:
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
    return names


def _create(data: DataDirectory, disk: Disk, files: KeyFiles, names: dict[str, str], *, local_key: bool) -> None:
    """Draw the secrets. identity.json comes last: a crash before it leaves secrets that are kept and used."""
    data.root.mkdir(parents=True, exist_ok=True)
    plain = KeyFiles(data.keys, disk)
    for secret in (_ORG_SALT, _TAG_KEY):
        plain.draw(secret)
    if local_key:
        files.draw(FIRST_KEY)
    disk.replace(data.ledger / "identity.json", orjson.dumps(names, option=orjson.OPT_INDENT_2) + b"\n")
    disk.sync_directory(data.root)


def _origin(ledger_name: str, collector_id: str, shard: str) -> str:
    return f"{ledger_name}/{collector_id}/{shard}"


def _refuse_change(setting: str, configured: str | None, actual: str, root: Path) -> None:
    if configured is not None and configured != actual:
        raise IdentityChanged(
            f"{setting} is {configured!r} in the configuration but {actual!r} in {root}.",
            remedy="Set it back, or give the new ledger a data directory of its own.",
        )
