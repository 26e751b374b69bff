"""A witness cosigns what continues what it cosigned, remembers it first, and refuses everything else by its name."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import pytest

from klyra_audit.format import note
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.keys import ALGORITHM_ML_DSA_44
from klyra_collector.seal.durable import Disk
from klyra_collector.witness.cosigner import WitnessStateDamaged, digest_of
from klyra_collector.witness.request import SIZE_MEDIA_TYPE, AddCheckpoint
from support.sealing import DiskFullError, Fault, FaultyDisk
from support.witnesses import NAME, NOW, ORIGIN, Log, cosigning_key, make_cosigner


def statuses(cosigner, *bodies):
    """Return the status of each request in turn."""
    return [int(cosigner.add_checkpoint(body).status) for body in bodies]


def kept_size(cosigner, origin=ORIGIN):
    """Return the size the witness remembers."""
    return cosigner.kept(origin).checkpoint.size


def test_first_contact_and_growth_are_cosigned(tmp_path):
    """From size 0 without a proof, then from the size before with one, each answer is a valid timestamped line."""
    log = Log().grow(5)
    cosigner = make_cosigner(tmp_path, log.key.vkey)
    for old, size in ((0, 5), (5, 300), (300, 300), (300, 301)):
        log.grow(size)
        reply = cosigner.add_checkpoint(log.request(old))
        assert (reply.status, reply.media_type) == (HTTPStatus.OK, "text/plain; charset=utf-8")
        opened = note.open_note(note.append_lines(log.signed(), [reply.body.decode()]), [cosigning_key().verifying_key])
        assert opened.signatures == ((cosigning_key().verifying_key, NOW),)
        assert kept_size(cosigner) == size


def test_an_ml_dsa_key_cosigns_besides(tmp_path):
    """A witness with two keys answers a line of each, and both verify."""
    log = Log().grow(3)
    keys = [cosigning_key(), cosigning_key(seed=b"p" * 32, algorithm=ALGORITHM_ML_DSA_44)]
    cosigner = make_cosigner(tmp_path, log.key.vkey, keys=keys)
    lines = cosigner.add_checkpoint(log.request(0)).body.decode().splitlines(keepends=True)
    opened = note.open_note(note.append_lines(log.signed(), lines), [key.verifying_key for key in keys])
    assert [signature.time for signature in opened.signatures] == [NOW, NOW]


def test_another_old_size_is_answered_with_the_known_one(tmp_path):
    """409 carries the size and its media type; a log never seen is at 0."""
    log = Log().grow(5)
    cosigner = make_cosigner(tmp_path, log.key.vkey)
    reply = cosigner.add_checkpoint(AddCheckpoint(4, log.proof(4), log.signed()).encode())
    assert (reply.status, reply.body, reply.media_type) == (HTTPStatus.CONFLICT, b"0\n", SIZE_MEDIA_TYPE)
    cosigner.add_checkpoint(log.request(0))
    log.grow(9)
    reply = cosigner.add_checkpoint(log.request(0))
    assert (reply.status, reply.body, reply.media_type) == (HTTPStatus.CONFLICT, b"5\n", SIZE_MEDIA_TYPE)
    assert kept_size(cosigner) == 5


def test_a_rewritten_history_is_refused(tmp_path):
    """422 for a proof that leads elsewhere, for another root of the same size, and for a proof from nothing."""
    log = Log().grow(8)
    cosigner = make_cosigner(tmp_path, log.key.vkey)
    first = AddCheckpoint(0, (b"\0" * 32,), log.signed()).encode()
    assert statuses(cosigner, first, log.request(0)) == [422, 200]
    forked = log.rewritten(3)
    assert statuses(cosigner, forked.request(8), forked.grow(12).request(8)) == [422, 422]
    assert statuses(cosigner, log.grow(12).request(8)) == [200]


def test_a_log_or_key_that_is_not_known_is_refused(tmp_path):
    """404 for another origin, 403 for another key of the same name, and neither leaves a trace."""
    log = Log().grow(4)
    cosigner = make_cosigner(tmp_path, log.key.vkey)
    assert statuses(cosigner, Log("other.example/x/2026").grow(4).request(0)) == [404]
    assert statuses(cosigner, Log(seed=b"z" * 32).grow(4).request(0)) == [403]
    assert cosigner.kept(ORIGIN) is None


def test_a_false_line_of_the_known_key_is_refused_beside_others(tmp_path):
    """Lines of unknown keys are ignored, a false one of the known key is not."""
    log = Log().grow(4)
    cosigner = make_cosigner(tmp_path, log.key.vkey)
    stranger = Log(seed=b"z" * 32).key
    body = AddCheckpoint(0, (), log.signed(stranger, log.key)).encode()
    false = log.rewritten().signed().replace(log.rewritten().checkpoint().text().encode(), b"")
    text = log.checkpoint().text().encode()
    assert statuses(cosigner, AddCheckpoint(0, (), text + false).encode(), body) == [403, 200]
    assert stranger.signature_line(log.checkpoint().text()).encode() not in cosigner.latest(digest_of(ORIGIN))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0\n",
        b"old 00\n\n" + Log().grow(1).signed(),
        b"old -1\n\n" + Log().grow(1).signed(),
        b"old 1 \n\n" + Log().grow(1).signed(),
        b"new 0\n\n" + Log().grow(1).signed(),
        b"old 0\nAAAA\n\n" + Log().grow(1).signed(),
        b"old 0\n!\n\n" + Log().grow(1).signed(),
        b"old 0\n" + (b"A" * 43 + b"=\n") * 64 + b"\n" + Log().grow(1).signed(),
        b"old 0\n\n" + Log().grow(1).checkpoint().text().encode(),
        b"old 0\n\n\xff\n\n",
        AddCheckpoint(2, (), Log().grow(1).signed()).encode(),
        AddCheckpoint(0, (), note.sign(Log().grow(1).checkpoint().text() + "extension\n", [Log().key])).encode(),
    ],
)
def test_what_is_no_request_is_refused(tmp_path, body):
    """400 for each way to break the protocol, an old size beyond the checkpoint's and extension lines among them."""
    assert statuses(make_cosigner(tmp_path, Log().key.vkey), body) == [400]


