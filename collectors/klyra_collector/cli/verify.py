"""`klyra-audit verify`. Loads what an auditor has: the base install, no server."""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.text import Text

from klyra_audit.errors import KlyraError
from klyra_audit.format import policy
from klyra_audit.format.errors import PolicyError
from klyra_audit.format.note import MAX_NOTE_BYTES
from klyra_collector.secret_reference import read_secret
from klyra_collector.verify import CannotVerify, Options, Report, ShardReport, Verdict, report, verify_target
from klyra_collector.verify.copies_elasticsearch import verify_alone, verify_with_ledger
from klyra_collector.verify.copies_store import verify_store
from klyra_collector.verify.elasticsearch_address import ElasticsearchAddress
from klyra_collector.verify.elasticsearch_client import ElasticsearchClient
from klyra_collector.verify.elasticsearch_copy import ElasticsearchCopy
from klyra_collector.verify.files import Unreadable, read_small
from klyra_collector.verify.ledger import ORG_SALT_BYTES
from klyra_collector.verify.packet import verify_packet
from klyra_collector.verify.remote import RemoteOptions, verify_url
from klyra_collector.verify.verdicts import GRAVITY
from klyra_collector.verify.work import cores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_collector.verify import Finding, Policy

app = typer.Typer(add_completion=False)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KEY_VARIABLE = "KLYRA_KEY"
DEFAULT_WITNESS_AGE = 86_400.0
_HEX_SALT = 2 * ORG_SALT_BYTES
_OUTCOMES = {
    report.INTACT: ("INTACT", "bold green"),
    report.BROKEN: ("BROKEN", "bold red"),
    report.COULD_NOT: ("COULD NOT BE CHECKED", "bold yellow"),
}


@app.command()
def verify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A data directory, its ledger/, one shard, an export packet (.zip), the URL of a published log, or "
            "elasticsearch+https://HOST:9200 for the entries there.",
        ),
    ],
    *,
    policy_file: Annotated[
        Path | None,
        typer.Option("--policy", metavar="FILE", help="The keys and witnesses to trust: a C2SP tlog-policy file."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="FILE", help="Verify this store.sqlite too, entry by entry, by its ledger."),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            "--ledger", metavar="DIR", help="Of Elasticsearch: the ledger to compare with, instead of its own copy."
        ),
    ] = None,
    collector: Annotated[
        str | None,
        typer.Option("--collector", metavar="NAME", help="Of Elasticsearch: whose ledger, LEDGER/COLLECTOR."),
    ] = None,
    org_salt: Annotated[
        Path | None, typer.Option("--org-salt", metavar="FILE", help="32 bytes; by default DATA/keys/org-salt.")
    ] = None,
    require_pinned: Annotated[
        bool | None,
        typer.Option(
            "--require-pinned/--no-require-pinned",
            help="Without --policy, count nothing as checked (exit 2); the default for packets and URLs.",
        ),
    ] = None,
    expect_size: Annotated[
        int | None,
        typer.Option("--expect-size", metavar="N", min=0, help="There must be so many signed records, at least."),
    ] = None,
    expect_after: Annotated[
        str | None, typer.Option("--expect-after", metavar="TIME", help="There must be a record of this time or later.")
    ] = None,
    expect_checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--expect-checkpoint",
            "--earlier",
            metavar="FILE",
            help="A checkpoint you kept must still be true.",
        ),
    ] = None,
    now: Annotated[
        str | None,
        typer.Option(
            "--now", metavar="TIME", help="The present, or `now`; by default the time of the newest record is taken."
        ),
    ] = None,
    max_witness_age: Annotated[
        float,
        typer.Option("--max-witness-age", metavar="SECONDS", min=0, help="How long witnesses may have seen nothing."),
    ] = DEFAULT_WITNESS_AGE,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report for machines.")] = False,
    limit_findings: Annotated[
        int, typer.Option("--limit-findings", metavar="N", min=0, help="Describe so many findings; all are counted.")
    ] = 100,
) -> None:
    """Verify a ledger, an export packet or a published log, and say exactly what is wrong.

        klyra-audit verify klyra-data --policy klyra.policy
        klyra-audit verify klyra-data --policy klyra.policy --store klyra-data/store.sqlite
        klyra-audit verify export.zip --policy klyra.policy
        klyra-audit verify https://audit.example/log/collector-1/2026 --policy klyra.policy
        klyra-audit verify "elasticsearch+https://es:9200?api_key=env:KEY" --ledger klyra-data --policy klyra.policy

    A published log is verified without a copy of it: signature, every tile and, with an operator's key in KLYRA_KEY,
    every leaf. What the records say is not published, and not verified.

    With --store, the entries that are searched are compared with what was sealed, as far as the store has got.
    Entries in Elasticsearch are compared with the ledger of --ledger, or with the copy of it in klyra-audit-ledger.

    A ledger may be in use: what was acknowledged before the verification began is verified. Without --policy only
    consistency is checked, since whoever can change a ledger can also change the key beside it. An end that was cut
    off with everything that speaks of it shows only by what you know from before: see --expect-checkpoint.

    Exit status: 0 intact, 1 broken (and where), 2 could not check.
    """
    kind = _kind_of(target)
    shown = target.partition("?")[0] if kind is _Kind.ELASTICSEARCH else target  # a secret is not repeated
    try:
        with _progress() as progress:
            options = Options(
                policy=None if policy_file is None else read_policy(policy_file),
                org_salt=None if org_salt is None else _read_salt(org_salt),
                require_pinned=kind in _PUBLISHED if require_pinned is None else require_pinned,
                expect_size=expect_size,
                expect_after_us=None if expect_after is None else _read_time(expect_after, "--expect-after"),
                expect_checkpoint=None if expect_checkpoint is None else read_checkpoint(expect_checkpoint),
                now_us=None if now is None else _read_time(now, "--now"),
                max_witness_age=max_witness_age,
                limit_findings=limit_findings,
                processes=cores(),
            )
            options = replace(options, progress=progress.show) if progress else options
            result = _verify(kind, target, _Beside(store, ledger, collector), options)
        _answer(result, as_json=as_json)
    except CannotVerify as error:
        _fail(shown, as_json=as_json, code=error.code, message=str(error), remedy=error.remedy)
    except KeyboardInterrupt:
        _fail(shown, as_json=as_json, code="interrupted", message="Interrupted.", remedy="Run it again.")
    except Exception as error:  # noqa: BLE001 - whatever happened, nothing was verified
        message = f"{type(error).__name__}: {error}"
        _fail(shown, as_json=as_json, code="unexpected", message=message, remedy="Report this as a fault of verify.")
    raise typer.Exit(result.exit_status)


