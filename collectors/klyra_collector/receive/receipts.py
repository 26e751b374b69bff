"""`GET /v1/receipts`: what became of an emitter's events, by their places in its sequence (DESIGN section 6).

For emitters whose way to us brings no receipts back. The ledger itself is read, beside the sealing and without waiting
for it, so the answer is the same after a restart and in another year's shard. One question is read at a time; when too
many wait, the next is told to come again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.responses import Response
from starlette.routing import Route

from klyra_audit.errors import Paused, Rejected
from klyra_audit.format import canonical, sections
from klyra_audit.format.errors import FormatError
from klyra_audit.format.leaf import Kind, Leaf
from klyra_audit.format.quarantined import KeptInput
from klyra_audit.format.sections import OPERATOR_REFERENCE
from klyra_collector.data_directory import FRAMES, ShardDirectory
from klyra_collector.errors import Overloaded
from klyra_collector.quarantine import REPEAT
from klyra_collector.receive import answers
from klyra_collector.receive.http_request import authenticate
from klyra_collector.receive.own_form import MAX_SEQUENCE
from klyra_collector.seal.body_search import BodySearch
from klyra_collector.seal.closed import LeafFiles
from klyra_collector.seal.emitter_places import EmitterPlaces, Placed
from klyra_collector.seal.quarantined import QuarantinedBytes
from klyra_collector.seal.state import Boot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.requests import Request

    from klyra_audit.errors import KlyraError
    from klyra_audit.format.frame import BodyFrame
    from klyra_collector.data_directory import DataDirectory
    from klyra_collector.receive.ingest import Ingest
    from klyra_collector.receive.senders import Sender

PATH: Final = "/v1/receipts"
MAX_COUNT: Final = 1000  # an emitter's batch has at most 512 events

SEALED: Final = "sealed"
QUARANTINED: Final = "quarantined"
MISSING: Final = "missing"

_MAX_WAITING = 64
_PARAMETERS = ("emitter", "boot", "first_seq", "count")
_NANOSECONDS_PER_MICROSECOND = 1000


class BadQuestion(Rejected):
    """A parameter is missing, unknown or out of its range."""

    code = "bad_parameter"


class ForeignEmitter(Paused):
    """The key may not speak for the emitter that is asked about."""

    code = "foreign_emitter"


@dataclass(frozen=True, slots=True)
class Question:
    """Which receipts are asked for.

    Attributes:
        emitter_id, boot: whose sequence.
        first, count: which numbers of it.
    """

    emitter_id: str
    boot: str
    first: int
    count: int

    @classmethod
    def parse(cls, parameters: Iterable[tuple[str, str]]) -> Question:
        """Read the parameters of a request; `BadQuestion` names the one that is wrong."""
        given: dict[str, str] = {}
        for name, value in parameters:
            if name not in _PARAMETERS or name in given:
                raise BadQuestion(f"{name[:60]} is no parameter here, or is there twice.", remedy=_remedy())
            given[name] = value
        for name in _PARAMETERS:
            if not given.get(name):
                raise BadQuestion(f"{name} is missing.", remedy=_remedy())
        count = _number(given, "count", 1, MAX_COUNT)
        return cls(given["emitter"], given["boot"], _number(given, "first_seq", 0, MAX_SEQUENCE), count)


class Receipts:
    """Answers questions, one at a time.

    Args:
        data: where the ledger is.
        org_salt: of the ledger.
    """

    def __init__(self, data: DataDirectory, org_salt: bytes) -> None:
        self._data = data
        self._org_salt = org_salt
        self._places = EmitterPlaces(data.ledger)
        self._leaf_files = LeafFiles(data.ledger)
        self._quarantined = QuarantinedBytes(data)
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def answer(self, question: Question, sender: Sender) -> list[dict[str, Any]]:
        """Return what became of each event, in the order of the sequence; see `_receipt` for the members.

        Of other organizations' emitters nothing is known: their events are missing, like those that never were.

        Raises:
            ForeignEmitter: the key is bound to other emitters.
            Overloaded: too many questions wait.
            LedgerDamaged: a committed record cannot be read.
        """
        if sender.emitter_ids and question.emitter_id not in sender.emitter_ids:
            raise ForeignEmitter(
                f"Key {sender.key_id} may not speak for this emitter.", remedy="Ask with the emitter's own key."
            )
        if self._waiting >= _MAX_WAITING:
            raise Overloaded(f"{self._waiting} questions for receipts wait.", remedy="Ask again shortly.")
        self._waiting += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(self._answer, question, sender)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Close all files."""
        self._places.close()

    def _answer(self, question: Question, sender: Sender) -> list[dict[str, Any]]:
        scope = OPERATOR_REFERENCE
        if sender.organization_id is not None:
            scope = sections.organization_reference(self._org_salt, sender.organization_id)
        boot = Boot(scope, question.emitter_id, question.boot)
        placed = self._places.find(boot, question.first, question.count)
        with contextlib.ExitStack() as files:
            bodies = _Bodies(self._data, files)
            return [
                {"emitter_seq": number, **self._receipt(placed[number], bodies)}
                if number in placed
                else {"emitter_seq": number, "status": MISSING}
                for number in range(question.first, question.first + question.count)
            ]

    def _receipt(self, placed: Placed, bodies: _Bodies) -> dict[str, Any]:
        """Return the receipt of what stands at a place; an event that was sealed before gets the first sealing's."""
        leaf = Leaf.unpack(placed.leaf)
        body = bodies.find(placed, leaf)
        if leaf.kind == Kind.EVENT:
            return {"status": SEALED, "duplicate": False, **_named(body), **_where(placed, leaf)}
        first = self._repeated(placed, leaf)
        if first is not None:
            first_leaf = Leaf.unpack(first.leaf)
            return {
                "status": SEALED,
                "duplicate": True,
                **_named(bodies.find(first, first_leaf)),
                **_where(first, first_leaf),
            }
        return {"status": QUARANTINED, "record_id": None, **_why(body), **_where(placed, leaf)}

    def _repeated(self, placed: Placed, leaf: Leaf) -> Placed | None:
        """Return the record that a quarantined one repeats; None if it was kept for any other reason."""
        kept = self._quarantined.find(placed.origin, placed.index, leaf.expire_day)
        if kept is None:
            return None
        unpacked = KeptInput.unpack(kept)
        if unpacked.encoding != REPEAT:
            return None
        repeats = orjson.loads(unpacked.content)["repeats"]
        origin, index = repeats["log"], repeats["index"]
        try:
            return Placed(origin, index, self._leaf_files.leaf(origin.rpartition("/")[2], index))
        except FileNotFoundError:  # its whole shard has expired
            return None


