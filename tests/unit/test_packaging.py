"""What is published: the wheel's contents, its imports, and the pins it is installed with."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVER_LIBRARIES = {
    "elasticsearch",
    "fastapi",
    "grpc",
    "prometheus_client",
    "pydantic",
    "sqlalchemy",
    "starlette",
    "structlog",
    "uvicorn",
}


def run_tool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script of tools/ with this interpreter."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


def repack(distributions: Path, folder: Path, *, without: str = "", changed: str = "") -> Path:
    """Copy the distributions, leaving one member of the wheel out or adding a byte to it."""
    for source in distributions.glob("*.tar.gz"):
        (folder / source.name).hardlink_to(source)
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as original, zipfile.ZipFile(folder / wheel.name, "w") as copy:
        for name in original.namelist():
            if name != without:
                copy.writestr(name, original.read(name) + (b"\n" if name == changed else b""))
    return folder


@pytest.fixture(scope="module")
def unpacked(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's contents in a folder, to be imported from there."""
    folder = tmp_path_factory.mktemp("unpacked")
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def modules_loaded_by(statement: str, unpacked: Path) -> set[str]:
    """Run a statement in a new interpreter that sees the wheel first; return the top-level names loaded."""
    program = [
        "import json, sys",
        "sys.path.insert(0, sys.argv[1])",
        "before = set(sys.modules)",
        statement,
        "import klyra_audit",
        "assert klyra_audit.__file__.startswith(sys.argv[1]), klyra_audit.__file__",
        "print(json.dumps([name.partition('.')[0] for name in set(sys.modules) - before]))",
    ]
    done = run_tool("-c", "\n".join(program), unpacked)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_wheel_and_the_source_distribution_are_in_order(distributions: Path) -> None:
    """JSON, web files and py.typed travel unchanged, nothing else does, and the metadata are valid."""
    done = run_tool("tools/check_package.py", distributions)
    assert (done.returncode, done.stdout) == (0, "package: wheel and source are in order\n")


def test_a_file_missing_from_the_wheel_is_noticed(distributions: Path, tmp_path: Path) -> None:
    """A plan that the build left out is named, and the check fails."""
    lost = "klyra_audit/_data/retention_policies/startup.json"
    done = run_tool("tools/check_package.py", repack(distributions, tmp_path, without=lost))
    assert done.returncode == 1
    assert f"the wheel lacks {lost}" in done.stdout


def test_a_file_changed_in_the_wheel_is_noticed(distributions: Path, tmp_path: Path) -> None:
    """A member that differs from the checkout and from its RECORD line is named twice."""
    altered = "klyra_audit/errors.py"
    done = run_tool("tools/check_package.py", repack(distributions, tmp_path, changed=altered))
    assert done.returncode == 1
    assert f"{altered} differs from the checkout" in done.stdout
    assert f"RECORD does not vouch for {altered}" in done.stdout


def test_a_lost_type_marker_is_noticed(distributions: Path, tmp_path: Path) -> None:
    """A package without py.typed would lose its types for every user."""
    done = run_tool("tools/check_package.py", repack(distributions, tmp_path, without="klyra_siem/py.typed"))
    assert done.returncode == 1
    assert "klyra_siem has no py.typed" in done.stdout


def test_an_empty_folder_is_not_in_order(tmp_path: Path) -> None:
    """Nothing to check is a failure, not a success."""
    done = run_tool("tools/check_package.py", tmp_path)
    assert done.returncode == 1
    assert "0 wheels and 0 source distributions" in done.stdout


def test_the_verifier_loads_no_server_library(unpacked: Path) -> None:
    """An auditor's `import klyra_collector.verify` loads no web framework, database or telemetry library."""
    loaded = modules_loaded_by("import klyra_collector.verify", unpacked)
    assert not loaded & (SERVER_LIBRARIES | {"opentelemetry", "httpx"})


def test_the_emitter_loads_no_server_library(unpacked: Path) -> None:
    """An application's `import klyra_audit` loads nothing of the collector."""
    loaded = modules_loaded_by("import klyra_audit", unpacked)
    assert not loaded & (SERVER_LIBRARIES | {"klyra_collector"})


def test_everything_needed_is_pinned() -> None:
    """constraints.txt names each requirement that pyproject.toml reaches, at the version installed here."""
    done = run_tool("tools/pins.py")
    assert (done.returncode, done.stdout) == (0, "")
