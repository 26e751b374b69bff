from __future__ import annotations

import base64
import threading
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from klyra_audit.format import policy as policies
from klyra_audit.format.leaf import Leaf
from klyra_audit.format.proof import TlogProof
from klyra_audit.format.sections import Commitments, section_commitment
from support.api import ACME, OPERATOR, OTHER, assert_problem, running_api
from support.entries import document
from support.ledgers import DAY_US, UMBRELLA, LedgerBuilder, put, small_ledger
from support.published import policy_text, publishing_api

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.api import Api

ENTRY = "log_00000000000000000000000007"  # of Acme, with all three sections
FOREIGN = "log_00000000000000000000000009"
UNSIGNED = "log_00000000000000000000000016"


def ledger() -> LedgerBuilder:
    """Return a ledger whose last entry no checkpoint covers."""
    builder = small_ledger()
    assert ENTRY in str(next(body for day in builder.bodies.values() for body in day if body.index == 7).sections.core)
    builder.event(ACME)
    return builder


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The API beside that ledger."""
    builder = ledger()
    with publishing_api(builder, tmp_path_factory.mktemp("proofs"), signed=len(builder.leaves) - 1) as running:
        yield running


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    """A client of Acme that may verify."""
    with api.client("verify") as opened:
        yield opened


def test_an_entry_is_proved(api: Api, client: httpx.Client) -> None:
    """With the policy alone: sections give the commit, and the proof file leads from the leaf to the checkpoint."""
    answer = client.get(f"/v1/audit-logs/{ENTRY}/proof")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    proof = answer.json()
    assert list(proof) == ["log", "index", "leaf", "sections", "tlog_proof", "batch"]
    leaf = base64.b64decode(proof["leaf"])
    opened = {
        name: section_commitment(name, base64.b64decode(part["salt"]), part["canonical"].encode())
        for name, part in proof["sections"].items()
    }
    assert Commitments(**opened).event_commit() == Leaf.unpack(leaf).commit
    trusted = policies.parse(httpx.get(f"{api.url}/.well-known/klyra-audit/policy").content)
    checked = TlogProof.parse(proof["tlog_proof"].encode()).verify(leaf, trusted)
    assert (checked.checkpoint.origin, proof["index"], proof["batch"]) == (proof["log"], 7, None)
    assert trusted == policies.parse(policy_text())


def test_each_proof_is_an_entry_of_the_log(api: Api, client: httpx.Client) -> None:
    """Never merged with another, unlike a list; a look that finds nothing is a read."""
    before = len(api.recorded("audit_log.verified"))
    for _ in range(3):
        client.get(f"/v1/audit-logs/{ENTRY}/proof").raise_for_status()
    recorded = api.recorded("audit_log.verified")[before:]
    assert len(recorded) == 3
    assert recorded[0]["metadata"] == {
        "entry_id": ENTRY,
        "evidence": "proof",
        "client_ip": "127.0.0.1",
        "user_agent": "tests/1",
    }
    client.get(f"/v1/audit-logs/{FOREIGN}/proof")
    assert {"id": FOREIGN} in [event["metadata"]["filters"] for event in api.recorded("audit_log.queried")]


def test_what_is_not_the_callers_is_not_there(client: httpx.Client) -> None:
    """Another organization's entry, one that never was, and no id at all: the same bytes."""
    answers = [
        client.get(f"/v1/audit-logs/{entry_id}/proof")
        for entry_id in (FOREIGN, "log_99999999999999999999999999", "not-an-id")
    ]
    for answer in answers:
        assert_problem(answer, 404, "not_found")
    assert len({answer.content for answer in answers}) == 1


def test_the_scope_is_verify(api: Api, client: httpx.Client) -> None:
    """Reading entries is not enough, nor is no key; a parameter that there is not is named."""
    path = f"/v1/audit-logs/{ENTRY}/proof"
    with api.client("read", "export") as reader:
        assert_problem(reader.get(path), 403, "scope_missing", scopes=["verify"])
    assert_problem(httpx.get(api.url + path), 401, "not_authenticated")
    assert_problem(client.get(path, params={"limit": "1"}), 400, "unknown_parameter", parameter="limit")
    assert_problem(client.get(path, params={"organization_id": OTHER}), 400, "unknown_parameter")


