"""`klyra-audit setup`: make what others run ready for the logs, as an administrator, before anything is started."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klyra_audit.errors import KlyraError, Rejected
from klyra_collector.cli.administration import (
    COULD_NOT,
    DEFAULT_DATA,
    FOUND_WRONG,
    DataOption,
    answer,
    log_to_stderr,
    registry_of,
    say,
)
from klyra_collector.config import Settings
from klyra_collector.registry.policies import Policies
from klyra_collector.store.elasticsearch.api_keys import make_keys
from klyra_collector.store.elasticsearch.connection import ClusterUrl, Flavor, connect, parse, probe
from klyra_collector.store.elasticsearch.definitions import Retained, definitions
from klyra_collector.store.elasticsearch.privileges import check_writer
from klyra_collector.store.elasticsearch.setup import State, apply, check_effective, plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from elasticsearch import Elasticsearch

    from klyra_collector.store.elasticsearch.definitions import Definition
    from klyra_collector.store.elasticsearch.setup import Change

app = typer.Typer(
    name="setup",
    help="Make what others run ready for the logs.",
    no_args_is_help=True,
    add_completion=False,
)

_POLICY = re.compile(r"(?P<plan>[a-z]+)(?:-(?P<days>\d+)d)?", re.ASCII)


@app.callback()
def _setup() -> None:
    """Make what others run ready for the logs."""


@app.command("elasticsearch")
def elasticsearch(
    url: Annotated[
        str | None,
        typer.Argument(
            help="elasticsearch+https://HOST:PORT?user=NAME&password=env:NAME of an administrator; "
            "store.url of the configuration if it is left out."
        ),
    ] = None,
    *,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="NAME",
            help="A retention policy that no organization has yet, such as enterprise-730d; may be repeated.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be changed, and change nothing.")] = False,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the requests, for somebody else to send; nothing is asked or sent.")
    ] = False,
    serverless: Annotated[
        bool,
        typer.Option("--serverless", help="With --print: for a serverless project, which has no lifecycle policies."),
    ] = False,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="DIR", help="Make the writer's, the reader's and the sweeper's API key there."),
    ] = None,
    new_keys: Annotated[
        bool, typer.Option("--new-keys", help="Make them anew; the old ones stay valid until you invalidate them.")
    ] = False,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Prepare a cluster: lifecycle policies, templates, data streams, the ledger's index, and API keys.

    What is there is compared first; only what differs is changed, and a second run changes nothing. Whoever runs this
    needs the cluster privileges manage_ilm, manage_index_templates, monitor (and manage_api_key for --keys) and manage
    on klyra-audit-*; nothing that runs later does.
    """
    retained = _policies(policy or (), data)
    if only_print:
        _print(definitions(retained, Flavor.SERVERLESS if serverless else Flavor.DEFAULT))
        return
    with _explained(), contextlib.closing(connect(cluster := _cluster(url, data))) as client:
        server = probe(client)
        say(
            f"Elasticsearch {server.version}, {server.flavor.value}; policies {', '.join(one.name for one in retained)}"
        )
        wanted = definitions(retained, server.flavor)
        changes = plan(client, wanted)
        if dry_run:
            _show(changes)
            return
        apply(client, changes, _tell)
        check_effective(client, wanted)
        if keys is not None:
            _make_keys(client, cluster, keys, renew=new_keys)
    answer(f"ready   {sum(change.state is not State.SAME for change in changes)} of {len(changes)} changed")


def _policies(given: Sequence[str], data: Path) -> list[Retained]:
    """Return the policies on sale, those of the organizations there are, and those asked for; shortest first."""
    sold = Policies.load()
    found = {Retained(name, terms.retention_days) for name, terms in sold.plans.items()}
    if (data / "registry.sqlite").is_file() or Settings.load(data=data).registry.url is not None:
        with registry_of(data) as registry:
            found |= {Retained(one.policy, one.retention_days) for one in registry.organizations()}
    with _explained():
        for name in given:
            matched = _POLICY.fullmatch(name)
            if matched is None:
                raise Rejected(
                    f"{name} is no retention policy.", remedy="Write it like enterprise-730d.", code="bad_plan"
                )
            days = None if matched["days"] is None else int(matched["days"])
            policy = sold.for_plan(matched["plan"], days)
            found.add(Retained(policy.policy, policy.retention_days))
    return sorted(found, key=lambda one: (one.days, one.name))


def _make_keys(client: Elasticsearch, cluster: ClusterUrl, folder: Path, *, renew: bool) -> None:
    """Make the keys and ask the cluster what the writer's may do: a cluster's own roles could let it do more."""
    made = make_keys(client, folder, renew=renew)
    for key in made:
        say(f"{'made' if key.is_new else 'kept'}    API key {key.purpose}: {key.path}")
    (writer,) = (key.path for key in made if key.purpose == "writer")
    with contextlib.closing(connect(ClusterUrl(cluster.hosts, f"file:{writer}", authority=cluster.authority))) as own:
        check_writer(own)


def _cluster(url: str | None, data: Path) -> ClusterUrl:
    chosen = url or Settings.load(data=data).store.url
    if chosen is None:
        raise Rejected(
            "No cluster is named.", remedy="Give its URL, or set store.url in the configuration.", code="bad_url"
        )
    return parse(chosen, "URL" if url else "store.url")


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what is refused, or cannot be done, into a message and an exit status."""
    log_to_stderr()
    try:
        yield
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(FOUND_WRONG if isinstance(error, Rejected) else COULD_NOT) from error


def _print(wanted: Sequence[Definition]) -> None:
    """Print requests as Kibana's console takes them."""
    for definition in wanted:
        answer(f"PUT {definition.path}")
        if definition.body is not None:
            answer(json.dumps(definition.body, indent=2))
        answer("")


def _show(changes: Sequence[Change]) -> None:
    for change in changes:
        answer(f"{change.state.value:7} {change.definition.kind} {change.definition.name}")
        for line in change.difference[2:]:
            answer(f"        {line}")


def _tell(change: Change) -> None:
    done = {State.ABSENT: "made", State.DIFFERENT: "changed", State.SAME: "kept"}[change.state]
    say(f"{done:7} {change.definition.kind} {change.definition.name}")
