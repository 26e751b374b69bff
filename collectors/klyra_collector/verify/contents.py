"""Decide whether the content behind a leaf is what the leaf commits to. Pure: bytes in, problems out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.format import canonical, sections
from klyra_audit.format.errors import FormatError
from klyra_audit.format.leaf import Flag, Kind
from klyra_audit.format.sections import ABSENT, OPERATOR_REFERENCE
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.frame import BlobFrame, BodyFrame
    from klyra_audit.format.leaf import Leaf

__all__ = [
    "BodyChecker",
    "BodyJudgement",
    "ControlFacts",
    "ControlJudgement",
    "Problem",
    "Quarantined",
    "check_control",
]

_DIGEST_BYTES: Final = 32
_HAS_ACTOR: Final = Flag.HAS_ACTOR.value  # plain numbers, since a flag's operators cost more than a hash
_HAS_TARGET: Final = Flag.HAS_TARGET.value
_CONTROL_TYPES: Final = {kind: kind.name.lower() for kind in Kind if not kind.has_body}


_UNCHECKED_EVIDENCE: Final = Problem(
    Verdict.UNVERIFIABLE, "its emitter's evidence stands with it, which this verifier does not check yet"
)


class Quarantined(NamedTuple):
    """What a QUARANTINE record's core says of the raw bytes beside it."""

    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True)
class BodyJudgement:
    """What was found out about one body.

    Attributes:
        problem: None for a body that is as it was sealed.
        organization_id: whose it is, if its core says so and the leaf's org_ref agrees.
        quarantined: what to expect of the raw bytes; None for an event.
    """

    problem: Problem | None
    organization_id: str | None = None
    quarantined: Quarantined | None = None


class BodyChecker:
    """Judges bodies. Keeps the org_ref of each organization it has seen, since a few organizations own most records.

    Without an `org_salt` everything but the org_ref is checked.
    """

    def __init__(self, org_salt: bytes | None) -> None:
        self._org_salt = org_salt
        self._references: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {OPERATOR_REFERENCE: sections.OPERATOR_ORGANIZATION_ID}

    def check(self, body: BodyFrame, leaf: Leaf | None) -> BodyJudgement:
        """Judge a body against its leaf; without a leaf to trust, only by what the body says of itself."""
        problem = _check_commitments(body, leaf)
        if problem is not None:
            return BodyJudgement(problem, self.name(leaf))
        try:
            document = sections.join(body.sections)
            canonical.encode(document)
        except FormatError as error:
            problem = Problem(Verdict.ALTERED, f"its sections do not join to a document: {error}")
            return BodyJudgement(problem, self.name(leaf))
        if leaf is None:
            return BodyJudgement(None)
        if leaf.kind == Kind.QUARANTINE:
            judgement = self._check_quarantined(body, document, leaf)
        else:
            judgement = self._check_organization(document, leaf)
        if body.attachment and judgement.problem is None:
            return replace(judgement, problem=_UNCHECKED_EVIDENCE)
        return judgement

    def name(self, leaf: Leaf | None) -> str | None:
        """Return the organization behind a leaf, if a sound body has named it before."""
        return None if leaf is None else self._names.get(leaf.org_ref)

    def _check_organization(self, document: JsonObject, leaf: Leaf) -> BodyJudgement:
        organization_id = document.get("organization_id")
        if type(organization_id) is not str:
            return BodyJudgement(Problem(Verdict.ORG_CHAIN, "its core names no organization"))
        if self._org_salt is None:
            return BodyJudgement(None)
        reference = self._references.get(organization_id)
        if reference is None:
            reference = sections.organization_reference(self._org_salt, organization_id)
            self._references[organization_id] = reference
        if reference != leaf.org_ref:
            reason = "its core names another organization than the one in whose chain it was sealed"
            return BodyJudgement(Problem(Verdict.ORG_CHAIN, reason), self.name(leaf))
        self._names[reference] = organization_id
        return BodyJudgement(None, organization_id)

    def _check_quarantined(self, body: BodyFrame, core: JsonObject, leaf: Leaf) -> BodyJudgement:
        quarantined = None if body.sections.actor or body.sections.target else _read_quarantined(core)
        if quarantined is None:
            problem = Problem(Verdict.ALTERED, "its core is not that of a QUARANTINE record")
            return BodyJudgement(problem, self.name(leaf))
        return BodyJudgement(None, self.name(leaf), quarantined)


