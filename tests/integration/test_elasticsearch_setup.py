"""`klyra-audit setup elasticsearch` against a real server: made once, compared ever after, refused where not ours."""

from __future__ import annotations

import copy
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from klyra_audit.errors import Rejected
from klyra_collector.store.elasticsearch.api_keys import ADMINISTRATOR, KeyFileMissing, make_keys
from klyra_collector.store.elasticsearch.condition import Kept, kept
from klyra_collector.store.elasticsearch.connection import ClusterRefuses, connect, parse, request
from klyra_collector.store.elasticsearch.definitions import Retained, definitions, flattened
from klyra_collector.store.elasticsearch.effective import check_templates, make_ready, outdated_streams, update_indexes
from klyra_collector.store.elasticsearch.privileges import KeyTooPowerful, KeyTooWeak, check_writer
from klyra_collector.store.elasticsearch.setup import SetupRefused, State, apply, plan

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
    set_up(administrator)


def administrator_url(cluster: Node) -> str:
    """Return the URL by which the product reaches it as the superuser."""
    return f"elasticsearch+{cluster.url}?user=elastic&password=env:TESTS_PASSWORD"


def set_up(client: Elasticsearch) -> list[str]:
    """Do what the command does, and return which indexes were brought up to date."""
    updated: list[str] = []
    make_ready(client, plan(client, definitions(POLICIES)), lambda _: None, updated.append)
    return updated


