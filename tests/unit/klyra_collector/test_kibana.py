"""What is brought into Kibana, and how its answers are understood, against a Kibana of our own."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from klyra_audit.errors import Halted, Paused, Rejected, RetryLater
from klyra_collector.errors import SecretUnavailable
from klyra_collector.kibana import (
    ImportFailed,
    Kibana,
    KibanaRefuses,
    KibanaUnreachable,
    KibanaUnsuitable,
    KibanaUrl,
    parse,
)
from klyra_collector.kibana_objects import rule_id, wanted
from support.certificates import Authority
from support.kibana_server import FakeKibana, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[FakeKibana]:
    """A running one."""
    with serving(FakeKibana()) as running:
        yield running


@pytest.fixture
def kibana(server: FakeKibana) -> Iterator[Kibana]:
    """Its default space."""
    with Kibana(parse(server.address)) as made:
        yield made


def answering(status: int, content: bytes = b"{}", **headers: str) -> Any:
    """Return what bends every answer to one."""
    return lambda _path, _status, _headers, _body: (status, headers, content)


class TestAddress:
    """`kibana+https://…`."""

    def test_credentials_are_references(self) -> None:
        """A base path stays, a last slash goes."""
        found = parse("kibana+https://kibana.example:5601/base/?user=ada&password=env:PASSWORD&ca=/ca.pem")
        assert found == KibanaUrl("https://kibana.example:5601/base", None, "ada", "env:PASSWORD", "/ca.pem")
        assert parse("kibana+http://127.0.0.1:5601?api_key=file:/key").api_key == "file:/key"

    @pytest.mark.parametrize(
        "url",
        [
            "https://kibana.example",
            "kibana+ftp://kibana.example",
            "kibana+https://",
            "kibana+https://ada:secret@kibana.example",
            "kibana+https://kibana.example?apikey=env:KEY",
            "kibana+https://kibana.example?user=ada",
            "kibana+https://kibana.example#app",
        ],
    )
    def test_anything_else_is_refused(self, url: str) -> None:
        """Without repeating it, since it may hold a secret."""
        with pytest.raises(Rejected) as caught:
            parse(url)
        assert (caught.value.code, "env:NAME" in caught.value.remedy, "secret" in str(caught.value)) == (
            "bad_url",
            True,
            False,
        )

    def test_a_secret_itself_is_refused(self) -> None:
        """It would stand in the history of a shell."""
        with pytest.raises(Rejected) as caught:
            parse("kibana+https://kibana.example?api_key=c2VjcmV0")
        assert (caught.value.code, "c2Vj" in str(caught.value)) == ("bad_reference", False)

    def test_a_credential_that_is_not_there_is_named(self, monkeypatch) -> None:
        """Before anything is sent."""
        monkeypatch.delenv("KIBANA_KEY", raising=False)
        with pytest.raises(SecretUnavailable, match="env:KIBANA_KEY"):
            Kibana(parse("kibana+https://kibana.example?api_key=env:KIBANA_KEY"))

    def test_an_authority_that_is_no_certificate_is_named(self, tmp_path) -> None:
        """It would otherwise be found out later, as something else."""
        (tmp_path / "ca.pem").write_text("no certificate")
        with pytest.raises(KibanaUnsuitable) as caught:
            Kibana(parse(f"kibana+https://kibana.example?ca={tmp_path / 'ca.pem'}"))
        assert (caught.value.code, caught.value.remedy) == ("bad_authority", "Correct ca=.")

    @pytest.mark.parametrize(
        ("query", "expected"),
        [("api_key=env:SECRET", "ApiKey s3cret"), ("user=ada&password=env:SECRET", "Basic YWRhOnMzY3JldA==")],
    )
    def test_we_say_who_we_are(self, server, monkeypatch, query: str, expected: str) -> None:
        """By either way."""
        monkeypatch.setenv("SECRET", "s3cret")
        server.authorization = expected
        with Kibana(parse(f"{server.address}?{query}")) as kibana:
            assert kibana.version() == "8.19.5"


class TestVersion:
    """Nothing is sent to what we do not know."""

    @pytest.mark.parametrize("number", ["8.19.0", "8.20.1", "9.0.0", "9.5.2"])
    def test_known_ones(self, server, kibana, number: str) -> None:
        """8.19 and later."""
        server.number = number
        assert kibana.version() == number

    @pytest.mark.parametrize("number", ["7.17.9", "8.18.4", "10.0.0"])
    def test_others_are_refused(self, server, kibana, number: str) -> None:
        """Saved objects are never read by an older one."""
        server.number = number
        with pytest.raises(KibanaUnsuitable, match=number) as caught:
            kibana.version()
        assert (caught.value.code, "8.19" in caught.value.remedy) == ("kibana_unsuitable", True)

    def test_who_is_not_signed_in_learns_no_version(self, server, kibana) -> None:
        """That is a matter of credentials."""
        server.number = None
        with pytest.raises(KibanaRefuses) as caught:
            kibana.version()
        assert (caught.value.code, "api_key" in caught.value.remedy) == ("kibana_refuses", True)

    @pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}"])
    def test_what_is_no_kibana_is_refused(self, server, kibana, content: bytes) -> None:
        """A page, or JSON that says nothing."""
        server.bend = answering(200, content)
        with pytest.raises(KibanaUnsuitable) as caught:
            kibana.version()
        assert (caught.value.code, "base path" in caught.value.remedy) == ("kibana_unsuitable", True)


class TestRefusals:
    """Typed by what the caller does next."""

    @pytest.mark.parametrize(
        ("status", "kind", "code"),
        [
            (302, Halted, "kibana_unsuitable"),
            (400, Rejected, "kibana_rejects"),
            (401, Paused, "kibana_refuses"),
            (403, Paused, "kibana_refuses"),
            (404, Rejected, "not_found"),
            (413, Rejected, "kibana_rejects"),
            (429, RetryLater, "kibana_unreachable"),
            (503, RetryLater, "kibana_unreachable"),
        ],
    )
    def test_by_status(self, server, kibana, status: int, kind: type[Exception], code: str) -> None:
        """With Kibana's own words."""
        server.bend = answering(status, b'{"message": "its own words"}', location="/login")
        with pytest.raises(kind) as caught:
            kibana.bring(wanted().ndjson)
        assert caught.value.code == code
        assert ("/login" if status == 302 else "its own words") in str(caught.value)

    def test_words_that_are_no_json(self, server, kibana) -> None:
        """As they are, cut short."""
        server.bend = answering(503, b"Kibana server is not ready yet")
        with pytest.raises(KibanaUnreachable, match="not ready yet"):
            kibana.version()

    def test_nobody_there(self) -> None:
        """Says so, and what to look at."""
        with Kibana(KibanaUrl("http://127.0.0.1:1")) as kibana, pytest.raises(KibanaUnreachable) as caught:
            kibana.version()
        assert (caught.value.code, "address" in caught.value.remedy) == ("kibana_unreachable", True)

    def test_without_kbn_xsrf_nothing_changes(self, server) -> None:
        """The server is as strict as Kibana: ours says it, so it works."""
        assert server.answer("PUT", "/api/security/role/x", {}, b"{}")[0] == 400
        with Kibana(parse(server.address)) as kibana:
            kibana.give_role("x", {})
        assert server.roles == {"x": {}}


