"""`klyra-audit setup elasticsearch` against a real server: made once, compared ever after, refused where not ours."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from klyra_collector.store.elasticsearch.api_keys import KeyFileMissing, make_keys
from klyra_collector.store.elasticsearch.connection import ClusterRefuses, connect, parse, request
from klyra_collector.store.elasticsearch.definitions import Retained, definitions
from klyra_collector.store.elasticsearch.privileges import KeyTooPowerful, KeyTooWeak, check_writer
from klyra_collector.store.elasticsearch.setup import SetupRefused, State, apply, check_effective, plan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from elasticsearch import Elasticsearch

    from support.elasticsearch import Node

POLICIES = [
    Retained("startup", 30),
    Retained("business", 90),
    Retained("enterprise", 365),
    Retained("enterprise-730d", 730),
]


@pytest.fixture(autouse=True)
def password(cluster, monkeypatch) -> None:
    """Where the URL's reference points."""
    monkeypatch.setenv("TESTS_PASSWORD", cluster.password)


@pytest.fixture
def administrator(cluster) -> Iterator[Elasticsearch]:
    """A client of the superuser."""
    with connect(parse(administrator_url(cluster))) as client:
        yield client


@pytest.fixture
def ready(administrator) -> None:
    """The cluster, set up."""
    make_ready(administrator)


def administrator_url(cluster: Node) -> str:
    """Return the URL by which the product reaches it as the superuser."""
    return f"elasticsearch+{cluster.url}?user=elastic&password=env:TESTS_PASSWORD"


def make_ready(client: Elasticsearch) -> None:
    """Do what the command does."""
    wanted = definitions(POLICIES)
    apply(client, plan(client, wanted), lambda _: None)
    check_effective(client, wanted)


def run(cluster: Node, *arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "klyra_collector", "setup", "elasticsearch", administrator_url(cluster)]
    return subprocess.run(
        [*command, "--data", str(data), *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def key_client(cluster: Node, path: Path) -> Elasticsearch:
    """Return a client with one of the keys."""
    return connect(parse(f"elasticsearch+{cluster.url}?api_key=file:{path}"))


def document(entry_id: str) -> dict[str, object]:
    """Return as much of an entry as the mapping wants."""
    return {"@timestamp": "2026-06-15T14:30:45.123456789Z", "id": entry_id, "metadata": {"client_ip": "198.51.100.7"}}


class TestCommand:
    """What somebody at the command line sees."""

    def test_a_second_run_changes_nothing(self, cluster, tmp_path) -> None:
        """A dry run only tells; the first run makes everything and the keys; the second finds it as it must be."""
        told = run(cluster, "--dry-run", data=tmp_path)
        assert (told.returncode, "klyra-audit-startup" in told.stdout) == (0, True)
        first = run(cluster, "--keys", str(tmp_path / "keys"), "--new-keys", data=tmp_path)
        assert first.returncode == 0, first.stderr
        second = run(cluster, "--keys", str(tmp_path / "keys"), data=tmp_path)
        assert (second.returncode, second.stdout.startswith("ready   0 of")) == (0, True), second.stdout
        assert second.stderr.count("kept    API key") == 3
        for name in ("writer", "reader", "sweeper"):
            assert stat.S_IMODE((tmp_path / "keys" / f"{name}.key").stat().st_mode) == 0o600

    def test_a_policy_that_nobody_has_yet_is_made_when_asked_for(self, cluster, tmp_path) -> None:
        """One that is on sale; another is refused with what is."""
        assert (
            "klyra-audit-enterprise-400d"
            in run(cluster, "--dry-run", "--policy", "enterprise-400d", data=tmp_path).stdout
        )
        refused = run(cluster, "--policy", "startup-400d", data=tmp_path)
        assert (refused.returncode, "startup plan keeps entries for 30 days" in refused.stderr) == (1, True)

    def test_printing_asks_nobody(self, tmp_path) -> None:
        """The requests are for Kibana's console, or for review."""
        command = [
            sys.executable,
            "-m",
            "klyra_collector",
            "setup",
            "elasticsearch",
            "--print",
            "--data",
            str(tmp_path),
        ]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        assert "PUT /_ilm/policy/klyra-audit-business\n{" in printed
        assert printed.rstrip().endswith("PUT /klyra-audit-ledger")
        serverless = subprocess.run([*command, "--serverless"], capture_output=True, text=True, check=True, timeout=60)
        assert "_ilm" not in serverless.stdout

    def test_a_wrong_password_is_said_as_such(self, cluster, tmp_path, monkeypatch) -> None:
        """With an exit status of its own: nothing was found wrong, it could not be done."""
        monkeypatch.setenv("TESTS_PASSWORD", "another")
        told = run(cluster, data=tmp_path)
        assert (told.returncode, "security_exception" in told.stderr) == (2, True)

    def test_without_a_cluster_it_says_how_to_name_one(self, tmp_path) -> None:
        """Neither given nor configured."""
        command = [sys.executable, "-m", "klyra_collector", "setup", "elasticsearch", "--data", str(tmp_path)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KLYRA_STORE")}
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
        assert (told.returncode, "store.url" in told.stderr) == (1, True)


@pytest.mark.usefixtures("ready")
class TestChanges:
    """What is there and is not as it must be."""

    def test_what_somebody_changed_is_shown_and_mended(self, administrator) -> None:
        """The difference names each value; a stream whose template changed rolls over to an index of the new kind."""
        path = "/_index_template/klyra-audit-startup"
        (found,) = request(administrator, "GET", path)["index_templates"]
        template = found["index_template"] | {"priority": 300}
        request(administrator, "PUT", path, template)
        before = request(administrator, "GET", "/_data_stream/klyra-audit-startup")["data_streams"][0]["generation"]
        changes = plan(administrator, definitions(POLICIES))
        (changed,) = [change for change in changes if change.state is not State.SAME]
        assert (changed.definition.name, changed.difference[-2:]) == (
            "klyra-audit-startup",
            ("-priority: 300", "+priority: 500"),
        )
        make_ready(administrator)
        after = request(administrator, "GET", "/_data_stream/klyra-audit-startup")["data_streams"][0]["generation"]
        assert after == before + 1
        assert {change.state for change in plan(administrator, definitions(POLICIES))} == {State.SAME}

    def test_what_is_not_ours_is_left_alone(self, administrator) -> None:
        """Somebody else's policy of our name is theirs."""
        path = "/_ilm/policy/klyra-audit-enterprise-500d"
        request(administrator, "PUT", path, {"policy": {"phases": {}}})
        with pytest.raises(SetupRefused, match="is not ours") as refused:
            plan(administrator, definitions([Retained("enterprise-500d", 500)]))
        assert (refused.value.code, bool(refused.value.remedy)) == ("setup_refused", True)

    def test_a_newer_version_is_left_alone(self, administrator) -> None:
        """An older program does not take back what a newer one has set up."""
        meta = {"managed_by": "klyra-audit", "version": 99}
        request(
            administrator, "PUT", "/_ilm/policy/klyra-audit-enterprise-501d", {"policy": {"_meta": meta, "phases": {}}}
        )
        with pytest.raises(SetupRefused, match="newer version"):
            plan(administrator, definitions([Retained("enterprise-501d", 501)]))

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"index.mode": "logsdb"}, "index.mode"),
            ({"index.lifecycle.name": "another"}, "index.lifecycle.name"),
        ],
    )
    def test_a_template_that_wins_over_ours_is_named(self, administrator, settings, reason) -> None:
        """What counts is what new indexes really get."""
        template = {
            "index_patterns": ["klyra-audit-business*"],
            "data_stream": {},
            "priority": 900,
            "composed_of": ["klyra-audit-entries"],
            "template": {"settings": {"index.lifecycle.name": "klyra-audit-business"} | settings},
        }
        request(administrator, "PUT", "/_index_template/somebody", template)
        try:
            with pytest.raises(SetupRefused, match=reason) as refused:
                check_effective(administrator, definitions(POLICIES))
            assert bool(refused.value.remedy)
        finally:
            request(administrator, "DELETE", "/_index_template/somebody")


