"""What is written for people is compared with what there is, so that it cannot drift."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
import typer.main

from klyra_collector import cli

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts)
)
FENCE = re.compile(r"^```(?P<language>[\w-]*)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(\S.*)$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)|!\[[^\]]*\]\((?P<image>[^)\s]+)\)")
README_TEST_COMMAND = "make test"


def fenced(path: Path) -> list[tuple[str, str]]:
    """Return (language, text) of every fenced block."""
    return [(match["language"], match["text"]) for match in FENCE.finditer(path.read_text())]


def commands(path: Path) -> list[str]:
    """Return the lines of a document that a reader would type, without prompt and comment."""
    shell = [text for language, text in fenced(path) if language in {"", "sh", "bash", "shell", "console"}]
    lines = [line.strip() for text in shell for line in text.replace("\\\n", " ").splitlines()]
    lines += INDENTED.findall(FENCE.sub("", path.read_text()))
    return [re.split(r"\s+#\s", line.removeprefix("$ "))[0].strip() for line in lines]


@cache
def make_targets() -> dict[str, str]:
    """Return target → help text, as `make help` lists them."""
    listing = subprocess.run(["make", "-s", "help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    rows = (line.removeprefix("make ").split(maxsplit=1) for line in listing.splitlines())
    return dict(rows)


def program_commands(path: Path) -> list[list[str]]:
    """Return the words of every `klyra-audit` command that a document has a reader type."""
    lines = [line.removeprefix(".venv/bin/") for line in commands(path)]
    typed = [re.split(r"[|>;&]", line)[0] for line in lines if line.startswith("klyra-audit ")]
    return [shlex.split(line)[1:] for line in typed]


def complaint(words: list[str]) -> str | None:
    """Return what is wrong with a command line: a command or an option that does not exist."""
    name, *rest = words
    if name.startswith("-") or name not in cli._COMMANDS:
        return None if name in {"--help", "--version"} else f"there is no command {name}"
    command = typer.main.get_command(cli._load(name))
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    if getattr(command, "commands", None) and rest[:1] != ["--help"]:
        return f"{' '.join(words)}: {' '.join(rest[:1]) or 'nothing'} is not one of {sorted(command.commands)}"
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    unknown = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in known]
    return f"{' '.join(words)}: unknown {unknown}" if unknown else None


def relative(path: Path) -> str:
    """Return the name of a test's parameter."""
    return str(path.relative_to(ROOT))


def test_plain_make_lists_the_targets() -> None:
    """`make` alone changes nothing and says what there is."""
    listing = subprocess.run(["make", "-s"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert (
        listing == subprocess.run(["make", "-s", "help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    )
    assert make_targets().keys() >= {"run", "test", "check", "bench", "peers", "soak", "help"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_make_command_written_down_exists(path: Path) -> None:
    """A document names only targets of the Makefile."""
    named = {match for line in commands(path) for match in re.findall(r"^make ([a-z][a-z-]*)", line)}
    named |= set(re.findall(r"`make ([a-z][a-z-]*)[ `]", path.read_text()))
    assert named <= make_targets().keys()


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    """A link inside the repository points to a file or folder that is there."""
    targets = [match["target"] or match["image"] for match in LINK.finditer(FENCE.sub("", path.read_text()))]
    local = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:", target)]
    assert not [target for target in local if target and not (path.parent / target).exists()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_json_block_parses(path: Path) -> None:
    """A block that calls itself JSON is JSON."""
    for language, text in fenced(path):
        if language == "json":
            json.loads(text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_program_command_written_down_exists(path: Path) -> None:
    """A document has a reader type only commands and options that `klyra-audit` knows."""
    assert not [found for words in program_commands(path) if (found := complaint(words))]


@pytest.mark.parametrize(
    "line", ["frobnicate", "org", "org frobnicate", "org create org_x --frobnicate", "serve --frobnicate=1"]
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    """The check above refuses an unknown command, subcommand or option."""
    assert complaint(shlex.split(line))


def test_the_readme_names_the_two_commands() -> None:
    """A newcomer finds how to run it and how to test it, typed as they stand."""
    assert {"make run", README_TEST_COMMAND} <= set(commands(ROOT / "README.md"))


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    """`.ci/run` calls exactly what the README tells a reader to type, with every peer required."""
    lines = [line.partition("|")[0].partition("#")[0].strip() for line in (ROOT / ".ci/run").read_text().splitlines()]
    order = [lines.index(line) for line in ("make peers", "export KLYRA_REQUIRE_PEERS=1", README_TEST_COMMAND)]
    assert order == sorted(order)
    assert "make check" in lines
    assert "set -euo pipefail" in lines


def test_contributing_is_short_and_begins_with_the_commands() -> None:
    """CONTRIBUTING.md fits in 150 lines and opens with the three commands."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert text.count("\n") < 150
    first = [line.split("#")[0].strip() for line in INDENTED.findall(text)[:3]]
    assert first == ["make run", "make test", "make check"]


def test_the_changelog_has_the_version() -> None:
    """CHANGELOG.md has a section for the version in pyproject.toml, in the form of Keep a Changelog."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(version)}\] - ", text, re.MULTILINE)
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }
