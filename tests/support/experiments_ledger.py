"""Experiments 27 to 53, 65 and 67: the ledger's files, its signed heads, and what a thief of its key could seal."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

from klyra_audit.format import canonical, control, frame, merkle, note, sections
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.control import Key
from klyra_audit.format.frame import BlobFrame, BodyFrame
from klyra_audit.format.keys import SigningKey
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_audit.format.merkle import HASH_SIZE
from klyra_collector.verify import Verdict
from support.baseline import BUSINESS, ENTERPRISE, LAST_DAY, STARTUP, STEP_DAYS, Baseline
from support.experiment import Table
from support.forge import SECOND_US, WITNESSES, Forge, ForgedEmitter, ForgedShard, boot_id, seed_of, text_of
from support.ledgers import DAY_US
from support.tampering import flip
from support.workshop import Disk, Thief

V = Verdict
LEDGER = Table()
row = LEDGER.row
HOUR_US = 3_600 * SECOND_US


# 27 to 32: what the tree is made of.


@row(27, "a byte of a leaf", Disk, V.ROOT_MISMATCH, V.ALTERED)
def _(disk: Disk) -> None:
    flip(disk.shard / "leaves", 40 * LEAF_SIZE + 85)


@row(28, "a byte of a leaf's hash", Disk, V.ROOT_MISMATCH)
def _(disk: Disk) -> None:
    flip(disk.shard / "hashes" / "0", 40 * HASH_SIZE)


@row(29, "a byte of a tile's hash", Disk, V.ROOT_MISMATCH)
def _(disk: Disk) -> None:
    flip(disk.shard / "hashes" / "1", 3)


@row(30, "a byte of the partial tile at the right edge", Disk, V.ROOT_MISMATCH)
def _(disk: Disk) -> None:
    flip(disk.shard / "hashes" / "0", (disk.shard / "hashes" / "0").stat().st_size - 1)


# 31, a bundle that is not served, is an experiment on a published log: experiments_published.


# Once nothing leads to the signed root, no record behind the newest head that still fits vouches for another.
FOLLOWING = (V.ROOT_MISMATCH, V.MISSING, V.EXTRA, V.CLOCK, V.ORG_CHAIN, V.CONTROL_ALTERED)


@row(32, "leaves and their hashes by those of other records", Disk, *FOLLOWING)
def _(disk: Disk) -> None:
    for path, size in ((disk.shard / "leaves", LEAF_SIZE), (disk.shard / "hashes" / "0", HASH_SIZE)):
        content = bytearray(path.read_bytes())
        content[260 * size : 262 * size] = content[10 * size : 12 * size]
        path.write_bytes(content)


# 33 to 37 and 42: one signed note.


def rewrite(path: Path, old: str, new: str) -> None:
    """Replace a part of a file's text, which must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def head_of(disk: Disk) -> Checkpoint:
    """Return the newest head."""
    return Checkpoint.parse(text_of((disk.shard / "checkpoint").read_bytes()))


@row(33, "the size in a checkpoint", Disk, V.BAD_SIGNATURE)
def _(disk: Disk) -> None:
    rewrite(disk.shard / "checkpoint", f"\n{head_of(disk).size}\n", f"\n{head_of(disk).size - 1}\n")


@row(33, "the root in a checkpoint", Disk, V.BAD_SIGNATURE)
def _(disk: Disk) -> None:
    rewrite(
        disk.shard / "checkpoint", base64.b64encode(head_of(disk).root).decode(), base64.b64encode(bytes(32)).decode()
    )


@row(33, "the origin in a checkpoint", Disk, V.BAD_SIGNATURE)
def _(disk: Disk) -> None:
    rewrite(disk.shard / "checkpoint", f"{head_of(disk).origin}\n", "klyra-audit.other/collector-1/2026\n")


@row(34, "a malformed signature line", Disk, V.BAD_SIGNATURE)
def _(disk: Disk) -> None:
    with (disk.shard / "checkpoint").open("a") as file:
        file.write("\u2014 stranger\n")


