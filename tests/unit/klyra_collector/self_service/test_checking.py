"""What organizations may set up for themselves, and what they may not."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest

from klyra_collector.destination_kinds import make_destination
from klyra_collector.self_service.checking import BadWish, Rules, Wish, merged, options_of, sealed_spec, spec_of
from klyra_collector.self_service.kinds import BY_NAME, ENDPOINT, KINDS, FieldType
from klyra_collector.self_service.secret_box import SecretBox
from klyra_collector.self_service_settings import VENDOR_HOSTS
from support.siem import google

RULES = Rules((*VENDOR_HOSTS, "otel.example.com"), make_destination)
BOX = SecretBox(b"\x07" * 32)
ID = "dst-abcdefghijkl"
SUMO = "https://endpoint4.collection.sumologic.com/receiver/v1/http/ZaVnC4dhaV3_secret-path=="


def google_key(**members: Any) -> str:
    """Return a service account's key file."""
    return json.dumps(json.loads(google.ServiceAccount().key_file()) | {"token_uri": TOKENS} | members)


def test_a_file_may_have_lines() -> None:
    """A key file is given as it was downloaded."""
    RULES.check(wish("google-cloud-logging", secrets={"credentials": json.dumps(json.loads(google_key()), indent=2)}))


TOKENS = "https://oauth2.googleapis.com/token"
WISHES: dict[str, dict[str, Any]] = {
    "splunk": {"endpoint": "https://http-inputs-acme.splunkcloud.com", "secrets": {"token": "t0ken"}},
    "datadog": {"endpoint": "https://http-intake.logs.us5.datadoghq.com", "secrets": {"api_key": "k3y"}},
    "sumo-logic": {"endpoint": SUMO},
    "cloudwatch": {
        "endpoint": "https://logs.eu-central-1.amazonaws.com",
        "options": {"log_group": "/klyra/audit"},
        "secrets": {"access_key_id": "AKIAXXXXXXXXXXXXXXXX", "secret_access_key": "s3cret"},
    },
    "azure-monitor": {
        "endpoint": "https://klyra-ab12.westeurope-1.ingest.monitor.azure.com",
        "options": {
            "data_collection_rule": "dcr-0123456789abcdef0123456789abcdef",
            "tenant_id": "00000000-0000-0000-0000-000000000001",
            "client_id": "00000000-0000-0000-0000-000000000002",
        },
        "secrets": {"client_secret": "s3cret"},
    },
    "google-cloud-logging": {
        "endpoint": "https://logging.googleapis.com",
        "options": {"project": "my-project"},
        "secrets": {"credentials": google_key()},
    },
    "otlp": {"endpoint": "https://otel.example.com:4318/v1/logs", "secrets": {"authorization": "Bearer x"}},
}


def wish(kind: str, **members: Any) -> Wish:
    """Return what can be set up; `members` replace its own."""
    whole = {"filters": {}, "options": {}, "secrets": {}} | WISHES[kind] | members
    return Wish(name="far", kind=kind, **whole)


@pytest.mark.parametrize("kind", sorted(BY_NAME))
def test_every_kind_can_be_set_up(kind) -> None:
    """What is kept holds no secret as it is; opened, a module is made of it."""
    wanted = wish(kind)
    RULES.check(wanted)
    spec = sealed_spec(wanted, ID, BOX.public)
    secrets = {*wanted.secrets.values(), *([wanted.endpoint] if kind == "sumo-logic" else [])}
    assert not any(secret in repr((spec, spec.secrets)) for secret in secrets)
    opened = {name: BOX.open(sealed, ID, name) for name, sealed in spec.secrets.items()}
    options = options_of(ID, spec, opened, None)
    assert options.endpoint == wanted.endpoint
    assert {**options.settings, **options.headers} == {**wanted.options, **wanted.secrets}
    with contextlib.closing(make_destination(kind, options)) as made:
        assert made.limits.entries > 0


def test_a_secret_endpoint_is_shown_masked() -> None:
    """Its host is, its path is not."""
    assert sealed_spec(wish("sumo-logic"), ID, BOX.public).endpoint == "https://endpoint4.collection.sumologic.com/…"


