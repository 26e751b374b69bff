"""From wire records to candidates: open our own form, map anybody else's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from klyra_audit.errors import InvalidEvent
from klyra_audit.format import sections
from klyra_audit.format.errors import ProfileError
from klyra_audit.format.sections import Salts
from klyra_audit.mapping.record import Arrival, map_record
from klyra_collector.receive.audit_record import examine
from klyra_collector.receive.own_form import emitter_position, open_own_form
from klyra_collector.receive.signing_processor import SignatureCheck, place_signature, without_signature
from klyra_collector.receive.wire import DuplicateAttribute
from klyra_collector.validate.judge import Candidate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_audit.mapping.table import MappingTable
    from klyra_collector.receive.audit_record import AuditRecord
    from klyra_collector.receive.senders import Sender
    from klyra_collector.receive.wire import OwnForm, WireRecord
    from klyra_collector.stages import EmitterPosition


@dataclass(slots=True)
class RequestOpener:
    """Opens the records of one request.

    Attributes:
        sender: whose key brought the request.
        request: its decoded bytes, which make the ids of records without one repeatable.
        received_us: when it came.
        table: where other programs' attributes belong.
        signatures: checks those that records bring along.
        strict: hold the records that are not in our own form to the OpenTelemetry audit draft.
        origins: None, or where to note what gave the members of mapped documents, by position.
        examined: then, what is to be answered about each of them, by position.
        dropped_attributes: that the records lost before they came here, by their own account.
    """

    sender: Sender
    request: bytes
    received_us: int
    table: MappingTable
    signatures: SignatureCheck = field(default_factory=SignatureCheck)
    strict: bool = False
    origins: dict[int, Mapping[str, str]] | None = None
    examined: dict[int, AuditRecord] = field(default_factory=dict, init=False)
    dropped_attributes: int = field(default=0, init=False)
    _request_seed: bytes = field(default=b"", init=False)

    def open(self, item: WireRecord, position: int) -> Candidate:
        """Return the candidate of record `position`; `InvalidEvent` says why it can be none."""
        try:
            own = item.own_form()
            if own is None:
                return self._map(item, position)
        except DuplicateAttribute as error:
            raise InvalidEvent("the record has the same attribute twice") from error
        opened = open_own_form(own)
        return Candidate(opened.document, opened.encoded, opened.sections, opened.salts, self._position(item, own))

    def position_of(self, item: WireRecord) -> EmitterPosition | None:
        """Return the emitter position of a record that is going to be quarantined, as far as one can be read."""
        try:
            own = item.own_form()
            return None if own is None else self._position(item, own)
        except (DuplicateAttribute, InvalidEvent):
            return None

    def _position(self, item: WireRecord, own: OwnForm) -> EmitterPosition | None:
        position = emitter_position(item.resource, own, shared=self.sender.organization_id is None)
        allowed = self.sender.emitter_ids
        if position is not None and allowed and position.emitter_id not in allowed:
            raise InvalidEvent(f"key {self.sender.key_id} may not speak for this emitter", code="foreign_emitter")
        return position

    def _map(self, item: WireRecord, position: int) -> Candidate:
        foreign = item.foreign()
        self.dropped_attributes += foreign.dropped_attributes_count
        mapped = map_record(without_signature(foreign), item.resource, self._arrival(position), self.table)
        document = mapped.document
        if self.origins is not None:
            self.origins[position] = mapped.origins
        signature = self.signatures.check(foreign, item.resource, document["organization_id"])
        if self.strict:
            self.examined[position] = examine(foreign, signature)
        try:
            encoded, marks = place_signature(document, signature, mapped.marks)
            parts = sections.split(document, marks)
        except ProfileError as error:
            raise InvalidEvent(error.reason, pointer=error.pointer) from error
        return Candidate(document, encoded, parts, Salts.draw(), None)

    def _arrival(self, position: int) -> Arrival:
        """Return how a record came in; the seed of its id is SHA-256(key id ‖ SHA-256(request) ‖ position)."""
        if not self._request_seed:
            self._request_seed = self.sender.key_id.encode() + hashlib.sha256(self.request).digest()
        seed = hashlib.sha256(self._request_seed + position.to_bytes(8, "big")).digest()
        return Arrival(self.sender.organization_id, self.received_us * 1000, seed)