class _Bodies:
    """The bodies behind the leaves of one answer; a file is opened once."""

    def __init__(self, data: DataDirectory, files: contextlib.ExitStack) -> None:
        self._data = data
        self._files = files
        self._searches: dict[tuple[str, int], BodySearch] = {}

    def find(self, placed: Placed, leaf: Leaf) -> BodyFrame | None:
        """Return the body of a leaf; None if it is gone, or is not the one that the leaf commits to."""
        key = (placed.origin, leaf.expire_day)
        search = self._searches.get(key)
        if search is None:
            shard = ShardDirectory(self._data.ledger / placed.origin.rpartition("/")[2])
            path = shard.bodies / str(leaf.expire_day) / FRAMES
            search = self._searches[key] = self._files.enter_context(BodySearch(path))
        body = search.find(placed.index)
        return body if body is not None and body.commitments.event_commit() == leaf.commit else None


def receipts_route(ingest: Ingest, receipts: Receipts) -> Route:
    """Return the route of the endpoint."""

    async def ask(request: Request) -> Response:
        try:
            sender = await authenticate(ingest.senders, request)
            question = Question.parse(request.query_params.multi_items())
            return _success(question, await receipts.answer(question, sender))
        except Exception as problem:  # noqa: BLE001 - whatever it is, the answer says what to do
            return _failure(await ingest.noted(problem, PATH))

    return Route(PATH, ask, methods=["GET"])


def _success(question: Question, listed: list[dict[str, Any]]) -> Response:
    members = {"emitter": question.emitter_id, "boot": question.boot, "receipts": listed}
    return Response(orjson.dumps(members), media_type=answers.JSON, headers={"Cache-Control": "no-store"})


def _failure(error: KlyraError) -> Response:
    http_status, _ = answers.status_of(error)
    members = {"code": error.code, "reason": str(error)}
    return Response(orjson.dumps(members), http_status, answers.headers_of(error), answers.JSON)


def _where(placed: Placed, leaf: Leaf) -> dict[str, Any]:
    return {
        "log": placed.origin,
        "index": placed.index,
        "leaf": base64.b64encode(placed.leaf).decode(),
        "sink_timestamp": str(leaf.ingest_us * _NANOSECONDS_PER_MICROSECOND),
    }


def _named(body: BodyFrame | None) -> dict[str, Any]:
    """Return an entry's id and hash; null once its content is gone, and the hash once part of it was erased."""
    if body is None:
        return {"record_id": None, "integrity_hash": None}
    record_id = canonical.parse_canonical(body.sections.core).get("id")
    try:
        digest = hashlib.sha256(canonical.encode(sections.join(body.sections))).hexdigest()
    except FormatError:
        digest = None
    return {"record_id": record_id, "integrity_hash": digest}


def _why(body: BodyFrame | None) -> dict[str, Any]:
    core: Mapping[str, Any] = {} if body is None else canonical.parse_canonical(body.sections.core)
    return {"pointer": core.get("pointer", ""), "reason": core.get("reason", "")}


def _number(given: Mapping[str, str], name: str, least: int, most: int) -> int:
    text = given[name]
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and least <= int(text) <= most):
        raise BadQuestion(f"{name} is not a number from {least} to {most}.", remedy=_remedy())
    return int(text)


def _remedy() -> str:
    return f"Ask {PATH}?emitter=…&boot=…&first_seq=…&count=… with at most {MAX_COUNT} at once."
