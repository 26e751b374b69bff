#!/usr/bin/env python3
"""Build the wheel and the source distribution and check what would be published.

    python tools/check_package.py          build into a temporary folder, then check
    python tools/check_package.py FOLDER   check the two files already there

Exit 0 when nothing is wrong, 1 with one sentence per fault. It needs no network.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.metadata import Metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = (".md", ".pyc")  # the checkout's explanations and caches stay out of the wheel


def build(destination: Path) -> None:
    """Build the source distribution, and the wheel from it, with the installed back end.

    Raises:
        SystemExit: the build failed; its messages went to stderr.
    """
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(destination), str(ROOT)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own interpreter
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        sys.exit("package: the build failed")


def configuration() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def expected_members() -> dict[str, bytes]:
    """Return path inside the wheel → bytes, for every file of the checkout that the wheel must carry."""
    wheel = configuration()["tool"]["hatch"]["build"]["targets"]["wheel"]
    return {
        member_name(path, wheel["sources"]): path.read_bytes()
        for folder in wheel["only-include"]
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and not path.name.endswith(LEFT_OUT)
    }


def member_name(path: Path, sources: dict[str, str]) -> str:
    """Return where the wheel keeps a file of the checkout."""
    root, *rest = path.relative_to(ROOT).parts
    return "/".join(filter(None, [sources[root], *rest]))


def metadata_faults(raw: bytes) -> Iterator[str]:
    """Yield what an index, or a reader of its page, would object to in the core metadata."""
    project = configuration()["project"]
    try:
        metadata = Metadata.from_email(raw, validate=True)
    except ExceptionGroup as group:
        yield from (f"core metadata: {fault}" for fault in group.exceptions)
        return
    if (metadata.name, str(metadata.version)) != (project["name"], project["version"]):
        yield f"core metadata names {metadata.name} {metadata.version}, pyproject.toml another"
    if not (metadata.description or "").strip():
        yield "core metadata has no description: is README.md empty?"
    if metadata.description_content_type != "text/markdown":
        yield f"the description is {metadata.description_content_type}, not text/markdown"
    if not metadata.license_files:
        yield "core metadata names no licence file"


def record_faults(wheel: zipfile.ZipFile) -> Iterator[str]:
    """Yield every member that RECORD does not list with its true SHA-256."""
    name = dist_info(wheel) + "RECORD"
    rows = {row[0]: row[1] for row in csv.reader(io.StringIO(wheel.read(name).decode()))}
    for member in wheel.namelist():
        digest = base64.urlsafe_b64encode(hashlib.sha256(wheel.read(member)).digest()).rstrip(b"=").decode()
        if member != name and rows.get(member) != f"sha256={digest}":
            yield f"RECORD does not vouch for {member}"


def dist_info(wheel: zipfile.ZipFile) -> str:
    """Return the path of the wheel's metadata folder, with its slash."""
    return next(name.partition("/")[0] + "/" for name in wheel.namelist() if ".dist-info/" in name)


def content_faults(wheel: zipfile.ZipFile) -> Iterator[str]:
    """Yield every difference between the wheel and the checkout."""
    expected = expected_members()
    packed = {name for name in wheel.namelist() if not name.startswith(dist_info(wheel))}
    yield from (f"the wheel lacks {name}" for name in sorted(expected.keys() - packed))
    yield from (f"the wheel has {name}, the checkout does not" for name in sorted(packed - expected.keys()))
    for name in sorted(packed & expected.keys()):
        if wheel.read(name) != expected[name]:
            yield f"{name} differs from the checkout"


def layout_faults(wheel: zipfile.ZipFile) -> Iterator[str]:
    """Yield every package without py.typed and every command whose module is absent."""
    names = set(wheel.namelist())
    for package in configuration()["tool"]["mypy"]["packages"]:
        if f"{package}/py.typed" not in names:
            yield f"{package} has no py.typed, so type checkers would ignore its types"
    for command, target in configuration()["project"]["scripts"].items():
        module = target.partition(":")[0].replace(".", "/")
        if names.isdisjoint({f"{module}.py", f"{module}/__init__.py"}):
            yield f"the command {command} starts {target}, which the wheel lacks"


def wheel_faults(path: Path) -> Iterator[str]:
    """Yield every fault of a wheel."""
    with zipfile.ZipFile(path) as wheel:
        yield from metadata_faults(wheel.read(dist_info(wheel) + "METADATA"))
        yield from record_faults(wheel)
        yield from content_faults(wheel)
        yield from layout_faults(wheel)


def source_faults(path: Path) -> Iterator[str]:
    """Yield every fault of a source distribution that the wheel built from it would not show."""
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers()}
    for needed in (
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "Makefile",
        "constraints.txt",
        "tests/conftest.py",
    ):
        if needed not in names:
            yield f"the source distribution lacks {needed}"


def faults(folder: Path) -> list[str]:
    """Return every fault of the wheel and the source distribution in a folder."""
    wheels, sources = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sources) != 1:
        return [f"{folder} holds {len(wheels)} wheels and {len(sources)} source distributions, not one of each"]
    return [*wheel_faults(wheels[0]), *source_faults(sources[0])]


def main(arguments: list[str]) -> int:
    """Check the folder named, or a fresh build; return the exit status."""
    if arguments:
        found = faults(Path(arguments[0]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder))
            found = faults(Path(folder))
    sys.stdout.writelines(f"package: {sentence}\n" for sentence in found or ["wheel and source are in order"])
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
