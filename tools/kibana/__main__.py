"""Write what Kibana imports, or say what differs from the sources.

    make dashboards                              write the files
    PYTHONPATH=tools python -m kibana --check    exit 1 and name every file that is not what the sources say

In: `dashboards/kibana/sources`, the mappings and lifecycles, the retention policies. Out: the files beside the
sources, and a picture of each dashboard in `docs/pictures`.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

from kibana.fields import SourceWrong, mappings
from kibana.objects import ndjson, saved_objects
from kibana.package import package
from kibana.picture import picture
from kibana.sources import load
from kibana.watching import pretty, roles, rules

ROOT = Path(__file__).resolve().parents[2]


def generated(root: Path) -> dict[str, bytes]:
    """Return path below the root → bytes, of every file that the sources make.

    Raises:
        SourceWrong: a source is not what it must be.
    """
    folder = root / "dashboards" / "kibana"
    sources = load(folder / "sources")
    fields = mappings(root)
    objects = saved_objects(sources, fields)
    found = {
        "dashboards/kibana/klyra-audit.ndjson": ndjson(objects),
        "dashboards/kibana/klyra-audit-integration.zip": package(root, objects, fields),
        "dashboards/kibana/rules.json": pretty(rules(sources, fields)),
        "dashboards/kibana/roles.json": pretty(roles(sources)),
    }
    for each in objects:
        if each["type"] == "dashboard":
            found[f"docs/pictures/kibana-{each['id'].partition('-')[2]}.svg"] = picture(each, objects).encode()
    return found


def main(arguments: list[str]) -> int:
    """Write, or compare; return the exit status."""
    try:
        wanted = generated(ROOT)
    except SourceWrong as error:
        sys.stderr.write(f"kibana: {error}\n")
        return 1
    different = [name for name, content in wanted.items() if not same(name, content, ROOT)]
    for name in different:
        if "--check" not in arguments:
            (ROOT / name).write_bytes(wanted[name])
        sys.stdout.write(f"{name}\n")
    return int("--check" in arguments and bool(different))


def same(name: str, content: bytes, root: Path) -> bool:
    """Say whether a file is there and says the same; of a zip, its members: compressors differ."""
    path = root / name
    if not path.is_file():
        return False
    found = path.read_bytes()
    return _unpacked(found) == _unpacked(content) if path.suffix == ".zip" else found == content


def _unpacked(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
