"""The example moderation service with the real emitter and a real collector: what it does is what the ledger says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from klyra_audit import AuditEmitter, Halted, Paused, RetryLater, SpoolOptions
from klyra_audit.catalog import Catalog
from klyra_audit.format import canonical, sections
from klyra_audit.format.leaf import Kind
from klyra_audit.validation import Validator
from support.collector import ACME, Running, make_keys, start
from support.moderation import Notebook, running_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWNER = {"X-User-Id": "usr_owner"}
ADDRESS = {"X-Forwarded-For": "2001:db8::7", "User-Agent": "Mozilla/5.0 (tests)"}
MODERATIONS, KEYS, WEBHOOKS = "/v1/moderations", "/v1/api-keys", "/v1/webhooks"
FLAGGED = {"text": "Shut up, you STUPID idiot; nobody likes you!"}


@dataclass
class Service:
    """A running service, and the collector behind it."""

    collector: Running
    client: httpx.Client
    emitter: AuditEmitter

    def call(self, method: str, path: str, body: dict | None = None, *, caller: dict = OWNER) -> httpx.Response:
        """Make a request, as the owner unless told otherwise."""
        return self.client.request(method, path, json=body, headers=caller | ADDRESS)

    def made(self, path: str, body: dict | None = None, *, caller: dict = OWNER) -> dict[str, Any]:
        """Make something that must succeed, and return it."""
        response = self.call("POST", path, body, caller=caller)
        assert response.status_code == 201, response.text
        return response.json()

    def key(self) -> dict[str, str]:
        """Return the header of a fresh API key."""
        return {"Authorization": f"Bearer {self.made(KEYS, {'name': 'Tests'})['key']}"}

    def member(self, role: str) -> dict[str, str]:
        """Have somebody join, and return the header by which they are known."""
        invited = self.made("/v1/invitations", {"email": f"{role}@example.com", "name": role, "role": role})
        self.made(f"/v1/invitations/{invited['token']}/accept")
        return {"X-User-Id": invited["id"]}

    def entries(self, event_type: str = "") -> list[dict[str, Any]]:
        """Return the sealed event documents that came from the service, of one type or all."""
        assert self.emitter.flush()
        found = [
            sections.join(record.body.sections)
            for record in self.collector.sealed()
            if record.leaf.kind == Kind.EVENT and record.leaf.emitter
        ]
        return [document for document in found if document["event_type"].startswith(event_type)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests; each makes what it needs."""
    root = tmp_path_factory.mktemp("service") / "data"
    collector = start(root, make_keys(root))
    try:
        with (
            AuditEmitter(
                collector.url, api_key=collector.keys["bound"], organization_id=ACME, emitter_id="api-1"
            ) as emitter,
            running_service(emitter) as url,
            httpx.Client(base_url=url, timeout=30) as client,
        ):
            yield Service(collector, client, emitter)
    finally:
        collector.terminate()