def _check_commitments(body: BodyFrame, leaf: Leaf | None) -> Problem | None:
    proofs = sections.commitments(body.sections, body.salts)
    if proofs != body.commitments:
        names = [
            name for name in ("core", "actor", "target") if getattr(proofs, name) != getattr(body.commitments, name)
        ]
        return Problem(
            Verdict.ALTERED, f"section {', '.join(names)}: its bytes or its salt are not what was committed to"
        )
    if leaf is None:
        return None
    if proofs.event_commit() != leaf.commit:
        return Problem(Verdict.ALTERED, "its sections and salts are not those that the leaf commits to")
    expected = (0 if proofs.actor == ABSENT else _HAS_ACTOR) | (0 if proofs.target == ABSENT else _HAS_TARGET)
    if leaf.flags & (_HAS_ACTOR | _HAS_TARGET) != expected:
        return Problem(Verdict.ALTERED, "the leaf's flags speak of other sections than the body has")
    return None


def _read_quarantined(core: JsonObject) -> Quarantined | None:
    digest, size = core.get("sha256"), core.get("size")
    if core.keys() != {"reason", "pointer", "sha256", "size"} or type(digest) is not str or type(size) is not int:
        return None
    try:
        sha256 = bytes.fromhex(digest)
    except ValueError:
        return None
    return Quarantined(sha256, size) if len(sha256) == _DIGEST_BYTES and sha256.hex() == digest else None


@dataclass(frozen=True, slots=True)
class ControlJudgement:
    """What was found out about one control document; `document` is None when it cannot be trusted."""

    problem: Problem | None
    document: JsonObject | None = None


def check_control(blob: BlobFrame, leaf: Leaf | None) -> ControlJudgement:
    """Judge a control document against its leaf; without a leaf to trust, it is only read."""
    if leaf is not None and sections.control_commit(blob.payload) != leaf.commit:
        return ControlJudgement(Problem(Verdict.CONTROL_ALTERED, "it is not the document that the leaf commits to"))
    try:
        document = canonical.parse_canonical(blob.payload)
    except FormatError as error:
        return ControlJudgement(Problem(Verdict.CONTROL_ALTERED, f"it is no canonical document: {error}"))
    if leaf is None:
        return ControlJudgement(None, document)
    if document.get("type") != _CONTROL_TYPES.get(Kind(leaf.kind)):
        reason = f"it is no {Kind(leaf.kind).name} document, which the leaf says it is"
        return ControlJudgement(Problem(Verdict.CONTROL_ALTERED, reason))
    if not _is_in_chain(document, leaf):
        reason = "it names another organization than the one in whose chain it was sealed"
        return ControlJudgement(Problem(Verdict.ORG_CHAIN, reason), document)
    return ControlJudgement(None, document)


def _is_in_chain(document: JsonObject, leaf: Leaf) -> bool:
    named = document.get("org_ref")
    return named is None or named == leaf.org_ref.hex()


@dataclass(frozen=True, slots=True)
class ControlFacts:
    """What the control documents say that other records are checked by.

    Attributes:
        policies: org_ref and retention days, by index of the POLICY record.
        starts: SHA-256 of org_salt, by index of the START record.
    """

    policies: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    starts: dict[int, bytes] = field(default_factory=dict)

    def note(self, index: int, document: JsonObject) -> bool:
        """Take in a document; False if it is of a type that matters here and cannot be understood."""
        try:
            if document["type"] == "policy":
                self.policies[index] = (bytes.fromhex(document["org_ref"]), _days(document["retention_days"]))
            elif document["type"] == "start":
                self.starts[index] = bytes.fromhex(document["org_salt_sha256"])
        except (KeyError, TypeError, ValueError):
            return False
        return True


def collector_key(document: JsonObject) -> str | None:
    """Return the verifier key that a KEY document announces for the collector itself, None for any other document."""
    vkey = document.get("vkey")
    own = document.get("type") == "key" and document.get("boot") is None and document.get("org_ref") is None
    return vkey if own and type(vkey) is str else None


def _days(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a number of days is not what it should be")
    return value
