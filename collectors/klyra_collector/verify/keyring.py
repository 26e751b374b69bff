"""Which keys may have signed a shard's heads: pinned ones, and those that something trusted has vouched for (step 2).

A key that a KEY record announces counts once a head signed by a key that counts already covers that record; one that a
KEY record revokes does not count for heads that cover more than the records it still vouches for (DESIGN section 5).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from klyra_audit.format import control
from klyra_audit.format.canonical import parse_canonical
from klyra_audit.format.control import Key
from klyra_audit.format.errors import FormatError, NoteError
from klyra_audit.format.keys import VerifyingKey
from klyra_audit.format.leaf import LEAF_SIZE, Kind
from klyra_audit.format.sections import OPERATOR_REFERENCE
from klyra_collector.verify import files
from klyra_collector.verify.files import Unreadable
from klyra_collector.verify.scan import known_leaf
from klyra_collector.verify.verdicts import Finding, Verdict
from klyra_collector.verify.walk import BlobWalker, Damage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from klyra_audit.format.policy import Policy
    from klyra_collector.verify.heads import SignedHead
    from klyra_collector.verify.layout import ShardFolder

_MAX_KEY_BYTES: Final = 4096
_ORIGIN_PARTS: Final = 3  # ledger name, collector id, shard


@dataclass(frozen=True, slots=True)
class _Announced:
    """A key of the collector in a KEY record."""

    index: int
    key: VerifyingKey
    revoked_after_seq: int | None


@dataclass(slots=True)
class KeyRing:
    """The keys of one shard.

    Attributes:
        trusted: keys that count.
        announced: (index of its KEY record, key) of those that may come to.
        limits: how many records the heads of a revoked key may cover.
    """

    trusted: list[VerifyingKey]
    announced: list[tuple[int, VerifyingKey]] = field(default_factory=list)
    limits: dict[VerifyingKey, int] = field(default_factory=dict)

    @property
    def known(self) -> list[VerifyingKey]:
        """Every key whose signature is worth looking at."""
        return list(dict.fromkeys((*self.trusted, *(key for _, key in self.announced))))

    def vouch(self, heads: Sequence[SignedHead]) -> None:
        """Trust the announced keys whose KEY record is covered by a head that a trusted key signed."""
        waiting = [(index, key) for index, key in self.announced if key not in self.trusted]
        while True:
            reach = max((head.checkpoint.size for head in heads if self.signer(head)), default=0)
            vouched = [key for index, key in waiting if index < reach and key not in self.trusted]
            if not vouched:
                return
            self.trusted += vouched

    def signer(self, head: SignedHead) -> VerifyingKey | None:
        """Return the trusted key that signed a head, None if no signature on it counts."""
        return next((key for key in head.signers if self._counts(key, head)), None)

    def why_not(self, head: SignedHead) -> str:
        """Say why no signature on a head counts."""
        if any(key in self.limits for key in head.signers):
            return "the key that signed it was revoked, and it covers records behind that"
        return "no trusted key signed it"

    def _counts(self, key: VerifyingKey, head: SignedHead) -> bool:
        if key.name != head.checkpoint.origin or key not in self.trusted:
            return False
        return head.checkpoint.size <= self.limits.get(key, head.checkpoint.size)


def read_ring(
    folder: ShardFolder, policy: Policy | None, inherited: Sequence[VerifyingKey]
) -> tuple[KeyRing, list[Finding]]:
    """Return the keys of a shard, and what is wrong with those it names itself.

    Args:
        folder: the shard.
        policy: the pinned keys; None to take those that the ledger names itself.
        inherited: keys that the shard before has named for this one.
    """
    announced = list(_announced_keys(folder))
    candidates = [(one.index, one.key) for one in announced if one.revoked_after_seq is None]
    limits = {one.key: _limit(folder, one) for one in announced if one.revoked_after_seq is not None}
    if policy is not None:
        return KeyRing([*(log.key for log in policy.logs), *inherited], candidates, limits), []
    if inherited:
        return KeyRing(list(inherited), candidates, limits), []
    own, findings = _read_own_key(folder)
    trusted = list(dict.fromkeys(key for _, key in candidates))
    if own is not None and own not in trusted:
        if any(key.name == own.name for key in trusted):
            findings.append(_bad_key(folder, "it is not the key that the ledger's KEY record announces for this log"))
        else:
            trusted.append(own)
    return KeyRing(trusted, candidates, limits), findings


def is_of_collector(document: Key, key: VerifyingKey) -> bool:
    """Say whether a KEY record is about a key of the collector that signs a shard, not about an emitter."""
    parts = key.name.split("/")
    own = document.boot is None and document.org_ref is None
    return own and len(parts) >= _ORIGIN_PARTS and parts[-2] == document.emitter_id


def _announced_keys(folder: ShardFolder) -> Iterator[_Announced]:
    """Yield the collector's keys in KEY records; what those are worth is checked with all other records."""
    try:
        with files.open_or_empty(folder.control) as file:
            for _, _, item in BlobWalker(file).walk(0, file.size):
                if not isinstance(item, Damage) and b'"type":"key"' in item.payload:
                    yield from _key_of(item.index, item.payload)
    except Unreadable:
        return


def _key_of(index: int, encoded: bytes) -> Iterable[_Announced]:
    try:
        document = control.parse(Kind.KEY, parse_canonical(encoded))
        if isinstance(document, Key) and document.vkey is not None:
            key = VerifyingKey.parse(document.vkey)
            if is_of_collector(document, key):
                return [_Announced(index, key, document.revoked_after_seq)]
    except FormatError:
        pass
    return []


def _limit(folder: ShardFolder, revoked: _Announced) -> int:
    """Return the index of the first record that a revoked key does not vouch for any more."""
    limit = revoked.index
    with files.open_if_readable(folder.leaves) as file:
        for index in range(revoked.index, -1, -1):
            leaf = known_leaf(file.read(index * LEAF_SIZE, LEAF_SIZE))
            if leaf is None or leaf.org_ref != OPERATOR_REFERENCE:
                continue
            if leaf.org_seq <= (revoked.revoked_after_seq or 0):
                break
            limit = index
    return limit


def _read_own_key(folder: ShardFolder) -> tuple[VerifyingKey | None, list[Finding]]:
    if folder.collector_vkey is None:
        return None, []
    try:
        text = files.read_small(folder.collector_vkey, _MAX_KEY_BYTES).decode("utf-8", "replace")
        return VerifyingKey.parse(text.removesuffix("\n")), []
    except (FileNotFoundError, Unreadable):
        return None, []
    except NoteError as error:
        return None, [_bad_key(folder, f"it is no verifier key: {error}")]


def _bad_key(folder: ShardFolder, reason: str) -> Finding:
    name = None if folder.collector_vkey is None else folder.name(folder.collector_vkey)
    return Finding(verdict=Verdict.BAD_SIGNATURE, reason=reason, file=name)
