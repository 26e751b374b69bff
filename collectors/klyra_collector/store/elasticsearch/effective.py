"""What new and present indexes really are, whatever the templates say, and bringing them up to date."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from klyra_audit.errors import Rejected
from klyra_collector.store.elasticsearch.connection import NotFound, request
from klyra_collector.store.elasticsearch.definitions import flattened
from klyra_collector.store.elasticsearch.setup import SetupRefused, State, apply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from elasticsearch import Elasticsearch

    from klyra_collector.store.elasticsearch.definitions import Definition
    from klyra_collector.store.elasticsearch.setup import Change

_ORDINARY_MODES = {None, "standard"}
_LIFECYCLE = "index.lifecycle.name"
_MADE_BY_TEMPLATES = {"data stream", "index"}


def make_ready(
    client: Elasticsearch,
    changes: Sequence[Change],
    on_made: Callable[[Change], None],
    on_updated: Callable[[str], None],
) -> None:
    """Make what is planned: the templates, then, once it is sure that they win, what is made by them.

    A crash in between leaves a beginning that the next run takes up.

    Args:
        client: of an administrator.
        changes: all that must be, compared with what is there (`setup.plan`).
        on_made: told of each, once it is as it must be.
        on_updated: told which index was brought up to date.

    Raises:
        SetupRefused: see `check_templates` and `update_indexes`.
    """
    wanted = [change.definition for change in changes]
    apply(client, [change for change in changes if change.definition.kind not in _MADE_BY_TEMPLATES], on_made)
    check_templates(client, wanted)
    apply(client, [change for change in changes if change.definition.kind in _MADE_BY_TEMPLATES], on_made)
    update_indexes(client, wanted, on_updated)


def outdated_streams(changes: Iterable[Change]) -> list[str]:
    """Return the streams that `make_ready` may give a new index, since a template of theirs is going to change."""
    changes = list(changes)
    changing = {change.definition.name for change in changes if change.state is State.DIFFERENT}
    templates = [change.definition for change in changes if change.definition.kind == "index template"]
    patterns = [
        pattern
        for template in templates
        if changing & {template.name, *(template.body or {}).get("composed_of", ())}
        for pattern in (template.body or {})["index_patterns"]
    ]
    there = [one.definition for one in changes if one.definition.kind == "data stream" and one.state is State.SAME]
    return [stream.name for stream in there if any(fnmatchcase(stream.name, pattern) for pattern in patterns)]


def check_templates(client: Elasticsearch, wanted: Iterable[Definition]) -> None:
    """Return if new indexes of our streams are what our templates say.

    Raises:
        SetupRefused: a template of higher priority wins, or makes indexes of another mode: `logsdb` and a synthetic
            `_source` give back other documents than were sent.
    """
    for definition in wanted:
        if definition.kind == "index template" and "data_stream" in (definition.body or {}):
            _check_template(client, definition)


def update_indexes(client: Elasticsearch, wanted: Iterable[Definition], on_done: Callable[[str], None]) -> None:
    """Bring what is written to up to date with our templates, which are for new indexes alone.

    A stream whose newest index is of an earlier mapping gets a new one. What is compared is the index itself, so that
    a run after a crash between template and rollover finishes the work.

    Args:
        client: of an administrator.
        wanted: what must be; the templates are in force already.
        on_done: told what was changed.

    Raises:
        SetupRefused: a stream's indexes are of another mode, are deleted by another policy or by none, or its failure
            store would take what is refused; or the ledger's index has a mapping that cannot become ours.
    """
    for definition in wanted:
        if definition.kind == "data stream":
            _update_stream(client, definition.name, on_done)
        elif definition.kind == "index":
            _update_index(client, definition.name, on_done)


def _check_template(client: Elasticsearch, definition: Definition) -> None:
    name = definition.name
    settings = dict(flattened(_simulated(client, name).get("settings", {})))
    expected = dict(flattened((definition.body or {})["template"].get("settings", {})))
    for setting, value in expected.items():
        if settings.get(setting) != value:
            raise SetupRefused(
                f"New indexes of {name} would have {setting} = {settings.get(setting)} instead of {value}.",
                remedy="Another index template of a higher priority matches the name; narrow its pattern.",
            )
    _check_mode(name, settings)


def _simulated(client: Elasticsearch, name: str) -> Mapping[str, Any]:
    """Return what an index of that name would be made with."""
    effective: Mapping[str, Any] = request(client, "POST", f"/_index_template/_simulate_index/{name}")["template"]
    return effective


def _update_stream(client: Elasticsearch, name: str, on_done: Callable[[str], None]) -> None:
    (stream,) = request(client, "GET", f"/_data_stream/{name}")["data_streams"]
    if stream.get("failure_store", {}).get("enabled"):
        raise SetupRefused(
            f"The data stream {name} has a failure store: what it refuses would seem to be kept.",
            remedy=f'PUT /_data_stream/{name}/_options {{"failure_store": {{"enabled": false}}}}',
        )
    effective = _simulated(client, name)
    _update_lifecycle(client, stream, effective, on_done)
    newest = stream["indices"][-1]["index_name"]
    if not _is_made_of(client, newest, effective):
        request(client, "POST", f"/{name}/_rollover")
        on_done(f"new index of {name}: {newest} is of an earlier template")
    _check_indexes(client, name, effective)


def _update_lifecycle(
    client: Elasticsearch, stream: Mapping[str, Any], effective: Mapping[str, Any], on_done: Callable[[str], None]
) -> None:
    """Give a serverless stream the days of its template, which counts only when a stream is made."""
    wanted = effective.get("lifecycle", {}).get("data_retention")
    if wanted is None or stream.get("lifecycle", {}).get("data_retention") == wanted:
        return
    request(client, "PUT", f"/_data_stream/{stream['name']}/_lifecycle", {"data_retention": wanted})
    on_done(f"lifecycle of {stream['name']}: {wanted}")


def _check_indexes(client: Elasticsearch, name: str, effective: Mapping[str, Any]) -> None:
    """Look at every index of a stream: one without its policy would never be deleted."""
    policy = dict(flattened(effective.get("settings", {}))).get(_LIFECYCLE)
    found = request(client, "GET", f"/{name}/_settings?flat_settings=true")
    for index, answer in found.items():
        settings = answer["settings"]
        _check_mode(index, settings)
        if settings.get(_LIFECYCLE) != policy:
            raise SetupRefused(
                f"{index} of {name} is kept by the lifecycle policy {settings.get(_LIFECYCLE)} instead of {policy}.",
                remedy=f'PUT /{index}/_settings {{"{_LIFECYCLE}": {_quoted(policy)}}}',
            )


def _update_index(client: Elasticsearch, name: str, on_done: Callable[[str], None]) -> None:
    """Add to an index what its template has gained."""
    effective = _simulated(client, name)
    if _is_made_of(client, name, effective):
        return
    try:
        request(client, "PUT", f"/{name}/_mapping", effective["mappings"])
    except NotFound:
        raise
    except Rejected as error:
        raise SetupRefused(
            f"The index {name} has another mapping, which cannot become ours: {error}.",
            remedy="It was not made by this software; move it away, run set-up, and have the store filled again.",
        ) from error
    on_done(f"mapping of {name}")


def _is_made_of(client: Elasticsearch, index: str, effective: Mapping[str, Any]) -> bool:
    """Say whether an index has the mapping and the settings of a template."""
    answer = request(client, "GET", f"/{index}?flat_settings=true")[index]
    settings = dict(flattened(effective.get("settings", {}))).items()
    return settings <= dict(flattened(answer["settings"])).items() and _fields(effective["mappings"]) == _fields(
        answer["mappings"]
    )


def _fields(mappings: Mapping[str, Any]) -> dict[str, str]:
    """Return what a mapping says, without what says nothing: how servers write the same thing differs."""
    return {name: value for name, value in flattened(mappings) if not name.startswith("_")}


def _check_mode(name: str, settings: Mapping[str, Any]) -> None:
    mode, source = settings.get("index.mode"), settings.get("index.mapping.source.mode", "stored")
    if mode not in _ORDINARY_MODES or str(source).lower() != "stored":
        raise SetupRefused(
            f"{name} has index.mode = {mode} and _source = {source}: documents would come back changed.",
            remedy="Streams of this product have index.mode standard and a stored _source; make it anew.",
        )


def _quoted(text: str | None) -> str:
    return "null" if text is None else f'"{text}"'
