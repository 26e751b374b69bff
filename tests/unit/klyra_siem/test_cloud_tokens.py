"""Bearer tokens: renewed in time, kept while their issuer is away, dropped when refused."""

from __future__ import annotations

from collections import deque

import pytest

from klyra_siem.cloud_requests import Redaction
from klyra_siem.cloud_tokens import BearerTokens, Token
from klyra_siem.outcome import Action, Outcome

AWAY = Outcome(action=Action.RETRY, status="credentials", reason="nobody answers")


class Fetcher:
    """Gives what a test planned."""

    def __init__(self, *planned: Token | Outcome):
        self.planned = deque(planned)
        self.forgotten = 0

    def fetch(self) -> Token | Outcome:
        """Give the next one."""
        return self.planned.popleft()

    def forget(self) -> None:
        """Count it."""
        self.forgotten += 1


class Clock:
    """A time that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        """Return it."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Seconds since 1970."""
    return Clock()


def test_a_token_is_kept_until_shortly_before_it_expires(clock) -> None:
    """One token an hour, not one a request; five minutes are left for clocks that differ."""
    tokens = BearerTokens(Fetcher(Token("first", 4600.0), Token("second", 9000.0)), Redaction(), clock)
    assert tokens.current() == tokens.current() == "first"
    clock.now = 4299.0
    assert tokens.current() == "first"
    clock.now = 4301.0
    assert tokens.current() == "second"


def test_an_issuer_that_is_away_stops_nothing_yet(clock) -> None:
    """While the token that is there lets in, it is used; behind its end nothing is sent."""
    tokens = BearerTokens(Fetcher(Token("first", 4600.0), AWAY, AWAY, Token("second", 9000.0)), Redaction(), clock)
    tokens.current()
    clock.now = 4500.0
    assert tokens.current() == "first"
    clock.now = 4601.0
    assert tokens.current() is AWAY
    assert tokens.current() == "second"


def test_a_refused_token_is_dropped(clock) -> None:
    """Whoever made it begins anew too: libraries keep tokens of their own."""
    fetcher = Fetcher(Token("first", 4600.0), Token("second", 4600.0))
    tokens = BearerTokens(fetcher, Redaction(), clock)
    tokens.current()
    tokens.forget()
    assert (tokens.current(), fetcher.forgotten) == ("second", 1)


def test_nobody_sees_a_token(clock) -> None:
    """Neither in what a vendor repeats nor in what a debugger prints."""
    redaction = Redaction()
    token = Token("token-that-nobody-may-see", 4600.0)
    BearerTokens(Fetcher(token), redaction, clock).current()
    assert "nobody" not in redaction.clean("you sent token-that-nobody-may-see") + repr(token) + repr(redaction)
