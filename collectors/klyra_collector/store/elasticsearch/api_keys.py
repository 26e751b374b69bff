"""The least-privilege API keys: made once, their secrets put into files that only their owner can read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit.errors import Rejected
from klyra_collector.store.elasticsearch.connection import Flavor, request
from klyra_collector.store.elasticsearch.definitions import keys

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from elasticsearch import Elasticsearch


class KeyFileMissing(Rejected):
    """A key is in the cluster, but not in its file; nobody can read its secret again."""

    code = "key_file_missing"


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key and where its secret is.

    Attributes:
        purpose: `writer`, `reader`, `sweeper` or `administrator`.
        path: of the file that holds it, encoded as clients send it.
        is_new: it was made just now.
    """

    purpose: str
    path: Path
    is_new: bool


RUNNING = ("writer", "reader", "sweeper")
ADMINISTRATOR = "administrator"


def make_keys(
    client: Elasticsearch,
    folder: Path,
    purposes: Iterable[str] = RUNNING,
    *,
    flavor: Flavor = Flavor.DEFAULT,
    renew: bool = False,
) -> list[MadeKey]:
    """Make the keys that are not there yet.

    The file is made before the key, so that a crash in between leaves an empty file and no key nobody knows.

    Args:
        client: of somebody who may make keys and has the rights that they get.
        folder: where `writer.key`, `reader.key` and so on are put.
        purposes: of the keys to make.
        flavor: of the cluster.
        renew: make new ones even so; the old ones stay valid until they are invalidated.

    Raises:
        KeyFileMissing: a key is there and its file is not.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = keys(flavor)
    return [_make(client, purpose, known[purpose], folder / f"{purpose}.key", renew=renew) for purpose in purposes]


def _make(client: Elasticsearch, purpose: str, body: dict[str, object], path: Path, *, renew: bool) -> MadeKey:
    known = request(client, "GET", f"/_security/api_key?name={body['name']}&active_only=true")["api_keys"]
    if known and not renew:
        if path.exists() and path.stat().st_size:
            return MadeKey(purpose, path, is_new=False)
        raise KeyFileMissing(
            f"The cluster has the key {body['name']}, but {path} does not hold it.",
            remedy="Point --keys to the folder that has it, or make another with --new-keys.",
        )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        made = request(client, "POST", "/_security/api_key", body)
        file.write(made["encoded"] + "\n")
    return MadeKey(purpose, path, is_new=True)