def test_every_action_is_one_sealed_entry_of_its_type(service: Service) -> None:
    """Used once in every way, the service seals the product's 15 types, each valid for its schema, in order."""
    before = len(service.entries())
    key = service.made(KEYS, {"name": "Production API Key"})
    program = {"Authorization": f"Bearer {key['key']}"}
    moderation = service.made(MODERATIONS, FLAGGED, caller=program)
    path = f"{MODERATIONS}/{moderation['id']}"
    service.made(f"{path}/appeals", {"reason": "It was a quotation."}, caller=program)
    assert service.call("PUT", f"{path}/decision", {"decision": "approved", "reason": "So it was."}).status_code == 200
    webhook = service.made(WEBHOOKS, {"url": "https://hooks.example.com/a"})
    assert service.call("PATCH", f"{WEBHOOKS}/{webhook['id']}", {"events": ["moderation.appealed"]}).is_success
    assert service.call("DELETE", f"{WEBHOOKS}/{webhook['id']}").status_code == 204
    user = service.member("viewer")["X-User-Id"]
    assert service.call("PUT", f"/v1/users/{user}/role", {"role": "moderator"}).is_success
    assert service.call("DELETE", f"/v1/users/{user}").status_code == 204
    assert service.call("PATCH", "/v1/settings", {"flag_threshold": "0.50"}).is_success
    assert service.call("DELETE", f"{KEYS}/{key['id']}").status_code == 204

    entries = service.entries()[before:]
    assert [entry["event_type"] for entry in entries] == [
        *("api_key.created", "moderation.created", "moderation.completed", "moderation.flagged"),
        *("moderation.appealed", "moderation.overridden", "webhook.created", "webhook.updated", "webhook.deleted"),
        *("user.invited", "user.added", "role.assigned", "user.removed", "settings.updated", "api_key.revoked"),
    ]
    catalog = Catalog.load()
    product = {*catalog.names("moderation"), *catalog.names("administrative")}
    assert {entry["event_type"] for entry in entries} == product
    validator = Validator(catalog)
    for entry in entries:
        validator.check(entry, canonical.encode(entry), now_us=time.time_ns() // 1000)
        assert (entry["status"], entry["organization_id"]) == ("success", ACME)


def test_an_entry_says_who_from_where_and_what(service: Service) -> None:
    """The actor is the key or user that called, with address and user agent; the classifier acts for itself."""
    key = service.made(KEYS, {"name": "Actor"})
    program = {"Authorization": f"Bearer {key['key']}"}
    moderation = service.made(MODERATIONS, FLAGGED, caller=program)
    created, completed, flagged = (
        entry for entry in service.entries("moderation.") if entry["resource"]["id"] == moderation["id"]
    )
    assert created["actor"] == {"type": "api_key", "id": key["id"], "name": "Actor"}
    assert created["metadata"].keys() == {"client_ip", "user_agent", "content_type", "content_hash"}
    assert created["metadata"]["client_ip"] == "2001:db8::7"
    assert created["metadata"]["user_agent"] == "Mozilla/5.0 (tests)"
    assert completed["actor"]["type"] == "system"
    assert completed["metadata"]["decision"] == "flagged"
    assert flagged["metadata"]["categories"] == ["harassment", "toxic"]
    assert flagged["metadata"]["scores"] == {"harassment": "0.75", "toxic": "0.75"}
    owner = service.entries("api_key.created")[-1]["actor"]
    assert owner == {"type": "user", "id": "usr_owner", "name": "Ada Moreau"}


def test_harmless_content_is_completed_and_not_flagged(service: Service) -> None:
    """Words count as words: a phrase inside another word is none."""
    moderation = service.made(MODERATIONS, {"text": "The dumbbell class was idiotproof."}, caller=service.key())
    assert (moderation["decision"], moderation["categories"]) == ("approved", [])
    types = [e["event_type"] for e in service.entries("moderation.") if e["resource"]["id"] == moderation["id"]]
    assert types == ["moderation.created", "moderation.completed"]


def test_the_threshold_decides_what_is_flagged(service: Service) -> None:
    """A setting that was changed is in force, and the entry has both values."""
    once = {"text": "That is stupid."}
    program = service.key()
    assert service.made(MODERATIONS, once, caller=program)["decision"] == "flagged"
    service.call("PATCH", "/v1/settings", {"flag_threshold": "0.75"})
    assert service.made(MODERATIONS, once, caller=program)["decision"] == "approved"
    service.call("PATCH", "/v1/settings", {"flag_threshold": "0.50"})
    raised, lowered = service.entries("settings.updated")[-2:]
    assert raised["metadata"]["changes"] == {"flag_threshold": {"from": "0.50", "to": "0.75"}}
    assert lowered["metadata"]["changes"] == {"flag_threshold": {"from": "0.75", "to": "0.50"}}


@pytest.mark.parametrize(
    ("role", "method", "path", "body", "event_type"),
    [
        ("viewer", "POST", KEYS, {"name": "Mine"}, "api_key.created"),
        ("moderator", "POST", WEBHOOKS, {"url": "https://hooks.example.com/b"}, "webhook.created"),
        ("moderator", "PATCH", "/v1/settings", {"flag_threshold": "1.00"}, "settings.updated"),
        ("key", "POST", "/v1/invitations", {"email": "x@example.com", "name": "X"}, "user.invited"),
    ],
)
def test_what_a_role_does_not_permit_is_recorded_as_a_failure(
    service: Service, role: str, method: str, path: str, body: dict, event_type: str
) -> None:
    """The attempt is answered 403, changes nothing, and is an entry of its own type with status failure."""
    caller = service.key() if role == "key" else service.member(role)
    response = service.call(method, path, body, caller=caller)
    if role != "key":
        service.call("DELETE", f"/v1/users/{caller['X-User-Id']}")
    assert response.status_code == 403
    assert "does not permit" in response.json()["detail"]
    (failed,) = [entry for entry in service.entries(event_type)[-1:] if entry["status"] == "failure"]
    assert failed["metadata"]["failure_reason"] == "the caller's role does not permit it"


def test_content_that_is_too_long_is_refused_and_recorded(service: Service) -> None:
    """The request failed, so its entry says so, and nothing was completed."""
    response = service.call("POST", MODERATIONS, {"text": "x" * 10_001}, caller=service.key())
    assert response.status_code == 413
    assert (service.entries()[-1]["event_type"], service.entries()[-1]["status"]) == ("moderation.created", "failure")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("DELETE", f"{KEYS}/key_0", None, 404),
        ("PATCH", f"{WEBHOOKS}/wh_0", {"url": "https://hooks.example.com"}, 404),
        ("POST", "/v1/invitations/inv_0/accept", None, 404),
        ("POST", f"{MODERATIONS}/mod_0/appeals", {"reason": "why"}, 404),
        ("DELETE", "/v1/users/usr_owner", None, 409),
        ("POST", "/v1/invitations", {"email": "no address", "name": "N"}, 422),
        ("PATCH", "/v1/settings", {"flag_threshold": "0.5"}, 422),
        ("POST", WEBHOOKS, {"url": "ftp://hooks.example.com"}, 422),
    ],
)
def test_a_request_that_asks_for_nothing_possible_is_no_action(
    service: Service, method: str, path: str, body: dict | None, status: int
) -> None:
    """What does not exist cannot be acted upon, and what is malformed is none of the actions: no entry."""
    before = len(service.entries())
    assert service.call(method, path, body).status_code == status
    assert len(service.entries()) == before


