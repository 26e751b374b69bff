"""`klyra-audit witness`: be a witness for others' ledgers, as they are for yours."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from klyra_audit.errors import Halted, KlyraError
from klyra_audit.timestamps import MICROSECONDS
from klyra_collector.cli.administration import COULD_NOT, answer, answer_table, say, time_text
from klyra_collector.config import Listener
from klyra_collector.errors import LedgerLocked
from klyra_collector.logs import configure_logs
from klyra_collector.receive.listening import listen as listen_on
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.lock import LedgerLock
from klyra_collector.supervise.http_server import serve_http
from klyra_collector.witness.book import DEFAULT_LISTEN, LogBook, WitnessSettings, add_log, begin, read_settings
from klyra_collector.witness.cosigner import Cosigner
from klyra_collector.witness.keys import load_keys
from klyra_collector.witness.server import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_audit.format.keys import SigningKey

app = typer.Typer(add_completion=False, no_args_is_help=False)

DEFAULT_WITNESS_DATA = Path("klyra-witness")
DataOption = Annotated[Path, typer.Option("--data", metavar="DIR", help="The witness's data directory, of its own.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The witness's file; DIR/witness.toml by default.")
]


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    data: DataOption = DEFAULT_WITNESS_DATA,
    config: ConfigOption = None,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help=f"Where to listen; {DEFAULT_LISTEN} unless the file says.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="First start: the witness's name for good, like witness.example/w1."),
    ] = None,
    ml_dsa: Annotated[
        bool, typer.Option("--ml-dsa", help="First start: cosign with an ML-DSA-44 key besides Ed25519.")
    ] = False,
) -> None:
    """Cosign the checkpoints of other ledgers (C2SP tlog-witness), until SIGTERM or Ctrl-C.

    A witness remembers the newest checkpoint of each ledger it knows, and cosigns only what continues it: from then
    on nobody can rewrite what it has seen. Run it where the ledger's operator cannot write. The first start makes
    DIR with a name, a key and a file witness.toml; back DIR up as one, and never run a copy of it.

        klyra-audit witness add-log VKEY --data DIR       cosign a ledger; its operator sends you the line

        klyra-audit witness show-key --data DIR           the line its operator puts into the ledger's policy

        klyra-audit witness --data DIR                    run it
    """
    if context.invoked_subcommand is not None:
        inherited = {"data": data, "config": config}
        context.default_map = dict.fromkeys(("show-key", "add-log", "list"), inherited)
        return
    configure_logs("witness")
    path = config or data / "witness.toml"
    with _reported(), contextlib.closing(Disk()) as disk:
        if not path.exists():
            _begin(disk, data, path, name=name, listen=listen, ml_dsa=ml_dsa)
        settings = _settings(path, name)
        _serve(disk, data, path, settings, _listener(listen or settings.listen))


def _begin(disk: Disk, data: Path, path: Path, *, name: str | None, listen: str | None, ml_dsa: bool) -> None:
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    chosen = name or f"klyra-witness-{secrets.token_hex(4)}"
    begin(disk, path, name=chosen, listen=listen or DEFAULT_LISTEN, ml_dsa=ml_dsa)
    say(f"A new witness, {chosen}, in {data}.")


def _serve(disk: Disk, data: Path, path: Path, settings: WitnessSettings, listener: Listener) -> None:
    with _locked(data), contextlib.closing(listen_on(listener, "listen")) as listening:
        keys = _keys(disk, data, settings, may_make=True)
        cosigner = Cosigner(keys=keys, book=LogBook(path), folder=_folder(data), disk=disk, now=time.time)
        for key in settings.logs:
            cosigner.kept(key.name)  # refuse to start on a state that is not this witness's own
        asyncio.run(serve_http(create_app(cosigner), listening, lambda url: _say_ready(url, keys, settings)))


@app.command("show-key")
def show_key(data: DataOption = DEFAULT_WITNESS_DATA, config: ConfigOption = None) -> None:
    """Print the witness's verifier keys, a line each, for the policies of the ledgers that it cosigns."""
    with _reported(), contextlib.closing(Disk()) as disk:
        for key in _keys(disk, data, _settings(config or data / "witness.toml")):
            answer(key.vkey)


