"""Requests to the example service."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

import pytest

from klyra_audit import RetryLater
from klyra_collector.demo import cast, client
from klyra_collector.demo.client import Caller, ServiceClient, Stopped, UnexpectedAnswer
from support.moderation import Notebook, running_service

OWNER = Caller(cast.OWNER_ORIGINS[0], user_id=cast.OWNER_ID)


@pytest.fixture(autouse=True)
def without_pause(monkeypatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(client, "_PAUSE_SECONDS", 0.0)


def test_what_cannot_be_recorded_is_sent_again_until_it_can() -> None:
    """A 503 says that nothing was done, so the same request is made again, and the reason is passed on."""
    notebook = Notebook(trouble=[RetryLater("the collector restarts")] * 2)
    reasons: list[str] = []
    with running_service(notebook) as url, closing(ServiceClient(url, threading.Event(), reasons.append)) as service:
        made = service.send(OWNER, "POST", "/v1/api-keys", {"name": "Again"}, expect=201)
    assert made["name"] == "Again"
    assert [document["event_type"] for document in notebook.documents] == ["api_key.created"]
    assert len(reasons) == 2
    assert "the collector restarts" in reasons[0]


def test_a_caller_is_seen_as_itself_and_from_where_it_comes() -> None:
    """Address and user agent reach the entry, for IPv6 as well."""
    notebook = Notebook()
    origin = cast.OWNER_ORIGINS[1]
    with running_service(notebook) as url, closing(ServiceClient(url, threading.Event())) as service:
        service.send(Caller(origin, user_id=cast.OWNER_ID), "POST", "/v1/api-keys", {"name": "Six"}, expect=201)
    metadata = notebook.documents[0]["metadata"]
    assert (metadata["client_ip"], metadata["user_agent"]) == (origin.client_ip, origin.user_agent)
    assert ":" in origin.client_ip


def test_an_answer_outside_the_script_is_an_error() -> None:
    """The error names the request and both statuses, and says what to check."""
    with (
        running_service(Notebook()) as url,
        closing(ServiceClient(url, threading.Event())) as service,
        pytest.raises(UnexpectedAnswer, match=r"DELETE /v1/webhooks/wh_0 was answered 404, not 204") as caught,
    ):
        service.send(OWNER, "DELETE", "/v1/webhooks/wh_0", expect=204)
    assert caught.value.code == "unexpected_answer"
    assert caught.value.remedy == "Check that the address is the example moderation service's."


def test_waiting_ends_when_it_is_told_to() -> None:
    """Without a service, both the wait for it and a request end with the stop event."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        stop = threading.Event()
        with closing(ServiceClient(url, stop, lambda _reason: stop.set())) as service:
            with pytest.raises(Stopped):
                service.send(OWNER, "POST", "/v1/api-keys", {"name": "Nobody"}, expect=201)
            assert stop.is_set()
            with pytest.raises(Stopped):
                service.await_service()


def test_a_secret_is_not_in_the_representation() -> None:
    """A caller may end in a traceback."""
    assert "mod_sk" not in repr(Caller(cast.OWNER_ORIGINS[0], secret="mod_sk_secret"))