class TestImport:
    """Only what Kibana says it has brought in is there."""

    def test_everything_is_brought_in_again_and_again(self, server, kibana) -> None:
        """Under the same ids, whatever somebody made of it."""
        file = wanted().ndjson
        assert (kibana.bring(file).written, kibana.bring(file).written) == (14, 14)
        assert len(server.objects["default"]) == 14

    def test_what_is_there_can_be_kept(self, server, kibana) -> None:
        """A conflict is then no failure; what is not there is brought in."""
        kibana.bring(wanted().ndjson)
        server.objects["default"]["klyra_audit-overview"]["attributes"]["title"] = "Ours"
        del server.objects["default"]["klyra_audit-moderation"]
        imported = kibana.bring(wanted().ndjson, overwrite=False)
        assert (imported.written, len(imported.kept)) == (1, 13)
        assert server.objects["default"]["klyra_audit-overview"]["attributes"]["title"] == "Ours"

    def test_a_failure_with_status_200_is_one(self, server, kibana) -> None:
        """It names what is not there, and what that leaves without."""
        server.refused["klyra_audit-search-entries"] = {"type": "unknown", "message": "document missing"}
        with pytest.raises(ImportFailed) as caught:
            kibana.bring(wanted().ndjson)
        assert caught.value.code == "import_failed"
        assert "12 of 14" in str(caught.value)
        assert "search klyra_audit-search-entries (unknown document missing)" in str(caught.value)
        assert "dashboard klyra_audit-overview (missing_references search klyra_audit-search-entries)" in str(
            caught.value
        )
        assert "Import again" in caught.value.remedy

    def test_many_faults_are_counted(self, server, kibana) -> None:
        """A message stays a message."""
        server.refused |= {each["id"]: {"type": "unsupported_type"} for each in wanted().objects}
        with pytest.raises(ImportFailed, match="and 9 more"):
            kibana.bring(wanted().ndjson)

    @pytest.mark.parametrize("content", [b'{"success": true, "successCount": 13}', b'{"success": false}'])
    def test_fewer_than_sent_is_a_failure(self, server, kibana, content: bytes) -> None:
        """Even where Kibana says nothing of it."""
        server.bend = answering(200, content)
        with pytest.raises(ImportFailed, match="does not say why"):
            kibana.bring(wanted().ndjson)

    def test_an_answer_that_is_none(self, server, kibana) -> None:
        """Nothing is believed."""
        server.bend = answering(200, b"")
        with pytest.raises(KibanaUnsuitable):
            kibana.bring(wanted().ndjson)


