"""A throw-away node of the Elasticsearch that `make peers` has put into the cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from support.peers import cache
from support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PINNED = "8.19.21"  # as in tools/peers/elasticsearch.sh
_START_SECONDS = 120
_SETTINGS = """
cluster.name: tests
node.name: tests-0
discovery.type: single-node
network.host: 127.0.0.1
transport.port: 0
path.data: {folder}/data
path.logs: {folder}/logs
cluster.routing.allocation.disk.threshold_enabled: false
xpack.security.enrollment.enabled: false
xpack.security.transport.ssl.enabled: false
xpack.security.http.ssl.enabled: false
"""


def program() -> Path | None:
    """Return the distribution's folder, None if it is not there or could not run."""
    home = cache() / f"elasticsearch-{PINNED}"
    return home if (home / "bin" / "elasticsearch").exists() and shutil.which("java") else None


@dataclass(frozen=True)
class Node:
    """A node with security on and data streams, lifecycle policies and API keys over REST.

    Attributes:
        url: where it answers, without who asks.
        password: of the superuser `elastic`.
    """

    url: str
    password: str

    @property
    def store_url(self) -> str:
        """The URL that the product takes; the password is a file's."""
        return f"elasticsearch+{self.url}"

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask as the superuser."""
        return httpx.request(method, f"{self.url}/{path}", auth=("elastic", self.password), timeout=60, **options)


def front() -> Path | None:
    """Return the folder of the plugin that `make peers` has built, None if it is not there."""
    source = ROOT / "tools" / "peers" / "elasticsearch_front" / "FrontPlugin.java"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    folder = cache() / "elasticsearch_front" / f"{PINNED}-{digest}" / "klyra-front"
    return folder if folder.is_dir() and program() else None


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Yield the URL of a node with a folder of its own, which goes with it."""
    with _folder() as folder:
        _prepare(folder)
        with _serving(folder) as url:
            yield url


@contextlib.contextmanager
def guarded() -> Iterator[Node]:
    """Yield a node that asks who is there, with the plugin."""
    with _folder() as folder:
        _prepare(folder, settings="xpack.security.enabled: true\n", plugin=front())
        password = secrets.token_urlsafe(12)
        _set_password(folder, password)
        with _serving(folder, ("elastic", password)) as url:
            yield Node(url, password)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="klyra-elasticsearch-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _serving(folder: Path, auth: tuple[str, str] | None = None) -> Iterator[str]:
    port = free_port()
    with (folder / "config" / "elasticsearch.yml").open("a") as settings:
        settings.write(f"http.port: {port}\n")
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [str(folder / "home" / "bin" / "elasticsearch")], **_surroundings(folder), stdout=out, stderr=out
        )
    try:
        yield _await(f"http://127.0.0.1:{port}", process, folder / "out", auth)
    finally:
        process.terminate()
        process.wait(60)


def _set_password(folder: Path, password: str) -> None:
    """Put the superuser's password into the node's keystore."""
    program = str(folder / "home" / "bin" / "elasticsearch-keystore")
    options = _surroundings(folder) | {"capture_output": True}
    subprocess.run([program, "create", "-s"], check=True, **options)
    del options["stdin"]
    command = [program, "add", "-x", "-f", "bootstrap.password"]
    subprocess.run(command, input=password.encode(), check=True, **options)


def _surroundings(folder: Path) -> dict[str, Any]:
    """Return how its programs are started."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "ES_JAVA_HOME": str(Path(shutil.which("java")).resolve().parents[1]),
        "ES_PATH_CONF": str(folder / "config"),
        "ES_TMPDIR": str(folder / "tmp"),
        "ES_JAVA_OPTS": "-Xms512m -Xmx512m -XX:+UseSerialGC -XX:-AlwaysPreTouch",
        "CLI_JAVA_OPTS": "-Xmx64m -XX:TieredStopAtLevel=1",
    }
    return {"env": environment, "cwd": folder, "stdin": subprocess.DEVNULL} | _unprivileged()


def _prepare(folder: Path, settings: str = "xpack.security.enabled: false\n", plugin: Path | None = None) -> None:
    """Lay out the node; as root, so that the user who runs it instead can read it."""
    home = folder / "home"
    # Hard links where that works: whoever runs the node may not be able to enter the cache.
    linked = subprocess.run(["cp", "-al", str(program()), str(home)], check=False, capture_output=True)
    if linked.returncode != 0:
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(program(), home, symlinks=True)
    shutil.copytree(home / "config", folder / "config")
    options = folder / "config" / "jvm.options"
    unwanted = ("Xlog:gc", "HeapDump", "UseG1GC")
    lines = [line for line in options.read_text().splitlines() if not any(word in line for word in unwanted)]
    options.write_text("\n".join(lines) + "\n")
    (folder / "config" / "elasticsearch.yml").write_text(_SETTINGS.format(folder=folder) + settings)
    if plugin is not None:
        shutil.copytree(plugin, home / "plugins" / plugin.name)
    for name in ("data", "logs", "tmp"):
        (folder / name).mkdir()
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (folder, *(folder / name for name in ("data", "logs", "tmp"))):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        for path in (folder / "config", *(folder / "config").rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)


def _unprivileged() -> dict:
    """It refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _await(url: str, process: subprocess.Popen, out: Path, auth: tuple[str, str] | None) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(f"{url}/_cluster/health?wait_for_status=yellow&timeout=3s", auth=auth)
            if answer.status_code == httpx.codes.OK:
                return url
        time.sleep(0.2)
    raise AssertionError(f"Elasticsearch did not start: {out.read_text()[-4000:]}")


def main() -> None:
    """Serve a node until SIGTERM or Ctrl-C: its password goes into the file that is named, its URL to stdout."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if front() is None:
        sys.exit("Elasticsearch is not there: run `make peers` first.")
    with guarded() as node:
        path = Path(sys.argv[1])
        path.touch(mode=0o600)
        path.write_text(node.password)
        print(node.store_url, flush=True)  # noqa: T201 - what it is run for
        signal.pause()


if __name__ == "__main__":
    main()
