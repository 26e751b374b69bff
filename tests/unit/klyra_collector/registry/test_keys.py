"""API keys."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from klyra_audit.errors import Rejected
from klyra_collector.registry import Registry, database, key_text
from klyra_collector.registry.errors import KeyRefused
from klyra_collector.registry.tables import API_KEY_SECRETS

WEEK = timedelta(days=7)


def refused(registry, text: str) -> KeyRefused:
    """Return how a text is refused."""
    with pytest.raises(KeyRefused) as caught:
        registry.authenticate(text)
    assert isinstance(caught.value, Rejected)
    assert caught.value.code == "key_refused"
    assert caught.value.remedy
    return caught.value


class TestIssuing:
    """Making keys."""

    def test_a_key_authenticates_as_what_it_was_made(self, registry, admin) -> None:
        """Owner, scopes, label, emitters and expiry come back with the secret."""
        expires_at = 1_900_000_000_000_000
        issued = registry.create_key(
            organization_id="org_a",
            scopes=["emit", "read"],
            label="Billing",
            emitter_ids=["billing-1", "billing-2"],
            expires_at=expires_at,
            by=admin,
        )
        key = registry.authenticate(issued.secret_text)
        assert key == issued.key
        assert (key.organization_id, key.label, key.scopes) == ("org_a", "Billing", {"emit", "read"})
        assert (key.emitter_ids, key.expires_at) == (("billing-1", "billing-2"), expires_at)
        assert issued.secret_text.startswith(f"klyra_sk_{key.key_id.removeprefix('key_')}_")

    def test_only_a_digest_of_the_secret_is_kept(self, key, registry, tmp_path) -> None:
        """Neither the files of the registry nor the key's text in a log betray it."""
        secret = key.secret_text.split("_", 3)[3][:43].encode()
        registry.close()
        assert all(secret not in file.read_bytes() for file in tmp_path.iterdir())
        assert secret.decode() not in repr(key)

    def test_a_new_key_is_told_to_its_organization(self, registry, told, admin) -> None:
        """The entry names the key by its public id."""
        issued = registry.create_key(
            organization_id="org_a", scopes=["read"], emitter_ids=["e"], expires_at=1_900_000_000_000_000, by=admin
        )
        (document,) = told.new_documents()
        assert (document["event_type"], document["organization_id"]) == ("api_key.created", "org_a")
        assert (document["resource"]["id"], document["actor"]["id"]) == (issued.key.key_id, "usr_admin")
        assert issued.secret_text not in str(document)

    def test_the_operators_key_is_told_to_the_operator(self, registry, told, admin) -> None:
        """It belongs to no organization."""
        issued = registry.create_key(organization_id=None, scopes=["verify"], by=admin)
        (command,) = told.new()
        assert issued.key.organization_id is None
        assert (command.organization_id, command.payload["document"]["organization_id"]) == ("operator", "operator")

    def test_keys_are_listed_by_owner(self, registry, admin, clock) -> None:
        """One organization's, the operator's, or all, oldest first."""
        registry.create_organization("org_b", "startup", by=admin)
        issued = []
        for owner in ("org_b", None, "org_a"):
            issued.append(registry.create_key(organization_id=owner, scopes=["read"], by=admin).key)
            clock.advance(seconds=1)
        assert registry.keys() == issued
        assert registry.keys("org_b") == issued[:1]
        assert registry.keys("operator") == issued[1:2]

    @pytest.mark.parametrize(
        ("change", "code", "remedy"),
        [
            ({"scopes": []}, "bad_scope", "Choose one or more"),
            ({"scopes": ["write"]}, "bad_scope", "Choose one or more"),
            ({"organization_id": "org_b"}, "unknown_organization", "org create"),
            ({"label": "x" * 201}, "bad_label", "200 printable"),
            ({"label": "a\nb"}, "bad_label", "200 printable"),
            ({"emitter_ids": ["a b"]}, "bad_emitter_id", "without spaces"),
            ({"emitter_ids": [""]}, "bad_emitter_id", "without spaces"),
            ({"expires_at": 0}, "bad_expiry", "later time"),
        ],
    )
    def test_a_key_that_cannot_be_is_rejected(self, registry, told, admin, change, code, remedy) -> None:
        """With the reason, and nothing is made."""
        with pytest.raises(Rejected) as caught:
            registry.create_key(**{"organization_id": "org_a", "scopes": ["read"], "by": admin, **change})
        assert caught.value.code == code
        assert remedy in caught.value.remedy
        assert registry.keys() == []
        assert told.new() == []


