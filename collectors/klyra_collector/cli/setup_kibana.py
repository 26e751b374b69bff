"""`klyra-audit setup kibana`: data views, saved searches, dashboards, alert rules and roles."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated

import typer

from klyra_audit.errors import KlyraError, Rejected
from klyra_collector.cli.administration import COULD_NOT, FOUND_WRONG, answer, say
from klyra_collector.kibana import Kibana, parse
from klyra_collector.kibana_objects import DEFAULT_SPACE, wanted

if TYPE_CHECKING:
    from klyra_collector.kibana_objects import Wanted

_SPACE = re.compile(r"[a-z0-9_-]{1,100}")


def add_to(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("kibana")(kibana)


def kibana(
    url: Annotated[
        str | None,
        typer.Argument(
            help="kibana+https://HOST:PORT/BASE?api_key=env:NAME, or ?user=NAME&password=env:NAME; &ca=FILE. "
            "Leave /BASE out where Kibana stands at the root."
        ),
    ] = None,
    *,
    space: Annotated[str, typer.Option("--space", help="Where to put it; made if it is not there.")] = DEFAULT_SPACE,
    organization: Annotated[
        str | None,
        typer.Option("--organization", metavar="ORG_ID", help="For one organization, over its own data streams alone."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave objects alone that are there, changed or not.")] = False,
    rules: Annotated[bool, typer.Option("--rules/--no-rules", help="Make the alert rules too.")] = True,
    roles: Annotated[bool, typer.Option("--roles", help="Make roles for people too; needs manage_security.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be brought in; Kibana is not asked, and nothing is sent.")
    ] = False,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the file for Kibana's own import of saved objects; nothing is sent.")
    ] = False,
) -> None:
    """Bring the dashboards into Kibana 8.19 or 9.x.

    May be run again: objects are replaced (or kept, with --keep), rules are changed where they differ, and the actions
    that somebody gave them stay. Kibana saying that it has not brought in everything is an error.
    """
    try:
        _check_space(space)
        bringing = wanted(space, organization)
        if only_print:
            answer(bringing.ndjson.decode().rstrip("\n"))
        elif dry_run:
            _show(bringing, rules=rules, roles=roles)
        else:
            _bring(bringing, _address(url), space, overwrite=not keep, rules=rules, roles=roles)
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(FOUND_WRONG if isinstance(error, Rejected) else COULD_NOT) from error


def _check_space(space: str) -> None:
    if _SPACE.fullmatch(space) is None:
        raise Rejected(
            f"{space} is no name of a space.", remedy="Use small letters, digits, - and _.", code="bad_space"
        )


def _address(url: str | None) -> str:
    if url is None:
        raise Rejected(
            "No Kibana is named.", remedy="Give its address: kibana+https://HOST:5601?api_key=env:NAME.", code="bad_url"
        )
    return url


def _show(bringing: Wanted, *, rules: bool, roles: bool) -> None:
    for each in bringing.objects:
        answer(f"{each['type']:13} {each['attributes'].get('name') or each['attributes']['title']}")
    for rule in bringing.rules.values() if rules else ():
        answer(f"{'rule':13} {rule['name']}")
    for name, role in bringing.roles.items() if roles else ():
        answer(f"{'role':13} {name}: {json.dumps(role['elasticsearch']['indices'][0]['names'])}")


def _bring(bringing: Wanted, url: str, space: str, *, overwrite: bool, rules: bool, roles: bool) -> None:
    """Bring everything in. Each step may be done again: a run that broke off is mended by the next."""
    with Kibana(parse(url), space) as kibana:
        say(f"Kibana {kibana.version()}, space {space}")
        if kibana.make_space():
            say(f"made    space {space}")
        imported = kibana.bring(bringing.ndjson, overwrite=overwrite)
        for name in imported.kept:
            say(f"kept    {name}")
        for rule_id, rule in bringing.rules.items() if rules else ():
            say(f"{kibana.watch(rule_id, rule):7} rule {rule['name']}")
        for name, role in bringing.roles.items() if roles else ():
            kibana.give_role(name, role)
            say(f"given   role {name}")
    answer(f"ready   {imported.written} objects brought in, {len(imported.kept)} kept")
