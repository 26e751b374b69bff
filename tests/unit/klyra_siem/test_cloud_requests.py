"""What the cloud destinations share: hidden secrets, libraries that may be missing."""

from __future__ import annotations

import logging

import pytest

from klyra_siem.cloud_requests import Redaction, vendor_module
from klyra_siem.errors import MissingExtra


def test_hidden_in_what_a_vendor_says() -> None:
    """Wherever it stands, also when it is the beginning of a longer one; the rest stays readable."""
    redaction = Redaction(("secret-one", "secret-one-and-more", None, ""))
    assert redaction.clean("a secret-one-and-more\nb secret-one c") == "a [hidden] b [hidden] c"


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
