"""Trust anchors: a C2SP tlog-policy file says which logs' keys count, and which witnesses must have cosigned.

Source: C2SP tlog-policy (2026-06), tlog-cosignature v1.1.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.format import note
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import CheckpointError, NoteError, PolicyError
from klyra_audit.format.keys import (
    ALGORITHM_ED25519,
    ALGORITHM_ML_DSA_44,
    COSIGNATURE_ALGORITHMS,
    VerifyingKey,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_POLICY_BYTES: Final = 256 * 1024
NO_QUORUM: Final = "none"

_CONTROL_CHARACTERS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_WHITESPACE = re.compile("[ \t]+")  # the specification knows no other
_THRESHOLD = re.compile("[1-9][0-9]{0,2}")
_MEMBERS_FROM = 3
_LOG_ALGORITHMS = frozenset({ALGORITHM_ED25519, ALGORITHM_ML_DSA_44})


class LogLine(NamedTuple):
    """A log that is trusted: its key, whose name is the origin, and where it can be read."""

    key: VerifyingKey
    url: str | None = None


class Witness(NamedTuple):
    """A witness: the key that cosigns, and the prefix of its add-checkpoint."""

    key: VerifyingKey
    url: str | None = None


class Group(NamedTuple):
    """So many of some witnesses or groups, which the file has named before it."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a verifier trusts.

    Attributes:
        logs: in the file's order; a key's name is the origin it may sign for.
        witnesses: by the name that groups use, which need not be the key's.
        groups: by name, each after its members.
        quorum: name of the witness or group that must have cosigned; "none" for no witness at all.
    """

    logs: tuple[LogLine, ...]
    witnesses: Mapping[str, Witness] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    quorum: str = NO_QUORUM

    @property
    def needs_witnesses(self) -> bool:
        """Whether a checkpoint must be cosigned to count."""
        return self.quorum != NO_QUORUM

    def log_keys(self, origin: str) -> tuple[VerifyingKey, ...]:
        """Return the keys that may sign for a log."""
        return tuple(log.key for log in self.logs if log.key.name == origin)

    def quorum_time(self, cosignatures: Mapping[str, int]) -> int | None:
        """Return by when the quorum had cosigned: 0 where none is needed, None where it has not.

        Args:
            cosignatures: times in seconds since 1970, by the names of witnesses.
        """
        return 0 if self.quorum == NO_QUORUM else self._time(self.quorum, cosignatures)

    def _time(self, name: str, cosignatures: Mapping[str, int]) -> int | None:
        group = self.groups.get(name)
        if group is None:
            return cosignatures.get(name)
        times = [time for member in group.members if (time := self._time(member, cosignatures)) is not None]
        return sorted(times)[group.threshold - 1] if len(times) >= group.threshold else None


def parse(encoded: bytes) -> Policy:
    """Read a policy file.

    A log's or witness's key of an algorithm that is not known here is passed over, as long as another log's can be
    used; a quorum that such a witness would be needed for is then not met. A file without a quorum line is refused:
    one whose end was cut off must not ask for fewer witnesses.

    Raises:
        PolicyError: not a policy, or without a log whose key can be used.
    """
    if len(encoded) > MAX_POLICY_BYTES:
        raise PolicyError(f"it is longer than {MAX_POLICY_BYTES} bytes")
    if _CONTROL_CHARACTERS.search(encoded):
        raise PolicyError("it has control characters")
    reader = _Reader()
    for number, line in enumerate(encoded.decode("utf-8", "surrogateescape").split("\n"), 1):
        items = [item for item in _WHITESPACE.split(line) if item]
        if items and not items[0].startswith("#"):
            reader.read(number, items)
    return reader.policy()


def render(policy: Policy) -> str:
    """Return the policy as a file, which reads back as the same policy."""
    lines = [_line("log", str(log.key), log.url) for log in policy.logs]
    lines += [_line("witness", name, str(witness.key), witness.url) for name, witness in policy.witnesses.items()]
    lines += [_line("group", name, str(group.threshold), *group.members) for name, group in policy.groups.items()]
    lines.append(_line("quorum", policy.quorum))
    return "".join(lines)


def _line(*items: str | None) -> str:
    return " ".join(item for item in items if item is not None) + "\n"


class Opened(NamedTuple):
    """A checkpoint that a trusted key of its log signed.

    Attributes:
        checkpoint: the head.
        key: the log's key that signed it.
        cosignatures: times in seconds since 1970, by the policy's names of witnesses.
        quorum_time: by when the quorum had cosigned; 0 where none is needed, None where it has not.
    """

    checkpoint: Checkpoint
    key: VerifyingKey
    cosignatures: Mapping[str, int]
    quorum_time: int | None

    @property
    def quorum_met(self) -> bool:
        """Whether as many witnesses as the policy asks for have cosigned."""
        return self.quorum_time is not None


def open_checkpoint(encoded: bytes, policy: Policy, keys: Iterable[VerifyingKey] = ()) -> Opened:
    """Return a checkpoint that the policy's key for its log signed, with the cosignatures of the policy's witnesses.

    Args:
        encoded: the signed note.
        policy: what is trusted.
        keys: further keys of logs, which something trusted has vouched for.

    Raises:
        NoteError: malformed, not signed by a trusted key, or a known key's signature fails.
        CheckpointError: signed, but no checkpoint of a log that the signing key is named for.
    """
    logs = [*(log.key for log in policy.logs), *keys]
    cosigners = {witness.key: name for name, witness in policy.witnesses.items()}
    opened = note.open_note(encoded, [*logs, *cosigners])
    checkpoint = Checkpoint.parse(opened.text)
    signers = [key for key in opened.signed_by if key in logs]
    own = next((key for key in signers if key.name == checkpoint.origin), None)
    if own is None:
        if signers:
            raise CheckpointError(f"the checkpoint is of {checkpoint.origin}, and the key that signed it is not")
        raise NoteError("no trusted key of a log signed this note")
    cosignatures = {
        cosigners[signature.key]: signature.time
        for signature in opened.signatures
        if signature.key in cosigners and signature.time is not None
    }
    return Opened(checkpoint, own, cosignatures, policy.quorum_time(cosignatures))


class _Reader:
    """Reads a policy line by line: a line may only name what stands above it."""

    def __init__(self) -> None:
        self._logs: list[LogLine] = []
        self._unusable: list[str] = []
        self._witnesses: dict[str, Witness] = {}
        self._groups: dict[str, Group] = {}
        self._names: set[str] = set()
        self._members: set[str] = set()
        self._quorum: str | None = None

    def read(self, number: int, items: list[str]) -> None:
        readers = {"log": self._log, "witness": self._witness, "group": self._group, "quorum": self._read_quorum}
        reader = readers.get(items[0])
        if reader is None:
            raise PolicyError(f"line {number} begins with none of {', '.join(readers)}")
        if not reader(items):
            raise PolicyError(f"line {number} is no {items[0]} line")

    def policy(self) -> Policy:
        if not self._logs:
            unusable = f" ({self._unusable[0]})" if self._unusable else ""
            raise PolicyError(f"it has no log line whose key can be used{unusable}")
        if self._quorum is None:
            raise PolicyError("it has no quorum line; `quorum none` asks for no witness")
        return Policy(tuple(self._logs), self._witnesses, self._groups, self._quorum)

    def _log(self, items: list[str]) -> bool:
        if len(items) not in (2, 3):
            return False
        key = self._key(items[1], _LOG_ALGORITHMS)
        if key is not None:
            if any(log.key.public == key.public for log in self._logs):
                return False
            self._logs.append(LogLine(key, items[2] if items[2:] else None))
        return True

    def _witness(self, items: list[str]) -> bool:
        if len(items) not in (3, 4) or not self._define(items[1]):
            return False
        key = self._key(items[2], COSIGNATURE_ALGORITHMS)
        if key is not None:
            if any(witness.key.public == key.public for witness in self._witnesses.values()):
                return False
            self._witnesses[items[1]] = Witness(key, items[3] if items[3:] else None)
        return True

    def _group(self, items: list[str]) -> bool:
        members = items[_MEMBERS_FROM:]
        if not members or not self._names.issuperset(members) or len(set(members)) != len(members):
            return False
        if not self._members.isdisjoint(members):
            return False  # a witness contributes to the quorum in one way only
        threshold = {"any": "1", "all": str(len(members))}.get(items[2], items[2])
        if _THRESHOLD.fullmatch(threshold) is None or int(threshold) > len(members) or not self._define(items[1]):
            return False
        self._members.update(members)
        self._groups[items[1]] = Group(int(threshold), tuple(members))
        return True

    def _read_quorum(self, items: list[str]) -> bool:
        if len(items) != 2 or self._quorum is not None:  # noqa: PLR2004 - the word and the name
            return False
        self._quorum = items[1]
        return self._quorum == NO_QUORUM or self._quorum in self._names

    def _key(self, vkey: str, algorithms: frozenset[int]) -> VerifyingKey | None:
        try:
            key = VerifyingKey.parse(vkey)
        except NoteError as error:
            self._unusable.append(str(error))
            return None
        if key.algorithm not in algorithms:
            self._unusable.append(f"a key of algorithm 0x{key.algorithm:02x} cannot stand there")
            return None
        return key

    def _define(self, name: str) -> bool:
        if name == NO_QUORUM or name in self._names:
            return False
        self._names.add(name)
        return True
