"""What is known of the present request is added to every event, and nothing is believed that a client wrote."""

from __future__ import annotations

import asyncio
import threading

import pytest

from klyra_audit import Actor, events
from klyra_audit.context import (
    ClientAddress,
    RequestContext,
    current,
    current_actor,
    request_context,
    trace_of,
    with_context,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def created(**context):
    """Return a small event."""
    return events.moderation_created(actor=Actor.user("usr_1"), moderation_id="mod_1", **context)


class TestClientAddress:
    """Only the proxies that are trusted are believed."""

    @pytest.mark.parametrize(
        ("peer", "forwarded", "found"),
        [
            ("198.51.100.7", [], "198.51.100.7"),
            ("198.51.100.7", ["203.0.113.9"], "198.51.100.7"),
            ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", ["192.0.2.66, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", ["192.0.2.66, 203.0.113.9, 10.9.9.9"], "203.0.113.9"),
            ("10.0.0.1", ["192.0.2.66", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", ["10.1.1.1"], "10.1.1.1"),
            ("10.0.0.1", ["unknown, 10.1.1.1"], "10.1.1.1"),
            ("10.0.0.1", ["_hidden"], "10.0.0.1"),
            ("10.0.0.1", [""], "10.0.0.1"),
            ("10.0.0.1", [], "10.0.0.1"),
            ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
            ("10.0.0.1", ["2001:DB8:0::7"], "2001:db8::7"),
            ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
            ("fe80::1%eth0", [], "fe80::1"),
            (None, ["203.0.113.9"], "203.0.113.9"),
            (None, [], None),
            ("testclient", ["203.0.113.9"], None),
        ],
    )
    def test_the_first_address_that_is_not_a_trusted_proxys(self, peer, forwarded, found) -> None:
        """From the right; what stands further to the left anybody can write."""
        assert ClientAddress(["10.0.0.0/8"]).find(peer, forwarded) == found

    def test_without_trusted_proxies_nothing_is_believed(self) -> None:
        """The peer is the client."""
        assert ClientAddress().find("10.0.0.1", ["203.0.113.9"]) == "10.0.0.1"

    def test_a_network_that_is_none_is_refused(self) -> None:
        """When the application starts, not when a request comes."""
        with pytest.raises(ValueError, match="10"):
            ClientAddress(["10.0.0.1/8"])


class TestTrace:
    """W3C Trace Context."""

    @pytest.mark.parametrize(
        ("header", "found"),
        [
            (f"00-{TRACE}-{SPAN}-01", (TRACE, SPAN)),
            (f" 01-{TRACE}-{SPAN}-00-more ", (TRACE, SPAN)),
            (f"00-{'0' * 32}-{SPAN}-01", None),
            (f"00-{TRACE}-{'0' * 16}-01", None),
            (f"00-{TRACE.upper()}-{SPAN}-01", None),
            ("", None),
            ("nonsense", None),
        ],
    )
    def test_a_header_is_read(self, header, found) -> None:
        """Zeros are no ids, and anything else is ignored."""
        assert trace_of(header) == found

    def test_the_present_span_wins(self) -> None:
        """Where OpenTelemetry traces, its span is where the event happened."""
        from opentelemetry import trace

        span = trace.NonRecordingSpan(trace.SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=False))
        with request_context(RequestContext(trace_id="a" * 32, span_id="b" * 16)), trace.use_span(span):
            assert (current().trace_id, current().span_id) == (TRACE, SPAN)


class TestEvents:
    """What is added to an event."""

    def test_what_is_known_is_added(self) -> None:
        """Into the metadata, beside what the event says itself."""
        context = RequestContext("198.51.100.7", "curl/8", TRACE, SPAN)
        with request_context(context):
            assert with_context(created(content_type="text")).metadata == {
                "content_type": "text",
                "client_ip": "198.51.100.7",
                "user_agent": "curl/8",
                "trace_id": TRACE,
                "span_id": SPAN,
            }

    def test_what_the_event_says_itself_stays(self) -> None:
        """The application knows better."""
        with request_context(RequestContext("198.51.100.7")):
            assert with_context(created(client_ip="192.0.2.1")).metadata["client_ip"] == "192.0.2.1"

    def test_the_event_stays_the_same_one(self) -> None:
        """Its id does not change, so that a repeat is recognised."""
        event = created()
        with request_context(RequestContext("198.51.100.7")):
            assert with_context(event).id == event.id

    def test_a_long_user_agent_is_cut(self) -> None:
        """A client cannot make an event invalid."""
        with request_context(RequestContext(user_agent="x" * 10_000)):
            assert len(with_context(created()).metadata["user_agent"]) == 512

    def test_outside_of_a_request_nothing_is_added(self) -> None:
        """The very same event is returned."""
        event = created()
        assert with_context(event) is event
        assert current_actor() is None


def test_requests_do_not_mix() -> None:
    """Threads and tasks each have their own."""
    seen: dict[str, str | None] = {}

    def work(name: str) -> None:
        with request_context(RequestContext(name)):
            barrier.wait()
            seen[name] = current().client_ip

    async def tasks() -> list[str | None]:
        async def work(name: str) -> str | None:
            with request_context(RequestContext(name)):
                await asyncio.sleep(0)
                return current().client_ip

        return await asyncio.gather(*(work(str(number)) for number in range(3)))

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"a": "a", "b": "b"}
    assert asyncio.run(tasks()) == ["0", "1", "2"]


def test_the_actor_is_asked_for_when_it_is_needed() -> None:
    """Applications authenticate after the middleware has begun."""
    known: list[Actor] = []
    with request_context(RequestContext(find_actor=lambda: known[0] if known else None)):
        assert current_actor() is None
        known.append(Actor.user("usr_7"))
        assert current_actor() == Actor.user("usr_7")
