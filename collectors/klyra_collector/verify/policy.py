"""Trust anchors: a C2SP tlog-policy file, of which the logs' keys are used (quorums: see `Policy.quorum`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from klyra_audit.format.errors import NoteError
from klyra_audit.format.note import VerifyingKey
from klyra_collector.verify.errors import CannotVerify

MAX_POLICY_BYTES: Final = 256 * 1024
NO_QUORUM: Final = "none"

_REMEDY = "Give the policy file that the operator published, as C2SP tlog-policy describes it, unchanged."
_MEMBERS_FROM = 3
_CONTROL_CHARACTERS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_WHITESPACE = re.compile("[ \t]+")  # the specification knows no other
_THRESHOLD = re.compile("[1-9][0-9]{0,2}")


@dataclass(frozen=True, slots=True)
class Policy:
    """What a verifier trusts.

    Attributes:
        logs: the keys of the logs; a key's name is the origin it may sign for.
        quorum: name of the witness or group that must have cosigned; "none" for no witness at all.
    """

    logs: tuple[VerifyingKey, ...]
    quorum: str


def parse(encoded: bytes) -> Policy:
    """Read a policy file.

    A missing quorum line is taken as `quorum none`; a log's key of an algorithm that is not known here is passed
    over, as long as another one can be used.

    Raises:
        CannotVerify: not a policy, or without a key that can be used.
    """
    if len(encoded) > MAX_POLICY_BYTES:
        raise _malformed(f"it is longer than {MAX_POLICY_BYTES} bytes")
    if _CONTROL_CHARACTERS.search(encoded):
        raise _malformed("it has control characters")
    reader = _Reader()
    for number, line in enumerate(encoded.decode("utf-8", "surrogateescape").split("\n"), 1):
        items = [item for item in _WHITESPACE.split(line) if item]
        if items and not items[0].startswith("#"):
            reader.read(number, items)
    return reader.policy()


class _Reader:
    def __init__(self) -> None:
        self._logs: list[VerifyingKey] = []
        self._unusable: list[str] = []
        self._names: set[str] = set()
        self._quorum: str | None = None

    def read(self, number: int, items: list[str]) -> None:
        readers = {"log": self._log, "witness": self._witness, "group": self._group, "quorum": self._read_quorum}
        reader = readers.get(items[0])
        if reader is None:
            raise _malformed(f"line {number} begins with none of {', '.join(readers)}")
        if not reader(items):
            raise _malformed(f"line {number} is no {items[0]} line")

    def policy(self) -> Policy:
        if not self._logs:
            unusable = f" ({self._unusable[0]})" if self._unusable else ""
            raise _malformed(f"it has no log line whose key can be used{unusable}")
        return Policy(tuple(self._logs), self._quorum or NO_QUORUM)

    def _log(self, items: list[str]) -> bool:
        if len(items) not in (2, 3):
            return False
        try:
            self._logs.append(VerifyingKey.parse(items[1]))
        except NoteError as error:
            self._unusable.append(str(error))
        return True

    def _witness(self, items: list[str]) -> bool:
        return len(items) in (3, 4) and self._define(items[1])

    def _group(self, items: list[str]) -> bool:
        if len(items) <= _MEMBERS_FROM or not self._names.issuperset(items[_MEMBERS_FROM:]):
            return False
        threshold, members = items[2], len(items) - _MEMBERS_FROM
        counted = _THRESHOLD.fullmatch(threshold) is not None and int(threshold) <= members
        return (threshold in ("any", "all") or counted) and self._define(items[1])

    def _read_quorum(self, items: list[str]) -> bool:
        if len(items) != 2 or self._quorum is not None:  # noqa: PLR2004 - the word and the name
            return False
        self._quorum = items[1]
        return self._quorum == NO_QUORUM or self._quorum in self._names

    def _define(self, name: str) -> bool:
        if name == NO_QUORUM or name in self._names:
            return False
        self._names.add(name)
        return True


def _malformed(reason: str) -> CannotVerify:
    return CannotVerify(f"The policy cannot be used: {reason}.", code="bad_policy", remedy=_REMEDY)