@row(35, "the signature of a key that nobody listed", Disk, V.BAD_SIGNATURE)
def _(disk: Disk) -> None:
    stranger = SigningKey.from_seed(head_of(disk).origin, seed_of("stranger"))
    (disk.shard / "checkpoint").write_bytes(note.sign(head_of(disk).text(), [stranger]))


@row(36, "another key's signature under the id of a listed one", Disk, V.BAD_SIGNATURE)
def _(disk: Disk) -> None:
    listed = disk.workshop.forge.newest.keys[0].verifying_key
    stranger = SigningKey.from_seed(listed.name, seed_of("stranger"))
    line = stranger.signature_line(head_of(disk).text())
    signature = base64.b64decode(line.split()[-1])[4:]
    forged = f"\u2014 {listed.name} {base64.b64encode(listed.key_id + signature).decode()}\n"
    (disk.shard / "checkpoint").write_text(f"{head_of(disk).text()}\n{forged}")


def damage_line(path: Path, number: int) -> None:
    """Change the last byte of a signature."""
    encoded = path.read_bytes()
    line = note.signature_lines(encoded)[number]
    material = bytearray(base64.b64decode(line.split()[-1]))
    material[-1] ^= 1
    rewrite(path, line.split()[-1], base64.b64encode(material).decode())


@row(37, "a good Ed25519 line beside a bad ML-DSA-44 line", Disk, V.BAD_SIGNATURE)
def _(disk: Disk) -> None:
    damage_line(disk.shard / "checkpoint", 1)


@row(42, "the cosignature of another log", Disk, V.BAD_SIGNATURE)
def _(disk: Disk) -> None:
    own = note.signature_lines((disk.shard / "checkpoint").read_bytes())
    other = note.signature_lines((disk.old / "checkpoint").read_bytes())
    rewrite(disk.shard / "checkpoint", own[2], other[2])


@row(42, "the time of a cosignature", Disk, V.BAD_SIGNATURE)
def _(disk: Disk) -> None:
    path = disk.shard / "checkpoint"
    line = note.signature_lines(path.read_bytes())[2]
    material = bytearray(base64.b64decode(line.split()[-1]))
    material[11] ^= 1
    rewrite(path, line.split()[-1], base64.b64encode(material).decode())


@row(42, "one witness's cosignature under the name of the other", Disk, V.BAD_SIGNATURE)
def _(disk: Disk) -> None:
    path = disk.shard / "checkpoint"
    first, second = (witness.key.verifying_key for witness in WITNESSES)
    material = base64.b64decode(note.signature_lines(path.read_bytes())[2].split()[-1])
    lines = note.signature_lines(path.read_bytes())
    assert lines[2].split()[1] == first.name
    forged = f"\u2014 {second.name} {base64.b64encode(second.key_id + material[4:]).decode()}\n"
    path.write_text(text_of(path.read_bytes()) + "\n" + "".join([*lines[:2], forged]))


# 38 to 41: other histories, signed with the stolen key.


def shorten(shard: ForgedShard, size: int) -> None:
    """Make a forged shard what it was when it had `size` records, as far as its content goes."""
    del shard.leaves[size:]
    for frames in (*shard.bodies.values(), shard.held):
        frames[:] = [body for body in frames if body.index < size]
    shard.controls[:] = [blob for blob in shard.controls if blob.index < size]
    for blobs in shard.quarantined.values():
        blobs[:] = [blob for blob in blobs if blob.index < size]


def size_in(encoded: bytes) -> int:
    """Return the size that a signed note speaks of."""
    return Checkpoint.parse(text_of(encoded)).size


@row(38, "the newest records cut off and signed again", Thief, V.ROLLBACK)
def _(thief: Thief) -> None:
    witnessed = thief.newest.files["checkpoint"]
    shorten(thief.newest, thief.newest.size - 5)
    thief.newest.files = {
        name: encoded for name, encoded in thief.newest.files.items() if size_in(encoded) <= thief.newest.size
    }
    thief.newest.publish()
    thief.bring(witnessed)