@app.command("add-log")
def add(
    vkey: Annotated[str, typer.Argument(metavar="VKEY", help="The ledger's verifier key: keys/collector.vkey there.")],
    data: DataOption = DEFAULT_WITNESS_DATA,
    config: ConfigOption = None,
) -> None:
    """Cosign a ledger from now on; a running witness takes it up by itself.

    Make sure that the line comes from that ledger's operator: the witness trusts what this key signs. Each new year
    a ledger goes on under a new name and key, which is added like the first.
    """
    with _reported(), contextlib.closing(Disk()) as disk:
        answer(add_log(disk, config or data / "witness.toml", vkey).name)


@app.command("list")
def list_logs(
    data: DataOption = DEFAULT_WITNESS_DATA,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")] = False,
) -> None:
    """List the ledgers that the witness knows, and what it cosigned last of each."""
    path = config or data / "witness.toml"
    with _reported(), contextlib.closing(Disk()) as disk:
        settings = _settings(path)
        keys = _keys(disk, data, settings)
        cosigner = Cosigner(keys=keys, book=LogBook(path), folder=_folder(data), disk=disk, now=time.time)
        rows = [_row(cosigner, origin) for origin in dict.fromkeys(key.name for key in settings.logs)]
    if as_json:
        answer(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    else:
        shown = [[str(row["origin"]), str(row["size"]), str(row["cosigned"] or "never")] for row in rows]
        answer_table(["ORIGIN", "SIZE", "COSIGNED"], shown)


def _row(cosigner: Cosigner, origin: str) -> dict[str, str | int | None]:
    kept = cosigner.kept(origin)
    if kept is None:
        return {"origin": origin, "size": 0, "cosigned": None}
    return {"origin": origin, "size": kept.checkpoint.size, "cosigned": time_text(kept.time * MICROSECONDS)}


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(COULD_NOT) from error


def _settings(path: Path, name: str | None = None) -> WitnessSettings:
    if not path.exists():
        raise Halted(
            f"There is no witness here: {path} does not exist.",
            remedy="Name its directory with --data, or begin one: klyra-audit witness --data DIR",
            code="no_witness",
        )
    settings = read_settings(path)
    if name is not None and name != settings.name:
        raise Halted(
            f"This witness is called {settings.name}, not {name}.",
            remedy="A witness keeps its name; begin another one in a directory of its own.",
            code="witness_renamed",
        )
    return settings


@contextlib.contextmanager
def _locked(data: Path) -> Iterator[None]:
    try:
        lock = LedgerLock(data)
    except LedgerLocked as error:
        raise Halted(
            f"Another process runs the witness in {data}.", remedy="Stop that one first.", code="witness_locked"
        ) from error
    with lock:
        yield


def _keys(disk: Disk, data: Path, settings: WitnessSettings, *, may_make: bool = False) -> list[SigningKey]:
    may_make = may_make and not _folder(data).exists()
    return load_keys(disk, data, settings.name, ml_dsa=settings.ml_dsa, may_make=may_make)


def _folder(data: Path) -> Path:
    return data / "checkpoints"


def _listener(address: str) -> Listener:
    try:
        return Listener(listen=address)
    except ValueError as error:
        raise typer.BadParameter(f"{address} is not host:port, such as {DEFAULT_LISTEN}") from error


def _say_ready(url: str, keys: list[SigningKey], settings: WitnessSettings) -> None:
    say(f"witness    {url}")
    say(f"key        {keys[0].vkey}")
    say(f"ledgers    {len({key.name for key in settings.logs})}")
