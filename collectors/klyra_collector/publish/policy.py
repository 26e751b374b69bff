"""The policy file that the operator publishes: which keys sign this ledger, and which witnesses must have cosigned.

Source: DESIGN section 5 (checkpoints, shards, KEY records), C2SP tlog-policy.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from klyra_audit.format import canonical, control, frame
from klyra_audit.format import policy as policies
from klyra_audit.format.control import Key
from klyra_audit.format.errors import FormatError, FrameError, NoteError
from klyra_audit.format.keys import ALGORITHM_ED25519, VerifyingKey
from klyra_audit.format.leaf import Kind
from klyra_audit.format.policy import LogLine, Policy
from klyra_collector.errors import LedgerDamaged
from klyra_collector.publish.errors import NoSuchLog

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from klyra_collector.publish.published import PublishedLedger, PublishedShard

_KEY = b'"type":"key"'
_REMEDY = "See what is wrong with: klyra-audit verify; then restore the file from a copy."


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """The keys that a shard's KEY records announce for its checkpoints.

    Attributes:
        announced: in order.
        revoked: those that a later record revokes.
    """

    announced: tuple[VerifyingKey, ...] = ()
    revoked: frozenset[VerifyingKey] = frozenset()

    @property
    def in_force(self) -> tuple[VerifyingKey, ...]:
        """Those that may sign."""
        return tuple(key for key in self.announced if key not in self.revoked)


class PolicyPublisher:
    """Makes the policy of a ledger. Keeps how far it has read control documents; safe to share between threads."""

    def __init__(self, ledger: PublishedLedger, witnesses: Policy | None = None) -> None:
        """Args: the ledger; a policy whose witnesses, groups and quorum are published, None for no witness."""
        self._ledger = ledger
        self._witnesses = witnesses
        self._lock = threading.Lock()
        self._readers: dict[Path, _KeyReader] = {}

    def policy(self) -> Policy:
        """Return the policy.

        A public key stands on one log line only, that of the oldest shard it signed: a verifier follows from one
        shard to the next by the record that closes it.

        Raises:
            NoSuchLog: no key is under a published checkpoint yet.
            LedgerDamaged: control documents cannot be read.
        """
        with self._lock:
            logs = tuple(map(LogLine, _first_uses(self._keys_of(shard) for shard in self._ledger.shards())))
        if not logs:
            raise NoSuchLog("No key is published yet.", remedy="Wait for the first checkpoint; one is signed a second.")
        chosen = self._witnesses
        if chosen is None:
            return Policy(logs)
        return Policy(logs, chosen.witnesses, chosen.groups, chosen.quorum)

    def render(self) -> str:
        """Return the policy as a file; raises as `policy`."""
        return policies.render(self.policy())

    def _keys_of(self, shard: PublishedShard) -> ShardKeys:
        reader = self._readers.setdefault(shard.directory.control, _KeyReader(shard.directory.control))
        head = shard.head()
        return reader.read(head.origin, head.size)


def _first_uses(shards: Iterable[ShardKeys]) -> Iterator[VerifyingKey]:
    """Yield each public key once, as the oldest shard names it; shards are given oldest first."""
    seen: set[bytes] = set()
    for keys in shards:
        for key in keys.in_force:
            if key.public not in seen:
                seen.add(key.public)
                yield key


@dataclass(slots=True)
class _KeyReader:
    """Reads KEY records of a growing file of control documents, each once."""

    path: Path
    _offset: int = 0
    _announced: list[VerifyingKey] = field(default_factory=list)
    _revoked: set[VerifyingKey] = field(default_factory=set)

    def read(self, origin: str, size: int) -> ShardKeys:
        """Return the keys of the log `origin` in the first `size` records."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            buffer = file.read()
        self._offset += self._take(buffer, origin, size)
        return ShardKeys(tuple(self._announced), frozenset(self._revoked))

    def _take(self, buffer: bytes, origin: str, size: int) -> int:
        """Take in the documents under the checkpoint; return how many bytes they are."""
        taken = 0
        try:
            for _, end, blob in frame.read_blob_frames(buffer):
                if blob.index >= size:
                    break
                if _KEY in blob.payload:
                    self._apply(canonical.parse_canonical(blob.payload), origin)
                taken = end
        except FrameError as error:
            if not error.torn:  # a torn tail is a commit being written right now
                raise LedgerDamaged(f"{self.path} cannot be read: {error}.", remedy=_REMEDY) from error
        except (FormatError, KeyError) as error:
            raise LedgerDamaged(f"{self.path} cannot be read: {error}.", remedy=_REMEDY) from error
        return taken

    def _apply(self, document: canonical.JsonObject, origin: str) -> None:
        if document.get("type") != "key":
            return
        record = control.parse(Kind.KEY, document)
        if not isinstance(record, Key) or record.vkey is None or not record.signs_log(origin):
            return
        try:
            key = VerifyingKey.parse(record.vkey)
        except NoteError:  # of an algorithm or an emitter that is no concern of readers
            return
        if key.name != origin or key.algorithm != ALGORITHM_ED25519:
            return
        if record.revoked_after_seq is not None:
            self._revoked.add(key)
        elif key not in self._announced:
            self._announced.append(key)