@row(39, "a genuine older state", Thief, V.ROLLBACK, V.STALE_WITNESS, V.OVER_RETAINED)
def _(thief: Thief) -> None:
    thief.bring(thief.newest.files["checkpoint"])
    thief.forge = Baseline(last_day=LAST_DAY - 2 * STEP_DAYS).build()


@row(39, "a genuine older state, and nothing to compare it with", Thief, V.STALE_WITNESS, V.OVER_RETAINED)
def _(thief: Thief) -> None:
    thief.forge = Baseline(last_day=LAST_DAY - 2 * STEP_DAYS).build()


def an_event(shard: ForgedShard, organization_id: str) -> int:
    """Return the index of an old event of an organization that still has its body and no evidence."""
    own = set(shard.records_of(organization_id).values())
    return min(
        body.index for frames in shard.bodies.values() for body in frames if body.index in own and not body.attachment
    )


def retell(shard: ForgedShard, index: int) -> None:
    """Give a sealed event another core, and its leaf the commitment to it."""
    body = shard.frame_of(index)
    core = canonical.parse_canonical(body.sections.core) | {"status": "failure"}
    parts = replace(body.sections, core=canonical.encode(core))
    proofs = sections.commitments(parts, body.salts)
    shard.change_body(index, sections=parts, commitments=proofs)
    shard.change_leaf(index, commit=proofs.event_commit())


@row(40, "an old event told anew, and signed again", Thief, V.FORK, V.ORG_CHAIN)
def _(thief: Thief) -> None:
    retell(thief.newest, an_event(thief.newest, ENTERPRISE))
    thief.newest.resign()
    thief.newest.publish()


@row(40, "an old event told anew, the chain mended, and signed again", Thief, V.FORK, V.CONTROL_ALTERED)
def _(thief: Thief) -> None:
    retell(thief.newest, an_event(thief.newest, ENTERPRISE))
    thief.newest.rechain()  # HEADS still speak of the history that was
    thief.newest.resign()
    thief.newest.publish()


@row(41, "two roots of one size, each cosigned", Thief, V.FORK)
def _(thief: Thief) -> None:
    other = thief.forge.copy().newest
    retell(other, other.size - 3 if Leaf.unpack(other.leaves[-3]).kind == Kind.EVENT else an_event(other, ENTERPRISE))
    thief.newest.keep_as("2026-03-30", other.cosigned(other.head()))


# 43 to 48: what may be gone, and what may not.


def replace_control(disk: Disk, kind: Kind, change: object) -> None:
    """Change the first control document of a kind, with a fresh checksum, or leave it out."""
    path = disk.shard / "control" / "frames"
    leaves = (disk.shard / "leaves").read_bytes()
    kept, changed = [], False
    for start, end, blob in frame.read_blob_frames(path.read_bytes()):
        leaf = Leaf.unpack(leaves[blob.index * LEAF_SIZE : (blob.index + 1) * LEAF_SIZE])
        if leaf.kind == kind and not changed:
            changed = True
            if change is None:
                continue
            document = change(control.parse(kind, canonical.parse_canonical(blob.payload)))
            kept.append(frame.encode_blob(BlobFrame(blob.index, document.encode())))
        else:
            kept.append(path.read_bytes()[start:end])
    assert changed
    path.write_bytes(b"".join(kept))


@row(43, "the ranges of an ERASURE widened", Disk, V.CONTROL_ALTERED, V.REDACTED_UNAUTHORISED)
def _(disk: Disk) -> None:
    replace_control(disk, Kind.ERASURE, lambda erasure: replace(erasure, actor=((0, 500),)))


@row(44, "an EXPIRY left out", Disk, V.MISSING)
def _(disk: Disk) -> None:
    replace_control(disk, Kind.EXPIRY, None)


@row(45, "an EXPIRY of a day to come, and the bodies gone", Thief, V.MISSING)
def _(thief: Thief) -> None:
    thief.forge.expire(cutoff_day=thief.newest.day + 25)
    thief.newest.publish()


