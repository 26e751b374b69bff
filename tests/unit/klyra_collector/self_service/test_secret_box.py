"""Secrets that only the follower can open."""

from __future__ import annotations

import base64
import contextlib

import pytest

from klyra_collector.data_directory import DataDirectory
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.identity import open_key_files
from klyra_collector.self_service.secret_box import SecretBox, SecretUnreadable, seal

BOX = SecretBox(bytes(31) + b"\x01")
ID = "dst-abcdefghijkl"


def test_what_was_sealed_is_opened() -> None:
    """By the holder of the key; each sealing of the same looks different."""
    first, second = (seal(BOX.public, "s3cret \u738b", ID, "token") for _ in range(2))
    assert first != second
    assert BOX.open(first, ID, "token") == BOX.open(second, ID, "token") == "s3cret \u738b"
    assert "s3cret" not in base64.b64decode(first).decode("latin-1")


@pytest.mark.parametrize(
    ("box", "destination_id", "name", "change"),
    [
        (SecretBox(b"\x02" * 32), ID, "token", lambda sealed: sealed),
        (BOX, "dst-another00000", "token", lambda sealed: sealed),
        (BOX, ID, "api_key", lambda sealed: sealed),
        (BOX, ID, "token", lambda sealed: sealed[:-8] + "AAAAAAA="),
        (BOX, ID, "token", lambda sealed: sealed[:20]),
        (BOX, ID, "token", lambda _: "no base64!"),
        (BOX, ID, "token", lambda _: ""),
    ],
)
def test_it_is_opened_nowhere_else(box, destination_id, name, change) -> None:
    """Not with another key, not for another destination or member, not after a change."""
    with pytest.raises(SecretUnreadable) as caught:
        box.open(change(seal(BOX.public, "s3cret", ID, "token")), destination_id, name)
    assert caught.value.code == "secret_unreadable"
    assert caught.value.remedy.startswith("Give the destination its secrets again")
    assert "s3cret" not in str(caught.value)


def test_the_key_stays(tmp_path) -> None:
    """It is drawn once, for its owner alone, and the same after a restart."""
    data = DataDirectory(tmp_path)
    with contextlib.closing(Disk()) as disk:
        boxes = [SecretBox.of(open_key_files(data, disk, None)) for _ in range(2)]
    assert boxes[0].public == boxes[1].public
    assert (data.keys / "destination-secrets.key").stat().st_mode & 0o777 == 0o600