class _Kind(Enum):
    """What a target is."""

    LEDGER = "ledger"
    PACKET = "packet"
    URL = "url"
    ELASTICSEARCH = "elasticsearch"


@dataclass(frozen=True, slots=True)
class _Beside:
    """What is verified, or compared with, besides the target."""

    store: Path | None
    ledger: Path | None
    collector: str | None


def _kind_of(target: str) -> _Kind:
    if target.lower().startswith(("http://", "https://")):
        return _Kind.URL
    if target.lower().startswith("elasticsearch+"):
        return _Kind.ELASTICSEARCH
    return _Kind.PACKET if target.lower().endswith(".zip") and not Path(target).is_dir() else _Kind.LEDGER


def _verify(kind: _Kind, target: str, beside: _Beside, options: Options) -> Report:
    if beside.store is not None:
        return _verify_store(kind, target, beside.store, options)
    if kind is _Kind.ELASTICSEARCH:
        return _verify_elasticsearch(target, beside, options)
    if beside.ledger is not None or beside.collector is not None:
        raise CannotVerify(
            "--ledger and --collector are about a copy in Elasticsearch.",
            code="bad_option",
            remedy="Leave them out, or give an elasticsearch+https:// address.",
        )
    return _VERIFIERS[kind](target, options)


def _verify_elasticsearch(target: str, beside: _Beside, options: Options) -> Report:
    with open_copy(target) as copy:
        if beside.ledger is not None:
            return verify_with_ledger(copy, beside.ledger, options)
        return verify_alone(copy, options, collector=beside.collector)


def open_copy(url: str) -> ElasticsearchCopy:
    """Return the entries at a URL; credentials are read where it refers to.

    Raises:
        CannotVerify: it is no such URL, or what it refers to or leads to is not there.
    """
    address = ElasticsearchAddress.parse(url)
    try:
        authorization = address.authorization(read_secret)
    except KlyraError as error:
        raise CannotVerify(str(error.args[0]), code=error.code, remedy=error.remedy) from error
    return ElasticsearchCopy(ElasticsearchClient(address, authorization))


def _verify_ledger(target: str, options: Options) -> Report:
    return verify_target(Path(target), options)


def _verify_store(kind: _Kind, target: str, store: Path, options: Options) -> Report:
    if kind is not _Kind.LEDGER:
        raise CannotVerify(
            "Only a ledger on disk says what a store must hold.",
            code="bad_option",
            remedy="Give --store with the data directory of its ledger.",
        )
    return verify_store(store, Path(target), options)


def _verify_packet(target: str, options: Options) -> Report:
    _refuse_expectations(options, "a packet")
    if _asks_for_age(options):
        raise CannotVerify(
            "A packet says how things stood when it was made, at any time since.",
            code="bad_option",
            remedy="Leave --now and --max-witness-age out; verify the published log to see how new it is.",
        )
    return verify_packet(Path(target), options)


