"""Verify the entries in Elasticsearch, with the ledger they were made from or with what the cluster keeps of it.

With the ledger: as any copy (`copies_store`), at a point in time that is a moment behind the ledger. Without it, the
ledger's records are written out of `klyra-audit-ledger` and verified first: signature, every leaf, every control
document. What that cannot show is an end that was cut off together with everything that speaks of it.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from klyra_audit.format.leaf import LEAF_SIZE
from klyra_collector.verify.copies_store import verify_copy
from klyra_collector.verify.elasticsearch_ledger import MAX_INDEX
from klyra_collector.verify.elasticsearch_restore import restore_records
from klyra_collector.verify.files import Unreadable, open_or_empty, read_small
from klyra_collector.verify.layout import find_shards

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_collector.verify.elasticsearch_copy import ElasticsearchCopy
    from klyra_collector.verify.ledger import Options, ShardVerification
    from klyra_collector.verify.report import Report

_MAX_CURSOR_BYTES: Final = 1024 * 1024


def verify_with_ledger(copy: ElasticsearchCopy, ledger: Path, options: Options) -> Report:
    """Verify a ledger and its entries in Elasticsearch.

    Args:
        copy: the entries.
        ledger: a data, ledger or shard directory; it may be in use.
        options: as for the ledger alone.

    Raises:
        CannotVerify: there is no ledger, or the cluster cannot be read.
    """
    copy.expect(_noted(find_shards(ledger)[0].data))
    return verify_copy(copy, ledger, options, grown=_leaves_now)


def verify_alone(copy: ElasticsearchCopy, options: Options, *, collector: str | None = None) -> Report:
    """Verify the entries in Elasticsearch by what the cluster itself keeps of the ledger.

    Args:
        copy: the entries.
        options: `org_salt` is the reader's own, since a cluster keeps none.
        collector: `<ledger name>/<collector id>`; None for the only one there is.

    Raises:
        CannotVerify: there is nothing to verify, or the cluster cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="klyra-audit-verify-") as folder:
        target = Path(folder)
        restored = restore_records(copy.ledger, target, collector=collector, policy=options.policy)
        found = {shard.origin: shard.found for shard in restored}
        report = verify_copy(copy, target, replace(options, bodies=False), grown=lambda shard: found.get(shard.log, 0))
    return replace(report, target=copy.address)


def _noted(data: Path | None) -> Mapping[str, int]:
    """Return how far the follower of a data directory has written and found its entries, as it says itself."""
    if data is None:
        return {}
    try:
        noted = orjson.loads(read_small(data / "cursors" / "store.json", _MAX_CURSOR_BYTES))["searchable"]
        return {log: size for log, size in noted.items() if type(size) is int and 0 <= size <= MAX_INDEX}
    except (FileNotFoundError, Unreadable, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _leaves_now(shard: ShardVerification) -> int:
    with open_or_empty(shard.folder.leaves) as file:
        return file.size // LEAF_SIZE
