"""Our sender of Splunk events against a collector that somebody else wrote."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from klyra_siem.outcome import Action
from klyra_siem.splunk import create
from support.siem import nullsink
from support.siem.cloud import entry, options, send

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_siem.destination import Destination
    from support.siem.nullsink import Nullsink

TOKEN = "any-token-is-good-enough"


@contextlib.contextmanager
def destination(far: Nullsink, *, acknowledge: bool, compression: str = "gzip") -> Iterator[Destination]:
    """Give a destination."""
    made_of = options(far.url, {"token": TOKEN, "acknowledge": acknowledge}, compression=compression)
    with contextlib.closing(create(made_of)) as made:
        yield made


def test_it_counts_what_was_sent() -> None:
    """Every event is one, compressed or not, whatever the batch is."""
    with nullsink.running() as far:
        for compression in ("gzip", "none"):
            with destination(far, acknowledge=False, compression=compression) as made:
                assert made.probe().action is Action.DELIVERED
                for size in (1, 7, 500):
                    assert send(made, [entry(number) for number in range(size)]).action is Action.DELIVERED
        counted = far.stats()
    assert counted["docs"] == 2 * 508
    assert counted["wire_bytes"] < counted["bytes"]


def test_when_to_come_again() -> None:
    """A refusal for the moment is tried again with the same bytes; only then does it count."""
    with nullsink.running("-fail", "2:503:4") as far, destination(far, acknowledge=False) as made:
        payload = made.encode([entry(number) for number in range(10)])
        outcomes = [made.send(payload) for _ in range(3)]
        counted = far.stats()
    assert [outcome.action for outcome in outcomes] == [Action.RETRY, Action.RETRY, Action.DELIVERED]
    assert [outcome.retry_after for outcome in outcomes] == [4.0, 4.0, None]
    assert (counted["docs"], counted["failed"]) == (10, 2)


def test_who_never_acknowledges_is_not_believed() -> None:
    """It answers every question with success and an id, and no question about what is indexed; one copy is there."""
    with nullsink.running() as far, destination(far, acknowledge=True) as made:
        assert [send(made, [entry()]).action for _ in range(3)] == [Action.PAUSE] * 3
        assert made.probe().action is Action.PAUSE
        assert far.stats()["docs"] == 1
