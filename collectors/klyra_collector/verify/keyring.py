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
from klyra_collector.verify.verdicts import Finding, Verdict
from klyra_collector.verify.walk import BlobWalker, Damage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from klyra_audit.format.policy import Policy
    from klyra_collector.verify.heads import SignedHead
    from klyra_collector.verify.layout import ShardFolder

_MAX_KEY_BYTES: Final = 4096
_LEAVES_PER_READ: Final = 8192
_ORG_REF: Final = slice(8, 24)
_ORG_SEQ: Final = slice(24, 32)


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
    limits = _limits(folder, [one for one in announced if one.revoked_after_seq is not None])
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
            if document.signs_log(key.name):
                return [_Announced(index, key, document.revoked_after_seq)]
    except FormatError:
        pass
    return []


def _limits(folder: ShardFolder, revoked: Sequence[_Announced]) -> dict[VerifyingKey, int]:
    """Return the index of the first record that each revoked key does not vouch for any more.

    Of several revocations of a key the strictest counts: a record that is not signed for may accuse, never excuse.
    """
    limits: dict[VerifyingKey, int] = {}
    firsts = _first_records(folder, {_behind(one) for one in revoked})
    for one in revoked:
        limit = min(one.index, firsts.get(_behind(one), one.index))
        limits[one.key] = min(limit, limits.get(one.key, limit))
    return limits


def _behind(revoked: _Announced) -> int:
    """Return the org_seq of the operator's first record that a revoked key does not vouch for."""
    return (revoked.revoked_after_seq or 0) + 1


def _first_records(folder: ShardFolder, sequences: set[int]) -> dict[int, int]:
    """Return the index of the operator's first record with each of some org_seqs, in one pass over the leaves."""
    found: dict[int, int] = {}
    if not sequences:
        return found
    with files.open_if_readable(folder.leaves) as file:
        for first in range(0, file.size // LEAF_SIZE, _LEAVES_PER_READ):
            block = file.read(first * LEAF_SIZE, _LEAVES_PER_READ * LEAF_SIZE)
            for place in range(len(block) // LEAF_SIZE):
                encoded = block[place * LEAF_SIZE : (place + 1) * LEAF_SIZE]
                if encoded[_ORG_REF] == OPERATOR_REFERENCE:
                    sequence = int.from_bytes(encoded[_ORG_SEQ])
                    if sequence in sequences:
                        found.setdefault(sequence, first + place)
    return found


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
