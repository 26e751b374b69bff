"""Decide whether a document of a copy shows the entry that was sealed. Pure: documents and bodies in, problems out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, combinations
from typing import TYPE_CHECKING, Final

from klyra_audit.format import sections
from klyra_audit.format.errors import FormatError
from klyra_audit.format.packet_lines import Erased, Opened
from klyra_audit.format.sections import ABSENT, Commitments, Sections
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.frame import BodyFrame
    from klyra_audit.format.leaf import Leaf
    from klyra_audit.format.packet_lines import Section
    from klyra_audit.format.sections import SectionName
    from klyra_collector.verify.copies import CopyDocument, CopyReader, CopySections, Fields
    from klyra_collector.verify.retention import Retention

_NAMES: Final[tuple[SectionName, ...]] = ("core", "actor", "target")
_ERASABLE: Final[tuple[SectionName, ...]] = ("actor", "target")

Names = frozenset["SectionName"]

_ERASED_MEANWHILE: Final = Problem(
    Verdict.UNVERIFIABLE, "the ledger has erased a section of it that the copy, which is behind, still shows"
)


@dataclass(frozen=True, slots=True)
class _Content:
    """What can be said for certain of an entry's content.

    Attributes:
        parts: canonical bytes; None for a section that is absent or erased.
        erased: the sections of which only the commitment is left.
    """

    parts: Sections
    erased: Names


class _Wrong(Exception):  # noqa: N818 - carries a verdict, and never leaves this module
    """Stops the judgement of a document with a problem."""

    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.problem = Problem(verdict, reason)


class DocumentChecker:
    """Judges the documents of one copy."""

    def __init__(self, reader: CopyReader, org_salt: bytes | None) -> None:
        self._reader = reader
        self._org_salt = org_salt
        self._references: dict[str, bytes] = {}

    def check(self, document: CopyDocument, leaf: Leaf, body: BodyFrame | None, retention: Retention) -> list[Problem]:
        """Judge a document.

        Args:
            document: of the copy.
            leaf: the ledger's at the document's index, of an EVENT record.
            body: the ledger's; asked for only where the document carries no sections of its own.
            retention: what may be erased, and what must be.

        Returns:
            Everything there is to say, REDACTED_OK included; nothing for a document that is as it was sealed.
        """
        if document.leaf != leaf.pack():
            return [Problem(Verdict.ALTERED, "the leaf kept with it is not the one that stands at its index")]
        try:
            content = _from_document(document.sections, leaf) if document.sections else _from_ledger(body, leaf)
            entry = _joined(content.parts)
            shown = self._match(document, content, entry, leaf, retention)
            self._check_organization(document, entry, leaf)
        except _Wrong as error:
            return [error.problem]
        return list(_judge_erased(shown, content, leaf, retention))

    def _match(
        self, document: CopyDocument, content: _Content, entry: JsonObject, leaf: Leaf, retention: Retention
    ) -> Names:
        """Return which sections the document's fields lack; they must be what is left of the content otherwise."""
        expected = self._expected(entry)
        if _is_same(expected, document.fields):
            return content.erased
        if document.sections is None:
            for missing in _subsets([name for name in _ERASABLE if getattr(content.parts, name) is not None]):
                if _is_same(self._expected(_joined(_without(content.parts, missing))), document.fields):
                    return content.erased.union(missing)
            revealed = self._revealed(expected, document.fields, content.erased)
            if revealed is not None:
                raise _Wrong(*(retention.unredacted(leaf, revealed) or _ERASED_MEANWHILE))
        differing = ", ".join(sorted(differences(expected, document.fields)))
        raise _Wrong(Verdict.ALTERED, f"it shows another {differing} than was sealed")

    def _expected(self, entry: JsonObject) -> Fields:
        try:
            return self._reader.fields_of(entry)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _Wrong(Verdict.ALTERED, f"its sections are those of no entry ({type(error).__name__})") from error

    def _revealed(self, expected: Fields, fields: Fields, erased: Names) -> SectionName | None:
        """Return a section of which a document shows something, though nothing is left of it in the ledger."""
        for section in sorted(erased):
            names = self._reader.personal.get(section, ())
            if any(expected.get(name) is None and fields.get(name) is not None for name in names):
                return section
        return None

    def _check_organization(self, document: CopyDocument, entry: JsonObject, leaf: Leaf) -> None:
        organization_id = entry.get("organization_id")
        if type(organization_id) is not str:
            raise _Wrong(Verdict.ORG_CHAIN, "its core names no organization")
        if self._org_salt is not None and self._reference(organization_id) != leaf.org_ref:
            raise _Wrong(Verdict.ORG_CHAIN, "its core names another organization than the one it was sealed for")
        if document.organization_id != organization_id:
            raise _Wrong(Verdict.EXTRA, "it stands among the entries of an organization it was not sealed for")

    def _reference(self, organization_id: str) -> bytes:
        reference = self._references.get(organization_id)
        if reference is None:
            reference = sections.organization_reference(self._org_salt or b"", organization_id)
            self._references[organization_id] = reference
        return reference


