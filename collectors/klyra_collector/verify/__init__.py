"""Verify a ledger offline, with nothing but its bytes and a pinned key (DESIGN section 9).

report = verify_target(Path("klyra-data"), Options(policy=policy.parse(Path("policy").read_bytes())))
report.exit_status  # 0 intact, 1 broken, 2 could not check
"""

from __future__ import annotations

from klyra_audit.format.policy import Policy
from klyra_collector.verify.errors import CannotVerify
from klyra_collector.verify.report import Report, ShardReport
from klyra_collector.verify.target import Options, verify_target
from klyra_collector.verify.verdicts import Finding, Verdict

__all__ = ["CannotVerify", "Finding", "Options", "Policy", "Report", "ShardReport", "Verdict", "verify_target"]
