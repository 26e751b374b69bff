"""What an API key may do, asked of the cluster: a writer that could also delete would make the log erasable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klyra_audit.errors import Halted, Paused
from klyra_collector.store.elasticsearch.connection import request
from klyra_collector.store.elasticsearch.names import PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from elasticsearch import Elasticsearch

_NEEDED = ("create_doc",)
_TOO_MUCH = ("index", "delete", "delete_index", "write", "manage", "maintenance", "all")
_TOO_MUCH_OF_A_CLUSTER = ("manage", "manage_security", "manage_ilm", "manage_index_templates", "all")


class KeyTooPowerful(Halted):
    """The writer's key could change or remove what it has written."""

    code = "key_too_powerful"


class KeyTooWeak(Paused):
    """The writer's key may not write."""

    code = "key_too_weak"


def check_writer(client: Elasticsearch) -> None:
    """Return if the key of `client` may add entries and nothing else.

    Raises:
        KeyTooPowerful, KeyTooWeak: naming the privileges.
        ClusterUnreachable, ClusterRefuses: see `connection.request`.
    """
    pattern = f"{PREFIX}*"
    asked = {
        "cluster": list(_TOO_MUCH_OF_A_CLUSTER),
        "index": [{"names": [pattern], "privileges": [*_NEEDED, *_TOO_MUCH]}],
    }
    answer = request(client, "POST", "/_security/user/_has_privileges", asked)
    granted: Mapping[str, bool] = answer["index"][pattern]
    missing = [name for name in _NEEDED if not granted.get(name)]
    if missing:
        raise KeyTooWeak(
            f"The writer's key lacks {', '.join(missing)} on {pattern}.",
            remedy="Use the key that `klyra-audit setup elasticsearch --keys FOLDER` makes for the writer.",
        )
    too_much = [name for name in _TOO_MUCH if granted.get(name)]
    too_much += [f"cluster {name}" for name in _TOO_MUCH_OF_A_CLUSTER if answer["cluster"].get(name)]
    if too_much:
        raise KeyTooPowerful(
            f"The writer's key may do more than add entries: {', '.join(too_much)}.",
            remedy="Use the key that `klyra-audit setup elasticsearch --keys FOLDER` makes for the writer.",
        )