@pytest.mark.parametrize("kind", sorted(BY_NAME))
def test_every_offered_option_is_one_of_the_module(kind) -> None:
    """Forms ask for nothing that the module would refuse."""
    values = {FieldType.TEXT: "x1", FieldType.NUMBER: 30, FieldType.BOOLEAN: True}
    given = {"tags": "env:x", "fields": "a=b", "token": "x", "log": "klyra.com/audit", "index": "klyra"}
    given |= {"stream": "Custom-KlyraAudit"}
    plain = [one for one in BY_NAME[kind].fields if one.type is not FieldType.SECRET]
    options = {one.name: given.get(one.name, values[one.type]) for one in plain} | WISHES[kind].get("options", {})
    RULES.check(wish(kind, options=options))


@pytest.mark.parametrize(
    ("kind", "members", "member", "code", "said"),
    [
        ("splunk", {"endpoint": "https://splunk.internal"}, ENDPOINT, "host_not_allowed", "splunk.internal"),
        ("splunk", {"endpoint": "https://169.254.169.254"}, ENDPOINT, "host_not_allowed", "169.254.169.254"),
        ("splunk", {"endpoint": "https://a.splunkcloud.com.evil.example"}, ENDPOINT, "host_not_allowed", "evil"),
        ("splunk", {"endpoint": "https://evil.example/#.splunkcloud.com"}, ENDPOINT, "bad_destination", "fragment"),
        ("splunk", {"endpoint": "https://u:p@a.splunkcloud.com"}, ENDPOINT, "bad_destination", "user"),
        ("splunk", {"endpoint": "http://a.splunkcloud.com"}, ENDPOINT, "bad_destination", "https://"),
        ("splunk", {"endpoint": "file:///etc/passwd"}, ENDPOINT, "host_not_allowed", "(none)"),
        ("splunk", {"endpoint": "env:SPLUNK_URL"}, ENDPOINT, "host_not_allowed", "(none)"),
        ("splunk", {"endpoint": "https://a.splunkcloud.com:99999"}, ENDPOINT, "bad_destination", "is no URL"),
        ("splunk", {"endpoint": "https://a.splunkcloud.com/path"}, "options", "bad_destination", "endpoint"),
        ("splunk", {"endpoint": "https://a.spl\nunkcloud.com"}, ENDPOINT, "bad_destination", "is no URL"),
        ("splunk", {"endpoint": "https://a.splunkcloud.com\\.evil.example"}, ENDPOINT, "host_not_allowed", "evil"),
        ("splunk", {"endpoint": "https://évil.splunkcloud.com"}, ENDPOINT, "bad_destination", "is no URL"),
        ("splunk", {"secrets": {"token": "t\r\nX-Evil: 1"}}, "secrets", "bad_destination", "control characters"),
        ("splunk", {"secrets": {"token": "t\nX-Evil: 1"}}, "secrets", "bad_destination", "control characters"),
        ("splunk", {"secrets": {"token": "t" * 20_000}}, "secrets", "bad_destination", "too long"),
        ("splunk", {"options": {"index": "i" * 20_000}}, "options", "bad_destination", "too long"),
        ("splunk", {"secrets": {}}, "secrets", "bad_destination", "needs token"),
        ("splunk", {"secrets": {"token": "env:HOME"}}, "secrets", "bad_destination", "refers to this server"),
        ("splunk", {"secrets": {"token": "file:/etc/passwd"}}, "secrets", "bad_destination", "refers to this server"),
        ("splunk", {"options": {"token": "t"}}, "options", "bad_destination", "has no 'token' among its options"),
        ("splunk", {"secrets": {"token": "t", "index": "i"}}, "secrets", "bad_destination", "has no 'index'"),
        ("splunk", {"options": {"acknowledge": "yes"}}, "options", "bad_destination", "is no boolean"),
        ("splunk", {"options": {"index": "Not An Index"}}, "options", "bad_destination", "index"),
        ("cloudwatch", {"options": {"log_group": "g", "profile": "root"}}, "options", "bad_destination", "'profile'"),
        ("cloudwatch", {"secrets": {}}, "secrets", "bad_destination", "access_key_id, secret_access_key"),
        ("cloudwatch", {"options": {}}, "options", "bad_destination", "log_group"),
        ("cloudwatch", {"options": {"log_group": "g", "retention_days": True}}, "options", "bad_destination", "number"),
        ("google-cloud-logging", {"secrets": {}}, "secrets", "bad_destination", "credentials"),
        ("google-cloud-logging", {"secrets": {"credentials": "{}"}}, "secrets", "bad_destination", "service account"),
        ("google-cloud-logging", {"secrets": {"credentials": "[]"}}, "secrets", "bad_destination", "service account"),
        ("google-cloud-logging", {"secrets": {"credentials": "x"}}, "secrets", "bad_destination", "service account"),
        (
            "google-cloud-logging",
            {"secrets": {"credentials": google_key(token_uri="http://169.254.169.254/")}},
            "secrets",
            "bad_destination",
            "service account",
        ),
        ("otlp", {"format": "ecs"}, "format", "bad_destination", "no format here"),
        ("datadog", {"format": "xml"}, "format", "bad_destination", "no format here"),
    ],
)
def test_what_is_refused(kind, members, member, code, said) -> None:
    """Naming the member, with a way out, and never repeating a secret."""
    with pytest.raises(BadWish) as caught:
        RULES.check(wish(kind, **members))
    assert (caught.value.member, caught.value.code) == (member, code)
    assert said in str(caught.value)
    assert caught.value.remedy
    assert not any(len(secret) > 3 and secret in str(caught.value) for secret in wish(kind, **members).secrets.values())


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "../x", "-a", "a" * 64])
def test_names_are_plain(name) -> None:
    """They stand in files and metrics."""
    with pytest.raises(BadWish) as caught:
        RULES.check(replace(wish("splunk"), name=name))
    assert (caught.value.member, caught.value.code) == ("name", "bad_destination")