@row(45, "the clock set forward to expire, then back", Thief, V.MISSING, V.CLOCK)
def _(thief: Thief) -> None:
    now_us = thief.newest.now_us
    thief.newest.now_us += 25 * DAY_US
    seconds = now_us // SECOND_US
    for index in thief.forge.expire():
        thief.newest.keep_as(f"expiry-{index}", thief.newest.cosigned(thief.newest.head(), seconds=seconds))
    thief.newest.now_us = now_us
    thief.newest.event(ENTERPRISE)
    thief.newest.publish()


@row(46, "bodies deleted under a legal hold", Thief, V.MISSING, V.CONTROL_ALTERED)
def _(thief: Thief) -> None:
    (hold,) = thief.forge.holds
    thief.forge.holds.clear()  # the record of it stays
    assert thief.forge.expire()
    thief.newest.publish()
    assert hold


@row(46, "bodies deleted under a legal hold, without a word", Disk, V.MISSING)
def _(disk: Disk) -> None:
    (disk.old / "bodies" / "held" / "frames").unlink()


@row(47, "a leaf that expires sooner than the plan", Thief, V.PLAN_MISMATCH)
def _(thief: Thief) -> None:
    thief.newest.event(ENTERPRISE, days=5)
    thief.newest.publish()


@row(48, "bodies kept beyond their day", Thief, V.OVER_RETAINED)
def _(thief: Thief) -> None:
    thief.newest.now_us += 40 * DAY_US
    thief.newest.publish()  # the collector lives and signs, and deletes nothing
    thief.options["now_us"] = thief.newest.now_us


@row(48, "an expired body put back", Thief, V.OVER_RETAINED)
def _(thief: Thief) -> None:
    kept = thief.forge.copy()
    thief.newest.now_us += 3 * DAY_US
    thief.options["now_us"] = thief.newest.now_us
    thief.forge.expire()
    thief.newest.publish()
    gone = bodies_of(kept.newest).keys() - bodies_of(thief.newest).keys()
    for index in gone:
        body = bodies_of(kept.newest)[index]
        thief.newest.bodies.setdefault(Leaf.unpack(kept.newest.leaves[index]).expire_day, []).append(body)
    assert gone


def bodies_of(shard: ForgedShard) -> dict[int, BodyFrame]:
    """Return a shard's bodies by index."""
    return {body.index: body for frames in (*shard.bodies.values(), shard.held) for body in frames}


# 49 and 50: time.


@row(49, "time that goes back", Thief, V.CLOCK)
def _(thief: Thief) -> None:
    thief.newest.now_us -= HOUR_US
    thief.newest.event(ENTERPRISE)
    thief.newest.publish()


@row(50, "a record sealed an hour after it was cosigned", Thief, V.CLOCK)
def _(thief: Thief) -> None:
    seconds = thief.newest.now_us // SECOND_US
    thief.newest.now_us += HOUR_US
    thief.newest.event(ENTERPRISE)
    signed = thief.newest.cosigned(thief.newest.head(), seconds=seconds)
    thief.newest.files |= {"checkpoint": signed, "state/witnessed": signed, "state/last-signed": thief.newest.head()}


# 51 to 53: between emitter and ledger.


def emitter(forge: Forge) -> ForgedEmitter:
    """Return the emitter with a key."""
    return next(known for known in forge.emitters if known.has_key)


@row(51, "an event of a batch dropped before it was sealed", Thief, V.EMITTER_GAP)
def _(thief: Thief) -> None:
    thief.newest.batch(emitter(thief.forge), ENTERPRISE, 4, sealed=[0, 1, 3])
    thief.newest.publish()


@row(51, "a whole batch dropped before it was sealed", Thief, V.EMITTER_GAP)
def _(thief: Thief) -> None:
    emitter(thief.forge).next_seq += 3
    thief.newest.batch(emitter(thief.forge), ENTERPRISE, 2)
    thief.newest.publish()


