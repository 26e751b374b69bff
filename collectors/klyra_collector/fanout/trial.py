"""A test event: one entry that is no entry of any ledger, sent as entries are, to see what the destination says.

It is encoded by the destination's own format and limits, signed, and carries everything that a delivered entry does;
but its log is `TEST_ORIGIN`, which no collector has, so that nobody takes it for something that was sealed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit import ids, timestamps
from klyra_audit.errors import Rejected
from klyra_audit.format import canonical, sections
from klyra_audit.format.frame import BodyFrame
from klyra_audit.format.leaf import NEVER, Kind, Leaf
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID, OPERATOR_REFERENCE, Salts
from klyra_collector.fanout.fitting import Fitting, WhenTooOld
from klyra_collector.fanout.heartbeat import EVENT_TYPE
from klyra_siem.destination import SealedEntry
from klyra_siem.outcome import Action, Outcome

if TYPE_CHECKING:
    from klyra_siem.destination import Destination

TEST_ORIGIN: Final = "klyra-audit.test/none/0"


class Trial(NamedTuple):
    """What became of a test event.

    Attributes:
        entry_id: of the event that was sent, to search for.
        outcome: what the destination said.
    """

    entry_id: str
    outcome: Outcome


def send_test_event(destination: Destination, name: str, now_us: int) -> Trial:
    """Send one test event and wait for the destination's own answer.

    Args:
        destination: as it is delivered to.
        name: as configured; the event's resource.
        now_us: microseconds since 1970: the event's time.
    """
    entry = trial_entry(name, now_us)
    fitted = Fitting(destination.limits, WhenTooOld.PRESERVE, destination.measure).fit([entry], now_us)
    if fitted.misfits:
        outcome = Outcome(action=Action.BISECT, status=fitted.misfits[0].status, reason="It was not sent.")
    else:
        outcome = _sent(destination, entry)
    return Trial(entry.entry_id, outcome)


def trial_entry(name: str, now_us: int) -> SealedEntry:
    """Return a test event for a destination, with everything a sealed entry has."""
    document = {
        "id": ids.new_log_id(),
        "timestamp": timestamps.from_microseconds(now_us),
        "event_type": EVENT_TYPE,
        "actor": {"type": "system", "id": "klyra-audit", "name": None},
        "resource": {"type": "siem_destination", "id": name, "name": None},
        "action": "create",
        "status": "success",
        "metadata": {"purpose": "test"},
        "organization_id": OPERATOR_ORGANIZATION_ID,
        "schema": "klyra.audit/1",
    }
    parts, salts = sections.split(document), Salts.draw()
    commitments = sections.commitments(parts, salts)
    leaf = Leaf(Kind.EVENT, 0, NEVER, OPERATOR_REFERENCE, 0, now_us, 0, 0, bytes(32), commitments.event_commit()).pack()
    return SealedEntry(
        origin=TEST_ORIGIN,
        index=0,
        leaf=leaf,
        ingest_us=now_us,
        filed_ns=timestamps.to_nanoseconds(str(document["timestamp"])),
        document=document,
        encoded=canonical.encode(document),
        body=BodyFrame(0, parts, salts, commitments),
    )


def _sent(destination: Destination, entry: SealedEntry) -> Outcome:
    try:
        return destination.send(destination.encode([entry]))
    except Rejected as error:
        return Outcome(action=Action.BISECT, status=error.code, reason=str(error))