def _from_document(carried: CopySections, leaf: Leaf) -> _Content:
    """Return the content that a document carries itself, once it is what the leaf commits to."""
    proofs = commitments_of(carried)
    if proofs.event_commit() != leaf.commit:
        raise _Wrong(Verdict.ALTERED, "its sections and salts are not those that the leaf commits to")
    if not isinstance(carried.core, Opened):
        raise _Wrong(Verdict.REDACTED_UNAUTHORISED, "its core is erased, which no ERASURE record can ask for")
    parts = Sections(carried.core.encoded, _opened(carried.actor), _opened(carried.target))
    return _Content(parts, frozenset(name for name in _ERASABLE if isinstance(getattr(carried, name), Erased)))


def _from_ledger(body: BodyFrame | None, leaf: Leaf) -> _Content:
    """Return what the ledger's own body still proves of the content."""
    if body is None:
        raise _Wrong(Verdict.UNVERIFIABLE, "the ledger has no body to compare it with, and it carries no sections")
    found = sections.commitments(body.sections, body.salts)
    proofs = body.commitments
    if proofs.event_commit() != leaf.commit or found.core != proofs.core:
        raise _Wrong(Verdict.UNVERIFIABLE, "the ledger's body, which it would be compared with, is damaged")
    lost = [name for name in _ERASABLE if getattr(found, name) != getattr(proofs, name)]
    return _Content(_without(body.sections, lost), frozenset(lost))


def commitments_of(carried: CopySections) -> Commitments:
    """Return what carried sections and salts commit to."""
    return Commitments(*(_commitment(name, getattr(carried, name)) for name in _NAMES))


def _commitment(name: SectionName, section: Section) -> bytes:
    if section is None:
        return ABSENT
    if isinstance(section, Erased):
        return section.commitment
    return sections.section_commitment(name, section.salt, section.encoded)


def _opened(section: Section) -> bytes | None:
    return section.encoded if isinstance(section, Opened) else None


def _without(parts: Sections, names: Iterable[SectionName]) -> Sections:
    gone = set(names)
    return Sections(parts.core, None if "actor" in gone else parts.actor, None if "target" in gone else parts.target)


def _subsets(names: list[SectionName]) -> Iterator[tuple[SectionName, ...]]:
    """Yield every choice of some of them, from the fewest."""
    return chain.from_iterable(combinations(names, count) for count in range(1, len(names) + 1))


def _joined(parts: Sections) -> JsonObject:
    try:
        return sections.join(parts)
    except FormatError as error:
        raise _Wrong(Verdict.ALTERED, f"its sections do not join to an entry: {error}") from error


def _is_same(expected: Mapping[str, object], fields: Mapping[str, object]) -> bool:
    return not any(differences(expected, fields))


def differences(expected: Mapping[str, object], fields: Mapping[str, object]) -> Iterator[str]:
    """Yield the names of fields that differ."""
    for name in expected.keys() | fields.keys():
        ours, theirs = expected.get(name), fields.get(name)
        # 3 and 3.0, or 1 and True, are equal to Python and different values in a document.
        if type(ours) is not type(theirs) or ours != theirs or (name in expected) != (name in fields):
            yield name


def _judge_erased(missing: Names, content: _Content, leaf: Leaf, retention: Retention) -> Iterator[Problem]:
    """Yield what is wrong with sections that are erased or are not; if nothing is, that some are, once."""
    redacted: Problem | None = None
    for name in _ERASABLE:
        if name in missing:
            verdict = retention.redacted(leaf, name)
            if verdict is Verdict.REDACTED_OK:
                redacted = Problem(verdict, "a section of it is erased, as an ERASURE record says")
            else:
                yield Problem(verdict, f"its {name} section is erased, and no ERASURE record says so")
        elif getattr(content.parts, name) is not None:
            problem = retention.unredacted(leaf, name)
            if problem is not None:
                yield problem
    if redacted is not None:
        yield redacted
