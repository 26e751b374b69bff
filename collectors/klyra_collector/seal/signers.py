"""The keys that can sign a shard's checkpoints: files on this disk, or keys held elsewhere by a hook.

Which of them do sign is no matter of files: the KEY records of the ledger say it (`key_ring.py`).
"""

from __future__ import annotations

import importlib
import re
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import structlog

from klyra_audit.errors import Rejected
from klyra_audit.format.errors import NoteError
from klyra_audit.format.note import ALGORITHM_ML_DSA_44, Signer, SigningKey
from klyra_collector.errors import SignerFailed, SignerUnusable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klyra_collector.seal.key_files import KeyFiles

FIRST_KEY: Final = "collector.key"
COSIGNING_KEY: Final = "collector.mldsa"
SIGNER_SECONDS: Final = 5.0  # for one signature; read when a signer is made
HANGING_SECONDS: Final = 2.0  # pause after the first call that hangs

_SIGNING_FILES = re.compile(r"(collector|\d{4}(-\d+)?)(\.\d+)?\.key", re.ASCII)
_ADDED = re.compile(r"\.(\d+)\.key", re.ASCII)

_LONGEST_PAUSE_SECONDS = 900.0

_log = structlog.get_logger(__name__)


class ExternalKey(Signer, Protocol):
    """What `[ledger] signer = "module:factory"` must return: a key that this process never sees.

    Attributes:
        public_key: 32 bytes, raw Ed25519.
    """

    public_key: bytes


class BoundedSigner:
    """Calls another's signer on a thread of its own and waits no longer than it is told to.

    A call that hangs is left behind with its thread. The next one comes after a pause that doubles with each hanging
    call, up to a quarter of an hour, or as soon as one of them returns: at worst some hundred threads a day are lost
    to a client without a time limit of its own.
    """

    def __init__(self, signer: Signer, seconds: float | None = None) -> None:
        self._signer = signer
        self._seconds = SIGNER_SECONDS if seconds is None else seconds
        self._hanging: list[_Call] = []
        self._not_before = 0.0

    def sign(self, message: bytes) -> bytes:
        """See `Signer`.

        Raises:
            SignerFailed: it raised, hangs, or did not answer with bytes.
        """
        still = [call for call in self._hanging if not call.done.is_set()]
        if len(still) == len(self._hanging) > 0 and time.monotonic() < self._not_before:
            raise SignerFailed("The signer has not answered its last call yet.", remedy=_REMEDY, code="signer_hangs")
        self._hanging = still
        call = _Call(self._signer, message)
        threading.Thread(target=call.run, name="signer", daemon=True).start()
        if not call.done.wait(self._seconds):
            self._leave_behind(call)
            raise SignerFailed(
                f"The signer did not answer within {self._seconds:g} s.", remedy=_REMEDY, code="signer_hangs"
            )
        if not isinstance(call.signature, bytes):
            answered = f"it answered with {type(call.signature).__name__}"
            reason = answered if call.error is None else f"{type(call.error).__name__}: {call.error}"
            raise SignerFailed(f"The signer failed: {reason}.", remedy=_REMEDY) from call.error
        return call.signature

    def _leave_behind(self, call: _Call) -> None:
        pause = min(HANGING_SECONDS * 2 ** len(self._hanging), _LONGEST_PAUSE_SECONDS)
        self._hanging.append(call)
        self._not_before = time.monotonic() + pause


class _Call:
    def __init__(self, signer: Signer, message: bytes) -> None:
        self._signer = signer
        self._message = message
        self.done = threading.Event()
        self.signature: object = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.signature = self._signer.sign(self._message)
        except Exception as error:  # noqa: BLE001 - whatever another's program raises, no signature came
            self.error = error
        finally:
            self.done.set()


_REMEDY = "See its own log; signing is tried again each second, and intake goes on."


def load_external_key(path: str) -> ExternalKey:
    """Return the key that a factory makes.

    Args:
        path: `module:factory`; the factory takes nothing.

    Raises:
        Rejected: `bad_signer`: it is not of that form.
        SignerUnusable: it cannot be imported, or fails, or does not return a key.
    """
    module, separator, name = path.partition(":")
    if not separator or not module or not name:
        raise Rejected(f"ledger.signer {path!r} names no factory.", remedy="Write module:factory.", code="bad_signer")
    try:
        key: ExternalKey = getattr(importlib.import_module(module), name)()
        public: object = key.public_key
        callable_sign = callable(key.sign)
    except Exception as error:
        raise SignerUnusable(
            f"The signer {path} cannot be made: {str(error) or type(error).__name__}.",
            remedy="Mend what ledger.signer names; its factory must return an object with public_key and sign.",
        ) from error
    if not isinstance(public, bytes) or not callable_sign:
        raise SignerUnusable(
            f"The signer {path} has no bytes in public_key or no method sign.",
            remedy="Let its factory return an object with public_key, 32 raw bytes, and sign(message).",
        )
    return key


