"""`klyra-audit destination add|remove`: destinations of one organization, as it could set them up itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from klyra_audit.errors import KlyraError, Rejected, RetryLater
from klyra_collector.cli.administration import (
    COULD_NOT,
    DEFAULT_DATA,
    FOUND_WRONG,
    DataOption,
    answer,
    answer_json,
    answer_table,
    log_to_stderr,
    operator,
    registry_of,
    say,
    seal_now,
)
from klyra_collector.config import Settings
from klyra_collector.destination_kinds import make_destination
from klyra_collector.query.destinations import shown
from klyra_collector.registry.destinations import new_destination_id
from klyra_collector.registry.policies import Policies
from klyra_collector.secret_reference import read_secret
from klyra_collector.self_service.checking import Rules, Wish, sealed_spec
from klyra_collector.self_service.kinds import BY_NAME, FieldType

if TYPE_CHECKING:
    from klyra_collector.registry import Registry

ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The configuration file.")]
OrganizationOption = Annotated[str, typer.Option("--org", metavar="ORG_ID", help="Whose entries are copied.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `klyra-audit destination`."""
    app.command("add")(add)
    app.command("remove")(remove)


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique in the organization.")],
    organization_id: OrganizationOption,
    kind: Annotated[str, typer.Option("--kind", help=f"One of {', '.join(BY_NAME)}.")],
    endpoint: Annotated[str, typer.Option("--endpoint", metavar="URL", help="Where to; env:NAME or file:PATH too.")],
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="Of the kind; repeat for more."),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option("--secret", metavar="NAME=REFERENCE", help="env:NAME or file:PATH; read now, and sealed."),
    ] = None,
    record_format: Annotated[str, typer.Option("--format", help="How entries are written.")] = "native",
    *,
    config: ConfigOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Have one organization's entries copied to a destination; the running follower begins within seconds.

    Example: klyra-audit destination add splunk --org org_acme --kind splunk
    --endpoint https://http-inputs-acme.splunkcloud.com --option acknowledge=false --secret token=env:SPLUNK_TOKEN
    """
    log_to_stderr()
    try:
        settings = Settings.load(config, data=data)
        reference = endpoint if endpoint.startswith(("env:", "file:")) else None
        wish = Wish(
            name=name,
            kind=kind,
            endpoint=read_secret(reference, "--endpoint") if reference else endpoint,
            format=record_format,
            filters={},
            options={one: _value(kind, one, text) for one, text in _pairs(option, "--option")},
            secrets={one: read_secret(text, f"--secret {one}") for one, text in _pairs(secret, "--secret")},
        )
        Rules(settings.self_service.allowed_hosts, make_destination).check(wish)
        with registry_of(data) as registry:
            destination_id = _create(registry, organization_id, wish)
    except KlyraError as error:
        _refuse(error)
    answer(destination_id)
    say(f"Try it: klyra-audit destination list --org {organization_id}")
    seal_now(data)


def remove(
    destination_id: Annotated[str, typer.Argument(metavar="ID", help="dst-…, see list --org.")],
    organization_id: OrganizationOption,
    *,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Copy nothing to a destination of an organization any more, and forget its secrets.

    Example: klyra-audit destination remove dst-abcdefghijkl --org org_acme
    """
    log_to_stderr()
    try:
        with registry_of(data) as registry:
            registry.destinations.delete(organization_id, destination_id, by=operator())
    except KlyraError as error:
        _refuse(error)
    answer(f"{destination_id} is removed.")
    seal_now(data)


def list_of(organization_id: str, data: Path, *, as_json: bool) -> None:
    """Show the destinations that an organization has set up, or that were set up for it."""
    with registry_of(data) as registry:
        rows = [shown(stored) for stored in registry.destinations.all(organization_id)]
    if as_json:
        answer_json(rows)
        return
    names = ("id", "name", "kind", "state", "lag_entries", "delivered", "dead_letters", "last_success", "endpoint")
    answer_table(
        ("ID", "NAME", "KIND", "STATE", "BEHIND", "SENT", "DEAD", "LAST SUCCESS", "ENDPOINT"),
        [tuple("-" if row[name] is None else str(row[name]) for name in names) for row in rows],
    )
    for row in rows:
        if row["last_error"]:
            answer(f"{row['name']}: last error {row['last_error']['at']}: {row['last_error']['reason']}")


def _create(registry: Registry, organization_id: str, wish: Wish) -> str:
    organization = registry.organization(organization_id)
    if organization is not None and not Policies.load().of(organization).siem:
        raise Rejected(
            f"The plan of {organization_id}, {organization.plan}, has no destinations.",
            remedy="Change it with klyra-audit org set-plan.",
            code="destinations_not_in_plan",
        )
    public = registry.destinations.sealing_key()
    if public is None:
        raise RetryLater("The follower has not run yet, so that nothing secret can be kept for it.", remedy="Start it.")
    destination_id = new_destination_id()
    spec = sealed_spec(wish, destination_id, public)
    return registry.destinations.create(organization_id, destination_id, spec, by=operator()).destination_id


def _pairs(texts: list[str] | None, setting: str) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts or ()]
    if not all(separator for _, separator, _ in pairs):
        raise Rejected(f"{setting} is no NAME=VALUE.", remedy="Write NAME=VALUE.", code="bad_option")
    return [(name, value) for name, _, value in pairs]


def _value(kind: str, name: str, text: str) -> str | int | bool:
    """Return an option's value in the type that the kind asks for; what is none of that type stays a text."""
    fields = BY_NAME[kind].fields if kind in BY_NAME else ()
    types = {one.name: one.type for one in fields}
    if types.get(name) is FieldType.BOOLEAN and text in ("true", "false"):
        return text == "true"
    if types.get(name) is FieldType.NUMBER and text.isascii() and text.isdigit():
        return int(text[:9])
    return text


def _refuse(error: KlyraError) -> NoReturn:
    say(f"Error: {error}")
    raise typer.Exit(FOUND_WRONG if isinstance(error, Rejected) else COULD_NOT) from error