@row(52, "a batch sealed twice", Thief, V.DUPLICATE)
def _(thief: Thief) -> None:
    thief.newest.batch(emitter(thief.forge), ENTERPRISE, 3, first_seq=emitter(thief.forge).next_seq - 3)
    thief.newest.publish()


@row(53, "two events of a batch in each other's place", Thief, V.EMITTER_SIG)
def _(thief: Thief) -> None:
    first, second = thief.newest.batch(emitter(thief.forge), ENTERPRISE, 2)
    one, other = Leaf.unpack(thief.newest.leaves[first]), Leaf.unpack(thief.newest.leaves[second])
    thief.newest.change_leaf(first, emitter_seq=other.emitter_seq)
    thief.newest.change_leaf(second, emitter_seq=one.emitter_seq)
    thief.newest.rechain()
    thief.newest.publish()


@row(53, "evidence of another event", Thief, V.EMITTER_SIG)
def _(thief: Thief) -> None:
    first, second = thief.newest.batch(emitter(thief.forge), ENTERPRISE, 2)
    evidence = thief.newest.frame_of(second).attachment
    thief.newest.change_body(first, attachment=evidence)
    thief.newest.publish()


@row(53, "evidence taken away", Thief, V.EMITTER_SIG)
def _(thief: Thief) -> None:
    thief.newest.change_body(thief.newest.batch(emitter(thief.forge), ENTERPRISE, 2)[0], attachment=b"")
    thief.newest.publish()


# 65: nothing to verify.


@row(65, "an empty folder", Disk, V.UNVERIFIABLE)
def _(disk: Disk) -> None:
    disk.root = disk.folder / "empty"
    disk.root.mkdir()


@row(65, "a head of size 0 with a root", Thief, V.UNVERIFIABLE, V.ROOT_MISMATCH, V.STALE_WITNESS)
def _(thief: Thief) -> None:
    del thief.forge.shards[1:]
    only = thief.newest
    shorten(only, 0)
    head = Checkpoint(only.origin, 0, merkle.leaf_hash(b"")).text()
    only.files = {"checkpoint": note.sign(head, only.keys), "state/last-signed": note.sign(head, only.keys)}


# 67: keys.


@row(67, "signed by a key that no KEY record announces", Thief, V.BAD_SIGNATURE)
def _(thief: Thief) -> None:
    thief.newest.signing_seeds = [seed_of("another")]
    thief.newest.files["checkpoint"] = thief.newest.head()


@row(67, "an event signed behind the revocation of its emitter's key", Thief, V.EMITTER_SIG)
def _(thief: Thief) -> None:
    known = emitter(thief.forge)
    owner = thief.newest.reference(ENTERPRISE)
    revoked = Key(thief.newest.ordinal(), known.emitter_id, known.boot, known.vkey, owner, known.next_seq - 1)
    thief.newest.seal(revoked, ENTERPRISE)
    thief.newest.batch(known, ENTERPRISE, 2)
    thief.newest.publish()


@row(67, "an event of a boot that no KEY record announces", Thief, V.EMITTER_SIG)
def _(thief: Thief) -> None:
    unknown = ForgedEmitter("moderation-1", boot_id(9), 900)
    thief.newest.batch(unknown, ENTERPRISE, 1)
    thief.newest.publish()


@row(67, "a head signed behind the revocation of the collector's key", Thief, V.BAD_SIGNATURE)
def _(thief: Thief) -> None:
    newest = thief.newest
    old = newest.vkey
    newest.signing_seeds.append(seed_of("rotated"))
    rotated = newest.collector_key()
    newest.keep_as("key-rotated")
    operator = newest.sequence(rotated)
    newest.collector_key(vkey=old, revoked_after_seq=operator)
    newest.event(BUSINESS)
    newest.event(STARTUP)
    newest.signing_seeds.pop()  # the thief has only the old one
    newest.files["checkpoint"] = newest.head()
    newest.signing_seeds = [seed_of("rotated")]
    newest.files |= {"state/last-signed": newest.head()}
