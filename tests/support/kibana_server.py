"""A Kibana of our own on loopback: as much of its API as `klyra-audit setup kibana` uses, as strict as it is.

It answers 200 to an import that failed, and says so in the body; it wants `kbn-xsrf` of whoever changes anything.
"""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NEW_RULE = {"name", "consumer", "rule_type_id", "tags", "schedule", "actions", "params", "enabled"}
CHANGED_RULE = {
    *("name", "tags", "schedule", "actions", "params", "alert_delay", "flapping", "notify_when", "throttle"),
}
ACTION = {"group", "id", "params", "frequency", "uuid", "alerts_filter", "use_alert_data_for_template"}
PARAMETERS = {
    *("searchType", "index", "timeField", "esQuery", "size", "timeWindowSize", "timeWindowUnit", "aggType"),
    *("excludeHitsFromPreviousRun", "thresholdComparator", "threshold", "groupBy", "termField", "termSize"),
}


@dataclass
class FakeKibana:
    """What it has, what it was asked, and how it misbehaves.

    Attributes:
        number: its version; None tells nobody.
        authorization: what it wants to be asked with; None for anybody.
        objects, rules: space → id → what is there.
        spaces: that there are.
        roles: by name.
        asked: method and path of each request that changes something.
        refused: ids of objects that it does not bring in, with the reason.
        bend: changes status, headers and body of an answer, given the path.
    """

    number: str | None = "8.19.5"
    authorization: str | None = None
    objects: dict[str, dict[str, Json]] = field(default_factory=lambda: {"default": {}})
    rules: dict[str, dict[str, Json]] = field(default_factory=lambda: {"default": {}})
    roles: Json = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    refused: dict[str, Json] = field(default_factory=dict)
    bend: Callable[[str, int, dict[str, str], bytes], tuple[int, dict[str, str], bytes]] = (
        lambda _path, status, headers, body: (status, headers, body)
    )
    address: str = ""

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, Any]:
        """Return status and body."""
        if self.authorization not in (None, headers.get("authorization")):
            return 401, {"statusCode": 401, "error": "Unauthorized", "message": "unable to authenticate"}
        if method != "GET":
            self.asked.append((method, path))
            if not headers.get("kbn-xsrf"):
                return 400, {"statusCode": 400, "message": "Request must contain a kbn-xsrf header."}
        parts = urlsplit(path)
        matched = re.fullmatch(r"(?:/s/([\w-]+))?/api/(.*)", parts.path)
        space, route = (matched[1] or "default", matched[2]) if matched else ("", "")
        if space not in self.objects:
            return 404, {"statusCode": 404, "message": "Not Found"}
        if route == "saved_objects/_import":
            return self._import(space, parse_qs(parts.query), headers, body)
        return self._other(method, space, route, body)

    def _other(self, method: str, space: str, route: str, body: bytes) -> tuple[int, Any]:
        kind, _, name = route.rpartition("/")
        if route == "status":
            return 200, {"name": "kibana", "status": {"overall": {"level": "available"}}} | self._version()
        if "spaces/space" in (kind, route):
            return self._space(method, name, body)
        if kind == "alerting/rule":
            return self._rule(method, space, name, body)
        if kind == "security/role":
            self.roles[name] = json.loads(body)
            return 204, None
        return 404, {"statusCode": 404, "message": "Not Found"}

    def _version(self) -> Json:
        return {} if self.number is None else {"version": {"number": self.number, "build_flavor": "traditional"}}

    def _space(self, method: str, name: str, body: bytes) -> tuple[int, Any]:
        if method == "GET":
            return (200, {"id": name}) if name in self.objects else (404, {"message": "Not Found"})
        made = json.loads(body)
        self.objects[made["id"]], self.rules[made["id"]] = {}, {}
        return 200, made

    def _import(self, space: str, options: dict[str, list[str]], headers: Any, body: bytes) -> tuple[int, Any]:
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
            b"content-type: " + headers["content-type"].encode() + b"\r\n\r\n" + body
        )
        (part,) = message.iter_parts()
        if part.get_param("name", header="content-disposition") != "file" or not part.get_filename().endswith(
            ".ndjson"
        ):
            return 400, {"message": "Invalid file extension"}
        given = [json.loads(line) for line in part.get_payload(decode=True).splitlines()]
        errors = list(self._faults(space, given, overwrite="overwrite" in options))
        failed = {(each["type"], each["id"]) for each in errors}
        for each in given:
            if (each["type"], each["id"]) not in failed:
                self.objects[space][each["id"]] = each
        answer: Json = {"success": not errors, "successCount": len(given) - len(errors)}
        return 200, answer | ({"errors": errors} if errors else {})

    def _faults(self, space: str, given: list[Json], *, overwrite: bool) -> Iterator[Json]:
        there = {(each["type"], each["id"]) for each in (*given, *self.objects[space].values())}
        for each in given:
            absent = [
                {"type": to["type"], "id": to["id"]}
                for to in each["references"]
                if (to["type"], to["id"]) not in there or to["id"] in self.refused
            ]
            error = self.refused.get(each["id"])
            if absent:
                error = {"type": "missing_references", "references": absent}
            elif error is None and each["id"] in self.objects[space] and not overwrite:
                error = {"type": "conflict"}
            if error is not None:
                yield {"type": each["type"], "id": each["id"], "error": error}

    def _rule(self, method: str, space: str, rule_id: str, body: bytes) -> tuple[int, Any]:
        rules = self.rules[space]
        if method == "GET":
            return (200, rules[rule_id]) if rule_id in rules else (404, {"message": "Saved object not found"})
        given = json.loads(body)
        if fault := _rule_fault(given, NEW_RULE if method == "POST" else CHANGED_RULE):
            return 400, {"statusCode": 400, "message": fault}
        if method == "POST":
            if any(rule_id in those for those in self.rules.values()):
                return 409, {"statusCode": 409, "message": f"Saved object [alert/{rule_id}] conflict"}
            if not UUID.fullmatch(rule_id):
                return 400, {"message": "Predefined IDs are not allowed for saved objects with encrypted attributes"}
        actions = [each | {"connector_type_id": ".server-log"} for each in given["actions"]]
        rules[rule_id] = rules.get(rule_id, {"id": rule_id, "enabled": True}) | given | {"actions": actions}
        return 200, rules[rule_id]


