"""Steps 1 and 2: which heads were signed for a shard, by whom, and which of them the leaves must lead to."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.format import note
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import CheckpointError, FormatError, NoteError
from klyra_audit.format.leaf import LEAF_SIZE
from klyra_audit.format.note import MAX_NOTE_BYTES
from klyra_collector.verify import files
from klyra_collector.verify.files import RegularFile, Unreadable
from klyra_collector.verify.verdicts import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from klyra_audit.format.keys import VerifyingKey
    from klyra_audit.format.policy import Policy
    from klyra_collector.verify.keyring import KeyRing
    from klyra_collector.verify.layout import ShardFolder

MAX_KEPT: Final = 100_000  # 270 years of daily checkpoints
PAUSE_SECONDS: Final = 0.05

_COMMITTED_BYTES: Final = 8


class SignedHead(NamedTuple):
    """A checkpoint with at least one known key's signature, and the file it stands in.

    Attributes:
        path: of the file.
        checkpoint: what is signed.
        encoded: the signed note.
        signers: keys of logs that signed it, trusted or not.
        cosigned: times in seconds since 1970, by the policy's names of witnesses.
        quorum_time: by when the policy's quorum had cosigned; None where it has not, or where no quorum is asked for.
    """

    path: Path
    checkpoint: Checkpoint
    encoded: bytes
    signers: tuple[VerifyingKey, ...]
    cosigned: Mapping[str, int]
    quorum_time: int | None


@dataclass(slots=True)
class Heads:
    """What was signed for a shard.

    Attributes:
        newest: the head that the leaves are checked against; None when there is none to trust.
        key: the trusted key that signed it.
        kept: those of `checkpoints/` and `state/witnessed` that are signed, and those a reader brought along, by
            ascending size.
        seen: every head that a witness of the policy has cosigned, the newest one included.
        cosigned: those of them on which the policy's quorum is met.
        findings: what is wrong with them.
        notes: what a reader should know of them.
    """

    newest: SignedHead | None = None
    key: VerifyingKey | None = None
    seen: list[SignedHead] = field(default_factory=list)
    cosigned: list[SignedHead] = field(default_factory=list)
    kept: list[SignedHead] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_committed(folder: ShardFolder) -> int | None:
    """Return how many records the collector says may be read, None if it does not say."""
    try:
        encoded = files.read_small(folder.committed, _COMMITTED_BYTES)
    except (FileNotFoundError, Unreadable):
        return None
    return int.from_bytes(encoded) if len(encoded) == _COMMITTED_BYTES else None


def is_interrupted(folder: ShardFolder) -> bool:
    """Say whether a collector runs here or did not stop cleanly: then its last write may be half done."""
    return folder.run_json is not None and files.exists(folder.run_json)


class HeadReader:
    """Reads a shard's heads from the oldest kind to the newest, so that a running collector cannot get in between.

    Args:
        folder: the shard.
        ring: the keys that may have signed them.
        policy: whose witnesses are looked for; None for none.
        brought: signed notes that the reader brought along, by the file they come from.
        patience: seconds to wait for a running collector.
        sleep: to wait with.
    """

    def __init__(
        self,
        folder: ShardFolder,
        ring: KeyRing,
        *,
        policy: Policy | None,
        brought: Mapping[Path, bytes],
        patience: float,
        sleep: Callable[[float], None],
    ) -> None:
        self._folder = folder
        self._ring = ring
        self._policy = policy
        self._brought = brought
        self._patience = patience
        self._sleep = sleep
        self._heads = Heads()

    def read(self) -> Heads:
        """Return what was signed."""
        every = [self._read(path) for path in (*self._kept_paths(), self._folder.witnessed)]
        every += [self._open(encoded, path) for path, encoded in self._brought.items()]
        known = [head for head in every if head is not None]
        published = self._read(self._folder.checkpoint)
        last_signed = self._read(self._folder.last_signed)
        self._ring.vouch([head for head in (*known, published, last_signed) if head is not None])
        kept = [head for head in known if self._is_trusted(head)]
        published = published if published and self._is_trusted(published) else None
        last_signed = last_signed if last_signed and self._is_trusted(last_signed) else None
        self._note_absent()
        if published and last_signed:
            self._choose(self._compare(published, last_signed))
        else:
            self._choose(published or last_signed)
        newest = self._heads.newest
        if newest is not None:
            # Whatever was believed in any way must be true of the leaves that are shown, not only the newest head.
            others = [head for head in (published, last_signed) if head and head.checkpoint != newest.checkpoint]
            kept += [head for head in others if head.checkpoint.size <= newest.checkpoint.size]
            self._judge_kept(kept, newest.checkpoint)
            good = (*self._heads.kept, newest)
            self._heads.seen = [head for head in good if head.cosigned]
            self._heads.cosigned = [head for head in good if head.quorum_time is not None]
        return self._heads

    def _choose(self, newest: SignedHead | None) -> None:
        self._heads.newest = newest
        self._heads.key = None if newest is None else self._ring.signer(newest)

    def _is_trusted(self, head: SignedHead) -> bool:
        """Say whether a signature on a head counts; otherwise say what is wrong."""
        if self._ring.signer(head) is not None:
            return True
        self._find(Verdict.BAD_SIGNATURE, self._ring.why_not(head), head.path)
        return False

    def _read(self, path: Path) -> SignedHead | None:
        """Return the head in a file, None if there is none; say what is wrong with one that is no good."""
        try:
            return self._open(files.read_small(path, MAX_NOTE_BYTES), path)
        except FileNotFoundError:
            return None
        except Unreadable as error:
            self._find(Verdict.UNVERIFIABLE, f"it cannot be read: {error}", path)
        return None

    def _open(self, encoded: bytes, path: Path) -> SignedHead | None:
        try:
            head = self._opened(encoded, path)
        except FormatError as error:
            self._find(Verdict.BAD_SIGNATURE, str(error), path)
            return None
        if self._folder.is_named and head.checkpoint.origin.rpartition("/")[2] != self._folder.root.name:
            reason = f"it is the head of {head.checkpoint.origin}, another shard"
            self._find(Verdict.BAD_SIGNATURE, reason, path)
            return None
        return head

    def _opened(self, encoded: bytes, path: Path) -> SignedHead:
        witnesses = {} if self._policy is None else self._policy.witnesses
        cosigners = {witness.key: name for name, witness in witnesses.items()}
        opened = note.open_note(encoded, [*self._ring.known, *cosigners])
        checkpoint = Checkpoint.parse(opened.text)
        signers = tuple(key for key in opened.signed_by if key not in cosigners)
        if not any(key.name == checkpoint.origin for key in signers):
            if signers:
                raise CheckpointError(f"it is of {checkpoint.origin}, and the key that signed it is not")
            raise NoteError("no known key of a log signed it")
        cosigned = {
            cosigners[signature.key]: signature.time
            for signature in opened.signatures
            if signature.key in cosigners and signature.time is not None
        }
        time = self._policy.quorum_time(cosigned) if self._policy and self._policy.needs_witnesses else None
        return SignedHead(path, checkpoint, encoded, signers, cosigned, time)

    def _note_absent(self) -> None:
        has_published, has_last_signed = map(files.exists, (self._folder.checkpoint, self._folder.last_signed))
        if has_last_signed and not has_published and not is_interrupted(self._folder):
            self._find(Verdict.MISSING, "no checkpoint is published, although one was signed", self._folder.checkpoint)
        if has_published and not has_last_signed:
            reason = "it is not here, although a head is published: an older state could have been put in its place"
            self._find(Verdict.ROLLBACK, reason, self._folder.last_signed)

    def _compare(self, published: SignedHead, last_signed: SignedHead) -> SignedHead:
        """Return the newer of two heads, and say what is wrong with their being different."""
        shown, signed = published.checkpoint, last_signed.checkpoint
        if shown.origin != signed.origin:
            self._find(Verdict.BAD_SIGNATURE, f"it is the head of {signed.origin}, another log", last_signed.path)
            return published
        if shown.size > signed.size:
            reason = f"it says that {signed.size} records were signed, while {shown.size} are published"
            self._find(Verdict.ROLLBACK, reason, last_signed.path)
            return published
        if shown.size < signed.size:
            published = self._await_publication(published, signed.size)
            shown = published.checkpoint
        if shown.size < signed.size:
            self._judge_unpublished(published, last_signed)
            return last_signed
        if shown.size == signed.size and shown.root != signed.root:
            reason = f"another head of {shown.size} records is published, and both are signed"
            self._find(Verdict.FORK, reason, last_signed.path)
        return published

    def _await_publication(self, published: SignedHead, size: int) -> SignedHead:
        """Give a running collector the time to publish what it has signed."""
        until = time.monotonic() + self._patience
        while published.checkpoint.size < size and time.monotonic() < until:
            self._sleep(PAUSE_SECONDS)
            with suppress(FileNotFoundError, Unreadable, FormatError):
                path = self._folder.checkpoint
                head = self._opened(files.read_small(path, MAX_NOTE_BYTES), path)
                if self._ring.signer(head) is not None:  # it is another one than was judged before
                    published = head
        return published

    def _judge_unpublished(self, published: SignedHead, last_signed: SignedHead) -> None:
        """Tell a crash between signing and publishing from an older checkpoint that was put in place of a newer."""
        shown, signed = published.checkpoint.size, last_signed.checkpoint.size
        leaves = _count_leaves(self._folder)
        if leaves < signed:
            reason = f"a head of {signed} records was signed, and there are leaves for {leaves}"
            self._find(Verdict.ROLLBACK, reason, last_signed.path, first=leaves, last=signed - 1)
        elif not _is_older(published.path, last_signed.path):
            reason = f"it is a head of {shown} records, while state/last-signed is one of {signed}"
            self._find(Verdict.ROLLBACK, reason, published.path, first=shown, last=signed - 1)
        else:
            self._heads.notes.append(
                f"the checkpoint over {signed} records is signed and not published yet; a start publishes it"
            )

    def _judge_kept(self, kept: list[SignedHead], newest: Checkpoint) -> None:
        for head in kept:
            size, origin = head.checkpoint.size, head.checkpoint.origin
            if origin != newest.origin:
                self._find(Verdict.BAD_SIGNATURE, f"it is the head of {origin}, another log", head.path)
            elif size > newest.size:
                reason = f"it is a head of {size} records, while the newest one has {newest.size}"
                self._find(Verdict.ROLLBACK, reason, head.path, first=newest.size, last=size - 1)
            else:
                self._heads.kept.append(head)
        self._heads.kept.sort(key=lambda head: head.checkpoint.size)

    def _kept_paths(self) -> list[Path]:
        try:
            paths = [path for path in files.entries(self._folder.checkpoints) if path.suffix != ".new"]
        except Unreadable as error:
            self._find(Verdict.UNVERIFIABLE, f"it cannot be read: {error}", self._folder.checkpoints)
            return []
        return paths[:MAX_KEPT]

    def _find(
        self, verdict: Verdict, reason: str, path: Path, *, first: int | None = None, last: int | None = None
    ) -> None:
        name = self._folder.name(path)
        self._heads.findings.append(Finding(verdict=verdict, reason=reason, file=name, first=first, last=last))


def _count_leaves(folder: ShardFolder) -> int:
    with files.open_if_readable(folder.leaves) as file:
        return file.size // LEAF_SIZE


def _is_older(path: Path, other: Path) -> bool:
    """Say whether a file was written before another one; a collector writes `last-signed` before `checkpoint`."""
    try:
        with RegularFile(path) as file, RegularFile(other) as other_file:
            return file.modified_ns < other_file.modified_ns
    except (FileNotFoundError, Unreadable):
        return False
