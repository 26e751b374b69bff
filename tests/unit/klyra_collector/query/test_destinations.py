"""`/v1/destinations` over HTTP."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from klyra_collector.destination_kinds import make_destination
from klyra_collector.query.destinations import DestinationRules
from klyra_collector.self_service.checking import Rules
from klyra_collector.self_service.kinds import KINDS
from klyra_collector.self_service.secret_box import SecretBox
from klyra_collector.self_service_settings import VENDOR_HOSTS
from support.api import ACME, OPERATOR, OTHER, Api, assert_problem, running_api

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

BOX = SecretBox(b"\x07" * 32)
TOKEN = "t0ken-that-nobody-may-see"
WISH = {
    "name": "splunk",
    "kind": "splunk",
    "endpoint": "https://http-inputs-acme.splunkcloud.com",
    "options": {"index": "klyra"},
    "secrets": {"token": TOKEN},
    "filters": {"event_types": ["user.added"]},
}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """An API whose follower has run."""
    rules = DestinationRules(Rules(VENDOR_HOSTS, make_destination), patience_seconds=0.5)
    with running_api(tmp_path, destinations=rules) as made:
        made.registry.destinations.publish_sealing_key(BOX.public)
        yield made


@pytest.fixture
def admin(api: Api) -> Iterator[httpx.Client]:
    """An administrator of an organization on the Enterprise plan."""
    with api.client("admin", organization_id=OTHER) as made:
        yield made


def made(admin: httpx.Client, **members: Any) -> dict[str, Any]:
    """Return a destination that was set up."""
    answer = admin.post("/v1/destinations", json=WISH | members)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_what_is_set_up_is_shown_without_its_secrets(api, admin) -> None:
    """With everything else, and no state before the follower has one."""
    shown = made(admin)
    assert shown == admin.get(f"/v1/destinations/{shown['id']}").json()
    assert admin.get("/v1/destinations").json() == {"data": [shown]}
    assert (shown["name"], shown["kind"], shown["endpoint"]) == ("splunk", "splunk", WISH["endpoint"])
    assert shown["filters"] == {"event_types": ["user.added"], "statuses": [], "actors": []}
    assert (shown["secrets"], shown["state"], shown["paused"]) == ({"token": {"is_set": True}}, "starting", False)
    [stored] = api.registry.destinations.all()
    assert BOX.open(stored.spec.secrets["token"], shown["id"], "token") == TOKEN
    [entry] = api.recorded("siem_destination.created", OTHER)
    assert entry["actor"]["type"] == "api_key"
    assert entry["metadata"]["user_agent"] == "tests/1"


def test_a_state_is_shown(api, admin) -> None:
    """As the follower has told it."""
    one = made(admin)
    api.registry.destinations.report(
        one["id"],
        {
            "state": "retrying",
            "since_us": 1_700_000_000_000_000,
            "lag_entries": 7,
            "lag_seconds": 3.5,
            "succeeded_us": 0,
            "error": "503: Server is busy",
            "error_us": 1_700_000_000_000_000,
            "entries": 5,
            "dead_letters": 1,
            "window_left_seconds": 60,
        },
    )
    shown = admin.get(f"/v1/destinations/{one['id']}").json()
    assert (shown["state"], shown["lag_entries"], shown["delivered"], shown["dead_letters"]) == ("retrying", 7, 5, 1)
    assert shown["last_error"] == {"at": "2023-11-14T22:13:20.000Z", "reason": "503: Server is busy"}
    assert (shown["last_success"], shown["since"]) == (None, "2023-11-14T22:13:20.000Z")


def test_it_is_changed_paused_and_deleted(api, admin) -> None:
    """Each change an entry."""
    one = made(admin)
    path = f"/v1/destinations/{one['id']}"
    assert admin.patch(path, json={"paused": True}).json()["paused"] is True
    assert admin.patch(path, json={"format": "ecs", "filters": {}}).json()["format"] == "ecs"
    changed = admin.patch(path, json={"options": {"index": "two"}, "secrets": {"token": "another"}})
    assert changed.json()["options"] == {"index": "two"}
    assert admin.delete(path).status_code == 204
    assert_problem(admin.get(path), 404, "unknown_destination")
    assert_problem(admin.delete(path), 404, "unknown_destination")
    changes = [entry["metadata"]["changes"] for entry in api.recorded("siem_destination.updated", OTHER)]
    assert changes == [["paused"], ["format", "filters"], ["options", "secrets"]]
    assert len(api.recorded("siem_destination.deleted", OTHER)) == 1


def test_a_stored_secret_is_not_sent_elsewhere(api, admin) -> None:
    """Who changes the endpoint gives the secrets again."""
    one = made(admin)
    answer = admin.patch(f"/v1/destinations/{one['id']}", json={"endpoint": "https://mallory.splunkcloud.com"})
    assert_problem(answer, 400, "secrets_needed", parameter="secrets")
    assert api.registry.destinations.get(OTHER, one["id"]).spec.endpoint == WISH["endpoint"]


@pytest.mark.parametrize(
    ("members", "status", "code", "parameter"),
    [
        ({"endpoint": "https://169.254.169.254/latest"}, 400, "host_not_allowed", "endpoint"),
        ({"kind": "splonk"}, 400, "bad_destination", "kind"),
        ({"name": "../x"}, 400, "bad_destination", "name"),
        ({"secrets": {}}, 400, "bad_destination", "secrets"),
        ({"options": {"index": 7}}, 400, "bad_destination", "options"),
        ({"name": None}, 400, "invalid_parameter", "name"),
        ({"endpoint": None}, 400, "invalid_parameter", "endpoint"),
        ({"filters": {"statuses": ["maybe"]}}, 400, "invalid_parameter", None),
        ({"colour": "red"}, 400, "unknown_parameter", "colour"),
    ],
)
def test_what_cannot_be_set_up_is_told(api, admin, members, status, code, parameter) -> None:
    """Naming the member, never repeating a secret; nothing is kept."""
    answer = admin.post("/v1/destinations", json=WISH | members)
    found = assert_problem(answer, status, code)
    assert parameter is None or found["parameter"] == parameter
    assert TOKEN not in answer.text
    assert api.registry.destinations.all() == []


def test_a_name_is_taken_once(admin) -> None:
    """409, with another way."""
    made(admin)
    assert_problem(admin.post("/v1/destinations", json=WISH), 409, "destination_exists")


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", ""), ("GET", "/dst-x"), ("POST", "/dst-x/test")])
def test_a_plan_without_destinations(api, method, path) -> None:
    """403 names the plan and those that have them."""
    with api.client("admin") as startup:
        answer = startup.request(
            method, f"/v1/destinations{path}", json=WISH if method == "POST" and not path else None
        )
    found = assert_problem(answer, 403, "destinations_not_in_plan", plan="startup")
    assert "enterprise" in found["remedy"]


def test_whoever_has_left_the_plan_takes_its_secrets_along(api, admin) -> None:
    """Deleting is for every plan; it cannot be told from another organization's."""
    one = made(admin)
    api.registry.set_plan(OTHER, "business", by=OPERATOR)
    assert_problem(admin.get("/v1/destinations"), 403, "destinations_not_in_plan", plan="business")
    assert admin.delete(f"/v1/destinations/{one['id']}").status_code == 204
    assert api.registry.destinations.all() == []
    assert_problem(admin.delete(f"/v1/destinations/{one['id']}"), 404, "unknown_destination")


