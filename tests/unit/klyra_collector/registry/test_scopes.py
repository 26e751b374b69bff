"""Scopes and roles."""

from __future__ import annotations

import pytest

from klyra_audit.errors import Rejected
from klyra_collector.registry.scopes import ROLES, check_role, check_scopes, in_order


def test_roles_are_names_for_scopes() -> None:
    """Viewer reads, auditor also exports and verifies, admin does all but emit."""
    assert ROLES["viewer"] == {"read"}
    assert ROLES["auditor"] == {"read", "export", "verify"}
    assert ROLES["admin"] == {"read", "export", "verify", "admin"}
    assert check_role("viewer") == {"read"}


def test_scopes_are_written_in_one_order() -> None:
    """However they were asked for."""
    assert in_order({"verify", "emit", "read"}) == ["emit", "read", "verify"]


@pytest.mark.parametrize(("scopes", "problem"), [([], "No scope"), (["read", "write"], "no scope write")])
def test_scopes_that_are_none_are_rejected(scopes, problem) -> None:
    """None at all, or an unknown one."""
    with pytest.raises(Rejected, match=problem) as caught:
        check_scopes(scopes)
    assert caught.value.code == "bad_scope"
    assert "emit, read, export, verify, admin" in caught.value.remedy


def test_an_unknown_role_is_rejected() -> None:
    """With those that exist."""
    with pytest.raises(Rejected, match="no role owner") as caught:
        check_role("owner")
    assert caught.value.code == "bad_role"
    assert caught.value.remedy == "Choose one of viewer, auditor, admin."
