"""Who may send over Forward, and with which key."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from klyra_audit.forward.errors import HandshakeFailed
from klyra_audit.forward.handshake import Helo, Ping
from klyra_collector.config import ForwardSettings, ForwardUser
from klyra_collector.errors import SecretUnavailable
from klyra_collector.receive.forward.access import ForwardUnbound, load_access
from support.forward import PASSWORD, SHARED_KEY, USER


@pytest.fixture(autouse=True)
def secrets(monkeypatch) -> None:
    """Put the secrets where the references lead."""
    for name, value in {
        "SHARED": SHARED_KEY,
        "PASSWORD": PASSWORD,
        "KEY": "default key",
        "USERS_KEY": "its key",
    }.items():
        monkeypatch.setenv(name, value)


CLIENT = ForwardUser(user=USER, password="env:PASSWORD", key="env:USERS_KEY")


def ping(helo: Helo, user: str = "", password: str = "") -> Ping:
    """Return the answer of a client that knows the shared key."""
    return Ping.answer(helo, hostname="client", shared_key=SHARED_KEY, user=user, password=password)


def test_a_user_sends_with_its_own_key() -> None:
    """Whoever proves a user gets that user's key; whoever proves none the default one."""
    access = load_access(ForwardSettings(shared_key="env:SHARED", key="env:KEY", clients=(CLIENT,)), "server")
    helo = Helo.draw(with_users=access.with_users)
    assert access.with_users
    assert access.check(ping(helo, USER, PASSWORD), helo).key_text == "its key"
    assert access.check(ping(helo), helo).key_text == "default key"
    assert (access.unnamed().source, access.hostname) == ("default", "server")


def test_without_a_default_everybody_needs_a_user() -> None:
    """Then a client without a user is refused, and an unknown one, too."""
    access = load_access(ForwardSettings(shared_key="env:SHARED", clients=(CLIENT,), hostname="named"), "server")
    helo = Helo.draw(with_users=True)
    assert access.hostname == "named"
    for user, password in (("", ""), ("nobody", PASSWORD), (USER, "wrong")):
        with pytest.raises(HandshakeFailed):
            access.check(ping(helo, user, password), helo)
    with pytest.raises(HandshakeFailed) as caught:
        access.unnamed()
    assert caught.value.remedy


def test_without_users_nobody_is_asked_for_one() -> None:
    """The shared key alone gets the default key, whatever user a client names."""
    access = load_access(ForwardSettings(shared_key="env:SHARED", key="env:KEY"), "server")
    helo = Helo.draw(with_users=access.with_users)
    assert not access.with_users
    assert access.check(ping(helo, "anybody", "anything"), helo).key_text == "default key"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shared_key": "env:SHARED"},
        {"clients": (CLIENT,), "key": "env:KEY"},
        {"clients": (CLIENT, CLIENT), "shared_key": "env:SHARED"},
        {"key": "env:KEY", "listen": "0.0.0.0:24224"},
        {"key": "env:KEY", "listen": "[::]:24224"},
        {"key": "env:KEY", "listen": "collector.example:24224"},
    ],
)
def test_what_cannot_be_meant_is_refused(settings) -> None:
    """The error says which setting is missing."""
    with pytest.raises(ForwardUnbound) as caught:
        load_access(ForwardSettings(**settings), "server")
    assert caught.value.code == "forward_unbound"
    assert caught.value.remedy


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": "127.0.0.1:24224"},
        {"listen": "[::1]:24224"},
        {"listen": "localhost:24224"},
        {"listen": "0.0.0.0:24224", "open": True},
        {"listen": "0.0.0.0:24224", "shared_key": "env:SHARED"},
    ],
)
def test_where_strangers_cannot_reach_no_handshake_is_needed(settings) -> None:
    """On this machine, or where the operator says so, or with a shared key."""
    assert load_access(ForwardSettings(key="env:KEY", **settings), "server").default is not None


@pytest.mark.parametrize("setting", ["key", "shared_key"])
def test_a_reference_that_leads_nowhere_stops_the_start(setting) -> None:
    """A secret that is not there is named."""
    with pytest.raises(SecretUnavailable, match=f"forward.{setting}"):
        load_access(ForwardSettings(**({"key": "env:KEY"} | {setting: "env:NOT_THERE"})), "server")


def test_secrets_are_never_values() -> None:
    """A secret written into the configuration is refused without being repeated."""
    for members in (
        {"shared_key": "secret"},
        {"key": "secret"},
        {"clients": [{"user": "u", "password": "p", "key": "k"}]},
    ):
        with pytest.raises(ValidationError, match="env:NAME or file:PATH"):
            ForwardSettings.model_validate(members)


def test_secrets_are_not_shown() -> None:
    """What stands in a log or a traceback names no secret."""
    access = load_access(ForwardSettings(shared_key="env:SHARED", key="env:KEY", clients=(CLIENT,)), "server")
    assert not any(text in repr(access) for text in (SHARED_KEY, PASSWORD, "default key", "its key"))
