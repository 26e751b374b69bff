"""Every tampering experiment there is: what is done, and exactly which verdicts follow.

One table of the 68 experiments of the integrity research, adapted to three sections (core, actor, target) and to the
copies that exist. An untouched subject is OK; a row names every verdict that is not good, and no other may appear.
"""

from __future__ import annotations

import pytest

from klyra_collector.verify import Verdict
from support.experiment import Experiment
from support.experiments_copies import COPIES
from support.experiments_evidence import EVIDENCE
from support.experiments_ledger import LEDGER
from support.experiments_packets import PACKETS
from support.experiments_runs import RUNS
from support.workshop import Workshop

TABLE: list[Experiment] = sorted([*COPIES, *LEDGER, *EVIDENCE, *PACKETS, *RUNS], key=lambda row: row.number)
SUBJECTS = {row.subject for row in TABLE}
OUTRIGHT = frozenset({62, 66, 68, 20})  # of these some rows must stay as good as they were


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The baseline, made once."""
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.mark.parametrize("subject", sorted(SUBJECTS, key=lambda subject: subject.__name__))
def test_what_nobody_touched_is_intact(subject, workshop, tmp_path) -> None:
    """Without this no verdict below would mean anything."""
    assert subject(workshop, tmp_path).verdicts() == set()


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_experiment(row: Experiment, workshop, tmp_path) -> None:
    """The row's verdicts, all of them and no other."""
    subject = row.subject(workshop, tmp_path)
    row.tamper(subject)
    assert subject.verdicts() == row.expected


def test_the_table_is_complete() -> None:
    """All 68 experiments have a row, and all but those that must do no harm expect a verdict."""
    assert {row.number for row in TABLE} == set(range(1, 69))
    assert {row.number for row in TABLE if not row.expected} <= OUTRIGHT
    assert {verdict for row in TABLE for verdict in row.expected} <= set(Verdict)
