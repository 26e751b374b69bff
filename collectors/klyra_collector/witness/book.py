"""`witness.toml`: what a witness of ours calls itself, and the logs it cosigns.

name = "witness.example/w1"       # the key's name, for good
listen = "127.0.0.1:7380"
ml_dsa = true                     # cosign with an ML-DSA-44 key besides Ed25519

[[log]]                           # one of these for each key of a log; the key's name is the origin
vkey = "example.org/collector-1/2026+…"
"""

from __future__ import annotations

import json
import threading
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from klyra_audit.errors import Rejected
from klyra_audit.format.errors import NoteError
from klyra_audit.format.keys import ALGORITHM_ED25519, ALGORITHM_ML_DSA_44, VerifyingKey, checked_name

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.seal.durable import Disk

DEFAULT_LISTEN: Final = "127.0.0.1:7380"

_TYPES = {"name": str, "listen": str, "ml_dsa": bool, "log": list}
_LOG_ALGORITHMS = frozenset({ALGORITHM_ED25519, ALGORITHM_ML_DSA_44})

_log = structlog.get_logger(__name__)


class BadWitnessFile(Rejected):
    """`witness.toml`, or a key to be added to it, cannot be used."""

    code = "bad_witness_file"


@dataclass(frozen=True, slots=True)
class WitnessSettings:
    """What `witness.toml` says.

    Attributes:
        name: of the witness's keys, a schema-less URL.
        listen: host:port.
        ml_dsa: cosign with ML-DSA-44 besides Ed25519.
        logs: the keys of the logs it cosigns.
    """

    name: str
    listen: str
    ml_dsa: bool
    logs: tuple[VerifyingKey, ...]


def read_settings(path: Path) -> WitnessSettings:
    """Return what the file says; `BadWitnessFile` names what is wrong with it."""
    try:
        return _settings_of(tomllib.loads(path.read_text()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, NoteError, KeyError, TypeError) as error:
        raise BadWitnessFile(f"{path} cannot be used: {error}.", remedy="Mend it there.") from error


def _settings_of(members: dict[str, Any]) -> WitnessSettings:
    unknown = members.keys() - _TYPES.keys()
    if unknown:
        raise KeyError(f"{min(unknown)} is none of {', '.join(_TYPES)}")
    return WitnessSettings(
        name=checked_name(_member(members, "name", "")),
        listen=_member(members, "listen", DEFAULT_LISTEN),
        ml_dsa=_member(members, "ml_dsa", default=False),
        logs=tuple(log_key(str(log["vkey"])) for log in _member(members, "log", [])),
    )


def _member(members: dict[str, Any], name: str, default: Any) -> Any:  # noqa: ANN401 - what TOML holds
    value = members.get(name, default)
    if not isinstance(value, _TYPES[name]):
        raise TypeError(f"{name} is no {_TYPES[name].__name__}")
    return value


def log_key(vkey: str) -> VerifyingKey:
    """Return a log's key; `BadWitnessFile` for what is none."""
    try:
        key = VerifyingKey.parse(vkey.strip())
    except NoteError as error:
        raise BadWitnessFile(
            f"This is no verifier key: {error}.", remedy="A log prints its own as NAME+ID+BASE64."
        ) from error
    if key.algorithm not in _LOG_ALGORITHMS:
        raise BadWitnessFile(
            f"The key of {key.name} is a witness's, not a log's.", remedy="Ask for the log's own verifier key."
        )
    return key


def begin(disk: Disk, path: Path, *, name: str, listen: str, ml_dsa: bool) -> None:
    """Write the file of a new witness without logs; `BadWitnessFile` if the name can be none of a key."""
    try:
        checked_name(name)
    except NoteError as error:
        raise BadWitnessFile(
            f"{name!r} cannot be a witness's name: {error}.", remedy="Use a name like a URL's."
        ) from error
    lines = [f"name = {json.dumps(name)}", f"listen = {json.dumps(listen)}", f"ml_dsa = {json.dumps(ml_dsa)}", ""]
    disk.replace(path, "\n".join(lines).encode())


def add_log(disk: Disk, path: Path, vkey: str) -> VerifyingKey:
    """Add a log's key at the end of the file and return it; one that is there already is left alone.

    A running witness takes it up by itself.

    Raises:
        BadWitnessFile: the key is none of a log, or the file cannot be used.
    """
    key = log_key(vkey)
    if key not in read_settings(path).logs:
        disk.replace(path, path.read_bytes().rstrip() + f"\n\n[[log]]\nvkey = {json.dumps(str(key))}\n".encode())
    return key


class LogBook:
    """The logs of a running witness: the file is read again when it has changed. Safe across threads."""

    def __init__(self, path: Path) -> None:
        """Read the file; `BadWitnessFile` if it cannot be used."""
        self._path = path
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._logs = read_settings(path).logs

    def keys(self, origin: str) -> tuple[VerifyingKey, ...]:
        """Return the keys that may sign for a log; none for one that is not known."""
        return tuple(key for key in self.logs() if key.name == origin)

    def logs(self) -> tuple[VerifyingKey, ...]:
        """Return every key. A file that cannot be used any more leaves those that were read last."""
        with self._lock:
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                self._read_again()
            return self._logs

    def _read_again(self) -> None:
        try:
            self._logs = read_settings(self._path).logs
        except BadWitnessFile as error:
            _log.error("witness_file_unusable", reason=str(error))

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_size, status.st_ino)
