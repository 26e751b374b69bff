"""Decide whether a document of a copy shows the quarantined input that was sealed. Pure: documents in, problems out."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from klyra_audit.format import canonical
from klyra_audit.format.errors import FormatError
from klyra_audit.format.packet_lines import Opened
from klyra_audit.format.quarantined import KeptInput, quarantine_reference
from klyra_collector.verify.copies_documents import commitments_of, differences
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from klyra_audit.format.frame import BodyFrame
    from klyra_audit.format.leaf import Leaf
    from klyra_collector.verify.copies import CopyDocument, Fields
    from klyra_collector.verify.retention import Retention

_NANOSECONDS_PER_MICROSECOND: Final = 1000
_NO_CORE: Final = Problem(Verdict.ALTERED, "its core is not that of a QUARANTINE record")


class QuarantineChecker:
    """Judges the documents of quarantined input in Elasticsearch. Nothing of such a record can be erased."""

    def check(self, document: CopyDocument, leaf: Leaf, _body: BodyFrame | None, _: Retention) -> list[Problem]:
        """Judge a document.

        Args:
            document: of the copy.
            leaf: the ledger's at its index, of a QUARANTINE record.

        Returns:
            What is wrong; nothing for a document that is as it was sealed.
        """
        if document.leaf != leaf.pack():
            return [Problem(Verdict.ALTERED, "the leaf kept with it is not the one that stands at its index")]
        carried = document.sections
        if carried is None or commitments_of(carried).event_commit() != leaf.commit:
            return [Problem(Verdict.ALTERED, "its sections and salts are not those that the leaf commits to")]
        if not isinstance(carried.core, Opened):
            return [Problem(Verdict.REDACTED_UNAUTHORISED, "its core is erased, which no ERASURE record can ask for")]
        expected = _expected(carried.core.encoded, document, leaf)
        if expected is None:
            return [_NO_CORE]
        differing = ", ".join(sorted(differences(expected, document.fields)))
        return [Problem(Verdict.ALTERED, f"it shows another {differing} than was sealed")] if differing else []


def _expected(core: bytes, document: CopyDocument, leaf: Leaf) -> Fields | None:
    """Return the fields that the document of a record must have, None if that cannot be said."""
    raw = document.fields.get("quarantine.raw")
    kept = raw if isinstance(raw, bytes) else b""
    try:
        said = canonical.parse_canonical(core)
        is_sealed = (hashlib.sha256(kept).hexdigest(), len(kept)) == (said["sha256"], said["size"])
        header = KeptInput.unpack(kept)
        shown: Fields = {name: said[name] for name in ("reason", "pointer", "sha256", "size")}
    except (FormatError, KeyError):
        return None
    shown |= {
        "reference": quarantine_reference(document.leaf),
        "encoding": header.encoding,
        "key_id": header.key_id,
        "raw": kept if is_sealed else None,
    }
    sealed_ns = leaf.ingest_us * _NANOSECONDS_PER_MICROSECOND
    times: Fields = {"@timestamp": sealed_ns, "klyra.timestamp_ns": sealed_ns}
    return times | {f"quarantine.{name}": value for name, value in shown.items()}
