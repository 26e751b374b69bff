"""`klyra-audit ledger rebuild`: make a ledger that was lost again out of Elasticsearch."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from klyra_audit.catalog import Catalog
from klyra_audit.errors import KlyraError, Rejected
from klyra_collector.cli.administration import (
    COULD_NOT,
    DEFAULT_DATA,
    FOUND_WRONG,
    DataOption,
    answer,
    log_to_stderr,
    say,
)
from klyra_collector.cli.verify import open_copy, read_checkpoint, read_policy
from klyra_collector.config import Settings
from klyra_collector.data_directory import DataDirectory
from klyra_collector.rebuild.gather import LOST, gather
from klyra_collector.rebuild.install import FOLDER, install, refuse_present
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.identity import load_identity
from klyra_collector.seal.ledger import Ledger
from klyra_collector.seal.lock import LedgerLock
from klyra_collector.supervise.roles import ledger_options
from klyra_collector.verify import CannotVerify, Options
from klyra_collector.verify.work import cores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_collector.rebuild.gather import Gathered
    from klyra_collector.seal.identity import Identity
    from klyra_collector.seal.ledger import LedgerOptions

_SHOWN = 20


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rebuild")(rebuild)


def rebuild(
    *,
    source: Annotated[
        str, typer.Option("--from", metavar="URL", help="elasticsearch+https://HOST:9200?api_key=env:NAME")
    ],
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="What happened; it is kept in the ledger for ever.")
    ],
    policy: Annotated[
        Path, typer.Option("--policy", metavar="FILE", help="The keys to trust: a C2SP tlog-policy file.")
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="The last checkpoint that somebody else has kept."),
    ] = None,
    collector: Annotated[
        str | None, typer.Option("--collector", metavar="NAME", help="LEDGER/COLLECTOR, where several are kept there.")
    ] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Go on without what is not there any more.", show_default=False)
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Agree without being asked.", show_default=False)] = False,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Make a lost ledger again out of Elasticsearch, go on in a new shard, and print that shard's verifier key.

    Leaves, control records and checkpoints come from klyra-audit-ledger, bodies from the entries. All of it is verified
    against the policy's keys and the newest checkpoint, there or in --checkpoint, before anything is put in place.
    Everyone who verifies must pin the new shard's key. Bring keys/ back first, at least org-salt.

    Example: klyra-audit ledger rebuild --from "elasticsearch+https://es:9200?api_key=env:KEY" --policy klyra.policy
    --reason "disk of host a1 lost"
    """
    log_to_stderr()
    directory = DataDirectory(data)
    options = _options(data)
    now_us = SystemClock().wall_us()
    with _refusals(), LedgerLock(directory.ledger), contextlib.closing(Disk()) as disk:
        refuse_present(directory)
        verifying = Options(
            policy=read_policy(policy),
            org_salt=(directory.keys / "org-salt").read_bytes(),
            expect_checkpoint=None if checkpoint is None else read_checkpoint(checkpoint),
            max_witness_age=float("inf"),
            processes=cores(),
        )
        with open_copy(source) as copy:
            gathered = gather(copy, data / FOLDER, verifying, now_us=now_us, collector=collector)
        _tell(gathered)
        _agree(gathered, accept_loss=accept_loss, yes=yes)
        identity = _identity(directory, disk, options, gathered)
        shard = install(directory, disk, identity, gathered, reason, now_us)
    say(f"The ledger goes on in {shard.root.name}.")
    answer(_begin(data, options))


def _options(data: Path) -> LedgerOptions:
    settings = Settings.load(data=data)
    return ledger_options(settings, Catalog.load(settings.catalog))


def _identity(data: DataDirectory, disk: Disk, options: LedgerOptions, gathered: Gathered) -> Identity:
    """Return the identity that the rebuilt ledger has; a name that is configured otherwise is refused."""
    ledger_name, _, collector_id = gathered.collector.rpartition("/")
    identity = load_identity(
        data,
        disk,
        ledger_name=options.ledger_name or ledger_name,
        collector_id=options.collector_id or collector_id,
        keys=options.keys,
    )
    if identity.origin("") != f"{gathered.collector}/":
        raise Rejected(
            f"This is the collector {identity.origin('')[:-1]}, and the ledger is that of {gathered.collector}.",
            remedy="Say the ledger's own ledger.name and collector.id, or leave them out.",
            code="other_collector",
        )
    return identity


def _tell(gathered: Gathered) -> None:
    """Say what was found, and what was not."""
    for shard, bodies in zip(gathered.shards, gathered.bodies, strict=True):
        say(f"{shard.origin}: {shard.size} records, {bodies.written} bodies.")
        if shard.found > shard.size:
            say(f"  {shard.found - shard.size} records behind the newest checkpoint are signed by nobody: left out.")
        if bodies.refused:
            say(f"  {bodies.refused} documents are of no record, or not as they were sealed: left out.")
        if bodies.expired:
            say(f"  {bodies.expired} documents are of entries that an EXPIRY says are deleted: left out.")
    findings = [finding for shard in gathered.report.shards for finding in shard.findings]
    for finding in findings[:_SHOWN]:
        place = "" if finding.first is None else f" record {finding.first}"
        say(f"  {finding.verdict}{place}: {finding.reason}")
    if len(findings) > _SHOWN:
        say(f"  and {len(findings) - _SHOWN} more, which `klyra-audit verify` will show")


def _agree(gathered: Gathered, *, accept_loss: bool, yes: bool) -> None:
    """Have the operator agree; Rejected without."""
    if gathered.lost and not accept_loss:
        raise Rejected(
            f"{gathered.lost} findings tell of something lost ({', '.join(sorted(LOST))}).",
            remedy="Nothing was put in place. Look for a better copy, or say --accept-loss.",
            code="loss_not_accepted",
        )
    if yes:
        return
    if not sys.stdin.isatty():
        raise Rejected("Nobody is there to ask.", remedy="Say --yes if you agree.", code="nobody_to_ask")
    if not typer.confirm("Put this ledger in place and go on in a new shard?", err=True):
        raise typer.Exit(COULD_NOT)


def _begin(data: Path, options: LedgerOptions) -> str:
    """Open the ledger once, which seals the new shard's first records, and return the shard's verifier key."""
    with _refusals(), contextlib.closing(Disk()) as disk:
        ledger = Ledger.open(DataDirectory(data), disk, SystemClock(), options)
        vkey = ledger.vkey
        ledger.close()
    return vkey


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Make a message and an exit status of whatever refuses to go on."""
    try:
        yield
    except CannotVerify as error:
        say(f"Error: {error} {error.remedy}")
        raise typer.Exit(COULD_NOT) from error
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(FOUND_WRONG if isinstance(error, Rejected) else COULD_NOT) from error