@pytest.mark.usefixtures("ready")
class TestKeys:
    """What the keys may do, by what the server lets them."""

    def test_the_writer_adds_and_nothing_else(self, cluster, administrator, tmp_path) -> None:
        """It is neither let search nor delete nor overwrite; a repeat is a conflict; the mapping is closed."""
        made = {key.purpose: key.path for key in make_keys(administrator, tmp_path / "keys", renew=True)}
        with key_client(cluster, made["writer"]) as writer:
            check_writer(writer)
            line = '{"create":{"_id":"one"}}\n'
            bulk = f'{line}{{"@timestamp":"2026-06-15T14:30:45.123456789Z","id":"log_1"}}\n'
            answers = [writer.bulk(operations=bulk.encode(), index="klyra-audit-startup").body for _ in range(2)]
            assert [answer["items"][0]["create"]["status"] for answer in answers] == [201, 409]
            unknown = bulk.replace('"id":', '"unknown":').replace('"one"', '"two"')
            (item,) = writer.bulk(operations=unknown.encode(), index="klyra-audit-startup").body["items"]
            assert item["create"]["error"]["type"] == "strict_dynamic_mapping_exception"
            for method, path in (
                ("GET", "/klyra-audit-startup/_search"),
                ("POST", "/klyra-audit-startup/_rollover"),
                ("DELETE", "/_data_stream/klyra-audit-startup"),
            ):
                with pytest.raises(ClusterRefuses):
                    request(writer, method, path)

    def test_a_writer_that_could_do_more_is_refused(self, cluster, administrator, tmp_path) -> None:
        """A log that its writer could erase is none; one that may not write is of no use either."""
        made = {key.purpose: key.path for key in make_keys(administrator, tmp_path / "keys", renew=True)}
        with pytest.raises(KeyTooPowerful, match="delete") as powerful:
            check_writer(administrator)
        with key_client(cluster, made["sweeper"]) as sweeper, pytest.raises(KeyTooPowerful, match="delete"):
            check_writer(sweeper)
        with key_client(cluster, made["reader"]) as reader, pytest.raises(KeyTooWeak, match="create_doc") as weak:
            check_writer(reader)
        assert [error.value.code for error in (powerful, weak)] == ["key_too_powerful", "key_too_weak"]
        assert all("--keys" in error.value.remedy for error in (powerful, weak))

    def test_a_key_whose_secret_is_lost_is_not_silently_replaced(self, administrator, tmp_path) -> None:
        """The one that is there may be in use; another is made only when asked for."""
        make_keys(administrator, tmp_path / "keys", renew=True)
        with pytest.raises(KeyFileMissing) as missing:
            make_keys(administrator, tmp_path / "elsewhere")
        assert (missing.value.code, "--new-keys" in missing.value.remedy) == ("key_file_missing", True)
