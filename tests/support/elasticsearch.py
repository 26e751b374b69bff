"""A throw-away node of the Elasticsearch that `make peers` has put into the cache."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from support.litewitness import free_port
from support.peers import cache

PINNED = "8.19.21"  # as in tools/peers/elasticsearch.sh
_START_SECONDS = 120
_SETTINGS = """
cluster.name: tests
node.name: tests-0
discovery.type: single-node
network.host: 127.0.0.1
http.port: {port}
transport.port: 0
path.data: {folder}/data
path.logs: {folder}/logs
cluster.routing.allocation.disk.threshold_enabled: false
xpack.security.enabled: false
xpack.security.enrollment.enabled: false
"""


def program() -> Path | None:
    """Return the distribution's folder, None if it is not there or could not run."""
    home = cache() / f"elasticsearch-{PINNED}"
    return home if (home / "bin" / "elasticsearch").exists() and shutil.which("java") else None


@contextlib.contextmanager
def running():
    """Yield the URL of a node with a folder of its own, which goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="klyra-elasticsearch-"))
    try:
        yield from _serve(folder)
    finally:
        shutil.rmtree(folder)


def _serve(folder: Path):
    port = free_port()
    _prepare(folder, port)
    java_home = Path(shutil.which("java")).resolve().parents[1]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "ES_JAVA_HOME": str(java_home),
        "ES_PATH_CONF": str(folder / "config"),
        "ES_TMPDIR": str(folder / "tmp"),
        "ES_JAVA_OPTS": "-Xms512m -Xmx512m -XX:+UseSerialGC -XX:-AlwaysPreTouch",
    }
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [str(folder / "home" / "bin" / "elasticsearch")],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            **_unprivileged(),
        )
    try:
        yield _await(f"http://127.0.0.1:{port}", process, folder / "out")
    finally:
        process.terminate()
        process.wait(60)


def _prepare(folder: Path, port: int) -> None:
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
    (folder / "config" / "elasticsearch.yml").write_text(_SETTINGS.format(port=port, folder=folder))
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


def _await(url: str, process: subprocess.Popen, out: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/_cluster/health?wait_for_status=yellow&timeout=3s").status_code == httpx.codes.OK:
                return url
        time.sleep(0.2)
    raise AssertionError(f"Elasticsearch did not start: {out.read_text()[-4000:]}")
