"""Experiments 27 to 32, 38 to 40, 54 to 56 and 68: published logs, proof files and keys."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from klyra_audit.format import merkle, tile
from klyra_audit.format.errors import NoteError, ProofError
from klyra_audit.format.keys import VerifyingKey
from klyra_audit.format.leaf import LEAF_SIZE
from klyra_audit.format.merkle import HASH_SIZE
from klyra_audit.format.policy import LogLine, Policy
from klyra_audit.format.proof import TlogProof
from klyra_audit.format.tile import ENTRIES, Tile, tiles_of
from klyra_collector.verify import Report, Verdict
from klyra_collector.verify.remote import RemoteOptions, verify_url
from support.baseline import ENTERPRISE
from support.ed25519_edges import SMALL_ORDER, cases, encodings
from support.experiment import Table
from support.forge import ForgedShard
from support.ledgers import LedgerBuilder, large_ledger, put, tile_hashes
from support.workshop import Subject, Workshop

V = Verdict
EVIDENCE = Table()
row = EVIDENCE.row
SIZE = 1 + 2 * 256 + 40  # two full tiles, and a partial one


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, as any web server would, and says nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port; yields its URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: Quiet(*given, directory=str(folder))) as site:
        site.daemon_threads = True
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{site.server_address[1]}"
        finally:
            site.shutdown()
            thread.join()


def publish(builder: LedgerBuilder, folder: Path) -> None:
    """Write the static tree of a log: its checkpoint and every tile and bundle."""
    hashes = tile_hashes(builder.leaves)
    encoded = b"".join(builder.leaves)
    for item in tiles_of(len(builder.leaves)):
        begin, end = item.number * 256, item.number * 256 + item.width
        if item.level == ENTRIES:
            put(folder / item.path, tile.bundle(encoded[begin * LEAF_SIZE : end * LEAF_SIZE]))
        else:
            put(folder / item.path, hashes[item.level][begin * HASH_SIZE : end * HASH_SIZE])
    put(folder / "checkpoint", builder.checkpoint())


class Published(Subject):
    """A log of some tiles on a web server, its files changed."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        super().__init__(workshop, folder)
        self.builder = large_ledger(SIZE - 5)
        assert len(self.builder.leaves) == SIZE
        self.root = folder / "site"
        publish(self.builder, self.root)

    def path(self, level: int, number: int) -> Path:
        """Return the file of a tile or bundle, the widest there is."""
        count = SIZE if level == ENTRIES else SIZE >> 8 * level
        return self.root / Tile(level, number, min(256, count - number * 256)).path

    def change(self, path: Path, at: int) -> None:
        """Change one bit of a file."""
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)

    def verify(self) -> Report:
        """See `Subject`."""
        pinned = Policy((LogLine(VerifyingKey.parse(self.builder.vkey)),))
        with serving(self.root) as url:
            return verify_url(url, RemoteOptions(policy=pinned, sleep=lambda _: None, **self.options))


@row(27, "a byte of a published bundle", Published, V.ALTERED)
def _(log: Published) -> None:
    log.change(log.path(ENTRIES, 0), 2 + 85)


@row(28, "a byte of a published tile", Published, V.ROOT_MISMATCH)
def _(log: Published) -> None:
    log.change(log.path(0, 1), 40)


@row(29, "a byte of a published tile of level 1", Published, V.ROOT_MISMATCH)
def _(log: Published) -> None:
    log.change(log.path(1, 0), 40)


@row(30, "a byte of the published partial tile", Published, V.ROOT_MISMATCH)
def _(log: Published) -> None:
    log.change(log.path(0, 2), 7)


@row(31, "a published bundle deleted", Published, V.MISSING)
def _(log: Published) -> None:
    log.path(ENTRIES, 1).unlink()


@row(32, "a published bundle and its tile replaced by the neighbour's", Published, V.ROOT_MISMATCH, V.ORG_CHAIN)
def _(log: Published) -> None:
    for level in (ENTRIES, 0):
        log.path(level, 1).write_bytes(log.path(level, 0).read_bytes())


@row(39, "a genuine older state served", Published, V.ROLLBACK)
def _(log: Published) -> None:
    log.options["earlier"] = log.builder.checkpoint()
    publish(shortened(log.builder, 300), log.root)


@row(40, "another history served under the same key", Published, V.FORK)
def _(log: Published) -> None:
    log.options["earlier"] = log.builder.checkpoint(400)
    other = shortened(log.builder, 300)
    while len(other.leaves) < SIZE:
        other.event()
    publish(other, log.root)


