"""Torchwood's litewitness, a witness that others run in production, with its key in an ssh-agent."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from klyra_audit.format.keys import ALGORITHM_COSIGNATURE, VerifyingKey
from klyra_audit.format.merkle import EMPTY_ROOT
from support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

PINNED = "v0.9.0"  # as in tools/peers/litewitness.sh
NAME = "litewitness.test/w1"
_START_SECONDS = 20
_SCHEMA = """
CREATE TABLE log(origin TEXT PRIMARY KEY, tree_size INTEGER NOT NULL, tree_hash TEXT NOT NULL);
CREATE TABLE key(origin TEXT NOT NULL, key TEXT NOT NULL, FOREIGN KEY(origin) REFERENCES log(origin));
"""


def program() -> Path | None:
    """Return where `make peers` put it, None if it is not there or could not run."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "klyra-audit" / f"litewitness-{PINNED}" / "litewitness"
    return path if path.exists() and all(map(shutil.which, ("ssh-agent", "ssh-add", "ssh-keygen"))) else None


@dataclass
class Litewitness:
    """A litewitness that can be stopped and started again where it was."""

    folder: Path
    port: int
    fingerprint: str
    vkey: str
    process: subprocess.Popen | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Its submission prefix."""
        return f"http://127.0.0.1:{self.port}"

    def add_log(self, vkey: str) -> None:
        """Have it cosign a log: what its own tool writes into its database."""
        origin = vkey.partition("+")[0]
        with contextlib.closing(sqlite3.connect(self.folder / "db")) as database:
            empty = base64.b64encode(EMPTY_ROOT).decode()
            database.execute("INSERT INTO log VALUES(?, 0, ?)", (origin, empty))
            database.execute("INSERT INTO key VALUES(?, ?)", (origin, vkey))
            database.commit()

    def size_of(self, origin: str) -> int:
        """Return what it remembers of a log."""
        with contextlib.closing(sqlite3.connect(self.folder / "db")) as database:
            return database.execute("SELECT tree_size FROM log WHERE origin = ?", (origin,)).fetchone()[0]

    def start(self) -> None:
        """Start it and wait until it listens."""
        options = {
            "-db": self.folder / "db",
            "-name": NAME,
            "-ssh-agent": self.folder / "a",
            "-key": self.fingerprint,
            "-listen": f"127.0.0.1:{self.port}",
        }
        arguments = [str(part) for pair in options.items() for part in pair]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([str(program()), *arguments], stderr=log, stdin=subprocess.DEVNULL)
        _await(lambda: _listens(self.port), (self.folder / "log").read_text)

    def stop(self) -> None:
        """Stop it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None


@contextlib.contextmanager
def running() -> Iterator[Litewitness]:
    """Run a litewitness with a fresh key; the folder's path is short, since an agent's socket has 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="lw"))
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(folder / "a")], stdout=subprocess.DEVNULL)
    witness: Litewitness | None = None
    try:
        _await((folder / "a").exists, lambda: "no socket of the agent")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "k"], check=True)
        environment = {**os.environ, "SSH_AUTH_SOCK": str(folder / "a")}
        subprocess.run(["ssh-add", "-q", folder / "k"], env=environment, check=True)
        listed = subprocess.run(["ssh-keygen", "-lf", folder / "k.pub"], check=True, capture_output=True, text=True)
        public = base64.b64decode((folder / "k.pub").read_text().split()[1])[-32:]
        with contextlib.closing(sqlite3.connect(folder / "db")) as database:
            database.executescript(_SCHEMA)
        vkey = str(VerifyingKey(NAME, public, ALGORITHM_COSIGNATURE))
        witness = Litewitness(folder, free_port(), listed.stdout.split()[1], vkey)
        yield witness
    finally:
        if witness is not None:
            witness.stop()
        agent.terminate()
        agent.wait(20)
        shutil.rmtree(folder)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _await(is_so, explain) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)
