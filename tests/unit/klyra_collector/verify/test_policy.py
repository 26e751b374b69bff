"""Trust anchors in C2SP tlog-policy files."""

from __future__ import annotations

import base64

import pytest

from klyra_collector.verify import CannotVerify, policy
from support.ledgers import signing_key

VKEY = signing_key().vkey
OTHER = signing_key(bytes(32), "other/log/1").vkey
LATTICE = "w+01020304+" + base64.b64encode(b"\x06" + bytes(1312)).decode()


def test_logs_and_quorum_are_read() -> None:
    """With comments, tabs, URLs, witnesses and groups."""
    text = f"""# anchors
\tlog {VKEY} https://example.com/
  log\t{OTHER}

witness w1 {OTHER} https://w1
witness w2 {LATTICE}
group g any w1 w2
group h 2 w1 w2
group i all g h
quorum i
"""
    read = policy.parse(text.encode())
    assert [str(key) for key in read.logs] == [VKEY, OTHER]
    assert read.quorum == "i"


@pytest.mark.parametrize("text", [f"log {VKEY}", f"log {VKEY}\nquorum none\n"])
def test_without_a_quorum_no_witness_is_asked_for(text) -> None:
    """Said or not."""
    assert policy.parse(text.encode()).quorum == policy.NO_QUORUM


def test_a_key_of_another_algorithm_is_passed_over() -> None:
    """As long as there is one to use."""
    assert len(policy.parse(f"log {LATTICE}\nlog {VKEY}\n".encode()).logs) == 1


@pytest.mark.parametrize(
    "line",
    [
        "logs x",
        "log",
        "log a b c",
        "witness w",
        "witness none x",
        "group g any",
        "group g any nobody",
        "group g 0 w",
        "group g 2 w",
        "group g 1.0 w",
        "group g 99999999999 w",
        "group w any w",
        "quorum nobody",
        "quorum",
        "quorum none\nquorum none",
        "\x07",
        "\x7f",
        "witness w x",
        "log\u00a0x",
    ],
)
def test_what_is_no_policy_is_refused(line) -> None:
    """A mistake never makes a policy weaker."""
    with pytest.raises(CannotVerify, match="policy cannot be used") as caught:
        policy.parse(f"log {VKEY}\nwitness w {OTHER}\n{line}\n".encode())
    assert caught.value.code == "bad_policy"
    assert "tlog-policy" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"quorum none\n", f"log {LATTICE}\n".encode(), b"#" * 300_000])
def test_a_policy_without_a_key_that_can_be_used_is_refused(content) -> None:
    """Nothing would be pinned."""
    with pytest.raises(CannotVerify):
        policy.parse(content)