def test_a_decision_is_appealed_once_and_an_address_invited_once(service: Service) -> None:
    """The second time is a conflict, and no entry."""
    moderation = service.made(MODERATIONS, FLAGGED, caller=service.key())
    appeals = f"{MODERATIONS}/{moderation['id']}/appeals"
    service.made(appeals, {"reason": "once"})
    assert service.call("POST", appeals, {"reason": "twice"}).status_code == 409
    assert service.call("GET", f"{MODERATIONS}/{moderation['id']}").json()["appealed"] is True
    viewer = service.member("viewer")
    again = {"email": "VIEWER@example.com", "name": "Again"}
    assert service.call("POST", "/v1/invitations", again).status_code == 409
    service.call("DELETE", f"/v1/users/{viewer['X-User-Id']}")


@pytest.mark.parametrize("caller", [{}, {"X-User-Id": "usr_0"}, {"Authorization": "Bearer mod_sk_0"}])
def test_an_unknown_caller_is_turned_away(service: Service, caller: dict) -> None:
    """Nobody acts without a name."""
    response = service.call("POST", MODERATIONS, FLAGGED, caller=caller)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")


def test_a_revoked_key_and_a_removed_user_are_unknown(service: Service) -> None:
    """What was taken away is gone at once."""
    key = service.made(KEYS, {"name": "Short"})
    service.call("DELETE", f"{KEYS}/{key['id']}")
    user = service.member("admin")
    service.call("DELETE", f"/v1/users/{user['X-User-Id']}")
    for caller in ({"Authorization": f"Bearer {key['key']}"}, user):
        assert service.call("POST", MODERATIONS, FLAGGED, caller=caller).status_code == 401


def test_what_no_entry_may_hold_is_refused(service: Service) -> None:
    """A character that cannot be recorded makes the action impossible: 422, naming the member, and nothing done."""
    response = service.call("POST", KEYS, {"name": "N\u0000"})
    assert response.status_code == 422
    assert "Nothing was done, because it cannot be recorded: /resource/name" in response.json()["detail"]


def test_without_a_collector_it_goes_on(tmp_path: Path) -> None:
    """While the collector is gone actions are taken, and their entries are in the log once it is back."""
    collector = start(tmp_path / "data", make_keys(tmp_path / "data"))
    address = collector.url.removeprefix("http://")
    with (
        AuditEmitter(collector.url, api_key=collector.keys[ACME], organization_id=ACME) as emitter,
        running_service(emitter) as url,
        httpx.Client(base_url=url, timeout=30, headers=OWNER) as client,
    ):
        service = Service(collector, client, emitter)
        webhook = client.post(WEBHOOKS, json={"url": "https://hooks.example.com/a"}).json()
        assert len(service.entries()) == 1
        collector.terminate()
        assert client.delete(f"{WEBHOOKS}/{webhook['id']}").status_code == 204
        assert client.post(KEYS, json={"name": "Meanwhile"}).status_code == 201
        service.collector = start(tmp_path / "data", collector.keys, OTLP__HTTP__LISTEN=address)
        try:
            found = [entry["event_type"] for entry in service.entries()]
        finally:
            service.collector.terminate()
    assert found == ["webhook.created", "webhook.deleted", "api_key.created"]


