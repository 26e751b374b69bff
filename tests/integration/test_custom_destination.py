"""A destination that somebody else wrote: built, found through its entry point, and delivered into."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import stat
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from klyra_collector.config import Settings
from klyra_collector.data_directory import DataDirectory
from klyra_collector.destination_status import State
from klyra_collector.fanout.assembly import build_destination
from klyra_siem.errors import BadDestination
from klyra_siem.formats.reading import find_copy
from klyra_siem.outcome import Action
from support.delivering import Bench
from support.records import STARTUP, record, submission
from support.sealing import Fault, FaultyDisk, Killed, SetClock, open_ledger
from support.siem.cloud import entry, options, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from klyra_siem.destination import Destination

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "custom_destination"
KIND, MODULE = "ndjson-file", "klyra_audit_ndjson_file"
COUNT = 30


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The built package, unpacked as an installation is."""
    folder = tmp_path_factory.mktemp("custom")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, EXAMPLE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def module(installed, monkeypatch) -> Iterator[ModuleType]:
    """The package's module, where Python finds it."""
    monkeypatch.syspath_prepend(installed)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


@pytest.fixture
def file(tmp_path) -> Path:
    """Where the entries go."""
    return tmp_path / "archive" / "entries.ndjson"


@pytest.fixture
def destination(module, file, tmp_path, data_directory) -> Iterator[Destination]:
    """The destination of the example's configuration, for a file of this test."""
    file.parent.mkdir()
    with contextlib.closing(configured(tmp_path, file, data_directory)) as made:
        yield made


def configured(folder: Path, file: Path, data: Path) -> Destination:
    """Return what the example's own configuration leads to."""
    written = (EXAMPLE / "klyra-audit.toml").read_text()
    path = tomllib.loads(written)["destination"][0]["endpoint"]
    (folder / "klyra-audit.toml").write_text(written.replace(path, str(file)))
    (one,) = Settings.load(folder / "klyra-audit.toml", data=data).destination
    return build_destination(one, None)


def sealed(root: Path) -> list[str]:
    """Seal some entries; return their ids."""
    items = [record(STARTUP) for _ in range(COUNT)]
    ledger = open_ledger(root, SetClock())
    ledger.commit([submission(*items)])
    ledger.close()
    return [item.record_id for item in items]


def ids_in(file: Path) -> list[str]:
    """Return the ids of the lines of a file, all of which are whole."""
    content = file.read_bytes()
    assert content.endswith(b"\n")
    return [json.loads(line)["id"] for line in content.splitlines()]


def test_a_ledger_is_delivered(destination, file, data_directory) -> None:
    """Every entry is there once, in order, and holds what it is verified by; the file is not for everybody."""
    ids = sealed(data_directory)
    bench = Bench(data_directory, destination)
    with contextlib.closing(bench):
        bench.deliver()
        bench.delivery._lanes.close()
    copies = [find_copy(json.loads(line))[0] for line in file.read_text().splitlines()]
    assert [copy.entry_id for copy in copies] == ids
    assert {copy.mismatch() for copy in copies} == {""}
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("at", range(1, 12, 2))
def test_killed_on_the_way(module, file, tmp_path, data_directory, at, moment) -> None:
    """Nothing is missing; what is there twice is one batch at most."""
    ids = sealed(data_directory)
    file.parent.mkdir()
    disk = FaultyDisk()
    disk.fault = Fault("replace", moment, at, error=Killed)
    for life in (disk, None):
        with contextlib.closing(configured(tmp_path, file, data_directory)) as made:
            bench = Bench(data_directory, made, disk=life)
            with contextlib.closing(bench), contextlib.suppress(Killed):
                bench.deliver()
            bench.delivery._lanes.forget()
            bench.delivery._lanes.close()
    assert list(dict.fromkeys(ids_in(file))) == ids
    assert sum(Counter(ids_in(file)).values()) <= COUNT + 8


