"""What the answers of Splunk's HTTP Event Collector mean."""

from __future__ import annotations

import json

import pytest

from klyra_siem.http_sending import Answer
from klyra_siem.outcome import Action, Outcome
from klyra_siem.splunk_answers import (
    NEARLY_FULL,
    acknowledgement_id,
    of_acknowledgement,
    of_events,
    of_no_data,
)
from support.siem.splunk import CODES

NOW = 1_782_000_000.0
EXPECTED = {
    Action.DELIVERED: {0, 24, 25},
    Action.RETRY: {8, 9, 18, 19, 20, 23, 26, 27},
    Action.BISECT: {5, 6, 12, 13, 15},
    Action.PAUSE: {1, 2, 3, 4, 7, 10, 11, 14, 16, 17, 21, 22},
}


def answer(status: int, body: object, **headers: str) -> Answer:
    """Return an answer; its body is JSON unless it is a text."""
    return Answer(status, headers, body if isinstance(body, str) else json.dumps(body))


def coded(code: int, **members: object) -> Answer:
    """Return the answer that Splunk gives with a code."""
    status, text = CODES[code]
    return answer(status, {"text": text, "code": code, **members})


class TestEvents:
    """What is said to events."""

    @pytest.mark.parametrize("code", sorted(CODES))
    def test_every_code(self, code: int) -> None:
        """Each documented code has its one meaning, and the status shows both numbers."""
        outcome = of_events(coded(code), NOW)
        assert code in EXPECTED[outcome.action]
        assert outcome.status == f"{CODES[code][0]}/{code}"

    def test_the_codes_are_all_there(self) -> None:
        """The test above speaks of every code once."""
        listed = [code for codes in EXPECTED.values() for code in codes]
        assert sorted(listed) == sorted(CODES)

    @pytest.mark.parametrize("code", [26, 27])
    @pytest.mark.parametrize("status", [200, 400, 429, 503])
    def test_a_full_queue_is_tried_again_whatever_the_status(self, code: int, status: int) -> None:
        """Nobody has written down with which status these come."""
        assert of_events(answer(status, {"text": "at capacity", "code": code}), NOW).action is Action.RETRY

    @pytest.mark.parametrize("code", [24, 25])
    def test_nearly_full_is_taken(self, code: int) -> None:
        """The data are in; the reason tells an operator why fewer go."""
        outcome = of_events(coded(code), NOW)
        assert (outcome.action, outcome.status in NEARLY_FULL) == (Action.DELIVERED, True)
        assert f"code {code}" in outcome.reason

    def test_success_needs_no_reason(self) -> None:
        """Nothing is written down about what went well."""
        assert of_events(coded(0), NOW) == Outcome(action=Action.DELIVERED, status="200/0")

    @pytest.mark.parametrize(
        ("status", "action"),
        [(200, Action.DELIVERED), (400, Action.BISECT), (404, Action.PAUSE), (429, Action.RETRY), (500, Action.RETRY)],
    )
    def test_a_code_that_nobody_knows(self, status: int, action: Action) -> None:
        """The status decides."""
        assert of_events(answer(status, {"text": "new", "code": 99}), NOW).action is action

    @pytest.mark.parametrize("body", ["", "<html>logged out</html>", "[]", "{}", {"code": True}, {"code": "0"}])
    def test_a_success_that_splunk_never_gives(self, body: object) -> None:
        """A proxy's page confirms nothing."""
        outcome = of_events(answer(200, body), NOW)
        assert (outcome.action, "Splunk" in outcome.reason) == (Action.PAUSE, True)

    @pytest.mark.parametrize(("status", "action"), [(413, Action.BISECT), (502, Action.RETRY), (302, Action.PAUSE)])
    def test_without_a_code_the_status_decides(self, status: int, action: Action) -> None:
        """A load balancer answers in its own words."""
        assert of_events(answer(status, "<html>"), NOW).action is action

    def test_when_to_come_again(self) -> None:
        """A full server may say when."""
        reply = answer(503, {"text": "busy", "code": 9}, **{"retry-after": "7"})
        assert of_events(reply, NOW).retry_after == 7.0

    def test_the_number_of_an_event_is_for_people(self) -> None:
        """It is told, and changes nothing: versions differ about where counting begins."""
        for code, action in ((9, Action.RETRY), (6, Action.BISECT)):
            outcome = of_events(coded(code, **{"invalid-event-number": 3}), NOW)
            assert (outcome.action, "event 3" in outcome.reason, outcome.refused) == (action, True, ())


