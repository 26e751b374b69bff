"""Events emitted in real Starlette, Flask and Django applications say who made the request and from where."""

from __future__ import annotations

import base64
import logging

import pytest

from klyra_audit import Actor, events
from klyra_audit.context import current_actor, with_context
from klyra_audit.integrations import asgi, wsgi
from klyra_audit.integrations.logging import AuditHandler

PROXY, CLIENT = "10.0.0.1", "203.0.113.9"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"X-Forwarded-For": f"192.0.2.66, {CLIENT}", "User-Agent": "probe/1", "Traceparent": f"00-{TRACE}-{SPAN}-01"}
KNOWN = {"client_ip": CLIENT, "user_agent": "probe/1", "trace_id": TRACE, "span_id": SPAN}


def event_of_request() -> dict:
    """Return what an event that is emitted now would say."""
    actor = current_actor() or Actor.system("nobody")
    event = with_context(events.moderation_created(actor=actor, moderation_id="mod_1"))
    return {"actor": event.actor.id, "name": event.actor.name, **event.metadata}


class TestStarlette:
    """ASGI, with Starlette's own authentication."""

    @pytest.fixture
    def client(self):
        """A client of an application whose users sign in with Basic."""
        from starlette.applications import Starlette
        from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
        from starlette.middleware import Middleware
        from starlette.middleware.authentication import AuthenticationMiddleware
        from starlette.responses import JSONResponse
        from starlette.routing import Route
        from starlette.testclient import TestClient

        class Basic(AuthenticationBackend):
            async def authenticate(self, conn):
                """Believe the name."""
                if "authorization" not in conn.headers:
                    return None
                name, _, _ = base64.b64decode(conn.headers["authorization"].split()[1]).decode().partition(":")
                return AuthCredentials(), SimpleUser(name)

        def show(_) -> JSONResponse:
            return JSONResponse(event_of_request())  # runs in a thread, to which the context goes along

        app = Starlette(
            routes=[Route("/", show)],
            middleware=[
                Middleware(asgi.AuditContextMiddleware, trusted_proxies=["10.0.0.0/8"]),
                Middleware(AuthenticationMiddleware, backend=Basic()),
            ],
        )
        with TestClient(app, client=(PROXY, 4711)) as made:
            yield made

    def test_client_trace_and_user(self, client) -> None:
        """Everything known, the user by the name that authentication found out."""
        assert client.get("/", headers=HEADERS, auth=("ada", "x")).json() == KNOWN | {"actor": "ada", "name": "ada"}

    def test_nobody_signed_in(self, client) -> None:
        """Without a user no actor is made up."""
        assert client.get("/", headers=HEADERS).json()["actor"] == "nobody"


class TestFlask:
    """WSGI."""

    @pytest.fixture
    def client(self):
        """A client of an application behind a server that authenticates."""
        from flask import Flask

        app = Flask("probe")
        app.add_url_rule("/", "show", event_of_request)
        app.wsgi_app = wsgi.AuditContextMiddleware(app.wsgi_app, trusted_proxies=["10.0.0.0/8"])
        return app.test_client()

    def test_client_trace_and_user(self, client) -> None:
        """Everything known, the user by REMOTE_USER."""
        answer = client.get("/", headers=HEADERS, environ_base={"REMOTE_ADDR": PROXY, "REMOTE_USER": "ada"})
        assert answer.json == KNOWN | {"actor": "ada", "name": None}

    def test_nobody_signed_in(self, client) -> None:
        """Without a user no actor is made up; without the proxy its header is not believed."""
        answer = client.get("/", headers=HEADERS, environ_base={"REMOTE_ADDR": "198.51.100.1"}).json
        assert (answer["actor"], answer["client_ip"]) == ("nobody", "198.51.100.1")

    def test_an_answer_is_closed(self) -> None:
        """WSGI asks for it, and the context lasts as long as the answer is made."""
        closed = []

        class Answer:
            def __iter__(self):
                yield event_of_request()["user_agent"].encode()

            def close(self) -> None:
                closed.append(True)

        app = wsgi.AuditContextMiddleware(lambda _environ, _start: Answer())
        assert list(app({"HTTP_USER_AGENT": "probe/1"}, lambda *_: None)) == [b"probe/1"]
        assert closed == [True]


@pytest.fixture(scope="module")
def django_client():
    """A client of a project with one view, whose middleware signs in whom a header names."""
    import django
    from django.conf import settings
    from django.http import JsonResponse
    from django.test import Client
    from django.urls import path

    class User:
        is_authenticated = True

        def __init__(self, name: str) -> None:
            self.pk, self.username = f"usr_{name}", name

    def sign_in(get_response):
        def middleware(request):
            name = request.headers.get("X-Name")
            if name:
                request.user = User(name)
            return get_response(request)

        return middleware

    globals()["sign_in"] = sign_in
    globals()["urlpatterns"] = [path("", lambda _: JsonResponse(event_of_request()))]
    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        MIDDLEWARE=["klyra_audit.integrations.django.AuditContextMiddleware", f"{__name__}.sign_in"],
        ROOT_URLCONF=__name__,
        KLYRA_AUDIT_TRUSTED_PROXIES=["10.0.0.0/8"],
    )
    django.setup()
    return Client(REMOTE_ADDR=PROXY)


class TestDjango:
    """Django's own middleware chain."""

    def test_client_trace_and_user(self, django_client) -> None:
        """Everything known, the user by primary key and name."""
        answer = django_client.get("/", headers=HEADERS | {"X-Name": "ada"}).json()
        assert answer == KNOWN | {"actor": "usr_ada", "name": "ada"}

    def test_nobody_signed_in(self, django_client) -> None:
        """Without a user no actor is made up."""
        assert django_client.get("/", headers=HEADERS).json()["actor"] == "nobody"


class Kept:
    """Stands where an emitter would, to see what reaches it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.events, self.error = [], error

    def emit(self, event) -> None:
        """Keep an event, or fail."""
        if self.error is not None:
            raise self.error
        self.events.append(event)


class TestLogging:
    """An audit trail that is a logger."""

    @pytest.fixture
    def logger(self):
        """A logger of its own."""
        made = logging.Logger("audit")  # noqa: LOG001 - nobody else's
        yield made
        made.handlers.clear()

    def test_a_record_with_an_event_is_emitted(self, logger) -> None:
        """Others are none of the handler's business."""
        kept = Kept()
        logger.addHandler(AuditHandler(kept))
        event = events.moderation_created(actor=Actor.user("usr_1"), moderation_id="mod_1")
        logger.info("created", extra={"audit_event": event})
        logger.info("something else")
        logger.info("something else", extra={"audit_event": "no event"})
        assert kept.events == [event]

    def test_a_failure_reaches_the_one_who_logs(self, logger) -> None:
        """Other handlers print it to stderr and go on."""
        logger.addHandler(AuditHandler(Kept(OSError("the disk is full"))))
        event = events.moderation_created(actor=Actor.user("usr_1"), moderation_id="mod_1")
        with pytest.raises(OSError, match="full"):
            logger.info("created", extra={"audit_event": event})