def _rule_fault(given: Json, known: set[str]) -> str | None:
    """Return what Kibana would object to."""
    parameters = given["params"]
    unknown = given.keys() - known | parameters.keys() - PARAMETERS
    unknown |= {name for action in given["actions"] for name in action.keys() - ACTION}
    if unknown:
        return f"[request body.{min(unknown)}]: definition for this key is missing"
    if "query" not in json.loads(parameters["esQuery"]):
        return 'params invalid: [esQuery]: must contain "query"'
    if parameters["groupBy"] == "top" and not {"termField", "termSize"} <= parameters.keys():
        return "params invalid: [termField]: termField required when [groupBy] is top"
    sound = parameters["thresholdComparator"] in (">", "<", ">=", "<=") and parameters["timeWindowUnit"] in "smhd"
    return None if sound else "params invalid"


@contextlib.contextmanager
def serving(kibana: FakeKibana, tls: ssl.SSLContext | None = None) -> Iterator[FakeKibana]:
    """Serve it on a free port of this machine; its `address` is set."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = kibana.answer(self.command, self.path, self.headers, body)
            content = b"" if answer is None else json.dumps(answer).encode()
            status, headers, content = kibana.bend(self.path, status, {"content-type": "application/json"}, content)
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _do  # noqa: N815 - the base class's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    if tls is not None:
        listener.socket = tls.wrap_socket(listener.socket, server_side=True)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        kibana.address = f"kibana+{'http' if tls is None else 'https'}://127.0.0.1:{listener.server_port}"
        yield kibana
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
