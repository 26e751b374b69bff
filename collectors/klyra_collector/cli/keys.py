"""`klyra-audit key`: API keys."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_audit.timestamps import MICROSECONDS, SECONDS_PER_DAY
from klyra_collector.cli.administration import (
    DEFAULT_DATA,
    DataOption,
    JsonOption,
    answer,
    answer_json,
    answer_table,
    duration,
    operator,
    registry_of,
    say,
    seal_now,
    time_text,
)
from klyra_collector.registry.registry import wall_us
from klyra_collector.registry.scopes import ROLES, SCOPES, check_role, in_order

if TYPE_CHECKING:
    from klyra_collector.registry.keys import ApiKey

app = typer.Typer(
    name="key", help="Make, list, rotate and revoke API keys.", no_args_is_help=True, add_completion=False
)

KeyArgument = Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's public id, key_…")]
OwnerOption = Annotated[
    str | None, typer.Option("--org", metavar="ORG_ID", help="The organization the key belongs to.")
]
OperatorOption = Annotated[
    bool, typer.Option("--operator", help="The key belongs to the operator, for every organization.")
]


@app.command("create")
def create(
    *,
    organization_id: OwnerOption = None,
    for_operator: OperatorOption = False,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help=f"What it may do, comma-separated: {', '.join(SCOPES)}.")
    ] = None,
    role: Annotated[str | None, typer.Option("--role", help=f"Scopes by name: {', '.join(ROLES)}.")] = None,
    label: Annotated[str, typer.Option("--label", help="What people call the key.")] = "",
    emitter: Annotated[
        list[str] | None,
        typer.Option("--emitter", metavar="ID", help="An emitter it may speak for; repeat for more."),
    ] = None,
    expires_days: Annotated[
        int | None, typer.Option("--expires-days", metavar="N", min=1, max=36500, help="Refuse it after N days.")
    ] = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Make an API key and print it. It is shown this once.

    Bind it to an emitter, name its scopes by a role, or make it the operator's:

    klyra-audit key create --org org_acme --scope emit --emitter billing

    klyra-audit key create --org org_acme --role auditor --expires-days 30

    klyra-audit key create --operator --scope verify
    """
    if (organization_id is None) is not for_operator:
        raise typer.BadParameter("say either --org ORG_ID or --operator")
    if scope is None and role is None:
        raise typer.BadParameter("say what the key may do with --scope or --role")
    with registry_of(data, begin=True) as registry:
        named = {part.strip() for text in scope or () for part in text.split(",")}
        issued = registry.create_key(
            organization_id=organization_id,
            scopes=named | (check_role(role) if role else frozenset()),
            label=label,
            emitter_ids=emitter or (),
            expires_at=_days_from_now(expires_days),
            by=operator(),
        )
    answer(issued.secret_text)
    say(f"{_summary(issued.key)} Keep the key now: it cannot be shown again.")
    seal_now(data)


@app.command("list")
def list_keys(
    *,
    organization_id: OwnerOption = None,
    for_operator: OperatorOption = False,
    as_json: JsonOption = False,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """List keys, without their secrets.

    Example: klyra-audit key list --org org_acme --json
    """
    if organization_id is not None and for_operator:
        raise typer.BadParameter("say either --org ORG_ID or --operator")
    with registry_of(data) as registry:
        rows = [_row(key) for key in registry.keys(OPERATOR_ORGANIZATION_ID if for_operator else organization_id)]
    if as_json:
        answer_json(rows)
        return
    answer_table(
        ("KEY", "ORGANIZATION", "LABEL", "SCOPES", "EMITTERS", "STATUS", "CREATED", "LAST USED", "EXPIRES", "REVOKED"),
        [[_cell(cell) for cell in row.values()] for row in rows],
    )


@app.command("rotate")
def rotate(
    key_id: KeyArgument,
    overlap: Annotated[
        timedelta,
        typer.Option(
            "--overlap", metavar="TIME", parser=duration, help="How long the old secret stays valid: 7d, 12h, 0."
        ),
    ] = "7d",  # type: ignore[assignment] # typer parses a default given as text
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Give a key a new secret and print it. The id stays, the old secret works for a while.

    Example: klyra-audit key rotate key_9z8y7x6w5v4u --overlap 12h
    """
    with registry_of(data) as registry:
        issued = registry.rotate_key(key_id, overlap, operator())
    answer(issued.secret_text)
    say(f"Older secrets of {key_id} work for {overlap} more. Keep the new one now: it cannot be shown again.")
    seal_now(data)


@app.command("revoke")
def revoke(key_id: KeyArgument, data: DataOption = DEFAULT_DATA) -> None:
    """Refuse a key, and the browsers that signed in with it, from now on; print its id.

    Example: klyra-audit key revoke key_9z8y7x6w5v4u
    """
    with registry_of(data) as registry:
        revoked = registry.revoke_key(key_id, operator())
    answer(revoked.key_id)
    say(f"{key_id} is revoked.")
    seal_now(data)


def _days_from_now(days: int | None) -> int | None:
    return None if days is None else wall_us() + days * SECONDS_PER_DAY * MICROSECONDS


def _summary(key: ApiKey) -> str:
    owner = key.organization_id or "the operator"
    return f"{key.key_id} of {owner} may {', '.join(in_order(key.scopes))}."


def _row(key: ApiKey) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "organization_id": key.organization_id,
        "label": key.label,
        "scopes": in_order(key.scopes),
        "emitter_ids": list(key.emitter_ids),
        "status": _status(key),
        "created_at": time_text(key.created_at),
        "last_used_at": time_text(key.last_used_at),
        "expires_at": time_text(key.expires_at),
        "revoked_at": time_text(key.revoked_at),
    }


def _status(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expired(wall_us()) else "active"


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value) or "-"
    return str(value or "-")
