"""With which keys a follower begins to write into Elasticsearch: a real server says what each may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from klyra_collector.data_directory import DataDirectory
from klyra_collector.elasticsearch_settings import ElasticsearchSettings
from klyra_collector.store.elasticsearch.assembly import Surroundings, following
from klyra_collector.store.elasticsearch.privileges import KeyTooPowerful, KeyTooWeak
from support.elasticsearch_following import keyed_urls, prepared
from support.entries import TODAY_US

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from support.elasticsearch import Node
    from support.elasticsearch_following import Keys


@pytest.fixture(scope="module")
def keys(cluster: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """Clients of each key."""
    with prepared(cluster, tmp_path_factory.mktemp("keys")) as made:
        yield made


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    """Where the follower would run."""
    data = DataDirectory(tmp_path / "data")
    data.ledger.mkdir(parents=True)
    return Surroundings(data=data, destinations=[], witnessed_s=lambda: None, wall_us=lambda: TODAY_US)


def begin(urls: Sequence[str | None], around: Surroundings) -> None:
    """Begin with `store.url`, `write_url` and `sweep_url`."""
    read, write, sweep = urls
    with following(str(read), ElasticsearchSettings(write_url=write, sweep_url=sweep), around):
        pass


def test_the_keys_that_set_up_makes(cluster: Node, keys: Keys, tmp_path: Path, around: Surroundings) -> None:
    """Each in its place, they are accepted."""
    write, read, sweep = keyed_urls(keys.administrator, cluster, tmp_path)
    begin([read, write, sweep], around)


def test_one_key_for_everything(cluster: Node, keys: Keys, tmp_path: Path, around: Surroundings) -> None:
    """A key that reads, writes and deletes would make the log erasable by whoever writes it."""
    _, read, sweep = keyed_urls(keys.administrator, cluster, tmp_path)
    (tmp_path / "password").write_text(cluster.password)
    everything = f"{cluster.store_url}?user=elastic&password=file:{tmp_path / 'password'}"
    for urls in ([everything, None, None], [read, sweep, sweep]):
        with pytest.raises(KeyTooPowerful, match="delete") as caught:
            begin(urls, around)
        assert caught.value.code == "key_too_powerful"
        assert "store.elasticsearch.write_url" in caught.value.remedy


def test_keys_that_are_missing(cluster: Node, keys: Keys, tmp_path: Path, around: Surroundings) -> None:
    """The reader's key writes nothing, the writer's deletes nothing: what to set is said before anything is due."""
    write, read, _ = keyed_urls(keys.administrator, cluster, tmp_path)
    for urls, lacking, setting in (
        ([read, None, None], "create_doc", "write_url"),
        ([read, write, None], "read, view_index_metadata, delete, maintenance", "sweep_url"),
    ):
        with pytest.raises(KeyTooWeak, match=lacking) as caught:
            begin(urls, around)
        assert caught.value.code == "key_too_weak"
        assert f"store.elasticsearch.{setting}" in caught.value.remedy
