#!/usr/bin/env python3
"""Compare constraints.txt with what pyproject.toml needs and this environment has, or write it again.

    python tools/pins.py            say which pins are missing, stale or no longer needed (exit 1 when any is)
    python tools/pins.py --write    write the file from the installed versions

Only what the project and its build reach, through every extra, is pinned: never what else is installed here.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[1]
HEADER = """\
# The exact versions that `make` installs, on every supported Python. Written by `make pins`.
"""


def declared(root: Path) -> Iterator[Requirement]:
    """Yield what pyproject.toml asks for: dependencies, every extra, and the build back end."""
    document = tomllib.loads((root / "pyproject.toml").read_text())
    project = document["project"]
    extras = project.get("optional-dependencies", {}).values()
    for text in [*project["dependencies"], *(one for extra in extras for one in extra)]:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != canonicalize_name(project["name"]):
            yield requirement
    yield from map(Requirement, document["build-system"]["requires"])


def followed(requirement: Requirement) -> Iterator[Requirement]:
    """Yield what an installed requirement, with the extras it names, needs itself on this Python."""
    environments = [{"extra": extra} for extra in ("", *requirement.extras)]
    for text in distribution(requirement.name).requires or ():
        needed = Requirement(text)
        if needed.marker is None or any(needed.marker.evaluate(environment) for environment in environments):
            yield needed


def installed_closure(root: Path) -> dict[str, str]:
    """Return name → version of everything `declared` reaches.

    Raises:
        PackageNotFoundError: something needed is not installed here.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(declared(root))
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        found[name] = distribution(name).version
        waiting.extend(followed(requirement))
    return found


def pinned(root: Path) -> dict[str, str]:
    """Return name → version of the lines of constraints.txt."""
    lines = (line.partition("#")[0].strip() for line in (root / "constraints.txt").read_text().splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): version for name, version in pairs}


def differences(pins: Mapping[str, str], needed: Mapping[str, str]) -> list[str]:
    """Return one sentence for each name on which the two disagree."""
    missing = [f"{name}=={needed[name]} is needed and not pinned" for name in sorted(needed.keys() - pins.keys())]
    extra = [f"{name}=={pins[name]} is pinned and not needed" for name in sorted(pins.keys() - needed.keys())]
    other = [
        f"{name} is pinned at {pins[name]} and installed at {needed[name]}"
        for name in sorted(pins.keys() & needed.keys())
        if pins[name] != needed[name]
    ]
    return missing + extra + other


def main(arguments: list[str]) -> int:
    """Check, or with --write replace, the file; return the exit status."""
    try:
        needed = installed_closure(ROOT)
    except PackageNotFoundError as missing:
        sys.stderr.write(f"pins: {missing.name} is needed and not installed; run `make environment` first.\n")
        return 2
    if arguments == ["--write"]:
        lines = "".join(f"{name}=={version}\n" for name, version in sorted(needed.items()))
        (ROOT / "constraints.txt").write_text(HEADER + lines)
        return 0
    found = differences(pinned(ROOT), needed)
    sys.stdout.writelines(f"pins: {sentence}\n" for sentence in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
