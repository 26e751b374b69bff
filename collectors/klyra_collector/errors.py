"""Errors of the collector, typed by what the caller does next (see `klyra_audit.errors` for the roots).

RetryLater
├── Overloaded      too much is waiting; nothing of this request was taken
├── IntakeHalted    the disk or the clock is not to be trusted right now; nothing of this request was taken
├── SignerFailed    no valid signature came; what is committed stays, its checkpoint comes later
└── CellUnreachable  the cell outside this disk does not answer; the checkpoint is published later
Rejected
└── Conflict        an id of the batch was sealed before with other content
Halted
├── LedgerLocked    another process writes this ledger
├── LedgerRolledBack  the files are older than what was signed
├── LedgerDamaged   a file that must be readable is not
├── CellConflict    the cell outside this disk holds a head that this collector did not put there
├── CellUnusable    a cell is configured, and the start cannot be checked against it
├── SignerUnusable  the signer that is configured cannot be made, or has no key that can be trusted
├── KeyLocked       a private key cannot be opened: its passphrase is missing or wrong
├── SecretUnavailable  what a reference to a secret names is not there
└── IdentityChanged  the configuration names another ledger or collector than the data directory
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from klyra_audit.errors import Halted, Rejected, RetryLater

if TYPE_CHECKING:
    from collections.abc import Sequence


class Overloaded(RetryLater):
    """More is waiting than memory is set aside for; nothing of this request was taken."""

    code = "overloaded"


class IntakeHalted(RetryLater):
    """The disk or the clock cannot be trusted right now; nothing of this request was acknowledged."""

    code = "intake_halted"


class Conflict(Rejected):
    """Entries whose ids were sealed before with other content.

    Attributes:
        positions: of the conflicting events in their batch.
    """

    code = "id_conflict"

    def __init__(self, positions: Sequence[int]) -> None:
        super().__init__(
            f"{len(positions)} of the batch's ids were sealed before with other content.",
            remedy="Give each event an id of its own; send an unchanged event to have it recognised as a repeat.",
        )
        self.positions = tuple(positions)


class LedgerLocked(Halted):
    """Another process writes this ledger."""

    code = "ledger_locked"


class LedgerRolledBack(Halted):
    """The files hold less than, or other than, what this collector has signed."""

    code = "ledger_rolled_back"


class LedgerDamaged(Halted):
    """A file without which the ledger cannot be continued is unreadable."""

    code = "ledger_damaged"


class IdentityChanged(Halted):
    """The configuration names another ledger or collector than the data directory was made for."""

    code = "identity_changed"


class SignerFailed(RetryLater):
    """No valid signature came from the key; what is committed stays, and is signed by a later checkpoint."""

    code = "signer_failed"


class CellUnreachable(RetryLater):
    """The cell outside this disk did not answer as it should; it may or may not have been written."""

    code = "cell_unreachable"


class CellConflict(Halted):
    """The cell outside this disk holds a head that this collector did not put there: someone else writes."""

    code = "cell_conflict"


class CellUnusable(Halted):
    """A cell is configured, and the ledger cannot be checked against it."""

    code = "cell_unusable"


class SignerUnusable(Halted):
    """The signer that is configured cannot be made, or has no key that can be trusted."""

    code = "signer_unusable"


class KeyLocked(Halted):
    """A private key cannot be opened: its passphrase is missing or wrong."""

    code = "key_locked"


class SecretUnavailable(Halted):
    """What a reference to a secret names is not there."""

    code = "secret_unavailable"