def _verify_url(target: str, options: Options) -> Report:
    _refuse_expectations(replace(options, expect_checkpoint=None), "a URL")
    _refuse_age_without_witnesses(options)
    remote = RemoteOptions(
        policy=options.policy,
        key=os.environ.get(KEY_VARIABLE) or None,
        earlier=None if options.expect_checkpoint is None else options.expect_checkpoint[1],
        require_pinned=options.require_pinned,
        now_us=options.now_us,
        max_witness_age=options.max_witness_age,
        limit_findings=options.limit_findings,
        progress=options.progress,
        sleep=options.sleep,
    )
    return verify_url(target, remote)


_PUBLISHED = (_Kind.PACKET, _Kind.URL, _Kind.ELASTICSEARCH)
_VERIFIERS: dict[_Kind, Callable[[str, Options], Report]] = {
    _Kind.LEDGER: _verify_ledger,
    _Kind.PACKET: _verify_packet,
    _Kind.URL: _verify_url,
}


def _refuse_expectations(options: Options, target: str) -> None:
    """Never pass over what was asked for."""
    given = (options.expect_size, options.expect_after_us, options.expect_checkpoint)
    if any(expected is not None for expected in given):
        raise CannotVerify(
            f"What is expected of a ledger cannot be checked on {target}.",
            code="bad_option",
            remedy="Leave --expect-size, --expect-after and --expect-checkpoint out.",
        )


def _asks_for_age(options: Options) -> bool:
    return options.now_us is not None or options.max_witness_age != DEFAULT_WITNESS_AGE


def _refuse_age_without_witnesses(options: Options) -> None:
    """Never pass over what was asked for: of a published log only witnesses say how new it is."""
    if _asks_for_age(options) and (options.policy is None or not options.policy.needs_witnesses):
        raise CannotVerify(
            "Without a policy that asks for witnesses nothing says how new a published log is.",
            code="bad_option",
            remedy="Give a --policy with a quorum of witnesses, or leave --now and --max-witness-age out.",
        )


def _answer(result: Report, *, as_json: bool) -> None:
    if as_json:
        _answer_json(result.as_json())
    else:
        _Printer(Console(highlight=False, markup=False, soft_wrap=True)).print_report(result)


def read_policy(path: Path) -> Policy:
    """Return the policy in a file that was given; raises `CannotVerify`."""
    try:
        return policy.parse(_read_given(path, policy.MAX_POLICY_BYTES, "--policy"))
    except PolicyError as error:
        raise CannotVerify(
            f"The policy cannot be used: {error}.",
            code="bad_policy",
            remedy="Give the policy file that the operator published, as C2SP tlog-policy describes it, unchanged.",
        ) from error


def read_checkpoint(path: Path) -> tuple[Path, bytes]:
    """Return a file that was given, and what is in it; raises `CannotVerify`."""
    return path.resolve(), _read_given(path, MAX_NOTE_BYTES, "--expect-checkpoint")


def _read_time(text: str, option: str) -> int:
    """Return microseconds since 1970."""
    if text == "now":
        return time.time_ns() // 1000
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, TypeError, OverflowError) as error:  # TypeError: without an offset from UTC
        raise CannotVerify(
            f"The time of {option} cannot be read: {error}.",
            code="bad_time",
            remedy="Write it like 2026-01-31T12:00:00Z.",
        ) from error


def _read_salt(path: Path) -> bytes:
    """Return the 32 bytes of a file that has them raw, or as hex digits."""
    encoded = _read_given(path, _HEX_SALT + 1, "--org-salt")
    if len(encoded) == ORG_SALT_BYTES:
        return encoded
    try:
        salt = bytes.fromhex(encoded.decode("ascii"))
    except ValueError:
        salt = b""
    if len(salt) != ORG_SALT_BYTES:
        raise CannotVerify(
            f"{path} has no org_salt.",
            code="bad_org_salt",
            remedy=f"Give a file of {ORG_SALT_BYTES} bytes, or of {_HEX_SALT} hexadecimal digits.",
        )
    return salt


def _read_given(path: Path, limit: int, option: str) -> bytes:
    try:
        return read_small(path.resolve(), limit)
    except (OSError, RuntimeError, Unreadable) as error:
        raise CannotVerify(
            f"The file of {option} cannot be read: {error}.", code="bad_file", remedy="Name a file that can be read."
        ) from error


def _fail(target: str, *, as_json: bool, code: str, message: str, remedy: str) -> None:
    """Say that nothing could be checked, and exit 2."""
    if as_json:
        _answer_json(report.failure_as_json(printable(target), code=code, message=printable(message), remedy=remedy))
    else:
        typer.echo(f"Error: {printable(message)} {remedy}", err=True)
    raise typer.Exit(report.COULD_NOT)


