"""Whom the ledger's operator has chosen as witnesses, and by when they had cosigned how much of a shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit.errors import Rejected
from klyra_audit.format import note
from klyra_audit.format import policy as policies
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import FormatError
from klyra_collector.data_directory import ShardDirectory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from klyra_audit.format.policy import Policy, Witness


class BadWitnessPolicy(Rejected):
    """The file of `witness.policy` cannot be used to have checkpoints cosigned."""

    code = "bad_witness_policy"


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What a quorum of witnesses has seen of a shard.

    Attributes:
        size: number of leaves under the newest checkpoint that a quorum cosigned.
        time: by when they all had, in seconds since 1970, by the witnesses' own clocks.
    """

    size: int
    time: int


def load_policy(path: Path) -> Policy:
    """Return the policy of a C2SP tlog-policy file whose witnesses can be asked.

    Raises:
        BadWitnessPolicy: unreadable or malformed, or its quorum cannot be had from witnesses with a URL.
    """
    try:
        policy = policies.parse(path.read_bytes())
    except OSError as error:
        raise BadWitnessPolicy(
            f"{path} cannot be read: {error.strerror}.", remedy="Set witness.policy to your C2SP tlog-policy file."
        ) from error
    except FormatError as error:
        raise BadWitnessPolicy(f"{path} is no witness policy: {error}.", remedy="Mend it there.") from error
    if not policy.quorum_time(dict.fromkeys(askable(policy), 1)):
        raise BadWitnessPolicy(
            f"The quorum of {path} cannot be had from the witnesses that have a URL in it.",
            remedy="Give each line `witness NAME VKEY URL` the witness's submission prefix, and name a quorum of them.",
        )
    return policy


def askable(policy: Policy) -> dict[str, Witness]:
    """Return the witnesses that can be asked: those with a URL and a key of a cosigner, by name."""
    return {
        name: witness
        for name, witness in policy.witnesses.items()
        if witness.url is not None and witness.key.is_cosigner
    }


def open_cosigned(encoded: bytes, policy: Policy) -> tuple[Checkpoint, Mapping[str, int]]:
    """Return a checkpoint with the time of each cosignature on it, by the witness's name in the policy.

    Raises:
        NoteError: malformed, one of the witnesses' cosignatures is false, or there is none.
        CheckpointError: cosigned, but no checkpoint.
    """
    names = {witness.key: name for name, witness in policy.witnesses.items()}
    opened = note.open_note(encoded, tuple(names))
    times = {names[signature.key]: signature.time or 0 for signature in opened.signatures}
    return Checkpoint.parse(opened.text), times


def witnessed(shard: ShardDirectory, policy: Policy) -> Witnessed | None:
    """Return how much of a shard a quorum of the policy has cosigned, and by when; None if nothing.

    What is read is this collector's own `state/witnessed`. A file that does not satisfy the policy, because it is
    damaged or because the policy has changed since, counts as none.
    """
    try:
        checkpoint, times = open_cosigned(shard.witnessed.read_bytes(), policy)
    except (OSError, FormatError):
        return None
    time = policy.quorum_time(times)
    return Witnessed(checkpoint.size, time) if time else None


def newest_witnessed(ledger: Path, policy: Policy) -> tuple[str, Witnessed] | None:
    """Return the shard that a quorum cosigned last, and what; None while nothing was: the ledger is UNWITNESSED.

    Args:
        ledger: the folder of shards.
        policy: whose quorum counts.
    """
    shards = [path for path in ledger.iterdir() if path.is_dir() and path.name[0].isdigit()]
    seen = [(path.name, found) for path in shards if (found := witnessed(ShardDirectory(path), policy)) is not None]
    return max(seen, key=lambda shard: shard[1].time, default=None)


def newest_time(ledger: Path, policy: Policy) -> int | None:
    """Return by when a quorum had cosigned the shard it cosigned last, seconds since 1970; None for never."""
    seen = newest_witnessed(ledger, policy)
    return None if seen is None else seen[1].time
