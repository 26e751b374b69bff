"""The page of each vendor leads to what is shipped for it, and says what it must."""

from __future__ import annotations

import re

import pytest

from support.siem.shipped import FOLDER

FOLDERS = sorted(path for path in FOLDER.iterdir() if path.is_dir())


def sections(name: str) -> dict[str, str]:
    """Return the sections of a vendor's page by their headings."""
    text = (FOLDER.parents[1] / "docs" / "destinations" / f"{name}.md").read_text(encoding="utf-8")
    found = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_five_steps_lead_to_the_files(folder) -> None:
    """Five of them, and one installs what is shipped."""
    steps = sections(folder.name)["To the first event in five steps"]
    assert re.findall(r"^(\d)\. ", steps, re.MULTILINE) == list("12345")
    numbered = steps[: steps.index("destination list")]
    assert f"../../dashboards/siem/{folder.name}/" in numbered


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_limits_duplicates_gaps_and_silence_are_told(folder) -> None:
    """Each in its section, the last with the files that find them."""
    found = sections(folder.name)
    assert "| this destination |" in found["Limits"]
    told = found["What a duplicate or gap looks like there"]
    assert f"../../dashboards/siem/{folder.name}/" in told
    assert "dead letter" in told
    assert "nothing comes at all" in " ".join(told.split())


def test_every_folder_says_what_is_in_it() -> None:
    """Every shipped file is named by a README of its folder or of one above it."""
    for path in sorted(FOLDER.rglob("*")):
        if path.is_dir() or path.name == "README.md" or "klyra_audit" in path.parts:
            continue
        assert path.name in (path.parent / "README.md").read_text(encoding="utf-8"), path.name
