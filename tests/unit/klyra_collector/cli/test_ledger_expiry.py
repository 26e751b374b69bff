"""`klyra-audit ledger expire`: what is due, what is held, and having it deleted where no collector runs."""

from __future__ import annotations

import time
from contextlib import ExitStack

import orjson
import pytest

from klyra_audit.timestamps import MICROSECONDS, SECONDS_PER_DAY, day_of, day_to_date
from klyra_collector.cli.ledger import app
from support.expiring import ExpiringLedger
from support.records import BUSINESS
from support.sealing import SetClock


@pytest.fixture
def ledger(data):
    """A ledger whose events were sealed 40 days ago, by a clock that has come to the present."""
    with ExitStack() as stack:
        past = time.time_ns() // 1000 - 40 * SECONDS_PER_DAY * MICROSECONDS
        yield stack.enter_context(ExpiringLedger(data, SetClock(past)))


@pytest.fixture
def stopped(data):
    """A data directory with two events due, one kept by a hold, and one that is not due, its collector stopped."""
    past = time.time_ns() // 1000 - 40 * SECONDS_PER_DAY * MICROSECONDS
    with ExpiringLedger(data, SetClock(past)) as ledger:
        ledger.event()
        ledger.bad()
        ledger.hold("hold_7", from_us=ledger.clock.wall + 1)
        ledger.clock.pass_seconds(1)
        ledger.event()
        ledger.event(BUSINESS)
        ledger.pass_days(40)
        ledger.event(BUSINESS)
        return ledger.reference().hex()


def due_day() -> str:
    """Return the day on which what was sealed 40 days ago was due."""
    return day_to_date(day_of(time.time_ns() // 1000) - 40 + 31)


def test_a_dry_run_says_what_would_go_and_why_something_stays(run, data, stopped) -> None:
    """By shard, organization and day, with counts and bytes; nothing is deleted."""
    status, out, _ = run(app, "expire", "--dry-run", "--json")
    assert status == 0
    report = orjson.loads(out)
    shard = min(path.name for path in (data / "ledger").iterdir() if path.name.isdigit())
    goes, held = report["due"]
    assert goes.pop("bytes") > 500
    assert held.pop("bytes") > 500
    common = {"shard": shard, "org_ref": stopped, "day": due_day()}
    assert goes == common | {"fate": "goes", "hold_id": None, "count": 2}
    assert held == common | {"fate": "held", "hold_id": "hold_7", "count": 1}
    assert report["next_due"] == day_to_date(day_of(time.time_ns() // 1000) - 40 + 91)
    assert report["expired"] is None
    assert run(app, "expire", "--dry-run", "--json")[1] == out


def test_people_get_a_table(run, stopped) -> None:
    """The table names the hold; what is next stands beside the answer."""
    status, out, err = run(app, "expire", "--dry-run")
    assert status == 0
    assert "kept by the legal hold hold_7" in out
    assert stopped in out
    assert "The next are due on" in err


def test_a_stopped_ledger_is_expired(run, data, stopped) -> None:
    """Without --dry-run what is due goes; a second time nothing is."""
    status, out, err = run(app, "expire", "--json")
    assert status == 0
    assert orjson.loads(out)["expired"] == {"named": 2, "files_deleted": 2, "waiting": False}
    assert "2 bodies named" in err
    status, out, _ = run(app, "expire")
    assert status == 0
    assert "goes" not in out
    assert "hold_7" in out


def test_an_empty_answer_says_so(run, data) -> None:
    """Where nothing is due the answer is a sentence, not an empty table."""
    with ExpiringLedger(data, SetClock(time.time_ns() // 1000)) as ledger:
        ledger.event()
    status, out, _ = run(app, "expire")
    assert (status, out) == (0, "Nothing is due.\n")


def test_a_running_collector_does_it_itself(run, ledger) -> None:
    """Where the ledger is locked nothing is done but said."""
    ledger.event()
    status, out, err = run(app, "expire")
    assert status == 0
    assert "goes" in out
    assert "by itself" in err
    assert len(ledger.present()) == 1


def test_a_clock_in_doubt_needs_a_word(run, data) -> None:
    """A ledger that was off for over a day is not expired until the operator vouches for the clock."""
    past = time.time_ns() // 1000 - 40 * SECONDS_PER_DAY * MICROSECONDS
    with ExpiringLedger(data, SetClock(past)) as ledger:
        ledger.event()
    status, _, err = run(app, "expire")
    assert status == 2
    assert "--confirm-clock" in err
    assert run(app, "expire", "--confirm-clock")[0] == 0
    assert not list((data / "ledger").glob("*/bodies/*"))


def test_a_folder_without_a_ledger_is_an_error(run, data) -> None:
    """It says how to name the data directory."""
    status, _, err = run(app, "expire")
    assert status == 2
    assert "--data" in err


def test_a_damaged_file_is_named(run, data, stopped) -> None:
    """A file that cannot be read stops the look, with its name."""
    path = min((data / "ledger").glob("*/bodies/*/frames"))
    path.write_bytes(b"XXXX" + path.read_bytes()[4:])
    status, _, err = run(app, "expire", "--dry-run")
    assert status == 2
    assert str(path) in err
