"""`klyra-audit emitter`: signing keys of emitters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from klyra_audit.errors import Rejected
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_audit.signing import KeyUnusable, new_key
from klyra_collector.cli.administration import (
    COULD_NOT,
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
from klyra_collector.registry.emitters import LAST_SEQUENCE

if TYPE_CHECKING:
    from klyra_collector.registry import Registry
    from klyra_collector.registry.emitters import EmitterKey

app = typer.Typer(
    name="emitter",
    help="Add, list and revoke the signing keys of emitters.",
    no_args_is_help=True,
    add_completion=False,
)

EmitterArgument = Annotated[str, typer.Argument(metavar="EMITTER_ID", help="As the emitter calls itself.")]
OwnerOption = Annotated[
    str | None, typer.Option("--org", metavar="ORG_ID", help="The organization whose events it signs.")
]
SharedOption = Annotated[bool, typer.Option("--shared", help="It signs for many organizations.")]


@app.command("add")
def add(
    emitter_id: EmitterArgument,
    *,
    vkey: Annotated[str, typer.Option("--key", metavar="VKEY", help="Its verifier key line: EMITTER_ID+ID+BASE64.")],
    organization_id: OwnerOption = None,
    shared: SharedOption = False,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Believe the signatures of an emitter's key from now on; print the key.

    A second key for the same emitter is how it changes keys: add the new one, let the emitter use it, revoke the old.

    Example: klyra-audit emitter add billing --org org_acme --key billing+1a2b3c4d+AbCd…
    """
    if (organization_id is None) is not shared:
        raise typer.BadParameter("say either --org ORG_ID or --shared")
    with registry_of(data) as registry:
        key, command_id = registry.add_emitter_key(emitter_id, vkey, organization_id, by=operator())
    answer(key.vkey)
    _seal(data, command_id, f"{emitter_id} may sign with it.")


@app.command("new-key")
def draw_key(
    emitter_id: EmitterArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to keep it; must not be there yet.")],
) -> None:
    """Draw a signing key for an emitter, on the emitter's machine; print the public key to register.

    The emitter takes it as signing_key=Path(FILE). Let it sign first, then register the key with `emitter add`: from
    then on nothing is taken under its name that the key does not vouch for.

    Example: klyra-audit emitter new-key billing /etc/billing/audit.key
    """
    try:
        answer(new_key(file, emitter_id).vkey)
    except KeyUnusable as error:
        say(f"Error: {error}")
        raise typer.Exit(COULD_NOT) from error


@app.command("list")
def list_keys(
    *,
    organization_id: OwnerOption = None,
    shared: SharedOption = False,
    as_json: JsonOption = False,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """List the signing keys of emitters, revoked ones too.

    Example: klyra-audit emitter list --org org_acme --json
    """
    if organization_id is not None and shared:
        raise typer.BadParameter("say either --org ORG_ID or --shared")
    with registry_of(data) as registry:
        rows = [_row(key) for key in registry.emitter_keys(OPERATOR_ORGANIZATION_ID if shared else organization_id)]
    if as_json:
        answer_json(rows)
        return
    answer_table(
        ("EMITTER", "ORGANIZATION", "STATUS", "CREATED", "REVOKED", "BELIEVED UP TO", "KEY"),
        [["-" if cell is None else str(cell) for cell in row.values()] for row in rows],
    )


@app.command("revoke")
def revoke(
    emitter_id: EmitterArgument,
    *,
    vkey: Annotated[
        str | None, typer.Option("--key", metavar="VKEY", help="Which of its keys; needed if it has several.")
    ] = None,
    untrusted_from: Annotated[
        int | None,
        typer.Option(
            "--untrusted-from",
            metavar="N",
            min=1,
            max=LAST_SEQUENCE,
            help="Of each of its boots, believe nothing from sequence number N on, sealed or not.",
        ),
    ] = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Believe an emitter's key no longer; print the key. It cannot be taken back.

    What was sealed before stays believed, unless the key was stolen earlier:

    klyra-audit emitter revoke billing --untrusted-from 18210
    """
    with registry_of(data) as registry:
        chosen = _only_key(registry, emitter_id) if vkey is None else vkey
        key, command_id = registry.revoke_emitter_key(chosen, untrusted_from, by=operator())
    answer(key.vkey)
    if command_id is None:
        say("It was revoked before; nothing is changed.")
    else:
        _seal(data, command_id, f"A key of {emitter_id} is revoked.")


def _only_key(registry: Registry, emitter_id: str) -> str:
    """Return the emitter's one key in force; `Rejected` if it has none or several."""
    in_force = [key.vkey for key in registry.keys_of_emitter(emitter_id) if key.revoked_at is None]
    if len(in_force) == 1:
        return in_force[0]
    raise Rejected(
        f"{emitter_id} has {len(in_force) or 'no'} key{'s' if len(in_force) > 1 else ''} in force.",
        remedy="Name one with --key; see them with `klyra-audit emitter list`.",
        code="ambiguous_emitter_key" if in_force else "unknown_emitter_key",
    )


def _seal(data: Path, command_id: str, done: str) -> None:
    """Seal it if no collector runs, and say where it stands."""
    seal_now(data)
    with registry_of(data) as registry:
        position = registry.outbox_position(command_id)
    where = "It is sealed shortly" if position is None else f"Sealed as record {position[1]} of {position[0]}"
    say(f"{done} {where}.")


def _row(key: EmitterKey) -> dict[str, Any]:
    return {
        "emitter_id": key.emitter_id,
        "organization_id": key.organization_id,
        "status": "active" if key.revoked_at is None else "revoked",
        "created_at": time_text(key.created_at),
        "revoked_at": time_text(key.revoked_at),
        "revoked_after_seq": key.revoked_after_seq,
        "vkey": key.vkey,
    }