class TestSpace:
    """Each is a Kibana of its own."""

    def test_it_is_made_once(self, server) -> None:
        """And only the default one is always there."""
        with Kibana(parse(server.address), "acme") as kibana:
            assert (kibana.make_space(), kibana.make_space()) == (True, False)
            kibana.bring(wanted("acme").ndjson)
        assert (len(server.objects["acme"]), len(server.objects["default"])) == (14, 0)
        with Kibana(parse(server.address)) as kibana:
            assert not kibana.make_space()

    def test_rules_of_two_spaces_have_two_ids(self, server) -> None:
        """Kibana takes each id once."""
        for space in ("default", "acme"):
            with Kibana(parse(server.address), space) as kibana:
                kibana.make_space()
                for name, rule in wanted(space).rules.items():
                    assert kibana.watch(name, rule) == "made"
        assert len(server.rules["default"]) == len(server.rules["acme"]) == 8


class TestRules:
    """Ours are ours; what an operator does with them stays."""

    def test_a_rule_that_is_as_it_must_be_is_left_alone(self, server, kibana) -> None:
        """Made once, then kept."""
        ((name, rule), *_) = wanted().rules.items()
        assert (kibana.watch(name, rule), kibana.watch(name, rule)) == ("made", "kept")
        assert [method for method, _ in server.asked] == ["POST"]

    def test_a_change_keeps_the_operators_actions(self, server, kibana) -> None:
        """What Kibana adds to them is not sent back, since it would refuse it."""
        name = rule_id("default", "log-exported")
        rule = wanted().rules[name]
        kibana.watch(name, rule)
        there = server.rules["default"][name]
        there["actions"] = [{"group": "query matched", "id": "c1", "params": {}, "connector_type_id": ".email"}]
        there |= {"alert_delay": {"active": 3}, "notify_when": None, "enabled": False}
        there["params"]["threshold"] = [7]
        assert kibana.watch(name, rule) == "changed"
        changed = server.rules["default"][name]
        assert (changed["params"]["threshold"], changed["alert_delay"], changed["enabled"]) == (
            [0],
            {"active": 3},
            False,
        )
        assert [(each["id"], each["group"]) for each in changed["actions"]] == [("c1", "query matched")]

    def test_a_rule_that_kibana_refuses_is_an_error(self, kibana) -> None:
        """With its words."""
        rule = next(iter(wanted().rules.values()))
        with pytest.raises(Rejected, match="must contain") as caught:
            kibana.watch(rule_id("default", "x"), rule | {"params": rule["params"] | {"esQuery": "{}"}})
        assert caught.value.code == "kibana_rejects"


class TestOrganization:
    """One organization sees its own streams, and nothing of the collectors."""

    def test_only_its_streams_are_searched(self) -> None:
        """By data view, rules and role."""
        found = wanted("acme", "org_Acme")
        pattern = "klyra-audit-*-at-org_acme"
        titles = [each["attributes"]["title"] for each in found.objects if each["type"] == "index-pattern"]
        assert titles == [pattern]
        assert [rule["params"]["index"] for rule in found.rules.values()] == [[pattern]] * 3
        ((name, role),) = found.roles.items()
        assert (name, role["elasticsearch"]["indices"][0]["names"]) == ("klyra_audit_organization_acme", [pattern])
        assert role["kibana"][0]["spaces"] == ["acme"]

    def test_the_rest_leads_nowhere_else(self, server) -> None:
        """All references are in the bundle, and no link to the dashboard of the collectors is left."""
        found = wanted("default", "org_acme")
        assert "klyra_audit-integrity" not in found.ndjson.decode()
        with Kibana(parse(server.address)) as kibana:
            assert kibana.bring(found.ndjson).written == len(found.objects) == 9

    @pytest.mark.parametrize("organization_id", ["*", "acme", "org_*", "org_a,klyra-audit-startup", ""])
    def test_what_is_no_organization_is_refused(self, organization_id: str) -> None:
        """It would stand in a pattern of streams."""
        with pytest.raises(Rejected) as caught:
            wanted("default", organization_id)
        assert (caught.value.code, caught.value.remedy) == ("bad_organization", "It begins with org_.")


class TestRoles:
    """For people; the least that shows the dashboards."""

    def test_they_read_and_nothing_else(self) -> None:
        """And are of one space."""
        for name, role in wanted("acme").roles.items():
            assert name.endswith("_acme")
            assert role["elasticsearch"]["cluster"] == []
            for index in role["elasticsearch"]["indices"]:
                assert index["privileges"] == ["read", "view_index_metadata"]
                assert all(pattern.startswith("klyra-audit-") for pattern in index["names"])
            assert role["kibana"][0]["spaces"] == ["acme"]
        assert "$" not in json.dumps(wanted("acme").roles)


def test_a_certificate_of_nobody_we_know_is_refused(tmp_path) -> None:
    """The message names the setting; with it, all is well."""
    authority = Authority(tmp_path)
    files = authority.issue("127.0.0.1")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.certificate, files.key)
    with serving(FakeKibana(), tls) as server:
        with Kibana(parse(server.address)) as kibana, pytest.raises(KibanaRefuses) as caught:
            kibana.version()
        assert (caught.value.code, "ca=" in caught.value.remedy) == ("kibana_refuses", True)
        with Kibana(parse(f"{server.address}?ca={authority.certificate}")) as kibana:
            assert kibana.version() == "8.19.5"
