"""The example moderation service on a real socket."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from klyra_audit import KlyraError, Spooled, resources
from klyra_audit.catalog import Catalog
from klyra_audit.prepared import prepare
from klyra_audit.validation import Validator
from support.api import serving

sys.path.append(str(resources.folder("examples")))  # as its README has it started: from there

from moderation_service.service import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moderation_service.call import Emitter

    from klyra_audit import AuditEvent

ORGANIZATION = "org_acme"


@dataclass
class Notebook:
    """An emitter that checks events as the real one does, and writes them down instead of sending them.

    Attributes:
        documents: of the events, in order.
        trouble: for the next emissions, one each: what to raise, None for nothing.
    """

    documents: list[dict[str, Any]] = field(default_factory=list)
    trouble: list[KlyraError | None] = field(default_factory=list)
    catalog: Catalog = field(default_factory=Catalog.load)

    def __post_init__(self) -> None:
        self.validator = Validator(self.catalog)

    def emit(self, event: AuditEvent) -> Spooled:
        """See `AuditEmitter`."""
        trouble = self.trouble.pop(0) if self.trouble else None
        if trouble is not None:
            raise trouble
        prepared = prepare(event.document(ORGANIZATION), self.catalog, self.validator, time.time_ns() // 1000)
        self.documents.append(dict(prepared.document))
        return Spooled(prepared.record_id, "boot", len(self.documents) - 1)


@contextmanager
def running_service(emitter: Emitter) -> Iterator[str]:
    """Run the service until the block ends; give its address."""
    with serving(create_app(emitter)) as url:
        yield url
