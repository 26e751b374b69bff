"""What the cloud destinations share: hidden secrets, libraries that may be missing."""

from __future__ import annotations

import logging

import pytest

from klyra_siem.cloud_requests import CloudRequests, Redaction, vendor_module
from klyra_siem.errors import BadDestination, MissingExtra
from klyra_siem.outcome import Action, Outcome
from support.siem.cloud import options
from support.siem.cloud_server import Reply, serving


def test_hidden_in_what_a_vendor_says() -> None:
    """Wherever it stands, also when it is the beginning of a longer one; the rest stays readable."""
    redaction = Redaction(("secret-one", "secret-one-and-more", None, ""))
    assert redaction.clean("a secret-one-and-more\nb secret-one c") == "a [hidden] b [hidden] c"


@pytest.mark.parametrize(
    "repeated",
    [
        "a/very+secret=token",
        "a%2Fvery%2Bsecret%3Dtoken",
        "a/very%2Bsecret%3Dtoken",
        "a\\/very\\u002bsecret\\u003dtoken",
        "a/very\\u002bsecret\\u003dtoken",
    ],
)
def test_hidden_however_it_is_written(repeated) -> None:
    """A token of a header is hidden without its scheme, in URLs, and as JSON is escaped for HTML."""
    assert Redaction(("Bearer a/very+secret=token",)).hide(f"Bearer <{repeated}>") == "Bearer <[hidden]>"


def test_an_outcome_is_cleaned_whole() -> None:
    """A status may be a vendor's word as well."""
    outcome = Outcome(action=Action.PAUSE, status="secret-one", reason="secret-one?")
    cleaned = Redaction(("secret-one",)).cleaned(outcome)
    assert (cleaned.status, cleaned.reason) == ("[hidden]", "[hidden]?")


def test_a_header_that_cannot_be_sent() -> None:
    """It is refused when the destination is made, by its name: its value would be part of any other error."""
    with pytest.raises(BadDestination) as caught:
        CloudRequests(options("http://127.0.0.1:1", {}, headers={"X-Key": "a-secret\u2028"}), Redaction())
    assert (caught.value.code, "X-Key" in str(caught.value)) == ("bad_destination", True)
    assert "a-secret" not in str(caught.value) + caught.value.remedy
    assert "ASCII" in caught.value.remedy


def test_what_is_logged_holds_no_secret(caplog) -> None:
    """The library that sends writes URLs and headers of answers into the log; lines with a secret are left out."""
    caplog.set_level(logging.DEBUG)
    headers = {"X-Said": "a-secret-1", "Content-Type": "text/plain"}
    with serving(lambda _: Reply(200, b"a-secret-1", headers)) as server:
        made = CloudRequests(options(server.url, {}), Redaction(("a-secret-1",)))
        answer = made.post(f"{server.url}/a-secret-1", b"", {})
        made.close()
    assert (answer.status_code, "a-secret-1" in caplog.text) == (200, False)
    assert "httpcore" in caplog.text


def test_a_secret_is_hidden_before_a_text_is_shortened() -> None:
    """Half of a secret at the end of a line would be half a secret too many."""
    assert "secret" not in Redaction(("secret" * 20,)).clean("x" * 150 + "secret" * 20)


def test_a_short_text_is_no_secret() -> None:
    """What is hardly longer than a word would take words out of every message."""
    assert Redaction(("a", "not")).clean("it is not so") == "it is not so"


def test_a_library_that_is_not_installed() -> None:
    """The extra is named, for whoever installs it."""
    with pytest.raises(MissingExtra) as caught:
        vendor_module("no_such_library.part", "no-such-library")
    assert (caught.value.code, caught.value.remedy) == ("missing_extra", "Install klyra-audit[siem].")
    assert "no-such-library" in str(caught.value)


def test_vendors_libraries_are_not_talkative() -> None:
    """What they would write at level DEBUG are answers of token services."""
    logging.getLogger("botocore").setLevel(logging.DEBUG)
    vendor_module("json", "json")
    assert not logging.getLogger("botocore.parsers").isEnabledFor(logging.DEBUG)
