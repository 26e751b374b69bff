"""What `klyra-audit verify URL` reads from its options. Loads what an auditor has: the base install, no server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from klyra_audit.format import policy as policies
from klyra_audit.format.errors import PolicyError
from klyra_audit.format.note import MAX_NOTE_BYTES
from klyra_collector.verify.errors import CannotVerify
from klyra_collector.verify.files import Unreadable, read_small
from klyra_collector.verify.remote import RemoteOptions

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_audit.format.policy import Policy
    from klyra_collector.verify import Options

KEY_VARIABLE = "KLYRA_KEY"


def remote_options(policy_file: Path | None, earlier: Path | None, options: Options) -> RemoteOptions:
    """Return how to verify a published log: always by a pinned key, and entries with the key of KLYRA_KEY, if any.

    Raises:
        CannotVerify: a file cannot be read, or is no policy.
    """
    return RemoteOptions(
        policy=None if policy_file is None else _policy(policy_file),
        key=os.environ.get(KEY_VARIABLE) or None,
        earlier=None if earlier is None else _read(earlier, MAX_NOTE_BYTES, "--earlier"),
        limit_findings=options.limit_findings,
        progress=options.progress,
        sleep=options.sleep,
    )


def _policy(path: Path) -> Policy:
    try:
        return policies.parse(_read(path, policies.MAX_POLICY_BYTES, "--policy"))
    except PolicyError as error:
        raise CannotVerify(
            f"The policy cannot be used: {error}.",
            code="bad_policy",
            remedy="Give the policy file that the operator published, as C2SP tlog-policy describes it, unchanged.",
        ) from error


def _read(path: Path, limit: int, option: str) -> bytes:
    try:
        return read_small(path.resolve(), limit)
    except (OSError, RuntimeError, Unreadable) as error:
        raise CannotVerify(
            f"The file of {option} cannot be read: {error}.", code="bad_file", remedy="Name a file that can be read."
        ) from error
