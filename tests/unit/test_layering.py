"""The rules about the shape of the code: who imports whom, how long things are, what may not be written."""

from __future__ import annotations

import ast
import os
import re
import statistics
import sys
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("plugins", "collectors")
LAYERS = ("klyra_audit.format", "klyra_audit", "klyra_siem", "klyra_collector")  # each imports only leftwards
GENERATED = {"build", "dist", "node_modules", "__pycache__"}

# What each stage of the collector may import of the others, besides itself and the modules beside the stages.
# The command line may import everything and is imported by nothing.
STAGES = {
    "verify": set[str](),
    "registry": set[str](),
    "validate": {"registry"},
    "seal": {"registry"},
    "receive": {"validate", "seal", "registry"},
    "store": {"seal", "registry"},
    "publish": {"seal", "store", "registry"},
    "witness": {"seal", "publish", "registry"},
    "self_service": {"registry", "seal"},
    "fanout": {"seal", "store", "registry", "self_service"},
    "query": {"seal", "store", "registry", "publish", "verify", "self_service"},
    "reconcile": {"fanout"},
    "rebuild": {"verify", "seal"},
    "supervise": {
        *("verify", "registry", "validate", "seal", "receive", "store", "publish", "witness", "fanout", "query"),
        "self_service",
    },
    "demo": {"registry", "supervise"},
    "cli": {
        *("verify", "registry", "validate", "seal", "receive", "store", "publish", "witness", "fanout", "query"),
        *("self_service", "reconcile", "rebuild", "supervise", "demo"),
    },
}
VERIFY_MAY_IMPORT = {"klyra_audit.format", "klyra_collector.verify", "cryptography", "orjson"}

MODULE_LINES = 700
FUNCTION_LINES = 50
README_LINES = 60
# Put together here so that this file does not contain what it forbids.
REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("proxy", "golang", "org"),
        ("repo1", "maven", "org"),
        ("repo", "maven", "apache", "org"),
        ("deb", "debian", "org"),
    )
)
MACHINE_PATH = re.compile(r"(?<![\w.~}-])/(?:work|tmp|root)/\w")


@dataclass(frozen=True, slots=True)
class Module:
    """One module of the source roots, by its dotted name."""

    name: str
    path: Path
    tree: ast.Module

    def imports(self) -> Iterator[str]:
        """Yield the dotted name of every module imported anywhere in it, for types only or not."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from (longest_module(node.module, alias.name) for alias in node.names)

    def functions(self) -> Iterator[tuple[str, int]]:
        """Yield (name, lines without the docstring) of every function."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{self.name}:{node.lineno} {node.name}", function_lines(node)


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines from ``def`` to the end, without the docstring."""
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node, clean=False) is None:
        return lines
    docstring = node.body[0]
    return lines - (docstring.end_lineno - docstring.lineno + 1)


def longest_module(package: str, name: str) -> str:
    """Return ``package.name`` if that is a module of ours, else ``package``, which then holds the name."""
    inner = f"{package}.{name}"
    return inner if inner in module_names() else package


def module_name(path: Path, source_root: Path) -> str:
    """Return the dotted name of a file below a source root."""
    return ".".join(path.relative_to(source_root).with_suffix("").parts).removesuffix(".__init__")


@cache
def module_names() -> frozenset[str]:
    """Return the names of all our modules and packages."""
    names = {
        module_name(path, ROOT / source_root)
        for source_root in SOURCE_ROOTS
        for path in (ROOT / source_root).rglob("*.py")
    }
    return frozenset(names | {name.rpartition(".")[0] for name in names})


@cache
def modules() -> tuple[Module, ...]:
    """Parse all our modules."""
    return tuple(
        Module(module_name(path, ROOT / source_root), path, ast.parse(path.read_text()))
        for source_root in SOURCE_ROOTS
        for path in sorted((ROOT / source_root).rglob("*.py"))
    )


@cache
def repository_files() -> tuple[Path, ...]:
    """Return every file of the repository: no caches, no builds, no hidden folder but .ci."""
    found: list[Path] = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name == ".ci" or not is_generated(name)]
        found.extend(Path(folder, name) for name in names)
    return tuple(sorted(found))


def is_generated(folder: str) -> bool:
    """Recognise the folders that tools make."""
    return folder.startswith(".") or folder in GENERATED or folder.endswith(".egg-info")


def text_of(path: Path) -> str:
    """Return a file's text, or nothing for one that is not text."""
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


def within(name: str, package: str) -> bool:
    """Tell whether a module is a package or inside it."""
    return name == package or name.startswith(f"{package}.")


def layer_of(name: str) -> int | None:
    """Return the position in LAYERS of a module of ours."""
    return next((position for position, layer in enumerate(LAYERS) if within(name, layer)), None)


def stage_of(name: str) -> str | None:
    """Return the stage of the collector that a module belongs to; None for one beside the stages."""
    parts = name.split(".")
    return parts[1] if parts[0] == "klyra_collector" and len(parts) > 1 and parts[1] in STAGES else None