def signing_files(files: KeyFiles) -> list[str]:
    """Return the names of all private signing keys, of every shard, the one for cosigning included."""
    return [
        name
        for name in (*files.names("*.key"), *files.names("*.mldsa"))
        if _SIGNING_FILES.fullmatch(name) or name == COSIGNING_KEY
    ]


class _Held(NamedTuple):
    """A key that is held elsewhere."""

    signer: BoundedSigner
    public: bytes

    def key(self, name: str) -> SigningKey:
        """Return it under a name."""
        try:
            return SigningKey(name, self.signer, self.public)
        except NoteError as error:
            raise SignerUnusable(
                f"The signer's public key cannot be used: {error}.",
                remedy="Let public_key be the 32 raw bytes of an Ed25519 key.",
            ) from error


class Signers:
    """Every key at hand of one collector.

    Args:
        files: the keys on this disk.
        origin: gives the name of a shard as a log.
        signer: a key held elsewhere that is to sign from now on; None for a key file.
        outgoing: a key held elsewhere that signs until the other one has taken over.
    """

    def __init__(
        self,
        *,
        files: KeyFiles,
        origin: Callable[[str], str],
        signer: ExternalKey | None = None,
        outgoing: ExternalKey | None = None,
    ) -> None:
        self._files = files
        self._origin = origin
        self._signer = None if signer is None else _Held(BoundedSigner(signer), signer.public_key)
        self._outgoing = None if outgoing is None else _Held(BoundedSigner(outgoing), outgoing.public_key)

    @property
    def is_configured(self) -> bool:
        """Whether the configuration says which key is to sign, so that it is announced at start."""
        return self._signer is not None or self._outgoing is not None

    def preferred(self, shard: str) -> SigningKey:
        """Return the key that a shard is to be signed with if it announces none: the external one, else its newest."""
        return self.available(shard)[-1]

    def available(self, shard: str) -> tuple[SigningKey, ...]:
        """Return every key at hand that may be one of a shard's, the preferred one last.

        Raises:
            LedgerDamaged, KeyLocked: a file cannot be used; see `KeyFiles.read`.
            SignerUnusable: an external public key is none that can be trusted.
        """
        named = self._origin(shard)
        keys = [] if self._outgoing is None else [self._outgoing.key(named)]
        keys += [self._local(shard, name) for name in self.file_names(shard)]
        keys += [] if self._signer is None else [self._signer.key(named)]
        if not keys:
            self._files.read(f"{self._stem(shard)}.key")  # says that it is missing
        return tuple(keys)

    def file_names(self, shard: str) -> list[str]:
        """Return the key files of a shard, oldest first."""
        stem = self._stem(shard)
        first = f"{stem}.key"
        added = [name for name in self._files.names(f"{stem}.*.key") if _ADDED.fullmatch(name.removeprefix(stem))]
        added.sort(key=lambda name: int(name.split(".")[1]))
        return [name for name in (first, *added) if self._files.exists(name)]

    def next_shard_key(self, shard: str) -> SigningKey:
        """Return the key for a shard that is going to be opened, drawn and durable; the same one if called again.

        An external key stays: its public key is the same, only the name it signs under is new.
        """
        if self._signer is None:
            self._files.draw(f"{shard}.key")
        return self.preferred(shard)

    def draw(self, shard: str, used: Sequence[str]) -> SigningKey:
        """Return a key file's key that no record announces yet: one left by a crash, else a new one, durable.

        Args:
            shard: whose.
            used: verifier key lines that are announced, revoked or not.

        Raises:
            Rejected: `external_signer`: the key is not on this disk.
        """
        if self._signer is not None:
            raise Rejected(
                "The key that signs is held by a signer, not by this disk.",
                remedy=(
                    "Make a key there, name it in ledger.signer and the present one in ledger.outgoing_signer, "
                    "and start again."
                ),
                code="external_signer",
            )
        for name in self.file_names(shard):
            key = self._local(shard, name)
            if key.vkey not in used:
                return key
        stem = self._stem(shard)
        number = 2
        while self._files.exists(f"{stem}.{number}.key"):
            number += 1
        return SigningKey.from_seed(self._origin(shard), self._files.draw(f"{stem}.{number}.key"))

    def forget(self, shard: str, vkey: str) -> None:
        """Delete the file of a key that is revoked; one that is held elsewhere is not ours to delete."""
        for name in self.file_names(shard):
            if self._local(shard, name).vkey == vkey:
                self._files.remove(name)
                _log.warning("revoked_key_deleted", file=name)

    def cosigning_key(self, shard: str) -> SigningKey:
        """Return the ML-DSA-44 key of checkpoints that go to witnesses, drawn on first need."""
        return SigningKey.from_seed(self._origin(shard), self._files.draw(COSIGNING_KEY), ALGORITHM_ML_DSA_44)

    def _local(self, shard: str, name: str) -> SigningKey:
        return SigningKey.from_seed(self._origin(shard), self._files.read(name))

    def _stem(self, shard: str) -> str:
        """A shard has a file of its own, except the first: that has the collector's."""
        return shard if self._files.exists(f"{shard}.key") else FIRST_KEY.removesuffix(".key")
