r"""Private keys on this disk: made once, readable by nobody else, encrypted where a passphrase is configured.

A key file is 32 secret bytes, or an envelope around them: `klyra-key/1\n`, 16 bytes of scrypt salt, a 12-byte nonce,
the seed under AES-256-GCM with its 16-byte tag. The file's name is authenticated with it, so that one encrypted key
cannot stand in for another. The cost of scrypt (n = 2^17, r = 8, p = 1: 128 MiB) belongs to the version.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from klyra_collector.errors import KeyLocked, LedgerDamaged

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.seal.durable import Disk

SECRET_BYTES: Final = 32
PRIVATE_FOLDER: Final = 0o700
PRIVATE_FILE: Final = 0o600

_MAGIC = b"klyra-key/1\n"
_SALT = 16
_NONCE = 12
_TAG = 16
_ENVELOPE = len(_MAGIC) + _SALT + _NONCE + SECRET_BYTES + _TAG
_SCRYPT_N = 2**17
_SCRYPT_R = 8
_SCRYPT_P = 1
_OTHERS_MAY = 0o077


class KeyFiles:
    """The private keys of one folder.

    Args:
        folder: `keys/`, mode 0700.
        disk: to write with.
        passphrase: new keys are encrypted under it; None leaves them plain.
    """

    def __init__(self, folder: Path, disk: Disk, passphrase: str | None = None) -> None:
        self._folder = folder
        self._disk = disk
        self._passphrase = passphrase
        self._opened: dict[bytes, bytes] = {}  # what opening costs is meant for others

    def exists(self, name: str) -> bool:
        """Say whether there is a key of that name."""
        return (self._folder / name).exists()

    def names(self, pattern: str) -> list[str]:
        """Return the names of the keys that match a glob pattern."""
        return sorted(path.name for path in self._folder.glob(pattern))

    def draw(self, name: str) -> bytes:
        """Return the key of that name, drawn unless it is there; durable when this returns.

        A crash before the file's rename leaves no key, and none that anyone was told of.
        """
        if not self.exists(name):
            self._make_folder()
            self._write(name, os.urandom(SECRET_BYTES), self._passphrase)
        return self.read(name)

    def store(self, name: str, secret: bytes) -> None:
        """Keep a secret that was drawn elsewhere under a name that is free; durable when this returns."""
        self._make_folder()
        self._write(name, secret, self._passphrase)

    def read(self, name: str) -> bytes:
        """Return a key's 32 bytes.

        Raises:
            LedgerDamaged: `secret_missing`, `secret_exposed`, `secret_foreign` or `secret_damaged`.
            KeyLocked: `passphrase_missing` or `passphrase_wrong`.
        """
        content = read_private(self._folder / name)
        if not content.startswith(_MAGIC):
            return checked_secret(self._folder / name, content)
        if self._passphrase is None:
            raise KeyLocked(
                f"{self._folder / name} is encrypted and no passphrase is configured.",
                remedy="Set ledger.key_passphrase to env:NAME or file:PATH.",
                code="passphrase_missing",
            )
        return self._open(name, content, self._passphrase)

    def is_encrypted(self, name: str) -> bool:
        """Say whether a key is encrypted; raises as `read_private`."""
        return read_private(self._folder / name).startswith(_MAGIC)

    def rewrite(self, name: str, *, encrypted: bool) -> None:
        """Replace a key's file by the same key, encrypted or plain.

        The new file is synced before it takes the old one's name: a crash leaves one of the two, whole.
        """
        self._write(name, self.read(name), self._passphrase if encrypted else None)

    def remove(self, name: str) -> None:
        """Delete a key that shall never be used again, durably."""
        (self._folder / name).unlink(missing_ok=True)
        self._disk.sync_directory(self._folder)

    def _write(self, name: str, seed: bytes, passphrase: str | None) -> None:
        content = seed if passphrase is None else _encrypt(name, seed, passphrase)
        self._disk.replace(self._folder / name, content, mode=PRIVATE_FILE)

    def _open(self, name: str, envelope: bytes, passphrase: str) -> bytes:
        if len(envelope) != _ENVELOPE:
            raise LedgerDamaged(
                f"{self._folder / name} is cut off or longer than it was made.",
                remedy="Restore it from your backup.",
                code="secret_damaged",
            )
        opened = self._opened.get(name.encode() + envelope)
        if opened is not None:
            return opened
        try:
            opened = self._opened[name.encode() + envelope] = _decrypt(name, envelope, passphrase)
        except InvalidTag as error:
            raise KeyLocked(
                f"The passphrase does not open {self._folder / name}.",
                remedy="Give the passphrase that the key was encrypted with, or restore the file from your backup.",
                code="passphrase_wrong",
            ) from error
        return opened

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)


def read_private(path: Path) -> bytes:
    """Return the content of a file that belongs to this user alone.

    Raises:
        LedgerDamaged: `secret_missing`; `secret_exposed` when others may read it or its folder lets them replace it;
            `secret_foreign` when it belongs to another user.
    """
    _check_private(path.parent, "700")
    _check_private(path, "600")
    return path.read_bytes()


def checked_secret(path: Path, content: bytes) -> bytes:
    """Return a secret of 32 bytes; `LedgerDamaged` (`secret_damaged`) for any other length."""
    if len(content) != SECRET_BYTES:
        raise LedgerDamaged(
            f"{path} has {len(content)} bytes, not {SECRET_BYTES}.",
            remedy="Restore it from your backup.",
            code="secret_damaged",
        )
    return content


def _check_private(path: Path, mode: str) -> None:
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise LedgerDamaged(
            f"{path} is missing.",
            remedy="Restore it from your backup; without it this ledger cannot be continued.",
            code="secret_missing",
        ) from error
    if found.st_mode & _OTHERS_MAY:
        raise LedgerDamaged(f"{path} can be used by others.", remedy=f"Run: chmod {mode} {path}", code="secret_exposed")
    if found.st_uid != os.geteuid():
        raise LedgerDamaged(
            f"{path} belongs to user {found.st_uid}, not to the one this runs as ({os.geteuid()}).",
            remedy="Run as its owner, or give it and its folder to this user.",
            code="secret_foreign",
        )


def _key_of(passphrase: str, salt: bytes) -> bytes:
    scrypt = Scrypt(salt=salt, length=SECRET_BYTES, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P)
    return scrypt.derive(passphrase.encode())


def _encrypt(name: str, seed: bytes, passphrase: str) -> bytes:
    salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
    sealed = AESGCM(_key_of(passphrase, salt)).encrypt(nonce, seed, _MAGIC + name.encode())
    return _MAGIC + salt + nonce + sealed


def _decrypt(name: str, envelope: bytes, passphrase: str) -> bytes:
    salt = envelope[len(_MAGIC) :][:_SALT]
    nonce = envelope[len(_MAGIC) + _SALT :][:_NONCE]
    sealed = envelope[len(_MAGIC) + _SALT + _NONCE :]
    return AESGCM(_key_of(passphrase, salt)).decrypt(nonce, sealed, _MAGIC + name.encode())