@cache
def stages_behind(name: str) -> frozenset[str]:
    """Return the stages that a module beside the stages brings along, by itself or through others like it."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if stage := stage_of(current):
            found.add(stage)
        elif current in imports_by_name() and current not in seen:
            seen.add(current)
            waiting.extend(imports_by_name()[current])
    return frozenset(found)


@cache
def imports_by_name() -> dict[str, tuple[str, ...]]:
    """Return module of the collector → what it imports."""
    return {module.name: tuple(module.imports()) for module in modules() if within(module.name, "klyra_collector")}


def layer_breaches(module: Module) -> list[str]:
    """Return the imports from a layer into one above it."""
    own = layer_of(module.name)
    return [name for name in module.imports() if (layer_of(name) or 0) > (own or 0)]


def stage_breaches(module: Module) -> list[str]:
    """Return the imports of one stage by another that STAGES does not allow, and any of the command line."""
    own = stage_of(module.name)
    beside = STAGES.keys() if module.name.endswith(".__main__") else STAGES.keys() - {"cli"}
    allowed = {own, None} | (STAGES[own] if own else beside)
    return [name for name in module.imports() if stage_of(name) not in allowed]


def detour_breaches(module: Module) -> list[str]:
    """Return the imports by a stage of modules beside the stages that bring along a stage it may not import."""
    own = stage_of(module.name)
    if own is None:
        return []
    return [name for name in module.imports() if stages_behind(name) - STAGES[own] - {own}]


def verifier_breaches(module: Module) -> list[str]:
    """Return the imports of the verifier that would make an auditor install more than the base."""
    if not within(module.name, "klyra_collector.verify"):
        return []
    return [
        name
        for name in module.imports()
        if name.partition(".")[0] not in sys.stdlib_module_names
        and not any(within(name, allowed) for allowed in VERIFY_MAY_IMPORT)
    ]


@pytest.mark.parametrize(
    "breaches",
    [layer_breaches, stage_breaches, detour_breaches, verifier_breaches],
    ids=lambda f: f.__name__,
)
def test_every_module_imports_only_what_it_may(breaches: Callable[[Module], list[str]]) -> None:
    """Layers import downwards, stages what STAGES allows, the verifier what an auditor has."""
    assert not {module.name: found for module in modules() if (found := breaches(module))}


@pytest.mark.parametrize(
    ("breaches", "name", "line"),
    [
        (layer_breaches, "klyra_audit.format.leaf", "import klyra_audit.errors"),
        (layer_breaches, "klyra_audit.event", "from klyra_siem import splunk"),
        (layer_breaches, "klyra_siem.splunk", "def f():\n    import klyra_collector"),
        (stage_breaches, "klyra_collector.store.sqlite", "from klyra_collector.receive import otlp"),
        (stage_breaches, "klyra_collector.seal.writer", "from klyra_collector.query.app import create_app"),
        (stage_breaches, "klyra_collector.verify.report", "from klyra_collector.seal import reader"),
        (stage_breaches, "klyra_collector.config", "from klyra_collector.cli import main"),
        (verifier_breaches, "klyra_collector.verify.report", "from klyra_audit import errors"),
        (verifier_breaches, "klyra_collector.verify.report", "import rich"),
    ],
)
def test_a_forbidden_import_is_noticed(breaches: Callable[[Module], list[str]], name: str, line: str) -> None:
    """The rules above refuse what they are there to refuse."""
    assert breaches(Module(name, Path(), ast.parse(line)))


def test_the_table_of_stages_is_an_order() -> None:
    """The allowed imports have no cycle, end at the command line, and name every stage folder."""
    folders = {path.name for path in (ROOT / "collectors/klyra_collector").iterdir() if path.is_dir()}
    assert list(TopologicalSorter(STAGES).static_order())[-1] == "cli"
    assert {name for name in folders if not is_generated(name)} <= STAGES.keys()


def test_modules_are_short() -> None:
    """No module, script or test is longer than MODULE_LINES."""
    lengths = {path: text_of(path).count("\n") for path in repository_files() if path.suffix in {".py", ".js", ".sh"}}
    assert not {str(path): lines for path, lines in lengths.items() if lines > MODULE_LINES}


def test_functions_are_short() -> None:
    """Half of all functions are under 10 lines, at most 2 in 100 over FUNCTION_LINES."""
    lengths = dict(function for module in modules() for function in module.functions())
    long = {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES}
    assert statistics.median(lengths.values()) < 10
    assert len(long) <= len(lengths) * 0.02, long


def test_every_folder_has_a_readme() -> None:
    """A folder with code or data says what it is; the folders of tests share the README above them."""
    described_above = [
        ROOT / "tests" / name for name in ("unit", "integration", "acceptance", "browser", "bench", "support")
    ]
    described_above += (ROOT / "tests" / "vectors").glob("ledger-*")
    folders = {path.parent for path in repository_files()} - {ROOT, ROOT / ".ci"}
    missing = [
        str(folder.relative_to(ROOT))
        for folder in sorted(folders)
        if not any(folder.is_relative_to(above) for above in described_above) and not (folder / "README.md").is_file()
    ]
    assert not missing


def test_readmes_fit_one_screen() -> None:
    """A folder's README has at most README_LINES lines; that of the format is its whole specification."""
    specification = ROOT / "plugins" / "klyra_audit" / "format" / "README.md"
    readmes = [path for path in repository_files() if path.name == "README.md" and path.parent != ROOT]
    readmes.remove(specification)
    assert not [str(path) for path in readmes if text_of(path).count("\n") > README_LINES]


def test_no_file_names_a_machine() -> None:
    """Outside the tests no file names a folder of the machine it was written on."""
    named = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in repository_files()
        if not path.is_relative_to(ROOT / "tests")
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not named


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the installer's configuration, not ours."""
    named = [
        f"{path.relative_to(ROOT)} names {host}"
        for path in repository_files()
        for host in REGISTRY_HOSTS
        if host in text_of(path)
    ]
    assert not named