def test_an_unknown_kind() -> None:
    """The answer lists those there are."""
    with pytest.raises(BadWish, match="splunk, datadog") as caught:
        RULES.check(replace(wish("splunk"), kind="splonk"))
    assert caught.value.member == "kind"


def test_loopback_may_be_reached_without_tls_where_it_is_allowed() -> None:
    """For a forwarder on the same machine."""
    rules = Rules(("127.0.0.1",), make_destination)
    rules.check(wish("splunk", endpoint="http://127.0.0.1:8088"))


class TestChanges:
    """What becomes of a stored destination."""

    BEFORE = spec_of(wish("splunk"), lambda _, secret: f"sealed {len(secret)}")

    @pytest.mark.parametrize(
        "changes", [{"paused": True}, {"name": "near"}, {"filters": {"statuses": ["failure"]}}, {"format": "ecs"}, {}]
    )
    def test_what_is_no_matter_of_where_to_needs_no_secret(self, changes) -> None:
        """What is stored stays."""
        again, spec = merged(self.BEFORE, changes)
        assert again is None
        assert spec == replace(self.BEFORE, **changes)

    @pytest.mark.parametrize(
        "changes",
        [
            {"endpoint": "https://http-inputs-mallory.splunkcloud.com"},
            {"options": {"index": "other"}},
            {"secrets": {}},
        ],
    )
    def test_a_stored_secret_goes_nowhere_else(self, changes) -> None:
        """Whoever changes where or how gives it again."""
        with pytest.raises(BadWish, match="token") as caught:
            merged(self.BEFORE, changes)
        assert (caught.value.member, caught.value.code) == ("secrets", "secrets_needed")

    def test_with_its_secrets_everything_changes(self) -> None:
        """The whole is checked and sealed anew."""
        endpoint = "https://http-inputs-other.splunkcloud.com"
        again, _ = merged(self.BEFORE, {"endpoint": endpoint, "secrets": {"token": "n3w"}, "name": "near"})
        assert again == replace(wish("splunk"), endpoint=endpoint, secrets={"token": "n3w"}, name="near")

    def test_a_secret_endpoint_is_given_again_too(self) -> None:
        """Masked it cannot be kept."""
        before = spec_of(wish("sumo-logic"), lambda _, secret: secret)
        with pytest.raises(BadWish, match="endpoint"):
            merged(before, {"options": {"category": "x"}})
        again, _ = merged(before, {"options": {"category": "x"}, "endpoint": SUMO})
        assert again is not None
        assert again.endpoint == SUMO

    def test_a_kind_does_not_change(self) -> None:
        """It would be another destination."""
        with pytest.raises(BadWish, match="kind does not change") as caught:
            merged(self.BEFORE, {"kind": "datadog"})
        assert caught.value.remedy == "Delete it, and set up another one."
        merged(self.BEFORE, {"kind": "splunk"})

    def test_changed_words_are_checked(self) -> None:
        """As those of a new one."""
        with pytest.raises(BadWish):
            merged(self.BEFORE, {"name": "No Name"})


def test_kinds_are_documented() -> None:
    """Each names a page that is there."""
    from pathlib import Path

    root = Path(__file__).resolve().parents[4]
    assert all((root / kind.documentation).exists() for kind in KINDS)
