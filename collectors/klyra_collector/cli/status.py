"""`klyra-audit status`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from klyra_collector.cli.administration import COULD_NOT, DEFAULT_DATA, FOUND_WRONG, DataOption, answer, say
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.errors import LedgerDamaged
from klyra_collector.seal.reader import LedgerReader

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer(add_completion=False)


@app.command()
def status(
    data: DataOption = DEFAULT_DATA,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what runs on a data directory, and how far its ledger is; exit 1 if something is not as it should be."""
    directory = DataDirectory(data)
    if not directory.ledger.exists():
        say(f"Error: there is no ledger in {data}. Name the data directory with --data.")
        raise typer.Exit(COULD_NOT)
    report = {"data": str(data), **_running(directory), "shards": _shards(directory), "witness": "UNWITNESSED"}
    if as_json:
        answer(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        for line in _lines(report):
            answer(line)
    if report["state"] == "partly running":
        raise typer.Exit(FOUND_WRONG)


def _running(directory: DataDirectory) -> dict[str, Any]:
    """Return what `run.json` says, as far as its processes live; a killed `serve` leaves a stale one."""
    try:
        run: dict[str, Any] = orjson.loads(directory.run_json.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {"state": "stopped"}
    alive = {name: _is_alive(pid) for name, pid in run["pids"].items()}
    if not any(alive.values()):
        return {"state": "stopped (run.json is stale)"}
    return {"state": "running" if all(alive.values()) else "partly running", **run, "alive": alive}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _shards(directory: DataDirectory) -> list[dict[str, Any]]:
    reader = LedgerReader(directory.ledger)
    try:
        return [
            {
                "origin": origin,
                "committed": reader.committed(origin),
                "signed": _signed(ShardDirectory(directory.ledger / origin.rpartition("/")[2]).checkpoint),
            }
            for origin in reader.origins()
        ]
    except LedgerDamaged as error:
        say(f"Error: {error}")
        raise typer.Exit(FOUND_WRONG) from error
    finally:
        reader.close()


def _signed(checkpoint: Path) -> int:
    """Return the size a checkpoint claims; `klyra-audit verify` is what checks it."""
    try:
        return int(checkpoint.read_text().split("\n")[1])
    except (OSError, ValueError, IndexError):
        return 0


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['data']}: {report['state']}"]
    lines += [f"  {name:<10} {report[name]}" for name in ("api", "otlp_http") if name in report]
    lines += [
        f"  {name:<10} process {pid}" + ("" if report["alive"][name] else " (gone)")
        for name, pid in report.get("pids", {}).items()
    ]
    for shard in report["shards"]:
        lines.append(f"  ledger     {shard['origin']}: {shard['committed']} records, {shard['signed']} signed")
    lines.append("  witness    UNWITNESSED: whoever holds the signing key could still rewrite history unnoticed")
    return lines
