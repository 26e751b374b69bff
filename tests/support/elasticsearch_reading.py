"""A small Elasticsearch that only answers searches of a point in time, over documents that a test may change.

It knows the few queries that verification asks, and can be told to answer wrongly.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any


@dataclass
class Stored:
    """One document and where it stands."""

    index: str
    id: str
    source: dict[str, Any]
    ignored: list[str] = field(default_factory=list)


@dataclass
class ReadingElasticsearch:
    """What the server has, what it was asked, and how it misbehaves.

    Attributes:
        documents: everything it has.
        asked: method and path of each request.
        authorization: of the last request.
        mappings: of indexes that do not treat documents as the shipped mappings do.
        bend: changes status and body of an answer before it is sent; given the path.
    """

    documents: list[Stored] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    authorization: str | None = None
    mappings: dict[str, dict[str, Any]] = field(default_factory=dict)
    bend: Callable[[str, int, Any], tuple[int, Any]] = lambda _path, status, body: (status, body)
    url: str = ""

    def at(self, index: int, log: str | None = None) -> Stored:
        """Return the entry document of a record."""
        return next(
            each
            for each in self.documents
            if each.source.get("klyra", {}).get("index") == index and log in (None, each.source["klyra"]["log"])
        )

    def kind(self, kind: str, log: str | None = None) -> list[Stored]:
        """Return the documents of the ledger's copy of one kind."""
        return [
            each for each in self.documents if each.source.get("kind") == kind and log in (None, each.source["log"])
        ]

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Return status and body."""
        self.asked.append((method, path))
        path, _, _ = path.partition("?")
        if path.endswith("/_pit") and method == "POST":
            return 200, {"id": path.removesuffix("/_pit").strip("/")}
        if path == "/_pit" and method == "DELETE":
            return 200, {"succeeded": True}
        if path.endswith("/_mapping") and method == "GET":
            scope = _scope(path.removesuffix("/_mapping").strip("/"))
            indexes = {each.index for each in self.documents if scope(each.index)}
            return 200, {index: {"mappings": self.mappings.get(index) or shipped_mapping(index)} for index in indexes}
        if path == "/_search" and method == "POST":
            return 200, self._search(body)
        return 404, {"error": {"type": "unknown"}}

    def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        scope = _scope(body["pit"]["id"])
        found = [
            (number, each)
            for number, each in enumerate(self.documents)
            if scope(each.index) and _matches(body["query"], each.source)
        ]
        fields = [next(iter(each)) for each in body.get("sort", [])]
        backwards = {"_shard_doc": "desc"} in body.get("sort", [])
        hits = sorted(
            (
                {
                    "_index": each.index,
                    "_id": each.id,
                    "_source": _without(each.source, body.get("_source", {}).get("excludes", [])),
                    **({"_ignored": each.ignored} if each.ignored else {}),
                    "sort": [number if name == "_shard_doc" else _sort_value(each.source, name) for name in fields],
                }
                for number, each in found
            ),
            key=lambda hit: hit["sort"],
            reverse=backwards,
        )
        after = body.get("search_after")
        page = [hit for hit in hits if after is None or hit["sort"] > after][: body["size"]]
        return {
            "pit_id": body["pit"]["id"],
            "timed_out": False,
            "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0},
            "hits": {"total": {"value": len(found), "relation": "eq"}, "hits": page},
        }


@contextlib.contextmanager
def reading(server: ReadingElasticsearch) -> Iterator[ReadingElasticsearch]:
    """Serve it on a free port of this machine; its `url` is set."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            server.authorization = self.headers.get("Authorization")
            status, answer = server.answer(self.command, self.path, body)
            status, answer = server.bend(self.path, status, answer)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _do  # noqa: N815 - the base class's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        server.url = f"elasticsearch+http://127.0.0.1:{listener.server_port}"
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


def _scope(pattern: str) -> Callable[[str], bool]:
    """Return whether an index is meant by a pattern such as `a-*,-a-b*`."""
    parts = pattern.split(",")
    within = [part for part in parts if not part.startswith("-")]
    without = [part[1:] for part in parts if part.startswith("-")]

    def names(part: str, backing: str) -> bool:
        index = backing.removeprefix(".ds-")
        return index.startswith(part[:-1]) if part.endswith("*") else index == part

    return lambda index: any(names(part, index) for part in within) and not any(names(part, index) for part in without)


def shipped_mapping(index: str) -> dict[str, Any]:
    """Return what set-up makes of an index."""
    name = "quarantine.json" if "quarantine" in index else "entries.json"
    template = resources.files("klyra_collector.store.elasticsearch") / "definitions" / name
    mapping: dict[str, Any] = json.loads(template.read_text())["template"]["mappings"]
    return mapping


def _matches(query: dict[str, Any], source: dict[str, Any]) -> bool:
    (kind, inner), *_ = query.items()
    if kind == "match_none":
        return False
    if kind == "bool":
        return all(_matches(each, source) for each in inner.get("filter", [])) and not any(
            _matches(each, source) for each in inner.get("must_not", [])
        )
    ((name, asked),) = inner.items()
    values = _values(source, name)
    if kind == "term":
        return asked in values
    if kind == "terms":
        return any(value in asked for value in values)
    assert kind == "range"
    return any(type(value) is int and asked["gte"] <= value <= asked["lte"] for value in values)


def _values(source: dict[str, Any], name: str) -> list[Any]:
    value: Any = source
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value if isinstance(value, list) else [value]


def _sort_value(source: dict[str, Any], name: str) -> Any:
    """Return the smallest number; a text is read as one, and what has none stands last, as in a mapped field."""
    numbers = [int(value) for value in _values(source, name) if isinstance(value, int | str)]
    return min(numbers, default=2**63 - 1)


def _without(source: dict[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: value for name, value in source.items() if name not in names}
