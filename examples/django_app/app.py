"""A Django project in one file whose every change is an entry of its audit log: `python app.py runserver`."""

from __future__ import annotations

import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from klyra_audit import AuditEmitter, events
from klyra_audit.context import current_actor

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["localhost", "127.0.0.1"],
        MIDDLEWARE=["klyra_audit.integrations.django.AuditContextMiddleware", f"{__name__}.believe_proxy"],
        ROOT_URLCONF=__name__,
        SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "only for the example"),
        KLYRA_AUDIT_TRUSTED_PROXIES=["127.0.0.1/32"],
    )

emitter = AuditEmitter(
    os.environ["KLYRA_AUDIT_ENDPOINT"],
    api_key=os.environ["KLYRA_AUDIT_API_KEY"],
    organization_id=os.environ["KLYRA_AUDIT_ORGANIZATION_ID"],
    emitter_id="django-app",
)
members: set[str] = {"usr_1", "usr_2"}


class ProxyUser:
    """Whom the proxy in front has signed in; a project of yours has `django.contrib.auth`."""

    is_authenticated = True

    def __init__(self, name: str) -> None:
        self.pk = self.username = name


def believe_proxy(get_response):  # noqa: ANN001, ANN201 - Django's middleware form
    """Take the user from the proxy's header."""

    def middleware(request: HttpRequest) -> HttpResponse:
        name = request.headers.get("X-User")
        if name:
            request.user = ProxyUser(name)
        return get_response(request)

    return middleware


@csrf_exempt
def remove(request: HttpRequest, user_id: str) -> HttpResponse:
    """Remove a member: not at all if the entry cannot be kept."""
    actor = current_actor()
    if actor is None or request.method != "DELETE":
        return HttpResponse(status=401)
    event = events.user_removed(actor=actor, user_id=user_id)
    with emitter.required(event):  # inside of your transaction, so that it is rolled back with it
        members.discard(user_id)
    return JsonResponse({"entry": event.id})


urlpatterns = [path("members/<str:user_id>", remove)]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
