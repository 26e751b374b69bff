"""Verify a published log over HTTP, in numbered steps: what everybody can check who has no copy of the ledger.

(1)  Fetch the checkpoint and check that it is of the log the URL names, and who signed it, with the pinned keys, else
     with those that the server names; where the policy asks for witnesses, also the newest one that they cosigned,
     which a busy log has signed beyond.
(2)  Fetch the hashes at the right edge of every tile level: they must lead to the signed root.
(3)  Go down from there: the root of every tile must be the hash that the tile above it, authentic by now, has.
(4)  Fetch the entry bundles, where they may be had: every leaf must have the hash in its tile.
(5)  Follow the leaves as in a ledger: known version and kind, time, each organization's chain.
(6)  Compare with what was cosigned, and with an earlier checkpoint if there is one: each root must be the tree's at
     its size. See how long ago witnesses have seen the log.

Memory is that of one tile of each level, however large a log the checkpoint claims: what no tile shows is not stored,
and after so many records that nothing authentic is known of, the rest is not looked at.

Bodies and control documents are not published: what is in them is not checked, and the report says so.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from klyra_audit.format import merkle, tile
from klyra_audit.format import policy as policies
from klyra_audit.format.errors import FormatError, ProofError, TileError
from klyra_audit.format.leaf import LEAF_SIZE, Kind
from klyra_audit.format.merkle import HASH_SIZE, TILE_HEIGHT
from klyra_audit.format.note import MAX_NOTE_BYTES
from klyra_audit.format.policy import MAX_POLICY_BYTES
from klyra_audit.format.tile import ENTRIES, FULL_WIDTH, Tile
from klyra_collector.verify.errors import CannotVerify
from klyra_collector.verify.findings import Findings
from klyra_collector.verify.leaves import ChainChecker
from klyra_collector.verify.remote_client import Address, LogClient, Refused
from klyra_collector.verify.report import Report, ShardReport, Witnessed
from klyra_collector.verify.tiles import leaf_hashes, split_hashes, tile_root
from klyra_collector.verify.verdicts import Finding, Verdict
from klyra_collector.verify.witnesses import judge_quorum_age

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from klyra_audit.format.checkpoint import Checkpoint
    from klyra_audit.format.policy import Opened, Policy

MAX_LEAVES: Final = 1 << 32  # a shard is a year: some 130 records in every second of it
MAX_UNKNOWN: Final = 1 << 18  # leaves that are not those of the signed tree, or not there: then it is none to follow
POLICY_PATH: Final = ".well-known/klyra-audit/policy"

_UNKNOWN_HASH: Final = bytes(HASH_SIZE)  # no subtree has this root
_UNKNOWN_TILE: Final = _UNKNOWN_HASH * FULL_WIDTH
_ENTRY_BYTES: Final = LEAF_SIZE + 2
_FORBIDDEN: Final = frozenset({401, 403})
_UNSEEN: Final = (
    "bodies and control documents are not published: what the records say was not checked; verify the ledger's "
    "directory, or an export packet, for that"
)
_GIVE_KEY: Final = "Give an operator's key with the scope verify in KLYRA_KEY, or verify an export packet."


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """How to verify a published log.

    Attributes:
        policy: the pinned keys; None takes the server's word for them, and counts as not pinned.
        key: an API key that may read entries; None where they are public, or to do without them.
        earlier: a checkpoint that was archived before, as it was signed; None without one.
        require_pinned: without pinned keys nothing counts as checked.
        now_us: the present, microseconds since 1970; None takes this machine's clock.
        max_witness_age: seconds since the policy's quorum has cosigned a head, at most.
        limit_findings: how many findings the report describes; all are counted.
        progress: called with the log's name, a step's name, and how much of it is done.
        sleep: to wait with.
    """

    policy: Policy | None = None
    key: str | None = None
    earlier: bytes | None = None
    require_pinned: bool = True
    now_us: int | None = None
    max_witness_age: float = 86_400.0
    limit_findings: int = 100
    progress: Callable[[str, str, int, int], None] = lambda _log, _step, _done, _total: None
    sleep: Callable[[float], None] = time.sleep


def verify_url(url: str, options: RemoteOptions) -> Report:
    """Verify the log that is published at a URL, such as https://audit.example/log/collector-1/2026.

    Raises:
        CannotVerify: no log can be read there, or not in any reasonable time.
    """
    address = Address.parse(url)
    with closing(LogClient(address, options.key, options.sleep)) as client:
        shard = RemoteVerification(client, options, address.promises).run()
    return Report(target=url, pinned=options.policy is not None, require_pinned=options.require_pinned, shards=[shard])


@dataclass(slots=True)
class _Before:
    """A head that the log must go on from.

    Attributes:
        head: what was signed.
        what: how the report calls it.
        edges: authentic hashes of the tile that its right edge lies in, by level; none where that is not known.
    """

    head: Checkpoint
    what: str
    edges: dict[int, bytes] = field(default_factory=dict)

    def offer(self, level: int, number: int, hashes: bytes) -> None:
        """Take an authentic tile if its right edge lies there."""
        if self.head.size >> TILE_HEIGHT * (level + 1) == number:
            self.edges[level] = hashes

    def read(self, level: int, first: int, count: int) -> bytes:
        """See `merkle.ReadHashes`."""
        begin = first % FULL_WIDTH * HASH_SIZE
        return self.edges.get(level, b"")[begin : begin + count * HASH_SIZE]


class RemoteVerification:
    """One run over one log.

    Args:
        client: to read it with.
        options: how.
        promised: how its origin must end, in parts; nothing for any log.
    """

    def __init__(self, client: LogClient, options: RemoteOptions, promised: Sequence[str] = ()) -> None:
        self._client = client
        self._options = options
        self._promised = tuple(promised)
        self._policy = options.policy or _published_policy(client)
        self._findings = Findings(options.limit_findings)
        self._notes = [_UNSEEN]
        self._name = ""
        self._chains = ChainChecker({})
        self._reads_entries = True
        self._unknown = 0
        self._is_closed = False
        self._before: list[_Before] = []
        self._cosigned: Opened | None = None

    def run(self) -> ShardReport:
        """Return what was found."""
        # (1): what was signed, by whom; what was cosigned first, since the log goes on meanwhile
        cosigned = self._fetch_cosigned()
        encoded = self._fetch("checkpoint", MAX_NOTE_BYTES)
        opened = self._open(encoded)
        if opened is None:
            return self._report(None, encoded)
        head = opened.checkpoint
        self._name = head.origin
        if not self._is_promised(head):
            return self._report(opened, encoded)
        self._before = [*self._open_earlier(head), *self._open_cosigned(opened, cosigned)]
        # (2), (3): whether the tiles lead to the signed root
        edges = self._read_edges(head)
        if edges is not None:
            # (3), (4), (5): every tile, and the leaves
            self._check_leaves(head.size, edges)
            # (6): what was signed before
            for each in self._before:
                self._compare(each)
        self._check_witnesses()
        return self._report(opened, encoded)

    def _is_promised(self, head: Checkpoint) -> bool:
        """Say whether this is the log that the URL names; a server could show another one that is signed as well."""
        if not self._promised:
            self._notes.append("the URL names no shard: this is the one that the server calls the newest")
            return True
        if tuple(head.origin.split("/")[-len(self._promised) :]) == self._promised:
            return True
        reason = f"the URL is that of {'/'.join(self._promised)}, and the server shows {head.origin}"
        remedy = (
            "Give the address that ends as the log's origin does, as in https://audit.example/log/collector-1/2026."
        )
        self._say(Verdict.UNVERIFIABLE, reason, "checkpoint", remedy=remedy)
        return False

    def _open(self, encoded: bytes) -> Opened | None:
        """Return the head if it is signed as it should be."""
        try:
            opened = policies.open_checkpoint(encoded, self._policy)
        except FormatError as error:
            self._say(Verdict.BAD_SIGNATURE, f"{error}", "checkpoint")
            return None
        head = opened.checkpoint
        if not 0 < head.size <= MAX_LEAVES:
            self._say(Verdict.UNVERIFIABLE, f"it is the head of {head.size} records", "checkpoint")
            return None
        return opened

    def _fetch_cosigned(self) -> bytes | None:
        """Return the newest checkpoint that witnesses cosigned; None where none is asked for, or there is none."""
        if not self._policy.needs_witnesses:
            return None
        try:
            return self._client.get("witnessed", MAX_NOTE_BYTES)
        except Refused:
            return None

    def _open_cosigned(self, opened: Opened, encoded: bytes | None) -> list[_Before]:
        """Note what a quorum has cosigned; return it where it is not the newest head itself."""
        if opened.quorum_met:
            self._cosigned = opened
            return []
        try:
            cosigned = None if encoded is None else policies.open_checkpoint(encoded, self._policy)
        except FormatError as error:
            self._say(Verdict.BAD_SIGNATURE, f"{error}", "witnessed")
            return []
        if cosigned is None or not cosigned.quorum_met or cosigned.checkpoint.origin != opened.checkpoint.origin:
            reason = f"the witnesses of {self._policy.quorum}, which the policy asks for, have not cosigned this log"
            remedy = "They cosign every minute or so: run it again, and ask the operator if it stays."
            self._say(Verdict.UNVERIFIABLE, reason, "checkpoint", remedy=remedy)
            return []
        self._cosigned = cosigned
        return self._precedes(cosigned.checkpoint, opened.checkpoint, "the cosigned checkpoint")

    def _precedes(self, before: Checkpoint, head: Checkpoint, what: str) -> list[_Before]:
        if before.size <= head.size:
            return [_Before(before, what)]
        reason = f"a head of {before.size} records was signed before, and this one has {head.size}"
        self._find(Verdict.ROLLBACK, reason, "checkpoint", head.size, before.size - 1)
        return []

    def _open_earlier(self, head: Checkpoint) -> list[_Before]:
        """Return the head that the reader archived, if this one can be compared with it."""
        if self._options.earlier is None:
            return []
        try:
            earlier = policies.open_checkpoint(self._options.earlier, self._policy).checkpoint
        except FormatError as error:
            raise CannotVerify(
                f"The earlier checkpoint cannot be used: {error}.",
                code="bad_checkpoint",
                remedy="Give one that this log signed, unchanged, and a policy that has the key.",
            ) from error
        if earlier.origin != head.origin:
            raise CannotVerify(
                f"The earlier checkpoint is of {earlier.origin}, and this log is {head.origin}.",
                code="bad_checkpoint",
                remedy="Give one of this log.",
            )
        return self._precedes(earlier, head, "the earlier checkpoint")

    def _read_edges(self, head: Checkpoint) -> list[bytes] | None:
        """Return the authentic hashes behind the last full tile of each level; None if they do not lead to the root."""
        counts = list(_counts(head.size))
        edges = [self._edge(level, count) for level, count in enumerate(counts)]

        def read(level: int, first: int, count: int) -> bytes:
            begin = first % FULL_WIDTH * HASH_SIZE
            return edges[level][begin : begin + count * HASH_SIZE]

        try:
            leads = merkle.root_from(read, head.size) == head.root
        except ProofError:  # a tile is missing or of another length, which has been said
            return None
        if not leads:
            reason = "the hashes at the right edge of its tiles do not lead to the signed root"
            self._find(Verdict.ROOT_MISMATCH, reason, "tile", 0, head.size - 1)
            return None
        for level, count in enumerate(counts):
            self._offer(level, count // FULL_WIDTH, edges[level])
        return edges

    def _tiles(self, level: int, size: int, edges: list[bytes]) -> Iterator[tuple[int, bytes]]:
        """Yield (number, hashes) of all tiles of a level, in order; zeros where they are not authentic."""
        if level == len(edges):
            return
        for above, roots in self._tiles(level + 1, size, edges):
            for place in range(len(roots) // HASH_SIZE):
                number = above * FULL_WIDTH + place
                yield number, self._descend(level, number, roots[place * HASH_SIZE : (place + 1) * HASH_SIZE])
        if edges[level]:
            yield size >> TILE_HEIGHT * (level + 1), edges[level]

    def _edge(self, level: int, count: int) -> bytes:
        """Return the hashes of a level behind its last full tile, as the server has them."""
        number, width = divmod(count, FULL_WIDTH)
        return self._hashes(Tile(level, number, width)) if width else b""

    def _descend(self, level: int, number: int, root: bytes) -> bytes:
        """Return the hashes of a full tile if they are those that the level above stands for, else zeros."""
        if root == _UNKNOWN_HASH:  # what would vouch for it is not authentic, which was said
            return _UNKNOWN_TILE
        hashes = self._hashes(Tile(level, number))
        if not hashes:  # which has been said
            return _UNKNOWN_TILE
        if tile_root(hashes) == root:
            self._offer(level, number, hashes)
            return hashes
        leaves = FULL_WIDTH ** (level + 1)
        first = number * leaves
        reason = "its hashes are not those that the signed root stands for"
        self._find(Verdict.ROOT_MISMATCH, reason, Tile(level, number).path, first, first + leaves - 1)
        return _UNKNOWN_TILE

    def _offer(self, level: int, number: int, hashes: bytes) -> None:
        for each in self._before:
            each.offer(level, number, hashes)

    def _check_leaves(self, size: int, edges: list[bytes]) -> None:
        count = -(-size // FULL_WIDTH)
        for number, hashes in self._tiles(0, size, edges):
            item = Tile(0, number, len(hashes) // HASH_SIZE)
            if self._unknown > MAX_UNKNOWN:
                reason = f"nothing authentic is known of {self._unknown} records before: the rest was not looked at"
                self._find(Verdict.UNVERIFIABLE, reason, item.path, item.first, size - 1)
                self._notes.append(f"from record {item.first} on: {reason}")  # findings may be too many to be shown
                return
            if self._reads_entries:
                self._check_bundle(item, split_hashes(hashes), is_last=number == count - 1)
            elif hashes == _UNKNOWN_TILE:
                self._unknown += item.width
            self._options.progress(self._name, "leaves", number + 1, count)
        if not self._reads_entries:
            reason = "entry bundles cannot be read, so that only hashes of records were checked, not the records"
            self._say(Verdict.UNVERIFIABLE, reason, "tile/entries", remedy=_GIVE_KEY)

    def _check_bundle(self, item: Tile, hashes: list[bytes], *, is_last: bool) -> None:
        """Check the leaves of a bundle against their hashes, and follow them."""
        leaves = self._leaves(Tile(ENTRIES, item.number, item.width))
        for place, expected in enumerate(hashes):
            self._check_leaf(item.first + place, leaves[place] if leaves else None, expected)
        if is_last and leaves and item.first + item.width > 1:
            self._is_closed = leaf_hashes(leaves[-1]) == hashes[-1] and leaves[-1][1] == Kind.SHARD

    def _check_leaf(self, index: int, leaf: bytes | None, expected: bytes) -> None:
        """Check a leaf; one that is not there, or whose hash is not known, is passed over."""
        hashed = _UNKNOWN_HASH if leaf is None else leaf_hashes(leaf)
        if leaf is None or hashed != expected:
            self._unknown += 1
            self._chains.skip(index, hashed if expected == _UNKNOWN_HASH else expected)
            if leaf is not None and expected != _UNKNOWN_HASH:
                self._find(Verdict.ALTERED, "its leaf is not the one that was sealed", _bundle_of(index), index, index)
            return
        problems = self._chains.check(index, leaf)
        for problem in problems:
            self._find(problem.verdict, problem.reason, _bundle_of(index), index, index)
        if not problems:
            self._findings.count(Verdict.OK, 1)

    def _leaves(self, item: Tile) -> list[bytes] | None:
        """Return the leaves of a bundle; None if they cannot be had."""
        first, last = item.first, item.first + item.width - 1
        try:
            entries = tile.split_bundle(self._client.get(item.path, item.width * _ENTRY_BYTES))
        except Refused as error:
            if error.status in _FORBIDDEN:
                self._reads_entries = False
            else:
                self._find(Verdict.MISSING, f"{error}", item.path, first, last)
            return None
        except TileError as error:
            self._find(Verdict.ALTERED, f"{error}", item.path, first, last)
            return None
        if len(entries) != item.width or any(len(entry) != LEAF_SIZE for entry in entries):
            self._find(Verdict.ALTERED, f"it is no bundle of {item.width} leaves", item.path, first, last)
            return None
        return entries

    def _compare(self, before: _Before) -> None:
        """See whether the tree had the root that was signed before."""
        size = before.head.size
        if not size:
            return
        try:
            root = merkle.root_from(before.read, size)
        except ProofError:
            reason = f"the tiles under {before.what} are not authentic, so that it cannot be compared"
            self._say(Verdict.UNVERIFIABLE, reason, "checkpoint")
            return
        if root != before.head.root:
            reason = f"{before.what} of {size} records has another root than this tree"
            self._find(Verdict.FORK, reason, "checkpoint", 0, size - 1)
        else:
            self._notes.append(f"it continues {before.what} of {size} records")

    def _check_witnesses(self) -> None:
        """See how long ago the witnesses whom the reader trusts have seen a log that is still written."""
        witnessed = self._witnessed()
        if witnessed is None or (self._is_closed and self._promised):
            return
        present = self._options.now_us
        if present is None:
            present = max(time.time_ns() // 1000, self._chains.last_us)
        problem = judge_quorum_age([witnessed.time], present, self._options.max_witness_age)
        if problem is not None:
            self._say(problem.verdict, problem.reason, "checkpoint")

    def _hashes(self, item: Tile) -> bytes:
        """Return a tile as the server has it; nothing if it has none, or one of another length."""
        try:
            hashes = self._client.get(item.path, item.width * HASH_SIZE)
        except Refused as error:
            self._say(Verdict.MISSING, f"it is under the checkpoint, and {error}", item.path)
            return b""
        if len(hashes) != item.width * HASH_SIZE:
            self._say(Verdict.ROOT_MISMATCH, f"it has {len(hashes)} bytes, not {item.width * HASH_SIZE}", item.path)
            return b""
        return hashes

    def _fetch(self, path: str, limit: int) -> bytes:
        try:
            return self._client.get(path, limit)
        except Refused as error:
            raise CannotVerify(
                f"There is no log here: {error}.",
                code="no_log",
                remedy="Give the log's address, such as https://audit.example/log/collector-1/2026.",
            ) from error

    def _say(self, verdict: Verdict, reason: str, file: str, *, remedy: str | None = None) -> None:
        self._findings.add(Finding(verdict=verdict, reason=reason, file=file, remedy=remedy))

    def _find(self, verdict: Verdict, reason: str, file: str, first: int, last: int) -> None:
        count = last - first + 1
        self._findings.add(Finding(verdict=verdict, reason=reason, file=file, first=first, last=last, count=count))

    def _report(self, opened: Opened | None, encoded: bytes) -> ShardReport:
        head = opened.checkpoint if opened else None
        return ShardReport(
            directory=self._name,
            origin=head.origin if head else None,
            size=head.size if head else None,
            root=head.root if head else None,
            checkpoint=encoded.decode("utf-8", "backslashreplace") if head else None,
            key=str(opened.key) if opened else None,
            first_us=self._chains.first_us,
            last_us=self._chains.last_us or None,
            counts=self._findings.counts,
            findings=self._findings.kept,
            findings_total=self._findings.total,
            notes=self._notes,
            witnessed=self._witnessed(),
        )

    def _witnessed(self) -> Witnessed | None:
        """Return what the witnesses have seen whom the reader trusts, rather than the server names."""
        trusted, cosigned = self._options.policy, self._cosigned
        if trusted is None or not trusted.needs_witnesses or cosigned is None or cosigned.quorum_time is None:
            return None
        return Witnessed(cosigned.checkpoint.size, cosigned.quorum_time)


def _published_policy(client: LogClient) -> Policy:
    """Return the policy that the server itself publishes."""
    try:
        return policies.parse(client.get_from_root(POLICY_PATH, MAX_POLICY_BYTES))
    except (Refused, FormatError) as error:
        raise CannotVerify(
            f"The server names no keys: {error}.",
            code="no_policy",
            remedy="Give the operator's policy file with --policy.",
        ) from error


def _counts(size: int) -> Iterator[int]:
    """Yield how many hashes each tile level of a log has, from the leaves up."""
    while size:
        yield size
        size >>= TILE_HEIGHT


def _bundle_of(index: int) -> str:
    """Return the path of the full bundle that a leaf belongs to."""
    return Tile(ENTRIES, index // FULL_WIDTH).path