def test_an_action_whose_entry_cannot_be_kept_is_not_taken(tmp_path: Path) -> None:
    """Without a collector and with a full spool every action fails with 503, and changes nothing."""
    options = SpoolOptions(tmp_path / "spool", max_bytes=100, when_full="raise")
    emitter = AuditEmitter("http://127.0.0.1:9", api_key="k", organization_id=ACME, spool=options)
    with running_service(emitter) as url:
        response = httpx.post(f"{url}{KEYS}", json={"name": "Unrecorded"}, headers=OWNER)
    emitter.close(timeout=0)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert "Nothing was done, because the audit log cannot record it now" in response.json()["detail"]


@pytest.mark.parametrize(
    ("trouble", "wait"),
    [(RetryLater("busy", retry_after=7), "7"), (Paused("the key is refused"), "60"), (Halted("unsafe"), "60")],
)
def test_every_kind_of_trouble_stops_the_action(trouble: Exception, wait: str) -> None:
    """Whatever keeps the entry from being durable, the answer is 503, says why, and says when to try again."""
    notebook = Notebook(trouble=[trouble])
    with running_service(notebook) as url:
        response = httpx.post(f"{url}{KEYS}", json={"name": "Never"}, headers=OWNER)
    assert (response.status_code, response.headers["retry-after"]) == (503, wait)
    assert str(trouble) in response.json()["detail"]
    assert not notebook.documents


def test_a_flag_that_cannot_be_recorded_leaves_no_decision() -> None:
    """The request was recorded, its outcome could not be: the caller gets 503 and no decision is kept."""
    notebook = Notebook()
    with running_service(notebook) as url:
        key = httpx.post(f"{url}{KEYS}", json={"name": "K"}, headers=OWNER).json()["key"]
        notebook.trouble = [None, None, RetryLater("busy")]  # created and completed go through
        bearer = {"Authorization": f"Bearer {key}"}
        response = httpx.post(f"{url}{MODERATIONS}", json=FLAGGED, headers=bearer)
        moderation_id = notebook.documents[-1]["resource"]["id"]
        assert response.status_code == 503
        assert httpx.get(f"{url}{MODERATIONS}/{moderation_id}", headers=bearer).status_code == 404
    assert [document["event_type"] for document in notebook.documents[1:]] == [
        "moderation.created",
        "moderation.completed",
    ]


@contextmanager
def service_process(repository: Path, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen]:
    """Run the service as its README says."""
    with subprocess.Popen(
        [sys.executable, "-m", "moderation_service", *arguments],
        cwd=repository / "examples",
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_runs_from_the_command_line(service: Service, repository: Path) -> None:
    """Configured by its three variables it answers, records, and stops cleanly on SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        "KLYRA_AUDIT_ENDPOINT": service.collector.url,
        "KLYRA_AUDIT_API_KEY": service.collector.keys[ACME],
        "KLYRA_AUDIT_ORGANIZATION_ID": ACME,
    }
    before = len(service.entries())
    with service_process(repository, environment, "--listen", address) as process:
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.get(f"http://{address}/healthz")
                break
            except httpx.TransportError:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        made = httpx.post(f"http://{address}{KEYS}", json={"name": "From outside"}, headers=OWNER)
        assert made.status_code == 201
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert [entry["event_type"] for entry in service.entries()[before:]] == ["api_key.created"]


def test_it_says_what_it_needs(repository: Path) -> None:
    """Without its variables it names them and exits 2."""
    with service_process(repository, {"KLYRA_AUDIT_ENDPOINT": "http://127.0.0.1:4318"}) as process:
        assert process.wait(30) == 2
        assert process.stderr.read() == (
            "Set KLYRA_AUDIT_API_KEY, KLYRA_AUDIT_ORGANIZATION_ID: "
            "the address, key and organization of the audit log.\n"
        )
