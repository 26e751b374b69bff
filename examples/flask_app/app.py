"""A Flask application whose every change is an entry of its audit log: `flask --app app run`."""

from __future__ import annotations

import os

from flask import Flask, abort, jsonify, request

from klyra_audit import Actor, AuditEmitter, events
from klyra_audit.context import current_actor
from klyra_audit.integrations.wsgi import AuditContextMiddleware

emitter = AuditEmitter(
    os.environ["KLYRA_AUDIT_ENDPOINT"],
    api_key=os.environ["KLYRA_AUDIT_API_KEY"],
    organization_id=os.environ["KLYRA_AUDIT_ORGANIZATION_ID"],
    emitter_id="flask-app",
)
app = Flask(__name__)
settings: dict[str, str] = {}


def signed_in(environ: dict) -> Actor | None:
    """Return whom the proxy in front has signed in; an application of yours asks its session."""
    name = environ.get("HTTP_X_USER")
    return Actor.user(name) if name else None


# Client address and user agent go into every event by themselves; only this proxy is believed about the address.
app.wsgi_app = AuditContextMiddleware(app.wsgi_app, trusted_proxies=["127.0.0.1/32"], find_actor=signed_in)


@app.put("/settings/<name>")
def change(name: str):  # noqa: ANN201 - Flask takes anything
    """Change a setting: not at all if its entry cannot be kept."""
    actor = current_actor() or abort(401)
    value = request.get_data(as_text=True)
    event = events.settings_updated(actor=actor, settings_id=name, changes=[name])
    with emitter.required(event):
        settings[name] = value
    return jsonify(entry=event.id)