def test_the_disk_is_full(destination, module, file, data_directory, monkeypatch) -> None:
    """The batch waits, nothing of it stays in the file, and all is there once there is room."""
    ids = sealed(data_directory)
    whole = os.pwrite
    bench = Bench(data_directory, destination)

    def full(descriptor: int, content: bytes, place: int) -> int:
        if len(content) < 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(descriptor, content[:500], place)

    with contextlib.closing(bench):
        bench.delivery.step()
        before = file.read_bytes()
        monkeypatch.setattr(module.os, "pwrite", full)
        bench.delivery.step()
        assert (bench.status().state, bench.status().error) == (
            State.RETRYING,
            "ENOSPC: No space left on device",
        )
        assert file.read_bytes() == before
        monkeypatch.undo()
        bench.deliver()
        bench.delivery._lanes.close()
    assert ids_in(file) == ids


def test_what_a_disk_does_not_keep_is_not_confirmed(destination, module, file, monkeypatch) -> None:
    """A sync that fails has lost nobody knows what: the batch is written again."""
    monkeypatch.setattr(module.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    assert send(destination, [entry()]).action is Action.RETRY
    assert file.read_bytes() == b""


@pytest.mark.parametrize("torn", [b'{"id": "log_', b"x" * 200_000])
def test_a_line_that_a_crash_broke_off_is_cut_away(destination, file, torn) -> None:
    """What was never confirmed is written again, and no reader meets half a line."""
    first, second = entry(0), entry(1)
    assert send(destination, [first]).action is Action.DELIVERED
    with file.open("ab") as opened:
        opened.write(torn)
    assert send(destination, [second]).action is Action.DELIVERED
    assert ids_in(file) == [first.entry_id, second.entry_id]


def test_what_only_an_operator_can_mend(destination, file) -> None:
    """Without its folder the destination pauses; a probe says so too, and writes nothing when all is well."""
    assert destination.probe().action is Action.DELIVERED
    assert file.read_bytes() == b""
    file.unlink()
    file.parent.rmdir()
    outcome = send(destination, [entry()])
    assert (outcome.action, outcome.status, destination.probe().action) == (Action.PAUSE, "ENOENT", Action.PAUSE)
    file.mkdir(parents=True)
    assert send(destination, [entry()]).status == "EISDIR"


@pytest.mark.parametrize(
    ("endpoint", "settings", "remedy"),
    [
        ("entries.ndjson", {}, "endpoint ="),
        ("/entries.ndjson", {"permissions": "rw-r-----"}, 'permissions = "0640"'),
        ("/entries.ndjson", {"permissions": 640}, 'permissions = "0640"'),
        ("/entries.ndjson", {"colour": "red"}, "Known is permissions"),
    ],
)
def test_settings_that_cannot_be_used(module, endpoint, settings, remedy) -> None:
    """They are refused when the destination is made, with what to write instead."""
    with pytest.raises(BadDestination) as caught:
        module.create(options(endpoint, settings))
    assert caught.value.code == "bad_destination"
    assert remedy in caught.value.remedy


def test_the_command_line_finds_it(installed, destination, file, tmp_path, data_directory) -> None:
    """A process that has never heard of it sends it a test event."""
    DataDirectory(data_directory).cursors.mkdir(parents=True)
    command = [sys.executable, "-m", "klyra_collector", "destination", "test", "archive"]
    command += ["--config", tmp_path / "klyra-audit.toml", "--data", data_directory]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), *filter(None, sys.path)])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = file.read_text().splitlines()
    assert json.loads(line)["id"] in done.stdout


def test_the_package_is_what_its_pages_say(module) -> None:
    """The entry point has the kind of the example's configuration."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["klyra_audit.destinations"] == {KIND: f"{MODULE}:create"}
    (one,) = tomllib.loads((EXAMPLE / "klyra-audit.toml").read_text())["destination"]
    assert one["kind"] == KIND
