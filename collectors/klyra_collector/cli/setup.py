"""`klyra-audit setup`: make what others run ready for the logs, as an administrator, before anything is started."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klyra_audit.catalog import Catalog
from klyra_audit.errors import KlyraError, Rejected
from klyra_audit.format.sections import is_organization_id
from klyra_collector.cli.administration import (
    COULD_NOT,
    FOUND_WRONG,
    AnyDataOption,
    ConfigOption,
    answer,
    log_to_stderr,
    say,
)
from klyra_collector.cli.setup_kibana import add_to
from klyra_collector.config import Settings
from klyra_collector.registry import Registry
from klyra_collector.registry.policies import Policies
from klyra_collector.store.elasticsearch import names
from klyra_collector.store.elasticsearch.api_keys import ADMINISTRATOR, RUNNING, make_keys
from klyra_collector.store.elasticsearch.connection import ClusterUrl, Flavor, connect, parse, probe
from klyra_collector.store.elasticsearch.definitions import Retained, definitions
from klyra_collector.store.elasticsearch.effective import make_ready, outdated_streams
from klyra_collector.store.elasticsearch.privileges import check_writer
from klyra_collector.store.elasticsearch.setup import State, plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from klyra_collector.store.elasticsearch.api_keys import MadeKey
    from klyra_collector.store.elasticsearch.definitions import Definition
    from klyra_collector.store.elasticsearch.setup import Change

app = typer.Typer(
    name="setup",
    help="Make what others run ready for the logs.",
    no_args_is_help=True,
    add_completion=False,
)

add_to(app)

_POLICY = re.compile(r"(?P<plan>[a-z]+)(?:-(?P<days>\d+)d)?", re.ASCII)


@app.callback()
def _setup() -> None:
    """Make what others run ready for the logs."""


UrlArgument = Annotated[
    str | None,
    typer.Argument(
        help="elasticsearch+https://HOST:PORT?user=NAME&password=env:NAME of an administrator; "
        "store.url of the configuration if it is left out."
    ),
]
PolicyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="A retention policy that no organization has yet, such as enterprise-730d; may be repeated.",
    ),
]
DedicatedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dedicated-stream",
        metavar="ORGANIZATION",
        help="Make data streams of its own for an organization; may be repeated.",
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be changed, and change nothing.")]
PrintOption = Annotated[
    bool, typer.Option("--print", help="Print the requests, for somebody else to send; nothing is asked or sent.")
]
ServerlessOption = Annotated[
    bool, typer.Option("--serverless", help="With --print: for a serverless project, which has no lifecycle policies.")
]
KeysOption = Annotated[
    Path | None,
    typer.Option("--keys", metavar="DIR", help="Make the writer's, the reader's and the sweeper's API key there."),
]
AdministratorOption = Annotated[
    bool, typer.Option("--administrator-key", help="Make there also the key that later runs of this can use.")
]
NewKeysOption = Annotated[
    bool, typer.Option("--new-keys", help="Make them anew; the old ones stay valid until you invalidate them.")
]


@app.command("elasticsearch")
def elasticsearch(
    url: UrlArgument = None,
    *,
    policy: PolicyOption = None,
    dedicated: DedicatedOption = None,
    dry_run: DryRunOption = False,
    only_print: PrintOption = False,
    serverless: ServerlessOption = False,
    keys: KeysOption = None,
    administrator_key: AdministratorOption = False,
    new_keys: NewKeysOption = False,
    config: ConfigOption = None,
    data: AnyDataOption = None,
) -> None:
    """Prepare a cluster: lifecycle policies, templates, data streams, the ledger's index, and API keys.

    What is there is compared first; only what differs is changed, and a second run changes nothing. Whoever runs this
    needs the cluster privileges manage_ilm, manage_index_templates, monitor (and manage_api_key for --keys) and manage
    on klyra-audit-*; nothing that runs later does.
    """
    with _explained():
        settings = Settings.load(config, data=data)
        retained, own = _policies(policy or (), settings), _organizations(dedicated or (), settings)
        if only_print:
            _refuse_keys(keys)
            _print(definitions(retained, Flavor.SERVERLESS if serverless else Flavor.DEFAULT, own))
            return
        purposes = (*RUNNING, ADMINISTRATOR) if administrator_key else RUNNING
        with contextlib.closing(connect(cluster := _cluster(url, settings))) as client:
            server = probe(client)
            known = ", ".join(one.name for one in retained)
            say(f"Elasticsearch {server.version}, {server.flavor.value}; policies {known}")
            changes = plan(client, definitions(retained, server.flavor, own))
            _show(changes, everything=dry_run)
            if dry_run:
                for name in outdated_streams(changes):
                    answer(f"update  data stream {name}: a new index, if its newest is not what the template says then")
                return
            make_ready(client, changes, _tell, lambda what: say(f"{'changed':7} {what}"))
            if keys is not None:
                made = make_keys(client, keys, purposes, flavor=server.flavor, renew=new_keys)
                streams = [one.definition.name for one in changes if one.definition.kind == "data stream"]
                _check_keys(cluster, made, server.flavor, streams)
    answer(f"ready   {sum(change.state is not State.SAME for change in changes)} of {len(changes)} changed")


def _policies(given: Sequence[str], settings: Settings) -> list[Retained]:
    """Return the policies on sale, those of the organizations there are, and those asked for; shortest first."""
    sold = Policies.load()
    found = {Retained(name, terms.retention_days) for name, terms in sold.plans.items()}
    if (settings.data / "registry.sqlite").is_file() or settings.registry.url is not None:
        with Registry.open(settings.registry_url, Catalog.load()) as registry:
            found |= {Retained(one.policy, one.retention_days) for one in registry.organizations()}
    found |= {_policy(sold, name) for name in given}
    return sorted(found, key=lambda one: (one.days, one.name))


def _policy(sold: Policies, name: str) -> Retained:
    """Return a policy by its name: one on sale, or a length to which entries of another plan were extended."""
    matched = _POLICY.fullmatch(name)
    if matched is None:
        raise Rejected(f"{name} is no retention policy.", remedy="Write it like enterprise-730d.", code="bad_plan")
    days = None if matched["days"] is None else int(matched["days"])
    terms = sold.plans.get(matched["plan"])
    if terms is not None and days is not None and terms.may_be_longer and 0 < days < terms.retention_days:
        return Retained(name, days)
    policy = sold.for_plan(matched["plan"], days)
    return Retained(policy.policy, policy.retention_days)


def _organizations(given: Sequence[str], settings: Settings) -> list[str]:
    """Return organizations that get streams of their own.

    Ids that differ in capitals alone would share one; and whoever may read `klyra-audit-*-at-org_a` must not thereby
    read what is `org_b-at-org_a`'s.
    """
    given = (*given, *settings.store.elasticsearch.dedicated_streams)
    lowered = {organization_id.lower() for organization_id in given}
    for organization_id in given:
        is_ambiguous = len(lowered) < len(set(given)) or names.DEDICATED in organization_id.lower()
        if is_ambiguous or not is_organization_id(organization_id):
            raise Rejected(
                f"{organization_id} cannot have a data stream of its own.",
                remedy="Give ids of organizations, such as org_acme, without -at-, that differ in more than capitals.",
                code="bad_organization",
            )
    return sorted(set(given))


def _refuse_keys(folder: Path | None) -> None:
    if folder is not None:
        raise Rejected(
            "Keys cannot be printed: the cluster makes their secrets.",
            remedy="Leave --keys out, or --print; docs/elasticsearch.md says what each key may do.",
            code="keys_not_printed",
        )


def _check_keys(cluster: ClusterUrl, made: Sequence[MadeKey], flavor: Flavor, streams: Sequence[str]) -> None:
    """Say which keys there are, and ask the cluster what the writer's may do: its own roles could let it do more."""
    for key in made:
        say(f"{'made' if key.is_new else 'kept':7} API key {key.purpose}: {key.path}")
    (writer,) = (key.path for key in made if key.purpose == "writer")
    with contextlib.closing(connect(ClusterUrl(cluster.hosts, f"file:{writer}", authority=cluster.authority))) as own:
        check_writer(own, streams, flavor)


def _cluster(url: str | None, settings: Settings) -> ClusterUrl:
    chosen = url or settings.store.url
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


def _show(changes: Sequence[Change], *, everything: bool) -> None:
    """Show what is going to be done, value by value; on standard output when it is all that was asked for."""
    tell = answer if everything else say
    for change in changes:
        if everything or change.state is State.DIFFERENT:
            tell(f"{change.state.value:7} {change.definition.kind} {change.definition.name}")
            for line in change.difference[2:]:
                tell(f"        {line}")


def _tell(change: Change) -> None:
    done = {State.ABSENT: "made", State.DIFFERENT: "changed", State.SAME: "kept"}[change.state]
    say(f"{done:7} {change.definition.kind} {change.definition.name}")
