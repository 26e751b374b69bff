"""Decide whether the content behind a leaf is what the leaf commits to. Pure: bytes in, problems out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.format import canonical, control, sections
from klyra_audit.format.errors import ControlError, FormatError
from klyra_audit.format.leaf import Flag, Kind
from klyra_audit.format.sections import ABSENT, OPERATOR_REFERENCE, Sections
from klyra_collector.verify.emitters import EmitterKeys, EvidenceChecker
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.control import ControlDocument
    from klyra_audit.format.frame import BlobFrame, BodyFrame
    from klyra_audit.format.leaf import Leaf
    from klyra_audit.format.sections import SectionName

__all__ = [
    "BodyChecker",
    "BodyJudgement",
    "ControlJudgement",
    "Problem",
    "Quarantined",
    "check_control",
]

_DIGEST_BYTES: Final = 32
_HAS_ACTOR: Final = Flag.HAS_ACTOR.value  # plain numbers, since a flag's operators cost more than a hash
_HAS_TARGET: Final = Flag.HAS_TARGET.value
_BATCH_CHECKED: Final = Flag.BATCH_CHECKED.value
_CONTROL_TYPES: Final = {kind: kind.name.lower() for kind in Kind if not kind.has_body}
_KINDS: Final = {name: kind for kind, name in _CONTROL_TYPES.items()}


class Quarantined(NamedTuple):
    """What a QUARANTINE record's core says of the raw bytes beside it."""

    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True)
class BodyJudgement:
    """What was found out about one body.

    Attributes:
        problem: None for a body that is as it was sealed.
        erased: sections whose bytes and salt are zeros; whether they may be is for others to judge.
        organization_id: whose it is, if its core says so and the leaf's org_ref agrees.
        quarantined: what to expect of the raw bytes; None for an event.
    """

    problem: Problem | None
    organization_id: str | None = None
    quarantined: Quarantined | None = None
    erased: tuple[SectionName, ...] = ()


class BodyChecker:
    """Judges bodies. Keeps the org_ref of each organization it has seen, since a few organizations own most records.

    Without an `org_salt` everything but the org_ref is checked. `evidence` is asked about records whose emitter is said
    to have signed them.
    """

    def __init__(self, org_salt: bytes | None, evidence: EvidenceChecker | None = None) -> None:
        self._org_salt = org_salt
        self._evidence = evidence or EvidenceChecker(EmitterKeys(), 0)
        self._references: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {OPERATOR_REFERENCE: sections.OPERATOR_ORGANIZATION_ID}

    def check(self, body: BodyFrame, leaf: Leaf | None) -> BodyJudgement:
        """Judge a body against its leaf; without a leaf to trust, only by what the body says of itself."""
        erased = _erased(body)
        problem = _check_commitments(body, leaf, erased)
        if problem is not None:
            return BodyJudgement(problem, self.name(leaf))
        try:
            document = sections.join(_without(body.sections, erased))
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
        if judgement.problem is None and (body.attachment or leaf.flags & _BATCH_CHECKED):
            problem = self._evidence.check(body.index, leaf, body.attachment)
            judgement = replace(judgement, problem=problem)
        return replace(judgement, erased=erased) if erased else judgement

    def agrees(self, organization_id: object, org_ref: bytes) -> bool:
        """Say whether an organization is known to be the one of an org_ref; cheap, and False proves nothing."""
        if type(organization_id) is not str:
            return False
        return self._org_salt is None or self._names.get(org_ref) == organization_id

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


def _erased(body: BodyFrame) -> tuple[SectionName, ...]:
    """Return the sections that were overwritten with zeros; zeros are never canonical JSON."""
    salts, parts, proofs = body.salts, body.sections, body.commitments
    erased: list[SectionName] = []
    if proofs.actor != ABSENT and not any(salts.actor) and not any(parts.actor or b""):
        erased.append("actor")
    if proofs.target != ABSENT and not any(salts.target) and not any(parts.target or b""):
        erased.append("target")
    return tuple(erased)


def _without(parts: Sections, erased: tuple[SectionName, ...]) -> Sections:
    """Return what is left of sections."""
    actor = None if "actor" in erased else parts.actor
    return Sections(parts.core, actor, None if "target" in erased else parts.target)


def _check_commitments(body: BodyFrame, leaf: Leaf | None, erased: tuple[SectionName, ...]) -> Problem | None:
    proofs = sections.commitments(body.sections, body.salts)
    names = [
        name
        for name in ("core", "actor", "target")
        if name not in erased and getattr(proofs, name) != getattr(body.commitments, name)
    ]
    if names:
        return Problem(
            Verdict.ALTERED, f"section {', '.join(names)}: its bytes or its salt are not what was committed to"
        )
    if leaf is None:
        return None
    sealed = body.commitments
    if sealed.event_commit() != leaf.commit:
        return Problem(Verdict.ALTERED, "its sections and salts are not those that the leaf commits to")
    expected = (0 if sealed.actor == ABSENT else _HAS_ACTOR) | (0 if sealed.target == ABSENT else _HAS_TARGET)
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
    """What was found out about one control document; `document` is None when it cannot be trusted or understood."""

    problem: Problem | None
    document: ControlDocument | None = None


def check_control(blob: BlobFrame, leaf: Leaf | None) -> ControlJudgement:
    """Judge a control document against its leaf; without a leaf to trust, it is only read."""
    if leaf is not None and sections.control_commit(blob.payload) != leaf.commit:
        return ControlJudgement(Problem(Verdict.CONTROL_ALTERED, "it is not the document that the leaf commits to"))
    try:
        members = canonical.parse_canonical(blob.payload)
    except FormatError as error:
        return ControlJudgement(Problem(Verdict.CONTROL_ALTERED, f"it is no canonical document: {error}"))
    if leaf is None:
        return ControlJudgement(None, _read_unsealed(members))
    return _judge_members(members, leaf)


def _judge_members(members: JsonObject, leaf: Leaf) -> ControlJudgement:
    kind = Kind(leaf.kind)
    if members.get("type") != _CONTROL_TYPES.get(kind):
        reason = f"it is no {kind.name} document, which the leaf says it is"
        return ControlJudgement(Problem(Verdict.CONTROL_ALTERED, reason))
    try:
        document = control.parse(kind, members)
    except ControlError as error:
        return ControlJudgement(Problem(Verdict.UNVERIFIABLE, f"it cannot be understood: {error}"))
    if getattr(document, "org_ref", None) not in (None, leaf.org_ref):
        reason = "it names another organization than the one in whose chain it was sealed"
        return ControlJudgement(Problem(Verdict.ORG_CHAIN, reason), document)
    return ControlJudgement(None, document)


def _read_unsealed(members: JsonObject) -> ControlDocument | None:
    kind = _KINDS.get(str(members.get("type")))
    try:
        return None if kind is None else control.parse(kind, members)
    except ControlError:
        return None
