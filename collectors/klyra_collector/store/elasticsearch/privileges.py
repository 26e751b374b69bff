"""What an API key may do, asked of the cluster: a writer that could also delete would make the log erasable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klyra_audit.errors import Halted, Paused
from klyra_collector.store.elasticsearch import names
from klyra_collector.store.elasticsearch.connection import Flavor, request

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from elasticsearch import Elasticsearch

_NEEDED = "create_doc"
_NEEDED_TO_SWEEP = ("read", "view_index_metadata", "create_doc", "delete", "maintenance")
# Whatever changes or removes documents, or has the cluster do so: by another mapping, lifecycle or key.
_TOO_MUCH = (
    *("index", "delete", "delete_index", "write", "manage", "maintenance", "all"),
    *("manage_ilm", "manage_data_stream_lifecycle", "manage_failure_store"),
)
_TOO_MUCH_OF_A_CLUSTER = (
    *("manage", "manage_security", "manage_index_templates", "manage_pipeline", "manage_api_key", "all"),
    *("manage_ilm", "manage_slm"),
)
_UNKNOWN_TO_SERVERLESS = {"manage_ilm", "manage_slm", "manage_failure_store"}
_WRITER = (
    "Use the key that `klyra-audit setup elasticsearch --keys FOLDER` makes for the writer, "
    "in store.elasticsearch.write_url."
)
_SWEEPER = (
    "Use the key that `klyra-audit setup elasticsearch --keys FOLDER` makes for the sweeper, "
    "in store.elasticsearch.sweep_url."
)


class KeyTooPowerful(Halted):
    """The writer's key could change or remove what it has written."""

    code = "key_too_powerful"


class KeyTooWeak(Paused):
    """The writer's or the sweeper's key may not do its work."""

    code = "key_too_weak"


def check_writer(client: Elasticsearch, streams: Iterable[str] = (), flavor: Flavor = Flavor.DEFAULT) -> None:
    """Return if the key of `client` may add entries and nothing else.

    Rights on a pattern are only seen when they cover all of it, so streams are also asked about one by one, and so are
    the indexes behind them, which can be named directly.

    Args:
        client: with the key.
        streams: further names that it writes to.
        flavor: of the cluster; it refuses to be asked about privileges that it does not know.

    Raises:
        KeyTooPowerful, KeyTooWeak: naming the privileges.
        ClusterUnreachable, ClusterRefuses: see `connection.request`.
    """
    pattern = f"{names.PREFIX}*"
    own = [names.LEDGER_INDEX, names.HELD_STREAM, names.HEALTH_STREAM, *streams]
    asked = {
        "cluster": _known(_TOO_MUCH_OF_A_CLUSTER, flavor),
        "index": [
            {
                "names": [pattern, *own, f".ds-{pattern}", *(f".ds-{name}-*" for name in own)],
                "privileges": [_NEEDED, *_known(_TOO_MUCH, flavor)],
            }
        ],
    }
    answer = request(client, "POST", "/_security/user/_has_privileges", asked)
    granted: Mapping[str, Mapping[str, bool]] = answer["index"]
    if not granted[pattern].get(_NEEDED):
        raise KeyTooWeak(f"The writer's key lacks {_NEEDED} on {pattern}.", remedy=_WRITER)
    found = {right for rights in granted.values() for right, has in rights.items() if has and right != _NEEDED}
    found |= {f"cluster {right}" for right, has in answer["cluster"].items() if has}
    if found:
        raise KeyTooPowerful(
            f"The writer's key may do more than add entries: {', '.join(sorted(found))}.", remedy=_WRITER
        )


def check_sweeper(client: Elasticsearch) -> None:
    """Return if the key of `client` may move and delete what records of the ledger name.

    Raises:
        KeyTooWeak: naming the privileges that it lacks.
        ClusterUnreachable, ClusterRefuses: see `connection.request`.
    """
    pattern = f"{names.PREFIX}*"
    asked = {"index": [{"names": [pattern], "privileges": [*_NEEDED_TO_SWEEP]}]}
    granted = request(client, "POST", "/_security/user/_has_privileges", asked)["index"][pattern]
    lacking = [right for right in _NEEDED_TO_SWEEP if not granted.get(right)]
    if lacking:
        raise KeyTooWeak(f"The sweeper's key lacks {', '.join(lacking)} on {pattern}.", remedy=_SWEEPER)


def _known(privileges: Iterable[str], flavor: Flavor) -> list[str]:
    return [right for right in privileges if flavor is Flavor.DEFAULT or right not in _UNKNOWN_TO_SERVERLESS]
