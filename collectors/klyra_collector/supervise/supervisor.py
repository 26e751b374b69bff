"""A small supervisor: starts the processes, starts one that ended again, stops all of them together."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from klyra_audit.errors import Halted
from klyra_collector.supervise.child import EXIT_HALTED
from klyra_collector.supervise.roles import ROLES, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from klyra_collector.config import Settings

_INTAKE: Final[Role] = "collector"
START_SECONDS = 120.0
STOP_SECONDS = 20.0

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
_POLL_SECONDS = 0.2
_SOON = 10.0

_log = structlog.get_logger(__name__)


class ChildFailed(Halted):
    """A process could not start, or stopped for a reason that starting it again does not mend."""

    code = "child_failed"


@dataclass(frozen=True, slots=True)
class ExtraProcess:
    """A program to run beside the roles.

    Attributes:
        name: for messages and `run.json`.
        argv: its command.
        env: its whole environment.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What answers where: the content of `run.json`.

    Attributes:
        api, otlp_http: URLs, of a Unix socket `unix:/path`; None for a role that does not run here.
        otlp_grpc: `host:port` or `unix:/path`.
        forward: `host:port`; None if that receiver did not start.
        pids: process id of each process, the supervisor's own included.
    """

    api: str | None
    otlp_http: str | None
    otlp_grpc: str | None
    forward: str | None
    pids: dict[str, int]

    def as_json(self) -> bytes:
        """Return the bytes of `run.json`."""
        addresses = {
            "api": self.api,
            "otlp_http": self.otlp_http,
            "otlp_grpc": self.otlp_grpc,
            "forward": self.forward,
        }
        present = {name: url for name, url in addresses.items() if url is not None}
        return orjson.dumps({**present, "pids": self.pids}, option=orjson.OPT_INDENT_2) + b"\n"


@dataclass(slots=True)
class _Child:
    name: str
    start: Callable[[], tuple[subprocess.Popen[bytes], socket.socket | None]]
    process: subprocess.Popen[bytes] | None = None
    link: socket.socket | None = None
    wait: float = _FIRST_WAIT
    since: float = 0.0
    again_at: float | None = None
    addresses: dict[str, str] = field(default_factory=dict)


class Supervisor:
    """Runs the roles of one data directory. Children exit when the supervisor dies, however it dies."""

    def __init__(
        self,
        settings: Settings,
        *,
        roles: Sequence[Role] = ROLES,
        extra: Sequence[ExtraProcess] = (),
        restart: bool = True,
    ) -> None:
        self._settings = settings
        self._restart = restart
        self._stopping = False
        self._children = [_Child(role, self._starter(role)) for role in roles]
        self._children += [_Child(program.name, _program_starter(program)) for program in extra]

    def start(self, on_progress: Callable[[str], None] = lambda _text: None) -> RunInfo:
        """Start everything in order; return when all of it answers and `run.json` says where.

        Raises:
            ChildFailed: a process could not start; the others are stopped.
        """
        try:
            for child in self._children:
                on_progress(f"starting {child.name}")
                self._launch(child)
                if child.link is not None:
                    self._await_ready(child)
        except BaseException:
            self.stop()
            raise
        info = self.info()
        self._write_run_json(info)
        return info

    def info(self) -> RunInfo:
        """Return what answers where now."""
        addresses: dict[str, str] = {}
        for child in self._children:
            addresses |= child.addresses
        pids = {"supervisor": os.getpid()}
        pids |= {child.name: child.process.pid for child in self._children if child.process is not None}
        return RunInfo(
            addresses.get("api"),
            addresses.get("otlp_http"),
            addresses.get("otlp_grpc"),
            addresses.get("forward"),
            pids,
        )

    def wait(self) -> int:
        """Watch until SIGTERM or SIGINT, then stop all; return the exit status.

        A process that ended is started again, after a growing wait, the follower and the api also when they halted for
        an operator: intake goes on meanwhile. A halted collector ends it all.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note_signal)
        failed: str | None = None
        while not self._stopping and failed is None:
            time.sleep(_POLL_SECONDS)
            failed = self._look_after_children()
        self.stop()
        if failed is not None:
            _log.error("supervisor_stopped", reason=failed)
            return 2
        return 0

    def stop(self) -> None:
        """Ask every process to finish, the last started first; end those that do not."""
        self._settings.data_directory.run_json.unlink(missing_ok=True)
        for child in reversed(self._children):
            self._stop_child(child)

    def _note_signal(self, *_: object) -> None:
        self._stopping = True

    def _look_after_children(self) -> str | None:
        for child in self._children:
            if child.again_at is not None:
                if time.monotonic() >= child.again_at:
                    self._start_again(child)
                continue
            status = child.process.poll() if child.process else 0
            if status is None:
                continue
            message = self._last_words(child) or f"exit status {status}"
            is_halted = status == EXIT_HALTED
            if not self._restart or (is_halted and child.name == _INTAKE):
                return f"{child.name}: {message}"
            tell = _log.error if is_halted else _log.warning
            tell(
                "process_halted" if is_halted else "process_died",
                process=child.name,
                reason=message,
                again_in=child.wait,
            )
            child.again_at = time.monotonic() + child.wait
            child.wait = min(child.wait * 2, _LONGEST_WAIT)
        return None

    def _start_again(self, child: _Child) -> None:
        child.again_at = None
        if child.link is not None:
            child.link.close()
        self._launch(child)
        try:
            if child.link is not None:
                self._await_ready(child)
        except ChildFailed as error:
            _log.warning("process_did_not_start", process=child.name, reason=str(error))
            return
        _log.info("process_started_again", process=child.name)
        self._write_run_json(self.info())

    def _launch(self, child: _Child) -> None:
        if time.monotonic() - child.since > _SOON + child.wait:
            child.wait = _FIRST_WAIT
        child.since = time.monotonic()
        child.process, child.link = child.start()

    def _starter(self, role: Role) -> Callable[[], tuple[subprocess.Popen[bytes], socket.socket]]:
        def start() -> tuple[subprocess.Popen[bytes], socket.socket]:
            ours, theirs = socket.socketpair()
            with theirs:
                process = subprocess.Popen(  # noqa: S603 - our own module
                    [sys.executable, "-m", "klyra_collector.supervise.child", role, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env={name: value for name, value in os.environ.items() if not name.startswith("KLYRA_")},
                    start_new_session=True,  # a Ctrl-C reaches the supervisor alone, which stops them in order
                )
            ours.sendall(json.dumps(self._settings_for(role)).encode() + b"\n")
            return process, ours

        return start

    def _settings_for(self, role: Role) -> dict[str, Any]:
        """Return the settings a child gets; a restarted one listens where it listened before."""
        members: dict[str, Any] = self._settings.model_dump(mode="json")
        listened = next((child.addresses for child in self._children if child.name == role), {})
        listeners = {
            "api": members["api"],
            "otlp_http": members["otlp"]["http"],
            "otlp_grpc": members["otlp"]["grpc"],
            "forward": members["forward"],
        }
        for name, address in listened.items():
            listeners[name]["listen"] = address.rpartition("//")[2] if "://" in address else address
        return members

    def _await_ready(self, child: _Child) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            line = _read_line(child.link, _POLL_SECONDS)
            if line is None:
                continue
            message = orjson.loads(line) if line else {}
            if "ready" in message:
                child.addresses = message["ready"]
                return
            raise ChildFailed(
                f"{child.name} could not start: {message.get('failed', 'it ended without a word')}",
                remedy="" if "failed" in message else "Its log above may say why.",
            )
        raise ChildFailed(f"{child.name} did not become ready within {START_SECONDS:.0f} s.")

    def _last_words(self, child: _Child) -> str | None:
        with contextlib.suppress(OSError, orjson.JSONDecodeError):
            line = _read_line(child.link, 0.0)
            if line:
                return str(orjson.loads(line).get("failed"))
        return None

    def _stop_child(self, child: _Child) -> None:
        process = child.process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                _log.warning("process_killed", process=child.name, after=STOP_SECONDS)
                process.kill()
                process.wait()
        if child.link is not None:
            child.link.close()
            child.link = None

    def _write_run_json(self, info: RunInfo) -> None:
        path = self._settings.data_directory.run_json
        temporary = path.with_suffix(".new")
        temporary.write_bytes(info.as_json())
        temporary.replace(path)


def _program_starter(program: ExtraProcess) -> Callable[[], tuple[subprocess.Popen[bytes], None]]:
    def start() -> tuple[subprocess.Popen[bytes], None]:
        process = subprocess.Popen(  # noqa: S603 - a program its caller chose
            program.argv, env=dict(program.env), stdin=subprocess.DEVNULL, start_new_session=True
        )
        return process, None

    return start


def _read_line(link: socket.socket | None, timeout: float) -> bytes | None:
    """Return a line, b"" if the other end is closed, None if nothing came in time."""
    if link is None:
        return b""
    with selectors.DefaultSelector() as selector:
        selector.register(link, selectors.EVENT_READ)
        if not selector.select(timeout):
            return None
    received = b""
    while not received.endswith(b"\n"):
        chunk = link.recv(65536)
        if not chunk:
            return received
        received += chunk
    return received
