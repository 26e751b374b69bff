"""Whatever goes wrong on the way to whichever vendor, and whenever the process dies: nothing is lost.

Every plan of faults and kills is carried out by the real engine on a real ledger; `support.siem.fault_plans` says what
must hold.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klyra_collector.fanout.fitting import WhenTooOld
from support.siem.cloud_server import Fault, Reply
from support.siem.fault_plans import Kill, Plan, run
from support.siem.vendors import LIBRARIES, VENDORS
from support.siem.vendors_answers import OWN_REFUSALS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.siem.vendors import Vendor

for library in LIBRARIES:
    pytest.importorskip(library, reason=f"for want of {library}")

QUICK = 6  # examples of each vendor
LONG = 300
TIMEOUT = 0.4  # seconds, where answers may come too late

PAGE = b"<!DOCTYPE html><h1>Sign in</h1>"
HTML = {"Content-Type": "text/html"}
STATUSES = (
    *(301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 418),
    *(421, 422, 423, 425, 426, 429, 431, 451, 500, 501, 502, 503, 504, 505, 507, 520, 529, 599),
)
BODIES = st.sampled_from([b"", b"no", PAGE, b'{"error": {"code": 7}}', b"[1", b"null", b"\xff\xfe\x00", b"x" * 3_000])
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Retry-After": st.sampled_from(["0", "7", "99999999999", "-1", "soon", "Wed, 21 Oct 2037 07:28:00 GMT"]),
        "Content-Type": st.sampled_from(["text/html", "application/json", "application/x-protobuf", "x"]),
        "Location": st.just("http://127.0.0.1:1/"),
        "X-Ratelimit-Reset": st.sampled_from(["3", "soon"]),
    },
)


def faults(kind: str, *, has_timeouts: bool) -> st.SearchStrategy[Fault]:
    """Return anything that can go wrong with a request to a vendor."""
    replies = st.builds(Reply, st.sampled_from(STATUSES), BODIES, HEADERS)
    pages = st.builds(Reply, st.sampled_from([200, 201, 202, 203, 206, 299]), st.just(PAGE), st.just(HTML))
    own = st.sampled_from(list(OWN_REFUSALS[kind].values()))
    delays = st.sampled_from([0.0] * 12 + [0.01] * 3 + [TIMEOUT * 1.5] * has_timeouts)
    broken = [Fault(), Fault(reset=True), Fault(reply_lost=True), Fault(truncated=True)]
    return st.one_of(
        st.builds(replace, st.sampled_from(broken), delay_seconds=delays),
        st.builds(Fault, reply=st.one_of(replies, replies, own, pages)),
    )


def plans(kind: str, *, has_timeouts: bool = False) -> st.SearchStrategy[Plan]:
    """Return ledgers, and what goes wrong with their delivery to a vendor."""
    policies = list(WhenTooOld)
    if kind == "datadog":
        policies.remove(WhenTooOld.PRESERVE)  # the operator has chosen to have them lost: it says 202 and keeps nothing
    kills = st.builds(
        Kill,
        st.integers(0, 25),
        st.sampled_from(["before", "after", "torn"]),
        st.sampled_from([0, 0, 1, 20]),
    )
    return st.builds(
        Plan,
        records=st.text("ssbbccoq", min_size=1, max_size=40),
        faults=st.lists(faults(kind, has_timeouts=has_timeouts), max_size=8).map(tuple),
        poisoned=st.frozensets(st.integers(0, 39), max_size=2),
        kills=st.lists(kills, max_size=3).map(tuple),
        lanes=st.integers(1, 3),
        when_too_old=st.sampled_from(policies),
        has_filter=st.sampled_from([False, False, True]),
        timeout_seconds=st.just(TIMEOUT if has_timeouts else 10.0),
    )


@pytest.fixture(scope="module", params=sorted(VENDORS))
def vendor(request) -> Iterator[Vendor]:
    """A vendor's service."""
    with VENDORS[request.param]() as made:
        yield made


def carry_out(vendor: Vendor, plan: Plan) -> None:
    """Run a plan on a ledger of its own."""
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder) / "data", vendor, plan)


QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=QUICK, suppress_health_check=QUIET)
@given(data=st.data())
def test_nothing_is_lost(vendor, data) -> None:
    """Received and dead letters are the filtered ledger; repeats, order and cursor are as promised."""
    carry_out(vendor, data.draw(plans(vendor.kind), "plan"))


def test_a_slow_answer_lets_no_more_pile_up_than_there_are_lanes() -> None:
    """Killed while the first of many batches is slow, only as many as may be under way go again."""
    plan = Plan(records="s" * 60, faults=(Fault(delay_seconds=0.4),), kills=(Kill(9, "after"),), lanes=2)
    with VENDORS["otlp"]() as made:
        carry_out(made, plan)


@pytest.mark.soak
@settings(max_examples=LONG, derandomize=False, print_blob=True, suppress_health_check=QUIET)
@given(data=st.data())
def test_nothing_is_lost_in_many_plans(vendor, data) -> None:
    """The same for hundreds of plans of each vendor, with answers that come too late."""
    carry_out(vendor, data.draw(plans(vendor.kind, has_timeouts=True), "plan"))