def shortened(builder: LedgerBuilder, size: int) -> LedgerBuilder:
    """Return a builder that sealed the same first records, and can go on otherwise."""
    other = large_ledger(size - 5)
    assert other.leaves[: size // 2] == builder.leaves[: size // 2]
    return other


# 54 to 56 and 68: proof files and keys. What is refused is BAD_SIGNATURE for keys, ROOT_MISMATCH for paths.


class Proof(Subject):
    """A proof file of one leaf, with the policy that its checkpoint is judged by."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        super().__init__(workshop, folder)
        shard: ForgedShard = workshop.forge.newest
        self.policy = workshop.forge.policy()
        self.index = min(shard.records_of(ENTERPRISE).values())
        hashes = [merkle.leaf_hash(leaf) for leaf in shard.leaves]
        self.leaf = shard.leaves[self.index]
        path = tuple(merkle.inclusion_proof(hashes, self.index))
        self.proof = TlogProof(self.index, path, shard.files["checkpoint"])

    def change(self, **members: object) -> None:
        """Replace members of the proof."""
        self.proof = replace(self.proof, **members)

    def verify(self) -> Report:
        """Never asked for: a proof has no report."""
        raise NotImplementedError

    def verdicts(self) -> set[Verdict]:
        """Say whether the file, read again from its bytes, shows the leaf."""
        try:
            opened = TlogProof.parse(self.proof.encode()).verify(self.leaf, self.policy)
        except ProofError:
            return {V.ROOT_MISMATCH}
        except NoteError:
            return {V.BAD_SIGNATURE}
        return set() if opened.quorum_met else {V.STALE_WITNESS}


class Keys(Subject):
    """Keys to register: none of those given may be refused, and the table of what is accepted is as it was."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        super().__init__(workshop, folder)
        self.lines = [str(workshop.forge.newest.keys[0].verifying_key)]

    def verify(self) -> Report:
        """Never asked for: a key has no report."""
        raise NotImplementedError

    def verdicts(self) -> set[Verdict]:
        """Say whether the keys can be registered."""
        refused = 0
        for line in self.lines:
            try:
                VerifyingKey.parse(line)
            except NoteError:
                refused += 1
        assert refused in (0, len(self.lines))
        return {V.BAD_SIGNATURE} if refused else set()


@row(54, "keys for which anyone can sign", Keys, V.BAD_SIGNATURE)
def _(keys: Keys) -> None:
    keys.lines = [str(VerifyingKey("emitter.test", encoded)) for point in SMALL_ORDER for encoded in encodings(point)]


@row(55, "a hash more in the path", Proof, V.ROOT_MISMATCH)
def _(proof: Proof) -> None:
    proof.change(path=(*proof.proof.path, bytes(HASH_SIZE)))


@row(55, "a hash less in the path", Proof, V.ROOT_MISMATCH)
def _(proof: Proof) -> None:
    proof.change(path=proof.proof.path[:-1])


@row(55, "a hash of 31 bytes", Proof, V.ROOT_MISMATCH)
def _(proof: Proof) -> None:
    proof.change(path=(proof.proof.path[0][:31], *proof.proof.path[1:]))


@row(55, "the index before", Proof, V.ROOT_MISMATCH)
def _(proof: Proof) -> None:
    proof.change(index=proof.index - 1)


@row(55, "the index behind", Proof, V.ROOT_MISMATCH)
def _(proof: Proof) -> None:
    proof.change(index=proof.index + 1)


@row(55, "another size, signed or not", Proof, V.BAD_SIGNATURE)  # the classes of wrong sizes: test_merkle_cases.py
def _(proof: Proof) -> None:
    size = proof.workshop.forge.newest.size
    text = proof.proof.checkpoint.decode().replace(f"\n{size}\n", f"\n{size + 1}\n", 1)
    proof.change(checkpoint=text.encode())


@row(56, "two node hashes passed off as a leaf", Proof, V.ROOT_MISMATCH)
def _(proof: Proof) -> None:
    own, sibling = merkle.leaf_hash(proof.leaf), proof.proof.path[0]
    proof.leaf = own + sibling if proof.index % 2 == 0 else sibling + own
    proof.change(index=proof.index // 2, path=proof.proof.path[1:])


@row(68, "every edge of Ed25519", Keys)  # the table itself: test_ed25519_edges.py
def _(keys: Keys) -> None:
    safe = {case.key.encoded for case in cases() if case.key.scalar}
    assert len(safe) == 8
    keys.lines = [str(VerifyingKey("emitter.test", encoded)) for encoded in safe]
