"""Signatures as AWS's own library makes them, and where keys come from."""

from __future__ import annotations

import datetime as dt

import pytest

from klyra_siem.cloud_requests import Redaction
from klyra_siem.cloudwatch_signing import ChainKeys, Keys, KeySettings, signed_headers
from klyra_siem.outcome import Action

NOW = 1_782_000_000.0
SECRET = "aws-secret-that-nobody-may-see"


def settings(**members: str) -> KeySettings:
    """Return settings that leave everything to the chain."""
    defaults = dict.fromkeys(("key_id", "secret", "session_token", "profile", "role_arn", "external_id"))
    return KeySettings(
        **(defaults | {"region": "eu-central-1", "session_name": "klyra-audit-test", "timeout_seconds": 1.0} | members)
    )


@pytest.fixture
def alone(monkeypatch, tmp_path) -> None:
    """A machine that has no credentials of AWS, and no instance metadata to ask for some."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.mark.parametrize("token", [None, "session-token-that-nobody-may-see"])
@pytest.mark.parametrize("url", ["https://logs.eu-central-1.amazonaws.com/", "http://127.0.0.1:5000/"])
def test_the_signature_is_that_of_botocore(monkeypatch, token, url) -> None:
    """For the same keys, time and bytes the header is the same, byte for byte."""
    from botocore import auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    moment = dt.datetime.fromtimestamp(NOW, dt.UTC)
    monkeypatch.setattr(auth, "get_current_datetime", lambda *_, **__: moment.replace(tzinfo=None))
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "Logs_20140328.PutLogEvents"}
    request = AWSRequest("POST", url, headers=headers, data=b'{"a": 1}')
    auth.SigV4Auth(Credentials("AKID", SECRET, token), "logs", "eu-central-1").add_auth(request)
    ours = signed_headers(Keys("AKID", SECRET, token), "eu-central-1", url, headers, b'{"a": 1}', NOW)
    for name in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token"):
        assert ours.get(name) == request.headers.get(name)


@pytest.mark.usefixtures("alone")
class TestKeys:
    """The chain of credentials."""

    def test_of_the_environment(self, monkeypatch) -> None:
        """What the environment says is used, and hidden from then on."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        redaction = Redaction()
        keys = ChainKeys(settings(), redaction).keys()
        assert keys == Keys("AKIDENV", SECRET, None)
        assert redaction.clean(f"it was {SECRET}") == "it was [hidden]"
        assert SECRET not in repr(keys)

    def test_of_the_configuration(self, monkeypatch) -> None:
        """Keys that were written down for this destination come before those of the environment."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        wanted = settings(key_id="AKIDOWN", secret=SECRET)
        assert ChainKeys(wanted, Redaction()).keys() == Keys("AKIDOWN", SECRET, None)
        assert SECRET not in repr(wanted)

    def test_rotated_keys_are_read_anew(self, tmp_path) -> None:
        """After a refusal the shared file is read again: no restart for a new key."""
        shared = tmp_path / "credentials"
        shared.write_text("[default]\naws_access_key_id = AKIDONE\naws_secret_access_key = one\n")
        chain = ChainKeys(settings(), Redaction())
        assert chain.keys().key_id == "AKIDONE"
        shared.write_text("[default]\naws_access_key_id = AKIDTWO\naws_secret_access_key = two\n")
        assert chain.keys().key_id == "AKIDONE"
        chain.forget()
        assert chain.keys().key_id == "AKIDTWO"

    def test_none(self) -> None:
        """Without credentials nothing is sent, and an operator is told."""
        outcome = ChainKeys(settings(), Redaction()).keys()
        assert (outcome.action, outcome.status) == (Action.PAUSE, "no_credentials")

    def test_an_unknown_profile(self) -> None:
        """A profile that no file has is an operator's matter."""
        outcome = ChainKeys(settings(profile="absent"), Redaction()).keys()
        assert (outcome.action, outcome.status) == (Action.PAUSE, "credentials")
        assert "absent" in outcome.reason

    def test_a_token_service_out_of_reach_is_tried_again(self, monkeypatch) -> None:
        """A role cannot be assumed while nobody answers; that passes."""
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
        wanted = settings(key_id="AKID", secret=SECRET, role_arn="arn:aws:iam::123456789012:role/writer")
        outcome = ChainKeys(wanted, Redaction()).keys()
        assert (outcome.action, outcome.status) == (Action.RETRY, "credentials")
