"""A log in memory, witnesses of ours to ask, and policies that name them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from klyra_audit.format import merkle, note
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.keys import ALGORITHM_COSIGNATURE, SigningKey
from klyra_collector.seal.durable import Disk
from klyra_collector.witness import book
from klyra_collector.witness.cosigner import Cosigner
from klyra_collector.witness.request import AddCheckpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ORIGIN = "example.org/collector-1/2026"
NAME = "witness.example/w1"
NOW = 1_782_000_000
_START_SECONDS = 30


@dataclass
class Log:
    """A log of numbered leaves; `entries` may be changed to rewrite its history."""

    origin: str = ORIGIN
    seed: bytes = b"l" * 32
    entries: list[bytes] = field(default_factory=list)

    def grow(self, size: int) -> Log:
        """Append leaves up to a size."""
        self.entries += [b"%d" % number for number in range(len(self.entries), size)]
        return self

    def rewritten(self, at: int = 0) -> Log:
        """Return a log of the same name, key and size with another leaf at one place."""
        return Log(self.origin, self.seed, [*self.entries[:at], b"other", *self.entries[at + 1 :]])

    @property
    def key(self) -> SigningKey:
        """What signs its checkpoints."""
        return SigningKey.from_seed(self.origin, self.seed)

    @property
    def hashes(self) -> list[bytes]:
        """Its leaf hashes."""
        return [merkle.leaf_hash(entry) for entry in self.entries]

    def checkpoint(self) -> Checkpoint:
        """Return its head."""
        return Checkpoint(self.origin, len(self.entries), merkle.root_of(self.hashes))

    def signed(self, *keys: SigningKey) -> bytes:
        """Return its signed head."""
        return note.sign(self.checkpoint().text(), keys or [self.key])

    def proof(self, old: int) -> tuple[bytes, ...]:
        """Return the proof from an older size."""
        hashes = self.hashes

        def read(level: int, first: int, count: int) -> bytes:
            frontier = merkle.Frontier()
            for hashed in hashes:
                frontier.append(hashed)
            kept = frontier.take_tile_hashes()[level]
            return kept[first * 32 : (first + count) * 32]

        return tuple(merkle.consistency_proof_from(read, old, len(hashes)))

    def request(self, old: int) -> bytes:
        """Return the body that asks to cosign its head, from an older size."""
        return AddCheckpoint(old, self.proof(old), self.signed()).encode()


def cosigning_key(name: str = NAME, seed: bytes = b"w" * 32, algorithm: int = ALGORITHM_COSIGNATURE) -> SigningKey:
    """Return a witness's key."""
    return SigningKey.from_seed(name, seed, algorithm)


def make_cosigner(folder: Path, *vkeys: str, disk: Disk | None = None, keys=(), now=lambda: NOW) -> Cosigner:
    """Return a witness of ours that knows some logs, in a folder that it may have used before."""
    path = folder / "witness.toml"
    own = disk or Disk()
    if not path.exists():
        book.begin(Disk(), path, name=NAME, listen="127.0.0.1:0", ml_dsa=False)
    for vkey in vkeys:
        book.add_log(Disk(), path, vkey)
    return Cosigner(
        keys=keys or [cosigning_key()], book=book.LogBook(path), folder=folder / "checkpoints", disk=own, now=now
    )


def policy_text(log_vkey: str, *witnesses: tuple[str, str, str], quorum: str = "any") -> str:
    """Return a policy of one log and witnesses (name, vkey, url), any or all of which make the quorum."""
    lines = [f"log {log_vkey}", *(" ".join(("witness", *witness)) for witness in witnesses)]
    names = " ".join(name for name, _, _ in witnesses)
    return "\n".join((*lines, f"group everyone {quorum} {names}", "quorum everyone", ""))


@dataclass
class RunningWitness:
    """`klyra-audit witness` as a process."""

    folder: Path
    url: str
    vkey: str
    process: subprocess.Popen = field(repr=False)

    def post(self, body: bytes) -> httpx.Response:
        """Post a request to add a checkpoint."""
        return httpx.post(f"{self.url}/add-checkpoint", content=body, timeout=20)

    def stop(self) -> int:
        """Stop cleanly; return the exit status."""
        self.process.terminate()
        return self.process.wait(20)

    def kill(self) -> None:
        """Stop as a crash does."""
        self.process.kill()
        self.process.wait(20)


def start_witness(folder: Path, *, name: str = NAME, listen: str = "127.0.0.1:0", module: str = "") -> RunningWitness:
    """Start a witness and wait until it answers.

    Args:
        folder: its data directory.
        name: on the first start.
        listen: host:port.
        module: instead of the program itself, one of the tests' that runs it with a fault.
    """
    program = [sys.executable, module] if module else [sys.executable, "-m", "klyra_collector", "witness"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}.log"
    with log.open("ab") as stderr:
        position = stderr.tell()
        process = subprocess.Popen(
            [*program, "--data", str(folder), "--listen", listen, "--name", name],
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if not key.startswith("KLYRA_")},
        )
    said = _await_said(log, position, process)
    return RunningWitness(folder, said["witness"], said["key"], process)


def _await_said(log: Path, position: int, process: subprocess.Popen) -> dict[str, str]:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        pairs = [line.split(None, 1) for line in log.read_bytes()[position:].decode().splitlines()]
        said = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
        if "ledgers" in said:
            return said
        time.sleep(0.02)
    process.kill()
    process.wait()
    raise AssertionError(f"the witness did not start: {log.read_text()}")


@contextlib.contextmanager
def running_witness(folder: Path, **options: str) -> Iterator[RunningWitness]:
    """Run a witness for a while."""
    witness = start_witness(folder, **options)
    try:
        yield witness
    finally:
        witness.kill()


def metric(text: str, name: str, **labels: str) -> float:
    """Return one sample of a Prometheus exposition."""
    wanted = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    prefix = f"{name}{{{wanted}}} " if labels else f"{name} "
    found = [line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)]
    assert found, f"no {prefix}in:\n{text}"
    return float(found[0])


def kept(path: Path) -> dict:
    """Return a JSON file's content; nothing while it is not there."""
    return json.loads(path.read_text()) if path.exists() else {}
