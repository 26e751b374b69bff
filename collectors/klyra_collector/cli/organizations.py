"""`klyra-audit org`: organizations and their plans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from klyra_collector.cli.administration import (
    DEFAULT_DATA,
    DataOption,
    JsonOption,
    answer,
    answer_json,
    answer_table,
    operator,
    registry_of,
    say,
    seal_now,
    time_text,
)

if TYPE_CHECKING:
    from klyra_collector.registry.organizations import Organization

app = typer.Typer(
    name="org", help="Register organizations and change their plans.", no_args_is_help=True, add_completion=False
)

OrganizationArgument = Annotated[str, typer.Argument(metavar="ORG_ID", help="The organization, org_…")]
PlanOption = Annotated[str, typer.Option("--plan", help="startup, business or enterprise.")]
RetentionOption = Annotated[
    int | None,
    typer.Option(
        "--retention-days", metavar="N", help="Keep entries longer than the plan's own days. Enterprise only."
    ),
]


@app.command("create")
def create(
    organization_id: OrganizationArgument,
    plan: PlanOption,
    retention_days: RetentionOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Register an organization and print its id.

    Example: klyra-audit org create org_acme --plan enterprise --retention-days 730
    """
    with registry_of(data, begin=True) as registry:
        made = registry.create_organization(organization_id, plan, retention_days, by=operator())
    answer(made.organization_id)
    say(f"{_terms(made)} Give it a key with: klyra-audit key create --org {made.organization_id} --scope emit")
    seal_now(data)


@app.command("set-plan")
def set_plan(
    organization_id: OrganizationArgument,
    plan: PlanOption,
    retention_days: RetentionOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Change what an organization has bought and print its retention policy.

    What is sealed already is never kept for less than it was sealed for.

    Example: klyra-audit org set-plan org_acme --plan business
    """
    with registry_of(data) as registry:
        changed = registry.set_plan(organization_id, plan, retention_days, by=operator())
    answer(changed.policy)
    say(_terms(changed))
    seal_now(data)


@app.command("list")
def list_organizations(*, as_json: JsonOption = False, data: DataOption = DEFAULT_DATA) -> None:
    """List the organizations.

    Example: klyra-audit org list --json
    """
    with registry_of(data) as registry:
        rows = [_row(organization) for organization in registry.organizations()]
    if as_json:
        answer_json(rows)
        return
    answer_table(
        ("ORGANIZATION", "PLAN", "POLICY", "DAYS", "CREATED"), [[str(cell) for cell in row.values()] for row in rows]
    )


def _row(organization: Organization) -> dict[str, Any]:
    return {
        "organization_id": organization.organization_id,
        "plan": organization.plan,
        "policy": organization.policy,
        "retention_days": organization.retention_days,
        "created_at": time_text(organization.created_at),
    }


def _terms(organization: Organization) -> str:
    return (
        f"{organization.organization_id} has the {organization.plan} plan: "
        f"entries are kept for {organization.retention_days} days."
    )