def test_it_takes_an_administrator(api) -> None:
    """Who may only read may not see where entries go."""
    with api.client("read", "export", organization_id=OTHER) as reader:
        assert_problem(reader.get("/v1/destinations"), 403, "scope_missing")
        assert_problem(reader.post("/v1/destinations", json=WISH), 403, "scope_missing")


def test_the_operator_names_the_organization(api, admin) -> None:
    """The organization is told that the operator has looked."""
    one = made(admin)
    with api.client("admin", organization_id=None) as operator:
        assert_problem(operator.get("/v1/destinations"), 400, "organization_missing")
        found = operator.get("/v1/destinations", params={"organization_id": OTHER}).json()
        assert [item["id"] for item in found["data"]] == [one["id"]]
        assert_problem(
            operator.get("/v1/destinations", params={"organization_id": ACME}), 403, "destinations_not_in_plan"
        )
    assert len(api.recorded("operator.accessed", OTHER)) == 1


def test_before_a_follower_has_run_nothing_secret_is_taken(tmp_path) -> None:
    """503: nobody could open it."""
    rules = DestinationRules(Rules(VENDOR_HOSTS, make_destination))
    with running_api(tmp_path, destinations=rules) as api, api.client("admin", organization_id=OTHER) as admin:
        assert_problem(admin.post("/v1/destinations", json=WISH), 503, "no_follower")


def test_a_server_without_self_service_says_so(tmp_path) -> None:
    """503 names who can help."""
    with running_api(tmp_path) as api, api.client("admin", organization_id=OTHER) as admin:
        assert_problem(admin.get("/v1/destinations"), 503, "destinations_elsewhere")


class TestTrials:
    """A test event, which the follower sends."""

    def test_the_vendors_answer_is_shown(self, api, admin) -> None:
        """As soon as the follower has it."""
        one = made(admin)
        answer = {"outcome": "not_let_in", "status": "403/4", "answer": "Invalid token", "event_id": "log_x"}

        def follow() -> None:
            while not (waiting := api.registry.destinations.pending_trials()):
                time.sleep(0.01)
            api.registry.destinations.answer_trial(waiting[0][0], answer)

        follower = threading.Thread(target=follow)
        follower.start()
        assert admin.post(f"/v1/destinations/{one['id']}/test").json() == answer
        follower.join()

    def test_no_answer_is_told_in_time(self, admin) -> None:
        """504 with what it may be."""
        one = made(admin)
        assert_problem(admin.post(f"/v1/destinations/{one['id']}/test"), 504, "no_trial_answer")

    def test_of_none(self, admin) -> None:
        """404."""
        assert_problem(admin.post("/v1/destinations/dst-none/test"), 404, "unknown_destination")


def test_kinds_say_what_they_ask_for(admin) -> None:
    """What a form is made of."""
    found = admin.get("/v1/destination-kinds").json()["data"]
    assert [one["kind"] for one in found] == [kind.name for kind in KINDS]
    splunk = found[0]
    assert splunk["fields"][0] == {
        "name": "token",
        "label": "Token",
        "type": "secret",
        "required": True,
        "help": "Of the HTTP Event Collector, allowed to write to the index.",
    }
    assert (found[2]["endpoint"]["is_secret"], found[-1]["formats"]) == (True, ["native"])
