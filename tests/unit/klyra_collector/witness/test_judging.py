"""What each answer of a witness means, and that nothing of it is believed unchecked."""

from __future__ import annotations

import pytest

from klyra_audit.format.keys import ALGORITHM_ML_DSA_44
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.witness.errors import (
    AnswerInvalid,
    HistoryRefused,
    LedgerBehind,
    LogNotWitnessed,
    WitnessUnavailable,
)
from klyra_collector.witness.heads import Head
from klyra_collector.witness.judging import Answer, Cosignature, OtherSize, judge
from klyra_collector.witness.request import SIZE_MEDIA_TYPE
from support.witnesses import NAME, NOW, Log, cosigning_key

KEY = cosigning_key()
LOG = Log().grow(7)
HEAD = Head(shard=ShardDirectory(None), checkpoint=LOG.checkpoint(), encoded=LOG.signed(), vkey=LOG.key.vkey)
TEXT = LOG.checkpoint().text()


def told(status, body, media_type="text/plain", *, old=3, key=KEY, now=NOW):
    """Judge an answer."""
    return judge(Answer(status, media_type, body.encode()), HEAD, old, key.verifying_key, now)


@pytest.mark.parametrize("key", [KEY, cosigning_key(algorithm=ALGORITHM_ML_DSA_44)], ids=["ed25519", "ml-dsa-44"])
def test_a_cosignature_of_the_policys_key_is_taken(key):
    """Of several lines, that of the policy's key is checked and taken, with its time."""
    stranger = cosigning_key("other", b"o" * 32)
    line = key.signature_line(TEXT, NOW - 60)
    assert told(200, stranger.signature_line(TEXT, NOW) + line, key=key) == Cosignature(line, NOW - 60)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "\n",
        "nonsense",
        cosigning_key("other").signature_line(TEXT, NOW),
        KEY.signature_line(Log().grow(8).checkpoint().text(), NOW),
        f"\u2014 {NAME} !!!!\n",
        KEY.signature_line(TEXT, NOW)[:-8],
    ],
    ids=["empty", "blank", "nonsense", "other key", "other checkpoint", "not base64", "torn"],
)
def test_what_is_no_cosignature_is_not_believed(body):
    """Nothing but a valid line of the policy's key over this very checkpoint counts."""
    with pytest.raises(AnswerInvalid) as caught:
        told(200, body)
    assert caught.value.code == "witness_answer_invalid"
    assert "key in the policy" in caught.value.remedy


def test_bytes_that_are_no_text_are_not_believed():
    """An answer that is not UTF-8 is refused like any other nonsense."""
    with pytest.raises(AnswerInvalid):
        judge(Answer(200, "text/plain", b"\xff\n"), HEAD, 3, KEY.verifying_key, NOW)


@pytest.mark.parametrize("off", [-901, 901])
def test_a_time_that_is_far_off_is_not_believed(off):
    """Fifteen minutes either way are the limit."""
    line = KEY.signature_line(TEXT, NOW + off)
    with pytest.raises(AnswerInvalid) as caught:
        told(200, line)
    assert (caught.value.code, "clock" in caught.value.remedy) == ("witness_clock", True)
    assert told(200, line, now=NOW + off // 901).time == NOW + off


def test_another_size_below_ours_is_one_to_begin_from():
    """409 with a smaller size, or with ours, names where a proof must start."""
    assert told(409, "5\n", SIZE_MEDIA_TYPE) == OtherSize(5)
    assert told(409, "7\n", SIZE_MEDIA_TYPE) == OtherSize(7)
    assert told(409, "0\n", SIZE_MEDIA_TYPE) == OtherSize(0)


def test_a_larger_size_than_ours_is_a_rollback():
    """A witness that has seen more than the ledger holds raises an alarm."""
    with pytest.raises(LedgerBehind) as caught:
        told(409, "8\n", SIZE_MEDIA_TYPE)
    assert (caught.value.code, "klyra-audit verify" in caught.value.remedy) == ("rollback", True)


@pytest.mark.parametrize(("status", "body", "old"), [(422, "bad proof\n", 3), (409, "7\n", 7)])
def test_another_history_is_a_fork(status, body, old):
    """422, and 409 at the very same size, mean that the witness has seen another history."""
    with pytest.raises(HistoryRefused) as caught:
        told(status, body, SIZE_MEDIA_TYPE, old=old)
    assert (caught.value.code, "klyra-audit verify" in caught.value.remedy) == ("fork", True)


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        ("", SIZE_MEDIA_TYPE),
        ("05\n", SIZE_MEDIA_TYPE),
        ("5", SIZE_MEDIA_TYPE),
        ("5\n", "text/plain"),
        ("3\n", SIZE_MEDIA_TYPE),
    ],
)
def test_a_conflict_must_name_another_size(body, media_type):
    """409 without a size, of another media type, or with the size that was sent is nonsense."""
    with pytest.raises(AnswerInvalid) as caught:
        told(409, body, media_type)
    assert caught.value.remedy.startswith("Ask its operator")


@pytest.mark.parametrize(("status", "code"), [(404, "log_unknown"), (403, "log_key_unknown")])
def test_an_unknown_log_says_what_to_add(status, code):
    """The remedy carries the verifier key line that the witness's operator needs."""
    with pytest.raises(LogNotWitnessed) as caught:
        told(status, "")
    assert (caught.value.code, LOG.key.vkey in caught.value.remedy) == (code, True)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_passing_trouble_is_tried_again(status):
    """Overload and server errors are retryable."""
    with pytest.raises(WitnessUnavailable) as caught:
        told(status, "")
    assert (caught.value.code, caught.value.remedy) == ("witness_unavailable", "It is asked again by itself.")


@pytest.mark.parametrize("status", [201, 301, 400, 413, 418])
def test_any_other_answer_is_nonsense(status):
    """A redirect is not followed, a 400 is a fault of one of the two sides."""
    with pytest.raises(AnswerInvalid) as caught:
        told(status, "")
    assert (caught.value.code, caught.value.remedy.startswith("Ask its operator")) == ("witness_answer_invalid", True)
