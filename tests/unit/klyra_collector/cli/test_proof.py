from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from klyra_audit.format import policy as policies
from klyra_audit.format.proof import TlogProof
from klyra_collector.cli.proof import app
from support.ledgers import ACME, LedgerBuilder
from support.published import policy_text, publishing_api

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.api import Api

FIRST = "log_00000000000000000000000004"
UNSIGNED = "log_00000000000000000000000005"


@pytest.fixture(scope="module")
def builder() -> LedgerBuilder:
    """Two entries, the second of which no checkpoint covers."""
    builder = LedgerBuilder().begin(ACME)
    builder.event(ACME)
    builder.event(ACME)
    return builder


@pytest.fixture(scope="module")
def api(builder: LedgerBuilder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The API beside them."""
    with publishing_api(builder, tmp_path_factory.mktemp("api"), signed=5, patience_seconds=0.0) as running:
        yield running


def test_the_evidence_is_printed(run, api, builder) -> None:
    """As the API gives it."""
    status, answer, told = run(app, FIRST, "--url", api.url, "--key", api.key("verify"))
    assert (status, told) == (0, "")
    document = json.loads(answer)
    assert (document["index"], document["log"]) == (4, builder.origin)


def test_the_proof_file_is_printed_alone(run, api, builder, monkeypatch) -> None:
    """Byte for byte what other tools read; the key stands in the environment."""
    monkeypatch.setenv("KLYRA_KEY", api.key("verify"))
    status, answer, _ = run(app, FIRST, "--url", api.url, "--tlog-proof")
    assert status == 0
    proof = TlogProof.parse(answer.encode())
    assert proof.encode() == answer.encode()
    assert proof.verify(builder.leaves[4], policies.parse(policy_text())).checkpoint.size == 5


def test_an_operator_names_the_organization(run, api) -> None:
    """Its key belongs to none."""
    key = api.key("verify", organization_id=None)
    assert run(app, FIRST, "--url", api.url, "--key", key, "--org", ACME)[0] == 0
    status, answer, told = run(app, FIRST, "--url", api.url, "--key", key)
    assert (status, answer) == (1, "")
    assert "organization_id" in told


def test_what_is_not_there_is_said(run, api) -> None:
    """Exit 1 with the API's own words."""
    status, answer, told = run(app, "log_99999999999999999999999999", "--url", api.url, "--key", api.key("verify"))
    assert (status, answer) == (1, "")
    assert "There is no such entry" in told


def test_an_entry_that_is_not_signed_yet_is_waited_for(run, api, monkeypatch) -> None:
    """And given up in the end, with exit 2: nothing is wrong, it could not be done."""
    waited: list[float] = []
    monkeypatch.setattr("klyra_collector.cli.proof.time.sleep", waited.append)
    status, answer, told = run(app, UNSIGNED, "--url", api.url, "--key", api.key("verify"))
    assert (status, answer) == (2, "")
    assert "no signed checkpoint" in told
    assert waited == [1.0] * 3


def test_a_server_that_does_not_answer_is_said(run) -> None:
    """Exit 2."""
    status, _, told = run(app, FIRST, "--url", "http://127.0.0.1:9", "--key", "k")
    assert (status, "does not answer" in told) == (2, True)