class TestRefusing:
    """What does not authenticate."""

    def test_a_mistyped_key_is_told_from_an_unknown_one(self, registry, key) -> None:
        """The checksum finds the typing error without asking the registry, which may even be gone."""
        registry.close()
        error = refused(registry, key.secret_text[:-1])
        assert (error.reason, error.key_id, error.organization_id) == ("malformed", None, None)
        assert "Copy the whole key" in error.remedy

    def test_a_key_of_another_registry_is_unknown(self, registry) -> None:
        """It claims an id that is not there, so nothing of it is taken for known."""
        error = refused(registry, key_text.new_key_text("key_000000000000"))
        assert (error.reason, error.key_id, error.organization_id) == ("unknown", None, None)

    def test_a_wrong_secret_of_a_known_key_is_unknown(self, registry, key) -> None:
        """The log may learn whose key was tried; the answer is the same as for any unknown key."""
        error = refused(registry, key_text.new_key_text(key.key.key_id))
        assert (error.reason, error.key_id, error.organization_id) == ("unknown", key.key.key_id, "org_a")
        assert str(error) == str(refused(registry, key_text.new_key_text("key_000000000000")))

    def test_a_key_expires(self, registry, admin, clock) -> None:
        """From its expiry on it is refused."""
        issued = registry.create_key(
            organization_id="org_a", scopes=["read"], expires_at=clock.now + 1_000_000, by=admin
        )
        clock.advance(seconds=0.999999)
        registry.authenticate(issued.secret_text)
        clock.advance(seconds=0.000001)
        error = refused(registry, issued.secret_text)
        assert (error.reason, error.key_id, error.organization_id) == ("expired", issued.key.key_id, "org_a")

    def test_a_revoked_key_is_refused_at_once(self, registry, second, key, admin) -> None:
        """In every process, also after it was used."""
        second.authenticate(key.secret_text)
        registry.revoke_key(key.key.key_id, admin)
        error = refused(second, key.secret_text)
        assert (error.reason, error.key_id, error.organization_id) == ("revoked", key.key.key_id, "org_a")


class TestRevoking:
    """Ending keys."""

    def test_a_revocation_is_told_once(self, registry, key, told, admin, clock) -> None:
        """Revoking again is no change."""
        revoked = registry.revoke_key(key.key.key_id, admin)
        clock.advance(seconds=1)
        assert registry.revoke_key(key.key.key_id, admin) == revoked
        assert revoked.revoked_at == clock.now - 1_000_000
        (document,) = told.new_documents()
        assert (document["event_type"], document["resource"]["id"]) == ("api_key.revoked", key.key.key_id)
        assert document["resource"]["name"] == "Dashboard"

    def test_an_unknown_key_is_not_revoked(self, registry, admin) -> None:
        """The list has those there are."""
        with pytest.raises(Rejected, match="no key key_x") as caught:
            registry.revoke_key("key_x", admin)
        assert (caught.value.code, "key list" in caught.value.remedy) == ("unknown_key", True)


