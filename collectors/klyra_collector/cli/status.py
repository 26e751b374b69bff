"""`klyra-audit status`."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from klyra_audit.errors import KlyraError
from klyra_audit.timestamps import MICROSECONDS
from klyra_collector.cli.administration import (
    COULD_NOT,
    FOUND_WRONG,
    AnyDataOption,
    ConfigOption,
    answer,
    say,
    time_text,
)
from klyra_collector.cli.status_store import store_is_well, store_lines, store_report
from klyra_collector.config import Settings
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.errors import LedgerDamaged
from klyra_collector.seal.reader import LedgerReader, shard_order
from klyra_collector.witness.errors import ALARMS
from klyra_collector.witness.memory import recall
from klyra_collector.witnessed import BadWitnessPolicy, load_policy, newest_witnessed

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.data_directory import DataDirectory

app = typer.Typer(add_completion=False)


@app.command()
def status(
    config: ConfigOption = None,
    data: AnyDataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what runs on a data directory, and how far its ledger is; exit 1 if something is not as it should be."""
    settings = _settings(config, data)
    directory = settings.data_directory
    if not directory.ledger.exists():
        say(f"Error: there is no ledger in {settings.data}. Name the data directory with --data.")
        raise typer.Exit(COULD_NOT)
    report = {"data": str(settings.data), **_running(directory), "shards": _shards(directory), **_witnesses(directory)}
    report["store"] = store_report(settings, time.time_ns() // 1000)
    if as_json:
        answer(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        for line in _lines(report):
            answer(line)
    alarmed = any(answer["trouble"] in ALARMS for answer in report["witnesses"].values())
    if report["state"] == "partly running" or alarmed or not store_is_well(report["store"]):
        raise typer.Exit(FOUND_WRONG)


def _settings(config: Path | None, data: Path | None) -> Settings:
    try:
        return Settings.load(config, data=data)
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(COULD_NOT) from error


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


def _witnesses(directory: DataDirectory) -> dict[str, Any]:
    """Return what a quorum of witnesses cosigned last, and how each witness stands with the newest shard."""
    if not directory.witness_policy.exists():
        return {"witness": "UNWITNESSED", "witnessed": None, "witnesses": {}}
    seen = None
    with contextlib.suppress(BadWitnessPolicy):
        seen = newest_witnessed(directory.ledger, load_policy(directory.witness_policy))
    shards = [path for path in directory.ledger.iterdir() if path.is_dir() and path.name[0].isdigit()]
    newest = max(shards, key=shard_order, default=directory.ledger)
    return {
        "witness": "UNWITNESSED" if seen is None else "WITNESSED",
        "witnessed": seen and {"shard": seen[0], "size": seen[1].size, "at": time_text(seen[1].time * MICROSECONDS)},
        "witnesses": {name: asdict(answer) for name, answer in recall(ShardDirectory(newest)).items()},
    }


def _signed(checkpoint: Path) -> int:
    """Return the size a checkpoint claims; `klyra-audit verify` is what checks it."""
    try:
        return int(checkpoint.read_text().split("\n")[1])
    except (OSError, ValueError, IndexError):
        return 0


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['data']}: {report['state']}"]
    lines += [f"  {name:<10} {report[name]}" for name in ("api", "otlp_http", "otlp_grpc", "forward") if name in report]
    lines += [
        f"  {name:<10} process {pid}" + ("" if report["alive"][name] else " (gone)")
        for name, pid in report.get("pids", {}).items()
    ]
    for shard in report["shards"]:
        lines.append(f"  ledger     {shard['origin']}: {shard['committed']} records, {shard['signed']} signed")
    return [*lines, *_witness_lines(report), *store_lines(report["store"])]


def _witness_lines(report: dict[str, Any]) -> list[str]:
    seen = report["witnessed"]
    if seen is None:
        line = "UNWITNESSED: whoever holds the signing key could still rewrite history unnoticed"
    else:
        line = f"{seen['size']} records of {seen['shard']} were cosigned by {seen['at']}"
    troubles = [
        f"  {'ALARM' if answer['trouble'] in ALARMS else 'witness':<10} {name}: {answer['reason']}"
        for name, answer in report["witnesses"].items()
        if answer["trouble"]
    ]
    return [f"  {'witness':<10} {line}", *troubles]
