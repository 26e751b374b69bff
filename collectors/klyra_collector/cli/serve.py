"""`klyra-audit serve`."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated

import typer

from klyra_audit.errors import KlyraError
from klyra_collector.cli.administration import COULD_NOT, AnyDataOption, ConfigOption, say
from klyra_collector.config import Settings
from klyra_collector.logs import configure_logs
from klyra_collector.supervise.roles import run_role
from klyra_collector.supervise.supervisor import Supervisor

app = typer.Typer(add_completion=False)


class RoleChoice(Enum):
    """What to run."""

    ALL = "all"
    COLLECTOR = "collector"
    FOLLOWER = "follower"
    API = "api"


@app.command()
def serve(
    config: ConfigOption = None,
    data: AnyDataOption = None,
    role: Annotated[RoleChoice, typer.Option("--role", help="Run one part alone, as in a container.")] = RoleChoice.ALL,
    confirm_clock: Annotated[
        bool, typer.Option("--confirm-clock", help="You looked at the clock, and it is right. Recorded in the ledger.")
    ] = False,
) -> None:
    """Run collector, follower and api on a data directory, until SIGTERM or Ctrl-C.

    The collector takes OTLP over HTTP on 127.0.0.1:4318, the api answers on 127.0.0.1:8080; DIR/run.json says
    where exactly. Before the first event, make an organization and a key:

        klyra-audit org create org_example --plan business --data DIR

        klyra-audit key create --org org_example --scope emit --data DIR
    """
    configure_logs("supervisor" if role is RoleChoice.ALL else role.value)
    try:
        settings = Settings.load(config, data=data)
        if confirm_clock:
            settings = settings.model_copy(update={"confirm_clock": True})
        settings.data_directory.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if role is not RoleChoice.ALL:
            run_role(role.value, settings, lambda addresses: say(f"{role.value} is ready {addresses or ''}"))
            return
        supervisor = Supervisor(settings)
        running = supervisor.start(say)
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(COULD_NOT) from error
    say(f"api        {running.api}")
    say(f"otlp http  {running.otlp_http}")
    say(f"otlp grpc  {running.otlp_grpc}")
    if running.forward is not None:
        say(f"forward    {running.forward}")
    say(f"data       {settings.data_directory.root}")
    sys.exit(supervisor.wait())
