"""What `klyra-audit ledger explain` says of a shard that cannot be continued: the facts, then the choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klyra_collector.cli.administration import time_text

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.seal.disaster import Examination


def explanation(found: Examination, origin: str) -> dict[str, Any]:
    """Return the facts for programs."""
    signed = found.signed
    return {
        "origin": origin,
        "can_be_continued": found.refusal is None,
        "refusal": None if found.refusal is None else {"code": found.refusal.code, "reason": str(found.refusal)},
        "leaves": found.leaves,
        "readable": found.readable,
        "problem": found.problem,
        "signed": None
        if signed is None
        else {
            "size": signed.head.size,
            "root": signed.head.root.hex(),
            "found_in": signed.where,
            "written_at": time_text(signed.written_us),
        },
        "lost": found.lost,
    }


def explanation_lines(found: Examination, origin: str, data: Path) -> list[str]:
    """Return the facts and the choices for people."""
    if found.refusal is None:
        return [f"{origin} can be continued: {found.leaves} records, none of what was signed is missing."]
    return [
        f"{origin} cannot be continued.",
        "",
        f"  refused   {found.refusal.args[0]}",
        f"  there     {found.leaves} whole leaves; the first {found.readable} records have all that belongs to them",
        *([f"            {found.problem}"] if found.problem else []),
        f"  signed    {_signed(found)}",
        f"  missing   {_missing(found)}",
        "",
        "You can:",
        f"  1. Restore {found.shard.root} as it was last (a backup, a snapshot, the other disk) and start. Only a copy",
        "     with everything that was signed is accepted; an older one is refused again.",
        f"  2. Find out more: klyra-audit verify {found.shard.root}",
        "  3. Go on without what is missing, in a new shard:",
        f"       klyra-audit ledger continue --after-disaster --reason TEXT --data {data}",
        "     This shard stays as it is, is never written again, and what can be read of it is still served.",
        "     Verification keeps saying what is missing, and everyone who verifies must pin the new shard's key.",
    ]


def _signed(found: Examination) -> str:
    if found.signed is None:
        return "no checkpoint of it is left that verifies under this collector's keys"
    where, written_us, head = found.signed
    shard = head.origin.rpartition("/")[2]
    return f"{head.size} records of {shard}, as {where} of {time_text(written_us)} says; root {head.root.hex()}"


def _missing(found: Examination) -> str:
    if found.signed is None:
        return "that cannot be told without a checkpoint"
    if found.lost:
        return f"{found.lost} signed records, from record {found.signed.head.size - found.lost} on"
    return "none by number: see why it was refused"