class TestRotating:
    """New secrets for known keys."""

    def test_both_secrets_work_during_the_overlap(self, registry, key, admin, clock) -> None:
        """The id stays; afterwards only the new secret works."""
        rotated = registry.rotate_key(key.key.key_id, WEEK, admin)
        assert rotated.key == key.key
        assert registry.authenticate(key.secret_text).key_id == registry.authenticate(rotated.secret_text).key_id
        clock.advance(days=7)
        assert refused(registry, key.secret_text).reason == "expired"
        registry.authenticate(rotated.secret_text)

    def test_a_second_rotation_never_lengthens_an_overlap(self, registry, key, admin, clock) -> None:
        """A secret that was to end stays so, and may be made to end sooner."""
        between = registry.rotate_key(key.key.key_id, timedelta(hours=1), admin)
        newest = registry.rotate_key(key.key.key_id, WEEK, admin)
        clock.advance(minutes=60)
        assert refused(registry, key.secret_text).reason == "expired"
        registry.authenticate(between.secret_text)
        registry.rotate_key(key.key.key_id, timedelta(0), admin)
        assert refused(registry, between.secret_text).reason == "expired"
        assert refused(registry, newest.secret_text).reason == "expired"

    def test_a_rotation_is_told(self, registry, key, told, admin) -> None:
        """As a creation under the id there was, marked as a rotation."""
        registry.rotate_key(key.key.key_id, WEEK, admin)
        (document,) = told.new_documents()
        assert (document["event_type"], document["resource"]["id"]) == ("api_key.created", key.key.key_id)
        assert document["metadata"]["rotated"] is True

    def test_revoking_ends_every_secret(self, registry, key, admin) -> None:
        """Also the one that is still in its overlap."""
        rotated = registry.rotate_key(key.key.key_id, WEEK, admin)
        registry.revoke_key(key.key.key_id, admin)
        assert {refused(registry, text).reason for text in (key.secret_text, rotated.secret_text)} == {"revoked"}

    @pytest.mark.parametrize("end", ["revoked", "expired"])
    def test_a_key_that_has_ended_is_not_rotated(self, registry, admin, clock, end) -> None:
        """That would look like bringing it back."""
        issued = registry.create_key(organization_id="org_a", scopes=["read"], expires_at=clock.now + 1, by=admin)
        if end == "revoked":
            registry.revoke_key(issued.key.key_id, admin)
        clock.advance(seconds=1)
        with pytest.raises(Rejected, match=end) as caught:
            registry.rotate_key(issued.key.key_id, WEEK, admin)
        assert (caught.value.code, "another key" in caught.value.remedy) == ("key_not_in_force", True)

    def test_an_unknown_key_is_not_rotated(self, registry, admin) -> None:
        """The list has those there are."""
        with pytest.raises(Rejected) as caught:
            registry.rotate_key("key_x", WEEK, admin)
        assert caught.value.code == "unknown_key"

    @pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=366)])
    def test_an_overlap_out_of_range_is_rejected(self, registry, key, admin, overlap) -> None:
        """Negative, or so long that the old secret would in effect stay."""
        with pytest.raises(Rejected, match="overlap") as caught:
            registry.rotate_key(key.key.key_id, overlap, admin)
        assert (caught.value.code, caught.value.remedy) == ("bad_overlap", "Choose 0 to 365 days.")

    def test_rotations_from_two_processes_leave_both_new_secrets(self, registry, second, key, admin) -> None:
        """Neither overwrites the other's."""
        rotated = []
        threads = [
            threading.Thread(target=lambda r=r: rotated.append(r.rotate_key(key.key.key_id, WEEK, admin)))
            for r in (registry, second)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for issued in (key, *rotated):
            registry.authenticate(issued.secret_text)
        with registry._database.reading() as connection:
            assert len(list(connection.execute(select(API_KEY_SECRETS)))) == 3


class TestLastUse:
    """When a key was last used."""

    def last_used(self, registry) -> int | None:
        """Return what the list says, once everything noted is written."""
        registry._last_use.close()
        registry._last_use._writer = None
        return registry.keys("org_a")[0].last_used_at

    def test_it_is_written_to_the_minute(self, registry, key, clock) -> None:
        """The first use is, a use within the minute is not, a later one is."""
        start = clock.now
        assert self.last_used(registry) is None
        registry.authenticate(key.secret_text)
        assert self.last_used(registry) == start
        clock.advance(seconds=59)
        registry.authenticate(key.secret_text)
        assert self.last_used(registry) == start
        clock.advance(seconds=1)
        registry.authenticate(key.secret_text)
        assert self.last_used(registry) == start + 60_000_000

    def test_one_process_sees_what_another_wrote(self, registry, second, key, clock) -> None:
        """Together they write once a minute."""
        registry.authenticate(key.secret_text)
        start = self.last_used(registry)
        clock.advance(seconds=30)
        second.authenticate(key.secret_text)
        assert self.last_used(second) == start

    def test_authentication_does_not_wait_for_the_write_lock(self, registry, second, key) -> None:
        """While another process writes, a key authenticates all the same, and its use is written afterwards."""
        with second._database.writing():
            registry.authenticate(key.secret_text)
            assert registry.keys("org_a")[0].last_used_at is None
        assert self.last_used(registry) is not None

    def test_a_registry_that_cannot_be_written_troubles_nobody(
        self, url, catalog, clock, key, second, monkeypatch
    ) -> None:
        """A use that cannot be written is left out, and tried again a minute later."""
        monkeypatch.setattr(database, "_BUSY_SECONDS", 0.02)
        with Registry.open(url, catalog, clock=clock) as impatient:
            with second._database.writing():
                impatient.authenticate(key.secret_text)
                assert self.last_used(impatient) is None
            clock.advance(minutes=1)
            impatient.authenticate(key.secret_text)
            assert self.last_used(impatient) == clock.now
