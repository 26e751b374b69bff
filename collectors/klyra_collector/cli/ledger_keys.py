"""`klyra-audit ledger rotate-key|revoke-key|encrypt-key|decrypt-key`: the collector's own keys."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Annotated

import typer

from klyra_audit.errors import KlyraError, Rejected
from klyra_collector.cli.administration import (
    COULD_NOT,
    DEFAULT_DATA,
    FOUND_WRONG,
    DataOption,
    answer,
    registry_of,
    say,
)
from klyra_collector.config import BadConfiguration, Settings
from klyra_collector.data_directory import DataDirectory
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.identity import open_key_files
from klyra_collector.seal.signers import signing_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Literal

_WAIT_SECONDS = 10.0
_POLL_SECONDS = 0.1

PassphraseOption = Annotated[
    str | None,
    typer.Option(
        "--passphrase", metavar="REFERENCE", help="env:NAME or file:PATH; ledger.key_passphrase unless given."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add these commands to `klyra-audit ledger`."""
    app.command("rotate-key")(rotate_key)
    app.command("revoke-key")(revoke_key)
    app.command("encrypt-key")(encrypt_key)
    app.command("decrypt-key")(decrypt_key)


def rotate_key(data: DataOption = DEFAULT_DATA) -> None:
    """Have checkpoints signed by a new key as well; print its verifier key.

    The present key announces the new one: whoever pinned the old key follows without a new policy. Both sign until
    the old one is revoked with `klyra-audit ledger revoke-key`. Works on a running server and on a stopped one.

    Example: klyra-audit ledger rotate-key --data klyra-data
    """
    present = _present_vkey(data)
    _seal_change(data, "rotate", present)
    newest = _await(lambda: _present_vkey(data) != present)
    answer(_present_vkey(data))
    if newest:
        say("Checkpoints carry its signature from now on, and that of the keys before it.")
        say(f"Revoke the old key when nobody needs it any more: klyra-audit ledger revoke-key '{present}'")
    else:
        say("The new key is announced; its signature follows with the next checkpoint. The old key is shown above.")


def revoke_key(
    vkey: Annotated[str, typer.Argument(metavar="VKEY", help="The verifier key line, see `klyra-audit ledger show`.")],
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Have a key sign no more checkpoints, delete its private key, and say so in the ledger; print the key.

    What it signed up to here stays vouched for. The last key that signs cannot be revoked: rotate it first.

    Example: klyra-audit ledger revoke-key "$(cat old.vkey)"
    """
    _seal_change(data, "revoke", vkey)
    answer(vkey)
    say("It is revoked; the next checkpoint goes without its signature.")


def encrypt_key(passphrase: PassphraseOption = None, data: DataOption = DEFAULT_DATA) -> None:
    """Encrypt the private keys that sign checkpoints, under a passphrase given by reference; print their files.

    Each file is replaced as a whole: a crash leaves a usable key. Set ledger.key_passphrase to the same reference, or
    the next start fails. Blocks of the old file may linger on the disk: if others could read that, rotate the key.

    Example: klyra-audit ledger encrypt-key --passphrase file:/run/secrets/ledger
    """
    _rewrite(data, passphrase, encrypted=True)


def decrypt_key(passphrase: PassphraseOption = None, data: DataOption = DEFAULT_DATA) -> None:
    """Store the private keys that sign checkpoints without a passphrase; print their files.

    Example: klyra-audit ledger decrypt-key --passphrase env:LEDGER_PASSPHRASE
    """
    _rewrite(data, passphrase, encrypted=False)


def _rewrite(data: Path, passphrase: str | None, *, encrypted: bool) -> None:
    with _answered(), contextlib.closing(Disk()) as disk:
        reference = passphrase or Settings.load(data=data).ledger.key_passphrase
        if reference is None:
            raise Rejected(
                "There is no passphrase.",
                remedy="Name one with --passphrase env:NAME or file:PATH, or in ledger.key_passphrase.",
                code="no_passphrase",
            )
        files = open_key_files(DataDirectory(data), disk, reference)
        for name in signing_files(files):
            if files.is_encrypted(name) is not encrypted:
                files.rewrite(name, encrypted=encrypted)
                answer(name)
    say(f"Private keys in {data / 'keys'} are {'encrypted' if encrypted else 'plain'}.")


def _present_vkey(data: Path) -> str:
    try:
        return (data / "keys" / "collector.vkey").read_text().strip()
    except OSError as error:
        say(f"Error: there is no ledger in {data} that was signed. Start a collector there once: klyra-audit serve")
        raise typer.Exit(COULD_NOT) from error


def _seal_change(data: Path, action: Literal["rotate", "revoke"], vkey: str) -> None:
    """Have the collector do it: the running one, else this process in its place."""
    from klyra_collector.supervise.offline import drain_if_stopped  # noqa: PLC0415 - other commands need no ledger

    with registry_of(data, begin=True) as registry:
        command_id = registry.record_collector_key(action, vkey)
        drain_if_stopped(data)
        if not _await(lambda: registry.outbox_position(command_id) is not None):
            say("The collector has not done it yet; it is in its outbox and will be.")
            raise typer.Exit(COULD_NOT)


def _await(done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _WAIT_SECONDS
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Turn what is refused into a message and an exit status."""
    try:
        yield
    except KlyraError as error:
        say(f"Error: {error}")
        refused = isinstance(error, Rejected) and not isinstance(error, BadConfiguration)
        raise typer.Exit(FOUND_WRONG if refused else COULD_NOT) from error
