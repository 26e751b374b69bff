"""The command line. Each command is loaded when it is used, so that an auditor needs no server to verify."""

from __future__ import annotations

import difflib
import importlib
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import NoReturn

import typer

COULD_NOT = 2


@dataclass(frozen=True, slots=True)
class _Command:
    module: str
    help: str


_COMMANDS = {
    "demo": _Command("demo", "Start everything with an example organization and live example traffic."),
    "serve": _Command("serve", "Run collector, follower and api on a data directory."),
    "org": _Command("organizations", "Create and list organizations, and change their plans."),
    "key": _Command("keys", "Create, list, rotate and revoke API keys."),
    "emitter": _Command("emitters", "Add, list and revoke the signing keys of emitters."),
    "emit": _Command("emit", "Have events sealed from the command line."),
    "query": _Command("query", "Search entries through the API."),
    "quarantine": _Command("quarantine", "List, show and replay inputs that were no valid events."),
    "export": _Command("export", "Export entries through the API to a file."),
    "proof": _Command("proof", "Print what proves one entry."),
    "verify": _Command("verify", "Verify a ledger and say exactly what is wrong."),
    "ledger": _Command("ledger", "Look at the ledger, renew its keys, and go on after a loss."),
    "destination": _Command("destinations", "See how copies to destinations are doing, and try a destination."),
    "witness": _Command("witness", "Cosign the checkpoints of others' ledgers."),
    "map": _Command("map", "Show what other programs' records would become, and why."),
    "setup": _Command("setup", "Prepare an Elasticsearch cluster for the logs, and Kibana for looking at them."),
    "config": _Command("settings", "Check and show the configuration."),
    "status": _Command("status", "Show what runs on a data directory, and how it is."),
}


def main() -> None:
    """Run the command line; exit 0 done, 1 found something wrong, 2 could not."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        typer.echo(_help())
        return
    if name == "--version":
        typer.echo(f"klyra-audit {version('klyra-audit')}")
        return
    if name not in _COMMANDS:
        _fail(f"there is no command {name!r}.{_suggestion(name)} See klyra-audit --help")
    _load(name)(args=arguments, prog_name=f"klyra-audit {name}")


def _load(name: str) -> typer.Typer:
    try:
        module = importlib.import_module(f"klyra_collector.cli.{_COMMANDS[name].module}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("klyra_"):
            raise
        _fail(
            f"`klyra-audit {name}` needs {error.name}, which the base install leaves out. "
            "Install it with: pip install 'klyra-audit[collector]'"
        )
    app: typer.Typer = module.app
    return app


def _help() -> str:
    width = max(map(len, _COMMANDS))
    commands = [f"  {name.ljust(width)}  {command.help}" for name, command in _COMMANDS.items()]
    return "\n".join(
        (
            "Usage: klyra-audit COMMAND [ARGUMENTS]...",
            "",
            "Audit logs that cannot be lost, cannot be changed unnoticed, and are not kept too long.",
            "",
            "Start with `klyra-audit demo`. Every command explains itself: klyra-audit COMMAND --help",
            "",
            "Commands:",
            *commands,
            "",
            "Exit status: 0 done, 1 found something wrong, 2 could not.",
        )
    )


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, _COMMANDS, n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _fail(message: str) -> NoReturn:
    typer.echo(f"klyra-audit: {message}", err=True)
    sys.exit(COULD_NOT)