def run(cluster: Node, *arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "klyra_collector", "setup", "elasticsearch", administrator_url(cluster)]
    return subprocess.run(
        [*command, "--data", str(data), *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def run_print(*arguments: str, data: Path, settings: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command where it asks no cluster."""
    command = [sys.executable, "-m", "klyra_collector", "setup", "elasticsearch", "--print", "--data", str(data)]
    environment = os.environ | (settings or {})
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, timeout=120, env=environment
    )


def key_client(cluster: Node, path: Path) -> Elasticsearch:
    """Return a client with one of the keys."""
    return connect(parse(f"elasticsearch+{cluster.url}?api_key=file:{path}"))


def newest_index(client: Elasticsearch, stream: str) -> str:
    """Return the index that a stream writes to."""
    (found,) = request(client, "GET", f"/_data_stream/{stream}")["data_streams"]
    return found["indices"][-1]["index_name"]


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

    @pytest.mark.parametrize("policy", ["enterprise-400d", "enterprise-45d"])
    def test_a_policy_that_nobody_has_yet_is_made_when_asked_for(self, tmp_path, policy) -> None:
        """One that is on sale, or a length to which entries of a shorter plan were extended."""
        printed = run_print("--policy", policy, data=tmp_path).stdout
        for path in ("_ilm/policy", "_index_template", "_data_stream"):
            assert f"PUT /{path}/klyra-audit-{policy}\n" in printed

    @pytest.mark.parametrize(
        ("policy", "reason"),
        [
            ("startup-400d", "startup plan keeps entries for 30 days"),
            ("enterprise-0d", "enterprise plan keeps"),
            ("gold", "There is no plan gold"),
            ("logs-*", "is no retention policy"),
        ],
    )
    def test_a_policy_that_is_not_on_sale_is_refused(self, tmp_path, policy, reason) -> None:
        """With what is."""
        refused = run_print("--policy", policy, data=tmp_path)
        assert (refused.returncode, reason in refused.stderr) == (1, True), refused.stderr

    def test_organizations_with_streams_of_their_own_are_those_of_the_settings_and_those_given(self, tmp_path) -> None:
        """One for each policy; ids that would share one, or fit into the pattern of another's role, are refused."""
        settings = {"KLYRA_STORE__ELASTICSEARCH__DEDICATED_STREAMS": '["org_B"]'}

        def told(organization_id: str) -> subprocess.CompletedProcess[str]:
            return run_print("--dedicated-stream", organization_id, data=tmp_path, settings=settings)

        printed = told("org_a").stdout
        for name in ("startup-at-org_a", "enterprise-at-org_a", "startup-at-org_b"):
            assert f"PUT /_data_stream/klyra-audit-{name}\n" in printed
        for wrong in ("org_b", "acme", "org_x-at-org_a", "org_x-AT-org_a"):
            refused = told(wrong)
            assert (refused.returncode, "data stream of its own" in refused.stderr) == (1, True)

    def test_printing_asks_nobody(self, tmp_path) -> None:
        """The requests are for Kibana's console, or for review."""
        printed = run_print(data=tmp_path).stdout
        assert "PUT /_ilm/policy/klyra-audit-business\n{" in printed
        assert printed.rstrip().endswith("PUT /klyra-audit-ledger")
        serverless = run_print("--serverless", data=tmp_path)
        assert "PUT /_data_stream/klyra-audit-business" in serverless.stdout
        assert "_ilm" not in serverless.stdout

    def test_printing_makes_no_keys(self, tmp_path) -> None:
        """What was asked for and is not done is said, and no folder is left."""
        refused = run_print("--keys", str(tmp_path / "keys"), data=tmp_path)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "Leave --keys out" in refused.stderr
        assert not (tmp_path / "keys").exists()

    def test_a_configuration_of_another_place_is_taken(self, tmp_path) -> None:
        """The cluster, its streams and the data directory that `serve --config` would take."""
        config = tmp_path / "our.toml"
        text = f"data = '{tmp_path}'\n[store]\nurl = 'elasticsearch+http://127.0.0.1:9'\n"
        config.write_text(f"{text}[store.elasticsearch]\ndedicated_streams = ['org_b']\n")
        command = [sys.executable, "-m", "klyra_collector", "setup", "elasticsearch", "--config", str(config)]
        printed = subprocess.run([*command, "--print"], capture_output=True, text=True, check=True, timeout=60)
        assert "PUT /_data_stream/klyra-audit-startup-at-org_b\n" in printed.stdout
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (asked.returncode, "does not answer" in asked.stderr) == (2, True)

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
        """The difference names each value."""
        path = "/_index_template/klyra-audit-startup"
        (found,) = request(administrator, "GET", path)["index_templates"]
        request(administrator, "PUT", path, found["index_template"] | {"priority": 300})
        changes = plan(administrator, definitions(POLICIES))
        (changed,) = [change for change in changes if change.state is not State.SAME]
        assert (changed.definition.name, changed.difference[-2:]) == (
            "klyra-audit-startup",
            ("-priority: 300", "+priority: 500"),
        )
        assert set_up(administrator) == []
        assert {change.state for change in plan(administrator, definitions(POLICIES))} == {State.SAME}

    def test_a_stream_of_an_earlier_mapping_gets_a_new_index(self, administrator) -> None:
        """Templates are for new indexes alone; so it is even if a run died between the template and the rollover."""
        path = "/_component_template/klyra-audit-entries"
        (found,) = request(administrator, "GET", path)["component_templates"]
        earlier = copy.deepcopy(found["component_template"])
        earlier["template"]["mappings"]["properties"]["schema"] = {"type": "keyword", "index": False}
        request(administrator, "PUT", path, earlier)
        for stream in ("klyra-audit-startup", "klyra-audit-held"):
            request(administrator, "POST", f"/{stream}/_rollover")
        foreseen = outdated_streams(plan(administrator, definitions(POLICIES)))
        assert {"klyra-audit-startup", "klyra-audit-held"} <= set(foreseen)
        assert not any("quarantine" in name for name in foreseen)
        apply(administrator, plan(administrator, definitions(POLICIES)), lambda _: None)
        told = set_up(administrator)
        assert [line.split(":")[0] for line in told] == [
            "new index of klyra-audit-startup",
            "new index of klyra-audit-held",
        ]
        assert set_up(administrator) == []

    def test_an_index_that_no_policy_would_delete_is_named(self, administrator) -> None:
        """It would keep its entries for ever, and nobody would know."""
        backing = newest_index(administrator, "klyra-audit-business")
        path = f"/{backing}/_settings"
        request(administrator, "PUT", path, {"index.lifecycle.name": None})
        request(administrator, "POST", "/klyra-audit-business/_rollover")
        with pytest.raises(SetupRefused, match=f"{backing}.* lifecycle policy None") as refused:
            update_indexes(administrator, definitions(POLICIES), lambda _: None)
        method, _, remedy = refused.value.remedy.partition(" ")
        assert (method, remedy) == ("PUT", f'{path} {{"index.lifecycle.name": "klyra-audit-business"}}')
        request(administrator, "PUT", path, {"index.lifecycle.name": "klyra-audit-business"})
        update_indexes(administrator, definitions(POLICIES), lambda _: None)

    def test_the_ledgers_index_gains_what_its_template_gains(self, administrator) -> None:
        """It is never rolled over; a mapping that cannot become ours is somebody else's."""
        wanted = definitions(POLICIES)
        path = "/_index_template/klyra-audit-ledger"
        (found,) = request(administrator, "GET", path)["index_templates"]
        template = copy.deepcopy(found["index_template"])
        template["template"]["mappings"]["properties"]["further"] = {"type": "keyword"}
        told: list[str] = []
        request(administrator, "PUT", path, template)
        update_indexes(administrator, wanted, told.append)
        assert told == ["mapping of klyra-audit-ledger"]
        template["template"]["mappings"]["properties"]["further"] = {"type": "long"}
        request(administrator, "PUT", path, template)
        with pytest.raises(SetupRefused, match="cannot become ours") as refused:
            update_indexes(administrator, wanted, told.append)
        assert (refused.value.code, bool(refused.value.remedy)) == ("setup_refused", True)
        request(administrator, "DELETE", "/klyra-audit-ledger")
        set_up(administrator)

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
                check_templates(administrator, definitions(POLICIES))
            assert bool(refused.value.remedy)
        finally:
            request(administrator, "DELETE", "/_index_template/somebody")


@pytest.mark.usefixtures("ready")
def test_the_oldest_entry_of_a_policy_is_found(administrator) -> None:
    """Over all streams and indexes; what a legal hold keeps is not overdue."""
    today = 20_000
    for number, (stream, sealed, expires, is_held) in enumerate(
        [
            ("klyra-audit-startup", today - 32, today - 1, False),
            ("klyra-audit-startup", today - 31, today, False),
            ("klyra-audit-quarantine-startup", today - 40, today - 9, False),
            ("klyra-audit-held", today - 400, today - 369, True),
        ]
    ):
        place = {"policy": "tests", "ingested_at": sealed * 86_400_000, "expire_day": expires, "held": is_held}
        source = {"@timestamp": "2026-06-15T14:30:45Z", "klyra": place}
        request(administrator, "PUT", f"/{stream}/_create/kept-{number}?refresh=true", source)
    (found,) = [one for one in kept(administrator, (today * 86_400 + 43_200) * 1_000_000) if one.policy == "tests"]
    assert found == Kept(policy="tests", documents=3, oldest_days=40.5, overdue=2)


class TestLifecyclePolicies:
    """What the server's own parser says of lifecycle policies."""

    @pytest.mark.parametrize("name", [item.name for item in definitions(POLICIES) if item.kind == "lifecycle policy"])
    def test_each_is_understood(self, administrator, name) -> None:
        """Every member that we send comes back, so nothing of it was passed over."""
        (wanted,) = [item for item in definitions(POLICIES) if item.kind == "lifecycle policy" and item.name == name]
        request(administrator, "PUT", wanted.path, wanted.body)
        stored = request(administrator, "GET", wanted.path)[name]["policy"]
        assert dict(flattened(wanted.body["policy"])).items() <= dict(flattened(stored)).items()

    @pytest.mark.parametrize(
        ("phases", "reason"),
        [
            ({"hot": {"actions": {"rollover": {"max_agee": "22h"}}}}, "max_agee"),
            ({"hot": {"actions": {"rollover": {}}}}, "At least one"),
            ({"hot": {"actions": {"forcemerge": {"max_num_segments": 1}}}}, "forcemerge"),
            ({"cool": {"actions": {}}}, "cool"),
            ({"warm": {"min_age": "10d", "actions": {}}, "delete": {"min_age": "5d", "actions": {"delete": {}}}}, "5d"),
            ({"delete": {"min_age": "30x", "actions": {"delete": {}}}}, "30x"),
        ],
    )
    def test_a_wrong_one_is_refused(self, administrator, phases, reason) -> None:
        """The parser has teeth: what it accepts of ours, it has looked at."""
        with pytest.raises(Rejected, match=reason):
            request(administrator, "PUT", "/_ilm/policy/klyra-audit-tests", {"policy": {"phases": phases}})


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

    @pytest.mark.parametrize(
        ("names", "privileges", "found"),
        [
            (["klyra-audit-startup"], ["delete"], "delete"),
            ([".ds-klyra-audit-*"], ["delete_index"], "delete_index"),
            (["klyra-audit-*"], ["manage_ilm"], "manage_ilm"),
            (["klyra-audit-ledger"], ["index"], "index"),
        ],
    )
    def test_a_right_on_a_part_is_found(self, cluster, administrator, tmp_path, names, privileges, found) -> None:
        """A right that does not cover the whole pattern, or is on the indexes behind a stream, is one nevertheless."""
        writer = {"names": ["klyra-audit-*"], "privileges": ["create_doc"]}
        roles = {"tests": {"indices": [writer, {"names": names, "privileges": privileges}]}}
        made = request(administrator, "POST", "/_security/api_key", {"name": "tests", "role_descriptors": roles})
        (tmp_path / "key").write_text(made["encoded"])
        with key_client(cluster, tmp_path / "key") as writer, pytest.raises(KeyTooPowerful, match=rf"\b{found}\b"):
            check_writer(writer, ["klyra-audit-startup"])

    def test_the_administrators_key_sets_up_and_sees_no_entry(self, cluster, administrator, tmp_path) -> None:
        """What is set up once by a superuser is kept up to date by a key that can read and write nothing."""
        (made,) = make_keys(administrator, tmp_path / "keys", [ADMINISTRATOR], renew=True)
        with key_client(cluster, made.path) as own:
            wanted = definitions([*POLICIES, Retained("enterprise-401d", 401)], dedicated=["org_ACME"])
            make_ready(own, plan(own, wanted), lambda _: None, lambda _: None)
            assert {change.state for change in plan(own, wanted)} == {State.SAME}
            for method, path, body in (
                ("GET", "/klyra-audit-startup/_search", None),
                ("POST", "/klyra-audit-startup/_doc", document("log_1")),
                ("POST", "/_security/api_key", {"name": "another"}),
            ):
                with pytest.raises(ClusterRefuses):
                    request(own, method, path, body)
        answer = request(administrator, "GET", "/_data_stream/klyra-audit-enterprise-401d-at-org_acme")
        assert answer["data_streams"][0]["template"] == "klyra-audit-enterprise-401d"

    def test_a_key_whose_secret_is_lost_is_not_silently_replaced(self, administrator, tmp_path) -> None:
        """The one that is there may be in use; another is made only when asked for."""
        make_keys(administrator, tmp_path / "keys", renew=True)
        with pytest.raises(KeyFileMissing) as missing:
            make_keys(administrator, tmp_path / "elsewhere")
        assert (missing.value.code, "--new-keys" in missing.value.remedy) == ("key_file_missing", True)