def _answer_json(form: dict[str, object]) -> None:
    typer.echo(orjson.dumps(form, option=orjson.OPT_INDENT_2).decode())


class _Bars:
    """Shows progress on a terminal, one bar for each step of each shard."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def show(self, shard: str, step: str, done: int, total: int) -> None:
        """See `Options.progress`."""
        name = f"{shard} {step}"
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        self._bars.update(self._tasks[name], completed=done)


@contextmanager
def _progress() -> Iterator[_Bars | None]:
    if not sys.stderr.isatty():
        yield None
        return
    with Progress(console=Console(stderr=True), transient=True) as bars:
        yield _Bars(bars)


class _Printer:
    """Prints a report for people."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def print_report(self, result: Report) -> None:
        """Print everything, the outcome last."""
        for shard in result.shards:
            self._print_shard(shard, pinned=result.pinned)
        outcome, style = _OUTCOMES[result.exit_status]
        reason = _reason(result)
        self._console.print(Text(outcome, style), Text(reason), sep=": " if reason else "")

    def _print_shard(self, shard: ShardReport, *, pinned: bool) -> None:
        if shard.is_copy:
            self._line("copy", f"{shard.directory}  {shard.origin}")
            self._line("applied", f"{shard.size} records")
        else:
            self._line("ledger", f"{shard.directory}  {shard.origin or 'without a signed head'}")
        if shard.size is not None and shard.root is not None:
            self._line("size", f"{shard.size} records{_times(shard)}")
            self._line("root", shard.root.hex())
        if not shard.is_copy:  # what vouches for a copy stands with its ledger
            self._line("key", f"{shard.key or 'none'}  {'pinned' if pinned else 'key not pinned'}")
            self._line("witness", _witnessed(shard))
        tail = shard.unsigned_tail
        if tail.records or tail.unfinished:
            unfinished = f", and {tail.unfinished} unfinished" if tail.unfinished else ""
            self._line(
                "unsigned", f"{tail.records} records behind the head, {tail.checked} of them checked{unfinished}"
            )
        for note in shard.notes:
            self._line("note", note)
        counts = [f"{verdict} {shard.counts[verdict]}" for verdict in reversed(GRAVITY) if shard.counts.get(verdict)]
        self._line("records", "  ".join(counts) or "none")
        self._print_findings(shard)
        self._console.print()

    def _print_findings(self, shard: ShardReport) -> None:
        by_verdict: dict[Verdict, list[Finding]] = defaultdict(list)
        for finding in shard.findings:
            by_verdict[finding.verdict].append(finding)
        for verdict in GRAVITY:
            for finding in by_verdict[verdict]:
                self._print_finding(finding)
        unsaid = shard.findings_total - len(shard.findings)
        if unsaid:
            self._console.print(f"\n  and {unsaid} more findings; --limit-findings N describes more of them")

    def _print_finding(self, finding: Finding) -> None:
        self._console.print()
        place = "  ".join(part for part in (_records(finding), _place(finding)) if part)
        self._console.print(Text(f"  {finding.verdict}", "bold"), Text(printable(place)))
        self._console.print(f"    {printable(finding.reason)}")
        self._console.print(f"    -> {printable(finding.meaning)}")

    def _line(self, name: str, text: str) -> None:
        self._console.print(f"{name:<9} {printable(text)}")


def _witnessed(shard: ShardReport) -> str:
    if shard.witnessed is None:
        return report.UNWITNESSED
    return f"a quorum has cosigned the first {shard.witnessed.size} records, {_time(shard.witnessed.time * 1_000_000)}"


def _reason(result: Report) -> str:
    if result.exit_status == report.INTACT:
        return "" if result.pinned else "consistent, by a key that was not pinned"
    if not result.verdict.is_good:
        return result.verdict.value
    return "the key is not pinned, and --require-pinned was given"


def _records(finding: Finding) -> str:
    owner = f" of {finding.organization_id}" if finding.organization_id else ""
    if finding.first is None:
        return ""
    if finding.first == finding.last:
        return f"record {finding.first}{owner}"
    return f"records {finding.first} to {finding.last}{owner} ({finding.count})"


def _place(finding: Finding) -> str:
    if finding.file is None:
        return ""
    return finding.file if finding.offset is None else f"{finding.file} byte {finding.offset}"


def _times(shard: ShardReport) -> str:
    if shard.first_us is None or shard.last_us is None:
        return ""
    return f", sealed {_time(shard.first_us)} to {_time(shard.last_us)}"


def _time(microseconds: int) -> str:
    try:
        return f"{_EPOCH + timedelta(microseconds=microseconds):%Y-%m-%dT%H:%M:%SZ}"
    except OverflowError:
        return f"{microseconds} microseconds after 1970"


def printable(text: str) -> str:
    """Return text without what could steer a terminal: a ledger may have been made by somebody hostile."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
