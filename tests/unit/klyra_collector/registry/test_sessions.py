"""Sign-in tokens and the sessions of browsers."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from klyra_audit.errors import Rejected
from klyra_audit.event import Actor
from klyra_collector.registry import self_audit
from klyra_collector.registry.errors import SignInRefused
from klyra_collector.registry.sessions import Session


def refused(registry, token: str) -> str:
    """Return why a token is refused."""
    with pytest.raises(SignInRefused) as caught:
        registry.redeem_sign_in(token)
    assert isinstance(caught.value, Rejected)
    assert (caught.value.code, caught.value.remedy) == ("sign_in_refused", "Ask for a new link.")
    return caught.value.reason


class TestSignIn:
    """Tokens that work once."""

    def test_a_token_opens_a_session(self, registry, second, admin, clock) -> None:
        """In any process, with what the token was made for."""
        token = registry.create_sign_in("org_a", ["read", "export"], admin)
        session, cookie = second.redeem_sign_in(token)
        assert registry.session(cookie) == session
        assert (session.organization_id, session.actor, session.scopes) == ("org_a", admin, {"read", "export"})
        assert (session.created_at, session.expires_at) == (clock.now, clock.now + 12 * 3_600_000_000)
        assert session.session_id.startswith("ses_")
        assert session.key_id is None

    def test_a_session_may_be_another_persons(self, registry, admin) -> None:
        """Who makes the token and who uses it need not be the same."""
        token = registry.create_sign_in("org_a", ["read"], admin, actor=Actor.user("usr_viewer"))
        assert registry.redeem_sign_in(token)[0].actor == Actor.user("usr_viewer")

    def test_an_operators_token_opens_an_operators_session(self, registry, told, admin) -> None:
        """It belongs to no organization and is told in the operator's chain."""
        session, _ = registry.redeem_sign_in(registry.create_sign_in(None, ["admin"], admin))
        assert session.organization_id is None
        assert [document["organization_id"] for document in told.new_documents()] == ["operator"]

    def test_signing_in_is_told(self, registry, told, admin) -> None:
        """With the session's public id, never with the token or the cookie."""
        token = registry.create_sign_in("org_a", ["read"], admin)
        assert told.new() == []
        session, cookie = registry.redeem_sign_in(token)
        (document,) = told.new_documents()
        assert (document["event_type"], document["actor"]["id"]) == ("session.created", "usr_admin")
        assert document["resource"]["id"] == session.session_id
        assert token not in str(document)
        assert cookie not in str(document)

    def test_a_token_can_be_told_when_it_is_made(self, registry, told, admin, key) -> None:
        """The entry given is in the same transaction."""
        told.new()
        registry.create_sign_in("org_a", ["read"], admin, event=self_audit.key_created(admin, key.key))
        assert [document["event_type"] for document in told.new_documents()] == ["api_key.created"]

    def test_neither_token_nor_cookie_is_kept(self, registry, admin, tmp_path) -> None:
        """Only their digests are in the files."""
        token = registry.create_sign_in("org_a", ["read"], admin)
        unused = registry.create_sign_in("org_a", ["read"], admin)
        _, cookie = registry.redeem_sign_in(token)
        registry.close()
        kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert not any(secret.encode() in kept for secret in (token, unused, cookie))

    def test_a_token_works_once(self, registry, second, admin) -> None:
        """Also when two browsers use it at the same moment."""
        token = registry.create_sign_in("org_a", ["read"], admin)
        outcomes = []

        def redeem(process) -> None:
            try:
                outcomes.append(process.redeem_sign_in(token)[0])
            except SignInRefused as error:
                outcomes.append(error.reason)

        threads = [threading.Thread(target=redeem, args=(process,)) for process in (registry, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count("used") == 1
        assert sum(isinstance(outcome, Session) for outcome in outcomes) == 1
        assert refused(registry, token) == "used"

    def test_a_token_expires(self, registry, admin, clock) -> None:
        """Ten minutes after it was made, unless it was made for longer."""
        token = registry.create_sign_in("org_a", ["read"], admin)
        longer = registry.create_sign_in("org_a", ["read"], admin, timedelta(hours=1))
        clock.advance(minutes=10)
        assert refused(registry, token) == "expired"
        registry.redeem_sign_in(longer)

    def test_an_unknown_token_is_refused(self, registry) -> None:
        """Whatever it looks like."""
        assert {refused(registry, token) for token in ("", "x", "\ud800")} == {"unknown"}

    def test_a_token_ends_with_the_key_that_made_it(self, registry, key, admin) -> None:
        """Revoking a key takes back what it gave out."""
        maker = Actor.api_key(key.key.key_id)
        token = registry.create_sign_in("org_a", ["read"], maker)
        _, cookie = registry.redeem_sign_in(registry.create_sign_in("org_a", ["read"], maker))
        registry.revoke_key(key.key.key_id, admin)
        assert refused(registry, token) == "expired"
        assert registry.session(cookie) is None

    def test_old_tokens_are_forgotten(self, registry, admin, clock) -> None:
        """A day after they expired nobody can say any more why they do not work."""
        token = registry.create_sign_in("org_a", ["read"], admin)
        clock.advance(days=1, minutes=11)
        registry.create_sign_in("org_a", ["read"], admin)
        assert refused(registry, token) == "unknown"

    @pytest.mark.parametrize(
        ("change", "code", "remedy"),
        [
            ({"organization_id": "org_b"}, "unknown_organization", "org create"),
            ({"scopes": []}, "bad_scope", "Choose one or more"),
            ({"scopes": ["read", "emit"]}, "bad_scope", "such as read and export"),
            ({"lifetime": timedelta(0)}, "bad_lifetime", "up to 30 days"),
            ({"lifetime": timedelta(days=31)}, "bad_lifetime", "up to 30 days"),
            ({"session_lifetime": timedelta(days=31)}, "bad_lifetime", "up to 30 days"),
        ],
    )
    def test_a_token_that_cannot_be_is_rejected(self, registry, admin, change, code, remedy) -> None:
        """A browser never gets emit, and nothing for ever."""
        with pytest.raises(Rejected) as caught:
            registry.create_sign_in(**{"organization_id": "org_a", "scopes": ["read"], "by": admin, **change})
        assert caught.value.code == code
        assert remedy in caught.value.remedy


class TestSession:
    """Browsers that signed in."""

    def test_a_key_opens_a_session(self, registry, key, told) -> None:
        """With the key as the actor, and its scopes."""
        session, cookie = registry.open_session(registry.authenticate(key.secret_text))
        assert registry.session(cookie) == session
        assert session.actor == Actor.api_key(key.key.key_id, "Dashboard")
        assert (session.scopes, session.key_id) == ({"read"}, key.key.key_id)
        assert told.new_documents()[-1]["event_type"] == "session.created"

    def test_a_session_never_has_emit(self, registry, admin) -> None:
        """A key's other scopes come along."""
        key = registry.create_key(organization_id="org_a", scopes=["emit", "read"], by=admin).key
        assert registry.open_session(key)[0].scopes == {"read"}

    def test_a_key_that_may_only_emit_opens_none(self, registry, admin, told) -> None:
        """There would be nothing to see."""
        key = registry.create_key(organization_id="org_a", scopes=["emit"], by=admin).key
        told.new()
        with pytest.raises(Rejected, match="emit") as caught:
            registry.open_session(key)
        assert (caught.value.code, "read and export" in caught.value.remedy) == ("bad_scope", True)
        assert told.new() == []

    def test_a_session_expires(self, registry, key, clock) -> None:
        """After twelve hours."""
        _, cookie = registry.open_session(key.key)
        clock.advance(minutes=12 * 60)
        assert registry.session(cookie) is None

    def test_a_session_ends_with_its_key(self, registry, second, key, admin, clock) -> None:
        """By revocation at once, and never later than the key expires."""
        _, cookie = registry.open_session(key.key)
        second.revoke_key(key.key.key_id, admin)
        assert registry.session(cookie) is None
        soon = registry.create_key(
            organization_id="org_a", scopes=["read"], expires_at=clock.now + 60_000_000, by=admin
        )
        assert registry.open_session(soon.key)[0].expires_at == clock.now + 60_000_000

    def test_an_ended_session_is_gone(self, registry, second, key) -> None:
        """Ending it again changes nothing."""
        _, cookie = registry.open_session(key.key)
        second.end_session(cookie)
        second.end_session(cookie)
        assert registry.session(cookie) is None

    @pytest.mark.parametrize("cookie", ["", "x", "\ud800"])
    def test_another_cookie_is_no_session(self, registry, cookie) -> None:
        """Whatever a browser sends."""
        assert registry.session(cookie) is None
