"""Secrets by reference."""

from __future__ import annotations

import pytest

from klyra_audit.errors import Rejected
from klyra_collector.errors import SecretUnavailable
from klyra_collector.secret_reference import is_reference, read_secret


def test_what_is_read(tmp_path, monkeypatch) -> None:
    """A variable as it is; a file without its last newline, and only that."""
    monkeypatch.setenv("A_SECRET", " s\n")
    path = tmp_path / "secret"
    assert read_secret("env:A_SECRET", "x") == " s\n"
    for content, secret in ((b" s \n", " s "), (b"s\r\n", "s"), (b"s\n\n", "s\n"), ("é".encode(), "é")):
        path.write_bytes(content)
        assert read_secret(f"file:{path}", "x") == secret


@pytest.mark.parametrize("text", ["", "secret", "env:", "file:", "ENV:A"])
def test_what_is_no_reference(text) -> None:
    """Refused with the two forms there are, and not repeated."""
    assert not is_reference(text)
    with pytest.raises(Rejected) as caught:
        read_secret(text, "ledger.x")
    assert (caught.value.code, "env:NAME" in caught.value.remedy) == ("bad_reference", True)
    assert str(caught.value).startswith("ledger.x must refer to a secret.")


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_what_is_not_there(tmp_path, content) -> None:
    """No file, an empty one, one that is no text."""
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SecretUnavailable) as caught:
        read_secret(f"file:{path}", "ledger.x")
    assert (caught.value.code, bool(caught.value.remedy)) == ("secret_unavailable", True)
