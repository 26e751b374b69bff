"""Which keys a packet's proofs may be signed with: those that are pinned, and those that they vouch for in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from klyra_audit.format import policy as policies
from klyra_audit.format.control import Key, ShardClose
from klyra_audit.format.errors import CheckpointError, FormatError, NoteError, ProofError
from klyra_audit.format.keys import VerifyingKey
from klyra_audit.format.merkle import leaf_hash, verify_inclusion
from klyra_audit.format.proof import TlogProof
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from klyra_audit.format.control import ControlDocument
    from klyra_audit.format.policy import Opened, Policy

_CHECKPOINTS: Final = 64  # so many are remembered, since most proofs of a packet lead to the same one


class Untrusted(Exception):  # noqa: N818 - read as what it says
    """A proof does not hold.

    Attributes:
        problem: the verdict on what it should prove.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.reason)
        self.problem = problem


class Trust:
    """Checks proofs of leaves.

    Attributes:
        policy: what is trusted from the beginning.
        cosigned: (origin, size, seconds since 1970) of every checkpoint on which the policy's quorum is met.
        roots: of every checkpoint that was opened, by origin and size.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.cosigned: set[tuple[str, int, int]] = set()
        self.roots: dict[tuple[str, int], bytes] = {}
        self._keys: list[VerifyingKey] = []
        self._revoked: set[VerifyingKey] = set()
        self._opened: dict[bytes, Opened] = {}

    def index_of(self, leaf: bytes, encoded: bytes, origin: str) -> tuple[int, Opened]:
        """Return a leaf's index in the log that its tlog-proof file leads to, and that log's checkpoint.

        Raises:
            Untrusted: the proof does not lead to a checkpoint of that log which a trusted key signed.
        """
        try:
            proof = TlogProof.parse(encoded)
            opened = self._open(proof.checkpoint)
            head = opened.checkpoint
            verify_inclusion(leaf_hash(leaf), proof.index, head.size, proof.path, head.root)
        except ProofError as error:
            raise Untrusted(Problem(Verdict.ROOT_MISMATCH, str(error))) from error
        except (NoteError, CheckpointError) as error:
            raise Untrusted(Problem(Verdict.BAD_SIGNATURE, str(error))) from error
        if head.origin != origin:
            reason = f"it is proved by a checkpoint of {head.origin}, another log than {origin}"
            raise Untrusted(Problem(Verdict.ROOT_MISMATCH, reason))
        if self.roots.setdefault((origin, head.size), head.root) != head.root:
            reason = f"two heads of {head.size} records of {origin} are signed, with different roots"
            raise Untrusted(Problem(Verdict.FORK, reason))
        return proof.index, opened

    def follow(self, origin: str, document: ControlDocument) -> None:
        """Trust, or no longer trust, the key that a record of a log announces, itself proved before."""
        if isinstance(document, ShardClose):
            if document.next_origin.rpartition("/")[0] == origin.rpartition("/")[0]:
                self._trust(document.next_origin, document.next_vkey)
        elif isinstance(document, Key) and document.vkey is not None and document.signs_log(origin):
            if document.revoked_after_seq is None:
                self._trust(origin, document.vkey)
            else:
                self._revoke(document.vkey)

    def _trust(self, origin: str, vkey: str) -> None:
        try:
            key = VerifyingKey.parse(vkey)
        except FormatError:  # of an algorithm that is not known here: what it signs will not be trusted
            return
        if key.name == origin:
            self._keys.append(key)

    def _revoke(self, vkey: str) -> None:
        try:
            self._revoked.add(VerifyingKey.parse(vkey))
        except FormatError:
            return
        self._opened.clear()

    def _open(self, checkpoint: bytes) -> Opened:
        opened = self._opened.get(checkpoint)
        if opened is None:
            opened = policies.open_checkpoint(checkpoint, self._in_force(), self._keys_in_force())
            if len(self._opened) < _CHECKPOINTS:
                self._opened[checkpoint] = opened
            if opened.quorum_time:
                self.cosigned.add((opened.checkpoint.origin, opened.checkpoint.size, opened.quorum_time))
        return opened

    def _in_force(self) -> Policy:
        if not self._revoked:
            return self.policy
        logs = tuple(log for log in self.policy.logs if log.key not in self._revoked)
        return policies.Policy(logs, self.policy.witnesses, self.policy.groups, self.policy.quorum)

    def _keys_in_force(self) -> list[VerifyingKey]:
        return [key for key in self._keys if key not in self._revoked]