def test_a_key_does_not_sign_for_another_name(tmp_path):
    """A note whose first line is another log's name is not opened with this log's key."""
    log = Log().grow(2)
    cosigner = make_cosigner(tmp_path, log.key.vkey, Log("b/c/2026", b"b" * 32).key.vkey)
    text = Checkpoint("b/c/2026", 2, log.checkpoint().root).text()
    assert statuses(cosigner, AddCheckpoint(0, (), note.sign(text, [log.key])).encode()) == [403]


def test_an_empty_tree_has_one_root(tmp_path):
    """Size 0 is cosigned with the root of the empty tree only, and growth from it needs no proof."""
    log = Log()
    cosigner = make_cosigner(tmp_path, log.key.vkey)
    false = note.sign(Checkpoint(ORIGIN, 0, b"\1" * 32).text(), [log.key])
    assert statuses(cosigner, AddCheckpoint(0, (), false).encode(), log.request(0)) == [422, 200]
    assert statuses(cosigner, log.grow(3).request(0)) == [200]


def test_time_never_goes_back(tmp_path):
    """With the clock set back, a later cosignature is not dated before an earlier one."""
    log = Log().grow(2)
    clock = [NOW]
    cosigner = make_cosigner(tmp_path, log.key.vkey, now=lambda: clock[0])
    cosigner.add_checkpoint(log.request(0))
    clock[0] = NOW - 5000
    cosigner.add_checkpoint(log.request(2))
    assert cosigner.kept(ORIGIN).time == NOW