def test_the_operator_names_the_organization(api: Api) -> None:
    """And the organization is told."""
    with api.client("verify", organization_id=None) as operator:
        answer = operator.get(f"/v1/audit-logs/{ENTRY}/proof", params={"organization_id": ACME})
        assert answer.json()["index"] == 7
        assert_problem(operator.get(f"/v1/audit-logs/{ENTRY}/proof"), 400, "organization_missing")
    told = api.recorded("operator.accessed")[-1]
    assert told["metadata"]["filters"] == {"id": ENTRY}
    assert told["metadata"]["call"] == "GET /v1/audit-logs/{entry_id}/proof"


def test_before_the_checkpoint_it_is_pending(api: Api, client: httpx.Client) -> None:
    """An entry that is sealed and not signed yet is a 202 that says where to ask again; nothing is given out."""
    before = len(api.recorded("audit_log.verified"))
    answer = client.get(f"/v1/audit-logs/{UNSIGNED}/proof")
    assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
    assert answer.headers["location"] == f"/v1/audit-logs/{UNSIGNED}/proof" == answer.json()["status_url"]
    assert answer.json()["status"] == "pending"
    assert len(api.recorded("audit_log.verified")) == before


def test_a_proof_waits_for_the_checkpoint(tmp_path: Path) -> None:
    """A collector signs every second: the caller gets the proof, not a 202."""
    builder = ledger()
    with (
        publishing_api(builder, tmp_path, signed=len(builder.leaves) - 1, patience_seconds=30.0) as api,
        api.client("verify") as client,
    ):

        def sign() -> None:
            time.sleep(0.3)
            builder.write(tmp_path)

        signing = threading.Thread(target=sign)
        signing.start()
        answer = client.get(f"/v1/audit-logs/{UNSIGNED}/proof", timeout=30)
        signing.join()
    assert (answer.status_code, answer.json()["index"]) == (200, 16)


def test_an_entry_past_its_retention_is_not_there(tmp_path: Path) -> None:
    """Its leaf stays for ever, and is no longer shown to belong to an entry."""
    with publishing_api(ledger(), tmp_path) as api, api.client("verify") as client:
        client.get(f"/v1/audit-logs/{ENTRY}/proof").raise_for_status()
        api.clock.now_us += 60 * DAY_US
        assert_problem(client.get(f"/v1/audit-logs/{ENTRY}/proof"), 404, "not_found")


def test_an_entry_whose_body_is_gone_is_not_there(tmp_path: Path) -> None:
    """Deleting begins with the ledger; the store follows."""
    builder = ledger()
    with publishing_api(builder, tmp_path) as api, api.client("verify") as client:
        (tmp_path / f"ledger/2026/bodies/{builder.day_of(7)}/frames").unlink()
        assert_problem(client.get(f"/v1/audit-logs/{ENTRY}/proof"), 404, "not_found")


def test_a_log_that_is_elsewhere_is_named(tmp_path: Path) -> None:
    """The store may hold entries of other collectors; their proofs are had from them."""
    with running_api(tmp_path) as api, api.client("verify") as client:
        api.seal(document(0))
        path = f"/v1/audit-logs/{document(0)['id']}/proof"
        assert_problem(client.get(path), 503, "log_elsewhere", log="klyra-audit.test/collector-1/2026")


def test_a_damaged_body_is_no_evidence(tmp_path: Path) -> None:
    """What cannot prove anything is not given out as a proof, and not recorded as one."""
    builder = ledger()
    with publishing_api(builder, tmp_path) as api, api.client("verify") as client:
        frames = tmp_path / f"ledger/2026/bodies/{builder.day_of(7)}/frames"
        put(frames, frames.read_bytes().replace(b'"create"', b'"delete"'))
        assert_problem(client.get(f"/v1/audit-logs/{ENTRY}/proof"), 503, "ledger_damaged")
        assert api.recorded("audit_log.verified") == []


def test_another_organization_proves_its_own(tmp_path: Path) -> None:
    """The operator sees both; neither sees the other's."""
    with publishing_api(ledger(), tmp_path) as api:
        api.registry.create_organization(UMBRELLA, "business", by=OPERATOR)
        with api.client("verify", organization_id=UMBRELLA) as client:
            assert client.get(f"/v1/audit-logs/{FOREIGN}/proof").json()["sections"]["target"] is not None
            assert_problem(client.get(f"/v1/audit-logs/{ENTRY}/proof"), 404, "not_found")
