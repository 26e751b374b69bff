"""The store that answers queries, out of the configuration."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from klyra_collector.config import Settings
    from klyra_collector.store.quarantined import QuarantineStore
    from klyra_collector.store.searching import Store


@dataclass(frozen=True, slots=True)
class Answering:
    """Where answers come from.

    Attributes:
        entries: are searched here.
        quarantine: quarantined input is listed here.
        writing: what became of what its follower wrote; nothing for the embedded store.
    """

    entries: Store
    quarantine: QuarantineStore
    writing: Callable[[], Mapping[str, int]] = dict


@contextlib.contextmanager
def answering(settings: Settings) -> Iterator[Answering]:
    """Yield the configured store, which is closed afterwards. A cluster that does not answer yet is asked later.

    Raises:
        BadConfiguration: `store.url` names no store of this version.
        Rejected, SecretUnavailable: it cannot be used, or a credential is not there.
        ClusterUnsuitable: the library for Elasticsearch is not installed.
    """
    if settings.store.is_elasticsearch:
        from klyra_collector.seal.leaves import CommittedLeaves  # noqa: PLC0415 - as configured
        from klyra_collector.store.elasticsearch.connection import connect, parse  # noqa: PLC0415
        from klyra_collector.store.elasticsearch.counting import read_counts  # noqa: PLC0415
        from klyra_collector.store.elasticsearch.quarantine_reader import ElasticsearchQuarantine  # noqa: PLC0415
        from klyra_collector.store.elasticsearch.reader import ElasticsearchReader  # noqa: PLC0415

        cursors = settings.data_directory.cursors
        with (
            contextlib.closing(CommittedLeaves(settings.data_directory.ledger)) as leaves,
            contextlib.closing(connect(parse(settings.store.url or ""))) as client,
        ):
            reader, quarantine = ElasticsearchReader(client, cursors, leaves), ElasticsearchQuarantine(client)
            yield Answering(reader, quarantine, lambda: read_counts(cursors))
        return
    from klyra_collector.store.sqlite import SqliteStore  # noqa: PLC0415 - as configured

    with contextlib.closing(SqliteStore.open(settings.store_path)) as store:
        yield Answering(store, store)
