"""The handshake, both sides, and what either refuses."""

from __future__ import annotations

import dataclasses
import hashlib

import msgpack
import pytest

from klyra_audit.forward import library
from klyra_audit.forward.encoding import acknowledged, chunk_id
from klyra_audit.forward.errors import HandshakeFailed, MissingExtra, NotForward
from klyra_audit.forward.handshake import Helo, Ping, Pong
from support.forward import PASSWORD, SHARED_KEY, USER


def greeting(*, with_users: bool = True, **proofs: str) -> tuple[Helo, Ping]:
    """Return a server's offer and a client's answer to it."""
    helo = Helo.decode(Helo.draw(with_users=with_users).encode())
    chosen = {"hostname": "client", "shared_key": SHARED_KEY, "user": USER, "password": PASSWORD} | proofs
    return helo, Ping.decode(Ping.answer(helo, **chosen).encode())


def test_both_sides_prove_the_shared_key() -> None:
    """Each accepts the other's digests as the specification computes them."""
    helo, ping = greeting()
    ping.check_key(helo, SHARED_KEY, "server")
    ping.check_password(helo, PASSWORD)
    pong = Pong.decode(Pong.accepting(ping, helo, hostname="server", shared_key=SHARED_KEY).encode())
    pong.check(ping, helo, SHARED_KEY)
    assert ping.key_digest.decode() == sha512(ping.salt, b"client", helo.nonce, SHARED_KEY.encode())
    assert ping.password_digest.decode() == sha512(helo.auth, USER.encode(), PASSWORD.encode())
    assert pong.key_digest.decode() == sha512(ping.salt, b"server", helo.nonce, SHARED_KEY.encode())


def sha512(*parts: bytes) -> str:
    """Return the digest that the specification describes."""
    return hashlib.sha512(b"".join(parts)).hexdigest()


def test_no_user_is_sent_where_none_is_asked_for() -> None:
    """Without a salt for passwords the client keeps its user to itself."""
    _, ping = greeting(with_users=False)
    assert (ping.user, ping.password_digest) == (b"", b"")


@pytest.mark.parametrize("own_hostname", ["client", "server"])
def test_the_server_refuses_a_wrong_key_and_its_own_name(own_hostname) -> None:
    """A client with another key is refused, and one with the server's name whatever it proves."""
    helo, ping = greeting(shared_key="another" if own_hostname == "server" else SHARED_KEY)
    with pytest.raises(HandshakeFailed) as caught:
        ping.check_key(helo, SHARED_KEY, own_hostname)
    assert (caught.value.code, bool(caught.value.remedy)) == ("handshake_failed", True)


@pytest.mark.parametrize("password", ["another", None, ""])
def test_the_server_refuses_a_wrong_password(password) -> None:
    """Also for a user it does not know."""
    helo, ping = greeting()
    with pytest.raises(HandshakeFailed):
        ping.check_password(helo, password)


def test_an_answer_to_another_offer_proves_nothing() -> None:
    """What was overheard once cannot be played back."""
    _, ping = greeting()
    other = Helo.draw(with_users=True)
    with pytest.raises(HandshakeFailed):
        ping.check_key(other, SHARED_KEY, "server")
    with pytest.raises(HandshakeFailed):
        ping.check_password(other, PASSWORD)


@pytest.mark.parametrize(
    "change",
    [{"key_digest": b"0" * 128}, {"key_digest": b""}, {"hostname": b"client"}, {"accepted": False}],
    ids=["digest", "no digest", "our own name", "refused"],
)
def test_the_client_refuses_a_server_that_proves_nothing(change) -> None:
    """A server that does not know the shared key, or sends our own digest back, is none."""
    helo, ping = greeting()
    pong = Pong.accepting(ping, helo, hostname="server", shared_key=SHARED_KEY)
    if "hostname" in change:
        change |= {"key_digest": ping.key_digest}
    with pytest.raises(HandshakeFailed) as caught:
        dataclasses.replace(pong, **change).check(ping, helo, SHARED_KEY)
    assert caught.value.remedy


def test_a_refusal_may_be_short() -> None:
    """Some servers leave the proof out when they refuse."""
    assert Pong.decode(msgpack.packb(["PONG", False, "no"])) == Pong.refusing("no")


@pytest.mark.parametrize(
    ("decode", "raw"),
    [
        (Helo.decode, msgpack.packb(["HELO"])),
        (Helo.decode, msgpack.packb(["HELO", []])),
        (Helo.decode, msgpack.packb(["HELO", {}])),
        (Helo.decode, msgpack.packb(["HELO", {"nonce": 1}])),
        (Helo.decode, msgpack.packb(["PING", {"nonce": b"1"}])),
        (Helo.decode, b"\x91\x91\xc1"),
        (Helo.decode, b"\x81\x90\x01"),
        (Ping.decode, msgpack.packb(["PING", "a", "b", "c", "d"])),
        (Ping.decode, msgpack.packb(["PING", "a", "b", "c", "d", 1])),
        (Ping.decode, msgpack.packb({"PING": 1})),
        (Ping.decode, b"\xc0"),
        (Pong.decode, msgpack.packb(["PONG", 1, "", "", ""])),
        (Pong.decode, msgpack.packb(["PONG", True, "", "", None])),
        (Pong.decode, msgpack.packb(["PONG", True])),
    ],
    ids=repr,
)
def test_anything_else_is_no_handshake(decode, raw) -> None:
    """What has another shape is refused with the codec's own error."""
    with pytest.raises(HandshakeFailed):
        decode(raw)


@pytest.mark.parametrize("raw", [b"\xc0", b"\x80", b"\xc1", b"\x81\xa3ack\x01", b"\x81\x90\x01", b"\x91\x01"])
def test_what_acknowledges_no_chunk_is_refused(raw) -> None:
    """An answer that is no acknowledgement is not taken for one."""
    with pytest.raises(NotForward):
        acknowledged(raw)


@pytest.mark.parametrize("raw", [b"\x81\xa3ack\xa1c", b"\x81\xa3ack\xc4\x01c"])
def test_an_acknowledgement_may_be_text_or_bytes(raw) -> None:
    """The chunk comes back as either."""
    assert acknowledged(raw) == "c"


def test_a_chunk_is_named_by_its_content() -> None:
    """The same entries under the same tag are the same chunk; a tag cannot run into them."""
    assert chunk_id("a", b"b") == chunk_id("a", b"b")
    assert len({chunk_id("a", b"b"), chunk_id("ab", b""), chunk_id("a", b"c")}) == 3


@pytest.mark.parametrize("name", ["msgpack", "zstandard"])
def test_a_missing_library_names_the_extra(monkeypatch, name) -> None:
    """Whoever installed the base alone is told what to install."""
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingExtra) as caught:
        getattr(library, name)()
    assert caught.value.code == "missing_extra"
    assert "klyra-audit[forward]" in caught.value.remedy
