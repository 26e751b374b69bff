"""A collector that is killed and started again on the same addresses and data."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from support import collector
from support.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from support.collector import Running

_LEAF_BYTES = 112
_GIVE_UP_SECONDS = 60


class Restarting:
    """A collector that receives everything, Forward with ACME's key.

    Attributes:
        running: it, as it runs now.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._keys = collector.make_keys(root)
        (root / "secret-key").write_text(self._keys[collector.ACME])
        self._ports = dict(zip(("http", "grpc", "forward"), free_ports(3), strict=True))
        self.kills = 0
        self.running = self.start()

    def address(self, protocol: str) -> str:
        """Return host:port of `http`, `grpc` or `forward`."""
        return f"127.0.0.1:{self._ports[protocol]}"

    def start(self) -> Running:
        """Start it where it was."""
        self.running = collector.start(
            self._root,
            self._keys,
            OTLP__HTTP__LISTEN=self.address("http"),
            OTLP__GRPC__LISTEN=self.address("grpc"),
            FORWARD__LISTEN=self.address("forward"),
            FORWARD__KEY=f"file:{self._root / 'secret-key'}",
        )
        return self.running

    def kill(self) -> None:
        """Stop it as a crash does."""
        self.kills += 1
        self.running.kill()

    def records(self) -> int:
        """Return how many records the files of its ledger hold now."""
        return sum(file.stat().st_size for file in self._root.glob("ledger/*/leaves")) // _LEAF_BYTES

    @contextlib.contextmanager
    def killed_at(self, sizes: Sequence[int]) -> Iterator[None]:
        """Kill it and start it again whenever its ledger has reached one of some sizes, until the block ends."""
        ended = threading.Event()
        thread = threading.Thread(target=self._kill_at, args=(sizes, ended))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _kill_at(self, sizes: Sequence[int], ended: threading.Event) -> None:
        for size in sizes:
            while self.records() < size and not ended.is_set():
                time.sleep(0.005)
            if ended.is_set():
                return
            self.kill()
            self.start()

    def await_records(self, count: int) -> None:
        """Wait until its ledger holds at least so many records."""
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while self.records() < count:
            assert time.monotonic() < deadline, f"{self.records()} of {count} came"
            time.sleep(0.05)
