"""Which keys sign a shard's checkpoints now, out of what its KEY records say. No I/O.

A key that is announced later than the shard's first signs only once a checkpoint that covers its record was signed
without it and kept (`checkpoints/key-<ordinal>`): whoever trusts the keys before it can then follow to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from klyra_audit.errors import Rejected
from klyra_collector.errors import LedgerDamaged, SignerUnusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from klyra_audit.format.control import Key
    from klyra_audit.format.note import SigningKey


class KeyRing:
    """The keys of one shard at one moment.

    Args:
        announced: the newest KEY record of each of its keys, in the order in which they were first announced.
        available: the private keys at hand.
        kept: says whether the checkpoint that hands over to the key of an ordinal is kept.
    """

    def __init__(self, announced: Sequence[Key], available: Sequence[SigningKey], kept: Callable[[int], bool]) -> None:
        self._announced = announced
        self._at_hand = {key.vkey: key for key in available}
        self._kept = kept

    @property
    def in_force(self) -> list[SigningKey]:
        """The keys whose lines checkpoints carry, the newest last."""
        return [
            self._at_hand[key.vkey]
            for position, key in enumerate(self._announced)
            if key.vkey in self._at_hand and key.revoked_after_seq is None and self._is_handed_over(position)
        ]

    @property
    def taking_over(self) -> list[Key]:
        """Keys at hand that wait for the checkpoint that hands over to them."""
        return [
            key
            for position, key in enumerate(self._announced)
            if key.vkey in self._at_hand and key.revoked_after_seq is None and not self._is_handed_over(position)
        ]

    @property
    def revoked(self) -> list[str]:
        """Verifier key lines that must not be used again."""
        return [str(key.vkey) for key in self._announced if key.revoked_after_seq is not None]

    def find(self, vkey: str) -> Key | None:
        """Return the newest record of a key, None if it was never announced."""
        return next((key for key in self._announced if key.vkey == vkey), None)

    def newest(self) -> Key | None:
        """Return the record of the key announced last that is not revoked, None before the first."""
        return next((key for key in reversed(self._announced) if key.revoked_after_seq is None), None)

    def to_announce(self, wanted: SigningKey | None, preferred: SigningKey) -> SigningKey | None:
        """Return the key to announce at start, None if all is announced.

        Args:
            wanted: the key that the configuration asks for; None if it asks for none in particular.
            preferred: the key of a shard that has announced none.

        Raises:
            SignerUnusable: the configured key was revoked.
            LedgerDamaged: `secret_missing`: none of the keys that the shard announces is at hand.
        """
        if not self._announced:
            return preferred
        if wanted is not None and wanted.vkey in self.revoked:
            raise SignerUnusable(
                f"The configured key {wanted.vkey} was revoked.", remedy="Configure another in ledger.signer."
            )
        if not self.in_force:
            raise LedgerDamaged(
                f"None of the keys that {preferred.verifying_key.name} is signed with is at hand.",
                remedy="Restore keys/ from your backup, or name the present key in ledger.outgoing_signer.",
                code="secret_missing",
            )
        return wanted if wanted is not None and self.find(wanted.vkey) is None else None

    def check_revocable(self, vkey: str) -> Key:
        """Return the record of a key that can be revoked.

        Raises:
            Rejected: `unknown_key`, or `last_key` when no other key signs yet.
        """
        key = self.find(vkey)
        if key is None:
            raise unknown_key(vkey)
        if all(other.vkey == vkey for other in self.in_force):
            raise Rejected(
                f"{vkey} is the only key that signs.",
                remedy="Add one with `klyra-audit ledger rotate-key`, and wait until the checkpoint carries it.",
                code="last_key",
            )
        return key

    def _is_handed_over(self, position: int) -> bool:
        return position == 0 or self._kept(self._announced[position].ordinal)


def unknown_key(vkey: str) -> Rejected:
    """Return the error for a key that a shard does not announce."""
    return Rejected(
        f"{vkey} is no key of this shard.", remedy="See them with `klyra-audit ledger show`.", code="unknown_key"
    )


def keys_of(keys: Iterable[Key], collector_id: str, origin: str) -> tuple[Key, ...]:
    """Return, of the keys a ledger knows, those of the collector for one shard: they are named by its origin."""
    return tuple(key for key in keys if key.emitter_id == collector_id and str(key.vkey).partition("+")[0] == origin)
