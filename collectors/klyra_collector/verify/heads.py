"""Steps 1 and 2: which heads were signed for a shard, by whom, and which of them the leaves must lead to."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.format import note
from klyra_audit.format.canonical import parse_canonical
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import CheckpointError, FormatError, NoteError
from klyra_audit.format.leaf import LEAF_SIZE
from klyra_audit.format.note import MAX_NOTE_BYTES, VerifyingKey
from klyra_collector.verify import files
from klyra_collector.verify.contents import collector_key
from klyra_collector.verify.files import RegularFile, Unreadable
from klyra_collector.verify.verdicts import Finding, Verdict
from klyra_collector.verify.walk import BlobWalker, Damage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from klyra_collector.verify.layout import ShardFolder
    from klyra_collector.verify.policy import Policy

MAX_KEPT: Final = 100_000  # 270 years of daily checkpoints
PAUSE_SECONDS: Final = 0.05

_COMMITTED_BYTES: Final = 8
_MAX_KEY_BYTES: Final = 4096


class SignedHead(NamedTuple):
    """A checkpoint whose signature was checked, with the key that signed it, and the file and bytes it stands in."""

    path: Path
    checkpoint: Checkpoint
    key: VerifyingKey
    encoded: bytes


@dataclass(slots=True)
class Heads:
    """What was signed for a shard.

    Attributes:
        newest: the head that the leaves are checked against; None when there is none to trust.
        kept: those of `checkpoints/` that are signed, by ascending size.
        findings: what is wrong with them.
        notes: what a reader should know of them.
    """

    newest: SignedHead | None = None
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


def open_head(encoded: bytes, keys: Sequence[VerifyingKey]) -> tuple[Checkpoint, VerifyingKey]:
    """Return the checkpoint that one of `keys` signed as its own, and that key.

    Raises:
        FormatError: malformed, not signed by any of them, or of a log that the signing key is not named for.
    """
    opened = note.open_note(encoded, keys)
    checkpoint = Checkpoint.parse(opened.text)
    for key in opened.signed_by:
        if key.name == checkpoint.origin:
            return checkpoint, key
    raise CheckpointError(f"the checkpoint is of {checkpoint.origin}, and the key that signed it is not")


def find_keys(folder: ShardFolder, policy: Policy | None) -> tuple[tuple[VerifyingKey, ...], list[Finding]]:
    """Return the keys to check signatures with: the pinned ones, else those that the ledger names itself."""
    if policy is not None:
        return policy.logs, []
    announced = list(_announced_keys(folder))
    own, findings = _read_own_key(folder)
    if own is None or own in announced:
        return tuple(announced), findings
    if any(key.name == own.name for key in announced):
        reason = "it is not the key that the ledger's KEY record announces for this log"
        findings.append(_bad_key(folder, reason))
        return tuple(announced), findings
    return (*announced, own), findings


def _announced_keys(folder: ShardFolder) -> Iterator[VerifyingKey]:
    """Yield the collector's keys in KEY records; what they are worth is checked with all other records."""
    try:
        with files.open_or_empty(folder.control) as file:
            for _, _, item in BlobWalker(file).walk(0, file.size):
                if not isinstance(item, Damage) and b'"type":"key"' in item.payload:
                    yield from _key_of(item.payload)
    except Unreadable:
        return


def _key_of(encoded: bytes) -> Iterator[VerifyingKey]:
    try:
        vkey = collector_key(parse_canonical(encoded))
        if vkey is not None:
            yield VerifyingKey.parse(vkey)
    except FormatError:
        return


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


def is_interrupted(folder: ShardFolder) -> bool:
    """Say whether a collector runs here or did not stop cleanly: then its last write may be half done."""
    return folder.run_json is not None and files.exists(folder.run_json)


class HeadReader:
    """Reads a shard's heads from the oldest kind to the newest, so that a running collector cannot get in between."""

    def __init__(
        self, folder: ShardFolder, keys: Sequence[VerifyingKey], patience: float, sleep: Callable[[float], None]
    ) -> None:
        self._folder = folder
        self._keys = keys
        self._patience = patience
        self._sleep = sleep
        self._heads = Heads()

    def read(self) -> Heads:
        """Return what was signed."""
        kept = [head for head in map(self._read, self._kept_paths()) if head is not None]
        published = self._read(self._folder.checkpoint)
        last_signed = self._read(self._folder.last_signed)
        self._note_absent()
        if published and last_signed:
            self._heads.newest = self._compare(published, last_signed)
        else:
            self._heads.newest = published or last_signed
        if self._heads.newest is not None:
            self._judge_kept(kept, self._heads.newest.checkpoint)
        return self._heads

    def _read(self, path: Path) -> SignedHead | None:
        """Return the head in a file, None if there is none; say what is wrong with one that is no good."""
        try:
            return self._open(path)
        except FileNotFoundError:
            return None
        except Unreadable as error:
            self._find(Verdict.UNVERIFIABLE, f"it cannot be read: {error}", path)
        except FormatError as error:
            self._find(Verdict.BAD_SIGNATURE, str(error), path)
        return None

    def _open(self, path: Path) -> SignedHead:
        encoded = files.read_small(path, MAX_NOTE_BYTES)
        head = SignedHead(path, *open_head(encoded, self._keys), encoded)
        if self._folder.is_named and head.checkpoint.origin.rpartition("/")[2] != self._folder.root.name:
            raise CheckpointError(f"it is the head of {head.checkpoint.origin}, another shard")
        return head

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
                published = self._open(self._folder.checkpoint)
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
