"""What a source may say, and the sentence that somebody gets who writes something else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support import kibana

from kibana import kql  # isort: skip - the folder of tools is on the path by then
from kibana.__main__ import ROOT, generated, main  # isort: skip
from kibana.fields import SourceWrong, mappings  # isort: skip
from kibana.objects import saved_objects  # isort: skip
from kibana.package import yaml  # isort: skip
from kibana.sources import load  # isort: skip
from kibana.watching import rules  # isort: skip


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the sources, to be changed."""
    return shutil.copytree(kibana.ROOT / "dashboards" / "kibana" / "sources", tmp_path / "sources")


def edited(folder: Path, name: str, old: str, new: str) -> None:
    """Change a source."""
    text = (folder / f"{name}.toml").read_text()
    assert old in text
    (folder / f"{name}.toml").write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("overview", "width = 10", "width = 11", "49 wide, not 48"),
        ("overview", 'kind = "donut"', 'kind = "cake"', "cake is no kind"),
        ("overview", 'field = "organization_id"', 'field = "tenant"', "no field tenant"),
        ("overview", 'field = "organization_id"', 'field = "actor.name.text"', "cannot be listed"),
        ("overview", 'search = "entries"', 'search = "entrees"', "no search entrees"),
        ("overview", 'to = "moderation"', 'to = "moderating"', "no dashboard moderating"),
        ("overview", 'data_view = "entries"', 'data_view = "events"', "no data view events"),
        ("overview", "time_slider", "time_sledge", "time_sledge is not known"),
        ("overview", '{ of = "count", label = "Events" }', '{ of = "sum", label = "Events" }', "is no figure"),
        (
            "overview",
            '{ of = "count", label = "Events" }',
            '{ of = "mean", field = "action", label = "E" }',
            "is no figure",
        ),
        ("overview", 'by = { field = "status", size = 2 }', 'by = { field = "status" }', "missing"),
        ("overview", 'filter = { exists = "event_type" }', 'filter = { field = "event_type" }', "a filter is"),
        ("integrity", 'field = "quarantine.reason"', 'field = "metadata_other"', "no field metadata_other"),
        ("searches", '"actor.id"', '"actor.nick"', "no field actor.nick"),
    ],
)
def test_what_cannot_be_is_refused(sources, name: str, old: str, new: str, expected: str) -> None:
    """The sentence names what is wrong."""
    edited(sources, name, old, new)
    with pytest.raises(SourceWrong, match=expected):
        saved_objects(load(sources), mappings(kibana.ROOT))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("above = 0", "above = 0\nbelow = 3", "either above or below"),
        ('window = "5m"', 'window = "soon"', "no duration"),
        ('time_field = "klyra.ingested_at"', 'time_field = "klyra.index"', "is no time"),
        ('kql = "quarantine.reference : *"', 'kql = "quarantine.raw : *"', "cannot be searched"),
        ('kql = "status : failure"', 'kql = "stature : failure"', "no field stature"),
        ('kql = "status : failure"', 'kql = "status failure"', "followed by"),
    ],
)
def test_a_rule_that_could_never_fire_is_refused(sources, old: str, new: str, expected: str) -> None:
    """The sentence names what is wrong."""
    edited(sources, "rules", old, new)
    with pytest.raises(SourceWrong, match=expected):
        rules(load(sources), mappings(kibana.ROOT))


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("", {"match_all": {}}),
        ("a : b", {"term": {"a": "b"}}),
        ('"a.b" : *', {"exists": {"field": "a.b"}}),
        ('a : "x y"', {"term": {"a": "x y"}}),
        ("a : x*", {"wildcard": {"a": "x*"}}),
        ("a >= 3", {"range": {"a": {"gte": "3"}}}),
        ("not a : b", {"bool": {"must_not": [{"term": {"a": "b"}}]}}),
        (
            "a : (b or c)",
            {"bool": {"should": [{"term": {"a": "b"}}, {"term": {"a": "c"}}], "minimum_should_match": 1}},
        ),
        (
            "a : b and not c : d or e : f",
            {
                "bool": {
                    "should": [
                        {"bool": {"filter": [{"term": {"a": "b"}}, {"bool": {"must_not": [{"term": {"c": "d"}}]}}]}},
                        {"term": {"e": "f"}},
                    ],
                    "minimum_should_match": 1,
                }
            },
        ),
    ],
)
def test_queries_mean_what_kibana_means(text: str, query: dict) -> None:
    """`not` binds strongest, then `and`, then `or`."""
    assert kql.compiled(text) == query


@pytest.mark.parametrize("text", ["a :", "a", "a : (b", "a : b c : d", 'a : "b', ": b", "a : b)"])
def test_what_is_no_query_is_refused(text: str) -> None:
    """Anything left over, or missing."""
    with pytest.raises(SourceWrong):
        kql.compiled(text)


def test_the_fields_of_a_query_are_found() -> None:
    """Through every kind of clause."""
    query = kql.compiled("a : * and not (b : x or c > 3) and d : e*")
    assert kql.fields_of(query) == {"a", "b", "c", "d"}


def test_check_names_a_file_that_somebody_edited(tmp_path, monkeypatch, capsys) -> None:
    """And writes nothing; without it the file is made again."""
    for folder in ("dashboards", "collectors/klyra_collector/store/elasticsearch/definitions", "retention_policies"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "docs" / "pictures").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr("kibana.__main__.ROOT", tmp_path)
    assert main([]) == 0
    edited_file = tmp_path / "dashboards" / "kibana" / "rules.json"
    edited_file.write_bytes(b"{}")
    capsys.readouterr()
    assert (main(["--check"]), capsys.readouterr().out) == (1, "dashboards/kibana/rules.json\n")
    assert edited_file.read_bytes() == b"{}"
    assert (main([]), main(["--check"])) == (0, 0)
    edited(tmp_path / "dashboards" / "kibana" / "sources", "overview", "width = 10", "width = 1")
    assert (main([]), "is 39 wide" in capsys.readouterr().err) == (1, True)


def test_pictures_are_of_the_dashboards() -> None:
    """Every title of a panel that has one in Kibana is in the picture."""
    made = generated(kibana.ROOT)
    for dashboard in load(kibana.ROOT / "dashboards" / "kibana" / "sources").dashboards.values():
        drawn = made[f"docs/pictures/kibana-{dashboard.name}.svg"].decode()
        titles = [panel.title for panel in dashboard.panels if panel.title and panel.kind != "metric"]
        assert not [title for title in titles if f">{title}<" not in drawn]


def test_yaml_holds_what_packages_need() -> None:
    """Nested mappings and lists, texts in quotes."""
    assert yaml({"a": [{"b": 1}, {"c": "x: y"}], "d": []}) == 'a:\n  -\n    b: 1\n  -\n    c: "x: y"\nd: []\n'
