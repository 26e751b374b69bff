from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from klyra_collector.cli.verify import app
from support.ledgers import large_ledger
from support.published import policy_text, publishing_api

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.api import Api

SIZE = 305


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The API beside a ledger."""
    with publishing_api(large_ledger(SIZE - 5), tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture
def policy(tmp_path: Path) -> str:
    """The operator's policy file."""
    (tmp_path / "policy").write_bytes(policy_text())
    return str(tmp_path / "policy")


def verify(*arguments: str) -> tuple[int, str]:
    """Run the command; return its exit status and everything it said."""
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def test_a_published_log_is_verified(api: Api, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an operator's key in the environment, down to every leaf."""
    monkeypatch.setenv("KLYRA_KEY", api.key("verify", organization_id=None))
    status, said = verify(f"{api.url}/log/collector-1/2026", "--policy", policy)
    assert status == 0
    assert f"OK {SIZE}" in said
    assert "bodies and control documents are not published" in said
    status, said = verify(f"{api.url}/log", "--policy", policy, "--json")
    assert (status, json.loads(said)["target"]) == (0, f"{api.url}/log")


def test_what_could_not_be_checked_is_said(api: Api, policy: str) -> None:
    """Without a key the records were not seen; without a policy nothing was pinned: exit 2 both times."""
    status, said = verify(f"{api.url}/log", "--policy", policy)
    assert status == 2
    assert "KLYRA_KEY" in said
    status, said = verify(f"{api.url}/log")
    assert (status, "key not pinned" in said) == (2, True)


def test_an_archived_checkpoint_is_compared(api: Api, policy: str, tmp_path: Path) -> None:
    """A rollback is found by anyone who kept a checkpoint."""
    kept = tmp_path / "kept"
    kept.write_bytes(large_ledger(SIZE + 20).checkpoint())
    status, said = verify(f"{api.url}/log", "--policy", policy, "--earlier", str(kept))
    assert status == 1
    assert "ROLLBACK" in said


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["http://127.0.0.1:9/log", "--policy", "POLICY"], "unreachable"),
        (["http://127.0.0.1:9/log", "--policy", "/absent"], "bad_file"),
        (["http://127.0.0.1:9/log", "--policy", "POLICY", "--earlier", "/absent"], "bad_file"),
        (["http://127.0.0.1:9/log?x=1", "--policy", "POLICY"], "bad_url"),
        (["http://127.0.0.1:9/log", "--policy", __file__], "bad_policy"),
        (["http://127.0.0.1:9/log", "--policy", "POLICY", "--now", "now"], "bad_option"),
        (["http://127.0.0.1:9/log", "--max-witness-age", "60"], "bad_option"),
        (["export.zip", "--policy", "POLICY", "--now", "now"], "bad_option"),
        (["export.zip", "--policy", "POLICY", "--max-witness-age", "60"], "bad_option"),
    ],
)
def test_what_cannot_be_used_is_said(policy: str, arguments: list[str], code: str) -> None:
    """Exit 2 with a code that programs may compare."""
    given = [policy if argument == "POLICY" else argument for argument in arguments]
    status, said = verify(*given, "--json")
    assert (status, json.loads(said)["error"]["code"]) == (2, code)