def test_the_newest_checkpoint_is_shown_with_both_signatures(tmp_path):
    """What monitors read carries the log's line and the witness's; unknown logs have none."""
    log = Log().grow(2)
    cosigner = make_cosigner(tmp_path, log.key.vkey)
    assert cosigner.latest(digest_of(ORIGIN)) is None
    cosigner.add_checkpoint(log.request(0))
    opened = note.open_note(cosigner.latest(digest_of(ORIGIN)), [log.key.verifying_key, cosigning_key().verifying_key])
    assert len(opened.signatures) == 2
    assert cosigner.latest("../witness.toml") is None


def test_a_restarted_witness_remembers(tmp_path):
    """What was cosigned before a restart is what counts after it."""
    log = Log().grow(6)
    make_cosigner(tmp_path, log.key.vkey).add_checkpoint(log.request(0))
    again = make_cosigner(tmp_path)
    assert statuses(again, log.rewritten().request(0), log.rewritten().request(6), log.request(6)) == [409, 422, 200]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_nothing_is_signed_away_that_is_not_kept(tmp_path, moment):
    """When the disk fails, no signature leaves, and no second root of one size is ever signed afterwards."""
    log = Log().grow(6)
    disk = FaultyDisk()
    cosigner = make_cosigner(tmp_path, log.key.vkey, disk=disk)
    cosigner.add_checkpoint(log.request(0))
    disk.fault = Fault("replace", moment)
    grown = Log(entries=list(log.entries)).grow(9)
    with pytest.raises(DiskFullError):
        cosigner.add_checkpoint(grown.request(6))
    signed = {(6, log.checkpoint().root)}
    for attempt in (grown.rewritten(8), grown):
        for old in (6, 9):
            reply = cosigner.add_checkpoint(AddCheckpoint(old, attempt.proof(old), attempt.signed()).encode())
            if reply.status == HTTPStatus.OK:
                signed.add((9, attempt.checkpoint().root))
    assert len(signed) == 2
    assert kept_size(cosigner) == 9


def test_requests_for_one_log_go_one_after_the_other(tmp_path):
    """Of many concurrent requests from one size, with different continuations, exactly one is cosigned."""
    log = Log().grow(4)
    cosigner = make_cosigner(tmp_path, log.key.vkey)
    cosigner.add_checkpoint(log.request(0))
    barrier = threading.Barrier(8)

    def ask(number):
        other = Log(entries=[*log.entries, b"branch %d" % number])
        barrier.wait()
        return int(cosigner.add_checkpoint(other.request(4)).status)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    assert sorted(answers) == [200] + [409] * 7


@pytest.mark.parametrize("content", [b"", b"nonsense", Log().grow(3).signed()])
def test_a_state_that_is_not_its_own_stops_the_witness(tmp_path, content):
    """A kept checkpoint without the witness's own signature is never built upon."""
    log = Log().grow(3)
    cosigner = make_cosigner(tmp_path, log.key.vkey)
    Disk().replace(tmp_path / "checkpoints" / digest_of(ORIGIN), content)
    with pytest.raises(WitnessStateDamaged) as caught:
        cosigner.add_checkpoint(log.request(3))
    assert caught.value.code == "witness_state_damaged"
    assert "change it back" in caught.value.remedy


def test_a_log_is_added_while_the_witness_runs(tmp_path):
    """`witness.toml` is read again when it changes; one that breaks leaves the logs known before."""
    log, other = Log().grow(2), Log("b/c/2026", b"b" * 32).grow(2)
    cosigner = make_cosigner(tmp_path, log.key.vkey)
    assert statuses(cosigner, other.request(0)) == [404]
    make_cosigner(tmp_path, other.key.vkey)
    assert statuses(cosigner, other.request(0)) == [200]
    (tmp_path / "witness.toml").write_text("name = ")
    assert statuses(cosigner, other.request(2), log.request(0)) == [200, 200]
    assert NAME in cosigner.latest(digest_of("b/c/2026")).decode()