class TestNoData:
    """What is said to a request without events."""

    def test_with_a_good_token(self) -> None:
        """Only who may send is told that there was nothing."""
        assert of_no_data(coded(5), NOW).action is Action.DELIVERED

    @pytest.mark.parametrize("code", [1, 2, 3, 4, 10, 11, 16])
    def test_with_anything_else_wrong(self, code: int) -> None:
        """The answer is what it would be with events."""
        assert of_no_data(coded(code), NOW).action is Action.PAUSE


class TestAcknowledgements:
    """What is said about a batch that was taken."""

    def test_an_id(self) -> None:
        """The first one of a channel is 0."""
        assert acknowledgement_id(coded(0, ackId=0)) == 0

    @pytest.mark.parametrize("members", [{}, {"ackId": None}, {"ackId": "7"}, {"ackId": True}])
    def test_no_id(self, members: dict[str, object]) -> None:
        """Taking that for delivered would lose what the indexer loses; the setting is named."""
        outcome = acknowledgement_id(coded(0, **members))
        assert isinstance(outcome, Outcome)
        assert (outcome.action, outcome.status) == (Action.PAUSE, "no_ack_id")
        assert "acknowledge = false" in outcome.reason

    def test_said_to_be_indexed(self) -> None:
        """True is the only confirmation."""
        assert of_acknowledgement(answer(200, {"acks": {"7": True}}), 7, NOW).action is Action.DELIVERED

    @pytest.mark.parametrize("acks", [{"7": False}, {}, {"8": True}])
    def test_not_yet(self, acks: dict[str, bool]) -> None:
        """False is also said of what is unknown, so that nothing but asking again, and time, decides."""
        outcome = of_acknowledgement(answer(200, {"acks": acks}), 7, NOW)
        assert (outcome.action, outcome.status) == (Action.RETRY, "not_acknowledged")

    @pytest.mark.parametrize(
        "body", ["", "<html>", {"text": "Success", "code": 0, "ackId": 0}, {"acks": {"7": "true"}}]
    )
    def test_a_success_that_splunk_never_gives(self, body: object) -> None:
        """Whoever answers to everything with success is no indexer."""
        assert of_acknowledgement(answer(200, body), 7, NOW).action is Action.PAUSE

    @pytest.mark.parametrize(
        ("status", "action"),
        [(400, Action.PAUSE), (401, Action.PAUSE), (404, Action.PAUSE), (413, Action.PAUSE), (503, Action.RETRY)],
    )
    def test_a_refusal_says_nothing_about_the_events(self, status: int, action: Action) -> None:
        """They are neither confirmed nor searched for a bad one."""
        assert (
            of_acknowledgement(answer(status, {"text": "no", "code": 6 if status == 400 else 99}), 7, NOW).action
            is action
        )

    def test_acknowledgement_is_off(self) -> None:
        """The token does not have it: the setting is named."""
        outcome = of_acknowledgement(coded(14), 7, NOW)
        assert (outcome.action, "acknowledge = false" in outcome.reason) == (Action.PAUSE, True)

    def test_asking_for_nothing(self) -> None:
        """A question without ids is answered by whoever has acknowledgements."""
        assert of_acknowledgement(answer(200, {"acks": {}}), None, NOW).action is Action.DELIVERED
